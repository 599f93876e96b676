"""What commands show on a terminal: progress, and the live screen."""

import contextlib
import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
import threading

import pytest
from ZODB.MappingStorage import MappingStorage

import zeolite
from zeolite.commands import terminal
from zeolite.storageserver.options import ServerOptions
from zeolite.storageserver.server import StorageServer

from .conftest import make, text


class Terminal:
    """A command that runs on a terminal of its own, and what it has written."""

    def __init__(self, *arguments, columns=200):
        self._ours, self.theirs = pty.openpty()
        self.before = termios.tcgetattr(self.theirs)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "zeolite", *map(str, arguments)],
            stdin=self.theirs,
            stdout=self.theirs,
            stderr=self.theirs,
            start_new_session=True,
            # Whoever runs the tests in the background has it ignored.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            env={**os.environ, "COLUMNS": str(columns), "LINES": "24"},
        )
        self.output = ""

    def wait_for(self, pattern):
        """Read until something matches; return the match."""
        while not (match := re.search(pattern, self.output)):
            self.output += os.read(self._ours, 4096).decode()
        return match

    def type(self, keys):
        os.write(self._ours, keys)

    def end(self):
        """Wait for the end; return the status."""
        while self.process.poll() is None:
            if select.select([self._ours], [], [], 0.01)[0]:
                self.output += os.read(self._ours, 4096).decode()
        while select.select([self._ours], [], [], 0)[0]:
            self.output += os.read(self._ours, 4096).decode()
        return self.process.returncode

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self.theirs)
        os.close(self._ours)


@pytest.fixture
def on_terminal():
    with contextlib.ExitStack() as stack:

        def start(*arguments, **kwargs):
            found = Terminal(*arguments, **kwargs)
            stack.callback(found.close)
            return found

        yield start


@pytest.fixture
def address():
    address, stop = zeolite.server()
    yield text(address)
    stop()


@pytest.mark.parametrize("how", ["q", "Ctrl-C", "SIGTERM"])
def test_screen_is_renewed_and_gives_the_terminal_back(how, on_terminal, address):
    shown = on_terminal("status", address, "--watch", "0.1")
    shown.wait_for(r"\x1b\[\?1049h(?s:.)*; totals; q to quit(?s:.)*\b127.0.0.1")
    shown.wait_for(r"rates since the last look(?s:.)*loads/s(?s:.)*answered in")
    assert termios.tcgetattr(shown.theirs) != shown.before
    if how == "SIGTERM":
        shown.process.terminate()
    elif how == "q":
        shown.type(b"xq")
    else:
        shown.process.send_signal(signal.SIGINT)
    assert shown.end() == (143 if how == "SIGTERM" else 0)
    assert shown.output.endswith("\x1b[?25h\x1b[?1049l")
    assert termios.tcgetattr(shown.theirs) == shown.before


def test_screen_shows_a_server_that_went(on_terminal):
    address, stop = zeolite.server()
    shown = on_terminal("status", text(address), "--watch", "0.1")
    shown.wait_for("answered in")
    stop()
    shown.wait_for(f"{text(address)}: Connection refused")
    shown.type(b"q")
    assert shown.end() == 0


def test_narrow_screen_has_a_column_for_each_storage(on_terminal, address):
    shown = on_terminal("status", address, columns=60)
    assert shown.end() == 0
    assert re.search(r"^commits +0\r$", shown.output, re.MULTILINE)
    assert all(len(line) <= 60 for line in shown.output.splitlines())


def test_pack_shows_the_time(on_terminal):
    storage, seen = MappingStorage(), threading.Event()
    storage.pack = lambda *args, **kwargs: seen.wait(20)
    server = StorageServer(("127.0.0.1", 0), {"1": storage}, ServerOptions())
    server.start()
    shown = on_terminal("pack", text(server.address))
    shown.wait_for(r"storage 1: packing 0 bytes, 0\.[1-9] s")
    seen.set()
    assert shown.end() == 0
    server.stop()
    assert re.search(r"\r\x1b\[K127\S+ storage 1: packed in", shown.output)


def test_interrupted_pack(on_terminal):
    """It says what the server does, and does not wait for it."""
    storage, may_end = MappingStorage(), threading.Event()
    storage.pack = lambda *args, **kwargs: may_end.wait(20)
    server = StorageServer(("127.0.0.1", 0), {"1": storage}, ServerOptions())
    server.start()
    shown = on_terminal("pack", text(server.address))
    shown.wait_for("packing 0 bytes")
    shown.process.send_signal(signal.SIGINT)
    assert shown.end() == 130
    assert not may_end.is_set()
    may_end.set()
    server.stop()
    assert "storage 1: the server goes on with the pack\r\n" in shown.output
    assert shown.output.endswith("zeolite: interrupted\r\n")


def test_copy_shows_a_bar(on_terminal, tmp_path):
    path = make(tmp_path / "source")
    shown = on_terminal(
        "copy",
        path,
        tmp_path / "new.fs",
        "--source-blobs",
        path.parent / "blobs",
        "--destination-blobs",
        tmp_path / "blobs",
        "--verify",
    )
    assert shown.end() == 0
    assert re.search(r"copying \[[#.]{24}\] +\d+% .*/s, [\d.]+ s", shown.output)
    assert re.search(r"verifying \[[#.]{24}\] +\d+%", shown.output)


@pytest.mark.parametrize(
    "arguments, expected",
    [
        (
            (50, 100, 2),
            "[############............]  50% 50 bytes, 25 bytes/s, 2.0 s, 2.0 s left",
        ),
        (
            (0, 100, 0),
            "[........................]   0% 0 bytes, 0 bytes/s, 0.0 s, - left",
        ),
        (
            (300, 100, 2),
            "[########################] 100% 300 bytes, 150 bytes/s, 2.0 s, 0.0 s left",
        ),
        ((5000, 0, 2), "5.0 KB, 2.5 KB/s, 2.0 s"),
    ],
)
def test_bar(arguments, expected):
    assert terminal.bar(*arguments) == expected


def test_numbers_with_units():
    sizes = 0, 999, 1000, 999_949, 999_950, 1_234_567, 5e9, 2e15
    assert [terminal.size(size) for size in sizes] == [
        "0 bytes",
        "999 bytes",
        "1.0 KB",
        "999.9 KB",
        "1.0 MB",
        "1.2 MB",
        "5.0 GB",
        "2,000.0 TB",
    ]
    times = 0, 59.9, 60, 3599, 3600, 90061
    assert [terminal.duration(time) for time in times] == [
        "0.0 s",
        "59.9 s",
        "1:00",
        "59:59",
        "1:00:00",
        "25:01:01",
    ]
