"""The table of README: the same inputs to a ZEO server and to a Zeolite server.

Each input gets a fresh server, in a process of its own with at most `_MEMORY` bytes
of address space, and another client that loads meanwhile.  What is named in pickles
touches at most a file in a temporary directory.
"""

import os
import resource
import struct
import subprocess
import sys
import tempfile
import threading
import time

from ZODB.utils import z64

from tests.support.bombs import BOMBS
from tests.support.processes import free_port
from tests.support.rawclient import RawClient

from . import attacks

_MEMORY = 24 * 2**30

#: Seconds that strangers may stay, and that they are watched.
_TIMEOUT, _PATIENCE = 5, 15

#: What is thrown at a server, before it has registered the client.
_THROWN = [
    "a memo index of 2**27",
    "bytes that claim 2 GB",
    "bytes of 300 MB",
    "a range turned into a list",
    "a power of powers",
    "nested tuples as a key",
    "nested lists",
    "doubled tuples as a key",
    "a list in itself",
    "the name 'builtins' 'set.__class__'",
    "the name 'Builtins' 'frozenset'",
    "the name 'zodbpickle' 'fastpickle.loads'",
]

#: And these after it, because they are larger than a stranger's frame may be.
_THROWN_LATER = ["a frozenset of a million ints", "a set of colliding ints"]


class Server:
    """A server process, and a client of it that loads all the time."""

    def __init__(self, kind, directory):
        path = os.path.join(directory, "Data.fs")
        self._log_path = os.path.join(directory, "log")
        if kind == "ZEO":
            self.address = "127.0.0.1", free_port()
            where = f"127.0.0.1:{self.address[1]}"
            arguments = ["-m", "ZEO.runzeo", "-a", where, "-f", path]
        else:
            arguments = ["-m", "tests.hostile.serving", path]
            arguments.append(f"handshake_timeout={_TIMEOUT}")
        with open(self._log_path, "wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, *arguments],
                cwd=directory,
                stderr=log,
                stdout=log,
                preexec_fn=lambda: resource.setrlimit(
                    resource.RLIMIT_AS, (_MEMORY, _MEMORY)
                ),
            )
        self._wait()
        self._loader = _Loader(self.address)
        self.lines = len(self.log())
        self.memory_before = self._memory("VmRSS")

    def _wait(self):
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            time.sleep(0.05)
            for line in self.log():
                if line.startswith("INFO serving"):
                    self.address = "127.0.0.1", int(line.rpartition(":")[2])
                    return
                if "listening on" in line:
                    return
        raise RuntimeError(f"no server: {self.log()}")

    def log(self):
        with open(self._log_path, errors="replace") as file:
            return file.read().splitlines()

    def _memory(self, key):
        """MB, or None if it has ended."""
        try:
            with open(f"/proc/{self._process.pid}/status") as file:
                for line in file:
                    if line.startswith(key):
                        return int(line.split()[1]) / 1024
        except FileNotFoundError:
            pass
        return None

    def findings(self):
        """What the attack did to it, as a list of texts."""
        found = []
        lines = len(self.log()) - self.lines  # Not those of the loader.
        longest = self._loader.stop()
        peak = self._memory("VmHWM")
        if peak is None:
            found.append(f"server died ({self._process.poll()})")
        elif peak - self.memory_before > 20:
            found.append(f"memory grew by {peak - self.memory_before:,.0f} MB")
        if longest is None:
            found.append("other clients hung")
        elif longest > 1:
            found.append(f"other clients waited {longest:.0f} s")
        if lines:
            found.append(f"{lines:,} log line{'s'[: lines > 1]}")
        return found

    def close(self):
        self._loader.stop()
        self._process.kill()
        self._process.wait()


class _Loader(threading.Thread):
    """Asks for the last tid, again and again; knows the longest wait."""

    def __init__(self, address):
        super().__init__()
        self._client = RawClient(address, timeout=30)
        self._wanted = True
        self._longest = 0.0
        self.start()

    def run(self):
        try:
            while self._wanted:
                begin = time.monotonic()
                self._client.ask("getInvalidations", z64)
                self._longest = max(self._longest, time.monotonic() - begin)
                time.sleep(0.01)
        except Exception:
            self._longest = None

    def stop(self):
        """Return seconds, or None if it got no answer."""
        self._wanted = False
        self.join()
        self._client.close()
        return self._longest


def _crowds(name):
    def attack(server, directory):
        crowd = attacks.ATTACKS[name](server.address, patience=_PATIENCE)
        if crowd.still_open == crowd.connected:
            return [f"all still there after {_PATIENCE} s"]
        if crowd.still_open:
            return [f"{crowd.still_open} still there after {_PATIENCE} s"]
        return [f"all closed within {crowd.last_closed:.0f} s"]

    return attack


def _bomb(data, register=False):
    def attack(server, directory):
        return [attacks.throw(server.address, data, register)]

    return attack


def _call(module, name, make_text):
    """An attack that has the server call something that leaves a file behind."""

    def attack(server, directory):
        marker = os.path.join(directory, "marker")
        text = make_text(marker).encode()
        data = b"\x80\x03(K\x02K\x00X\x04\x00\x00\x00ping"
        data += f"c{module}\n{name}\nX".encode() + struct.pack("<I", len(text)) + text
        outcome = attacks.throw(server.address, data + b"\x85R\x85t.", False)
        ran = ["**code executed**"] if os.path.exists(marker) else []
        return [*ran, outcome]

    return attack


_INPUTS = {
    "``builtins.eval``, before registering": _call(
        "builtins", "eval", lambda marker: f"open({marker!r}, 'w').close()"
    ),
    "``os.system``, before registering": _call(
        "os", "system", lambda marker: f"touch {marker}"
    ),
    **{name: _bomb(BOMBS[name]) for name in _THROWN},
    **{f"{name}, registered": _bomb(BOMBS[name], True) for name in _THROWN_LATER},
    "1,000 silent connections": _crowds("silent"),
    "1,000 that send a byte a second": _crowds("slow"),
    "100 with half of 64 KB": _crowds("half"),
    "100 with half of 8 MB": _crowds("large"),
}


def _try(kind, attack):
    with tempfile.TemporaryDirectory() as directory:
        server = Server(kind, directory)
        try:
            return "; ".join([*attack(server, directory), *server.findings()])
        finally:
            server.close()


def main():
    """Print the table, in reStructuredText."""
    rows = [("input", "ZEO 6.2", "Zeolite")]
    for name, attack in _INPUTS.items():
        rows.append((name, _try("ZEO", attack), _try("Zeolite", attack)))
        print(".", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    rule = "  ".join("=" * width for width in widths)
    print(rule)
    for number, row in enumerate(rows):
        print("  ".join(cell.ljust(w) for cell, w in zip(row, widths)).rstrip())
        if number == 0:
            print(rule)
    print(rule)
