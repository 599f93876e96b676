"""The log of a server process: rotation, full disks, syslog, email."""

import collections
import contextlib
import email.parser
import itertools
import os
import re
import resource
import signal
import socket
import socketserver
import threading

import pytest

from tests.support.processes import running
from tests.support.rawclient import RawClient
from tests.support.waiting import wait_until

FILE = """\
<zeolite>
  address 127.0.0.1:0
</zeolite>
<mappingstorage>
</mappingstorage>
<eventlog>
  level {level}
  <logfile>
    path STDERR
    level info
    format %(levelname)s %(message)s
  </logfile>
  {handler}
</eventlog>
"""

LOGFILE = "<logfile>\npath {}\nformat %(asctime)s %(levelname)s %(message)s\n</logfile>"


def file(handler, level="info"):
    return FILE.format(handler=handler, level=level)


class Committer:
    """Commits until it is stopped, in a thread of its own."""

    def __init__(self, address):
        self.tids = []
        self._client = RawClient(address)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self):
        serial = None
        while not self._stop.is_set():
            tid = self._client.commit(1, [id(self) % 2**60], serial)
            self.tids.append(tid.hex())
            serial = tid

    def stop(self):
        self._stop.set()
        self._thread.join()
        self._client.close()


def test_rotation_loses_no_line(tmp_path, write):
    """Each commit's line is in one of the files, once, while files are renamed."""
    rotations = 30
    write(file(LOGFILE.format("log"), level="debug"))
    log = tmp_path / "log"
    with running(cwd=tmp_path) as server:
        address = server.address()
        committers = [Committer(address) for _ in range(4)]
        for number in range(rotations):
            # There is something in each of the files.
            before = sum(len(c.tids) for c in committers)
            wait_until(lambda: sum(len(c.tids) for c in committers) > before + 8)  # noqa: B023
            log.rename(tmp_path / f"log.{number}")
            os.kill(server.pid, signal.SIGUSR2)
            wait_until(log.exists)
        for committer in committers:
            committer.stop()
        assert server.kill() == 0
    tids = [tid for committer in committers for tid in committer.tids]
    lines = collections.Counter()
    for path in tmp_path.glob("log*"):
        text = path.read_text()
        assert text.endswith("\n")
        found = re.findall(r" committed (\w{16}) with 1 objects, .*\n", text)
        assert found
        lines.update(found)
    assert len(tids) > rotations
    assert lines == dict.fromkeys(tids, 1)


def test_what_was_opened_again_is_told(tmp_path, write):
    write(file(LOGFILE.format("a") + "\n" + LOGFILE.format("b")))
    with running(cwd=tmp_path) as server:
        server.address()
        os.kill(server.pid, signal.SIGUSR2)
        said = server.wait_for("SIGUSR2: log files were opened again: (.*)")
        assert said[1] == f"{tmp_path}/a, {tmp_path}/b"
        assert server.kill() == 0


_oids = itertools.count(1)


def commit(address):
    client = RawClient(address)
    client.commit(1, [next(_oids)])
    client.close()


class TestFullDisk:
    @contextlib.contextmanager
    def full(self, tmp_path, write):
        """Run a server that has lost a line of its log, no file of which can grow.

        Gives it, its address, and a function after which files can grow again.
        """
        write(file(LOGFILE.format("log")))
        with running(cwd=tmp_path) as server:
            address = server.address()
            _, most = resource.getrlimit(resource.RLIMIT_FSIZE)

            def limit(size):
                resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (size, most))

            limit(0)
            commit(address)
            server.wait_for("zeolite: the log .*/log cannot be written: .*File too")
            yield server, address, lambda: limit(most)

    def test_serving_goes_on(self, tmp_path, write):
        write(file(LOGFILE.format("/dev/full")))
        with running(cwd=tmp_path) as server:
            address = server.address()
            for _ in range(3):
                commit(address)
            os.kill(server.pid, signal.SIGUSR2)
            server.wait_for("SIGUSR2: log files were opened again: /dev/full")
            commit(address)
            assert server.kill() == 0
        # Many lines are lost, and one says so.
        (said,) = [line for line in server.lines if "zeolite: " in line]
        assert "the log /dev/full cannot be written: [Errno 28] No space left" in said
        assert not any("Traceback" in line for line in server.lines)

    def test_what_was_lost_is_told_when_there_is_room_again(self, tmp_path, write):
        with self.full(tmp_path, write) as (server, address, grow):
            grow()
            commit(address)
            wait_until(lambda: "may be missing" in (tmp_path / "log").read_text())
            assert server.kill() == 0
        text = (tmp_path / "log").read_text()
        assert re.search(r"ERROR log lines that may be missing here: \d+\n", text)
        assert "stopped serving" in text

    def test_rotation_goes_on(self, tmp_path, write):
        """What could not be written is no reason to stay with the old file."""
        with self.full(tmp_path, write) as (server, address, grow):
            (tmp_path / "log").rename(tmp_path / "log.1")
            os.kill(server.pid, signal.SIGUSR2)
            server.wait_for("SIGUSR2: log files were opened again")
            grow()
            commit(address)
            assert server.kill() == 0
        assert "stopped serving" in (tmp_path / "log").read_text()

    def test_directory_that_is_gone(self, tmp_path, write):
        """The file is there again as soon as it can be."""
        (tmp_path / "logs").mkdir()
        write(file(LOGFILE.format("logs/log") + "\n" + LOGFILE.format("other")))
        with running(cwd=tmp_path) as server:
            address = server.address()
            (tmp_path / "logs").rename(tmp_path / "elsewhere")
            os.kill(server.pid, signal.SIGUSR2)
            server.wait_for("zeolite: the log .*/logs/log cannot be opened: .*No such")
            server.wait_for("SIGUSR2: log files were opened again: .*/other$")
            commit(address)
            (tmp_path / "logs").mkdir()
            commit(address)
            assert server.kill() == 0
        assert "stopped serving" in (tmp_path / "logs" / "log").read_text()
        assert not any("Traceback" in line for line in server.lines)


def test_syslog(tmp_path, write):
    path = str(tmp_path / "syslog")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as syslog:
        syslog.bind(path)
        syslog.settimeout(20)
        write(file(f"<syslog>\naddress {path}\nfacility local3\n</syslog>"))
        with running(cwd=tmp_path) as server:
            address = server.address()
            assert b"serving storage 1" in syslog.recv(10_000)
            # Without anybody who listens the server goes on.
            syslog.close()
            os.unlink(path)
            commit(address)
            server.wait_for("zeolite: the log SysLogHandler cannot be written: ")
            assert server.kill() == 0


class MailServer(socketserver.ThreadingTCPServer):
    """Takes emails, or keeps who wants to send one waiting."""

    daemon_threads = True

    def __init__(self, answers=True):
        super().__init__(("127.0.0.1", 0), _Mail)
        self.answers = answers
        self.asked = threading.Event()
        self.release = threading.Event()
        self.mails = []


class _Mail(socketserver.StreamRequestHandler):
    def handle(self):
        self.server.asked.set()
        if not self.server.answers:
            self.server.release.wait(30)
            return
        self._say("220 here")
        for line in self.rfile:
            if line.upper().startswith(b"DATA"):
                self._say("354 go on")
                mail = b"".join(iter(self.rfile.readline, b".\r\n"))
                self.server.mails.append(mail.decode())
            self._say("221 bye" if line.upper().startswith(b"QUIT") else "250 ok")

    def _say(self, text):
        self.wfile.write(text.encode() + b"\r\n")


@pytest.fixture
def mail_server():
    servers = []

    def start(**kwargs):
        server = MailServer(**kwargs)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        servers.append((server, thread))
        return server

    yield start
    for server, thread in servers:
        server.release.set()
        server.shutdown()
        thread.join()
        server.server_close()


def notifier(server):
    return (
        "<email-notifier>\nlevel warning\nfrom zeolite@localhost\nto admin@localhost\n"
        f"smtp-server 127.0.0.1:{server.server_address[1]}\n"
        "subject trouble\n</email-notifier>"
    )


def misbehave(address):
    client = RawClient(address, register=False)
    client.send_frame(b"nonsense")
    assert client.is_closed()
    client.close()


def test_email(tmp_path, write, mail_server):
    mails = mail_server()
    write(file(notifier(mails)))
    with running(cwd=tmp_path) as server:
        misbehave(server.address())
        assert server.kill() == 0
    # It is out before the process ends.
    (mail,) = map(email.parser.Parser().parsestr, mails.mails)
    assert mail["Subject"] == "trouble"
    text = mail.get_payload(decode=True).decode()
    assert re.search(r"client 127\.0\.0\.1:\d+: closed: it speaks b'nonsense'", text)


def test_slow_mail_server_delays_nobody(tmp_path, write, mail_server):
    mails = mail_server(answers=False)
    write(file(notifier(mails)))
    with running(cwd=tmp_path) as server:
        address = server.address()
        misbehave(address)
        assert mails.asked.wait(20)
        # The first email is under way, and nobody will take it.
        misbehave(address)
        commit(address)
        mails.release.set()
        mails.answers = True
        assert server.kill() == 0
