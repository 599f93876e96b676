"""What a server and systemd tell each other; the test is systemd."""

import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess

import pytest

import zeolite
from tests.support.processes import free_port, running

from .support.commandlines import store_and_read

FILE = (
    "<zeolite>\naddress {}\n</zeolite>\n<filestorage>\npath Data.fs\n</filestorage>\n"
)


@pytest.fixture(params=["path", "abstract"])
def notifications(request, tmp_path):
    """(what NOTIFY_SOCKET is to be, the socket behind it)."""
    name = str(tmp_path / "notify")
    if request.param == "abstract":
        name = f"@zeolite-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(re.sub("^@", "\0", name))
        sock.settimeout(20)
        yield name, sock


def test_notifications(tmp_path, write, notifications):
    name, sock = notifications
    write(FILE.format("127.0.0.1:0"))
    with running(cwd=tmp_path, NOTIFY_SOCKET=name) as server:
        ready = sock.recv(1000).decode().split("\n")
        assert ready[0] == "READY=1"
        # It is no lie: whoever connects now is served.
        port = re.fullmatch(r"STATUS=serving at 127\.0\.0\.1:(\d+)", ready[1])[1]
        assert store_and_read(int(port)) == 1
        os.kill(server.pid, signal.SIGUSR2)
        assert re.fullmatch(rb"RELOADING=1\nMONOTONIC_USEC=\d+", sock.recv(1000))
        assert sock.recv(1000).decode().split("\n") == ready
        assert server.kill() == 0
        assert sock.recv(1000) == b"STOPPING=1\nSTATUS=SIGTERM: stopping"


@pytest.mark.parametrize("name", ["/none/notify", "@nobody-is-there", "x" * 200])
def test_systemd_that_does_not_listen(tmp_path, name):
    arguments = "-a", "0", "-f", "Data.fs"
    with running(*arguments, cwd=tmp_path, NOTIFY_SOCKET=name) as server:
        assert store_and_read(server.address()) == 1
        assert server.kill() == 0
    assert sum("NOTIFY_SOCKET cannot be told" in line for line in server.lines) == 2


def activated(sock, *arguments, cwd, count="1"):
    return running(
        count,
        str(sock.fileno()),
        *arguments,
        cwd=cwd,
        module="tests.support.activation",
        pass_fds=[sock.fileno()],
    )


class TestSocketActivation:
    def test_no_client_is_refused_while_the_server_starts_again(self, tmp_path, write):
        with socket.create_server(("127.0.0.1", 0)) as sock:
            address = sock.getsockname()
            write(FILE.format("{}:{}".format(*address)))
            # It is in the queue before there is a server.
            early = socket.create_connection(address)
            with activated(sock, cwd=tmp_path) as server:
                early.settimeout(20)
                assert early.recv(6) == b"\0\0\0\2Z5"
                early.close()
                assert store_and_read(address) == 1
                assert server.kill(signal.SIGHUP) == 1
            # The socket listens on.
            waiting = socket.create_connection(address)
            with activated(sock, cwd=tmp_path):
                waiting.settimeout(20)
                assert waiting.recv(6) == b"\0\0\0\2Z5"
                assert store_and_read(address) == 2
            waiting.close()

    def test_unix_socket_stays(self, tmp_path, write):
        write(FILE.format("./socket"))
        path = tmp_path / "socket"
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(str(path))
            sock.listen()
            with activated(sock, cwd=tmp_path) as server:
                server.wait_for("serving storage 1 at ")
                assert store_and_read(str(path)) == 1
                assert server.kill() == 0
            assert path.is_socket()

    @pytest.mark.parametrize("address", ["0", "localhost:0"])
    def test_address_without_a_port_or_by_name(self, tmp_path, write, address):
        write(FILE.format(address))
        host = "0.0.0.0" if address == "0" else "127.0.0.1"
        with socket.create_server((host, 0)) as sock:
            with activated(sock, cwd=tmp_path):
                assert store_and_read(("127.0.0.1", sock.getsockname()[1])) == 1

    @pytest.mark.parametrize(
        "address, words",
        [
            ("127.0.0.1:1", r"listens at 127\.0\.0\.1:\d+, .* is 127\.0\.0\.1:1; make"),
            ("127.0.0.2:0", r"listens at 127\.0\.0\.1:\d+, .* is 127\.0\.0\.2:0; make"),
            ("./socket", r"listens at 127\.0\.0\.1:\d+, .* is \./socket; make"),
        ],
    )
    def test_another_address_is_refused(self, tmp_path, write, address, words):
        write(FILE.format(address))
        with socket.create_server(("127.0.0.1", 0)) as sock:
            self.is_refused(tmp_path, sock, words)

    def test_two_sockets_are_refused(self, tmp_path, write):
        write(FILE.format("0"))
        with socket.create_server(("127.0.0.1", 0)) as sock:
            self.is_refused(tmp_path, sock, "2 sockets.*leave one", count="2")

    def test_a_socket_that_does_not_listen_is_refused(self, tmp_path, write):
        write(FILE.format("127.0.0.1:0"))
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            self.is_refused(tmp_path, sock, "does not listen")

    def test_a_file_is_refused(self, tmp_path, write):
        write(FILE.format("127.0.0.1:0"))
        with open(tmp_path / "file", "w") as file:
            self.is_refused(tmp_path, file, "no socket")

    def is_refused(self, tmp_path, sock, words, **kwargs):
        with activated(sock, cwd=tmp_path, **kwargs) as server:
            assert server.wait() == 2
        (line,) = server.lines
        assert re.search(r"^zeolite: zeolite\.conf, line 2: .*" + words, line), line

    def test_what_is_for_another_process_is_ignored(self, tmp_path):
        port = free_port()
        arguments = "-a", str(port), "-f", "Data.fs"
        others = {"LISTEN_PID": "1", "LISTEN_FDS": "1"}
        with running(*arguments, cwd=tmp_path, **others) as server:
            assert server.address() == ("127.0.0.1", port)


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="no systemd-analyze")
def test_units_of_the_readme_are_well_formed(tmp_path):
    readme = pathlib.Path(zeolite.__file__).parent.parent / "README.txt"
    blocks = re.findall(
        r"(?m)^    # (zeolite\.\w+)\n((?:(?:    .*)?\n)+)", readme.read_text()
    )
    units = {name: re.sub("(?m)^    ", "", text) for name, text in blocks}
    assert set(units) == {"zeolite.service", "zeolite.socket"}
    for name, text in units.items():
        # The program and the user are the reader's.
        text = re.sub("(?m)^ExecStart=.*", "ExecStart=/bin/true", text)
        (tmp_path / name).write_text(re.sub("(?m)^User=.*", "User=root", text))
    result = subprocess.run(
        ["systemd-analyze", "verify", *map(str, tmp_path.glob("zeolite.*"))],
        capture_output=True,
        text=True,
    )
    ours = [line for line in result.stderr.splitlines() if "zeolite" in line]
    assert not ours, result.stderr
