"""Under supervisord and zdaemon, with the files that README.txt shows."""

import os
import pathlib
import re
import signal
import subprocess
import sys

import psutil
import pytest

import zeolite
from tests.support.processes import free_port
from tests.support.waiting import wait_until

from .support.commandlines import store_and_read

FILE = """\
<zeolite>
  address 127.0.0.1:{}
  pid-filename pid
</zeolite>
<filestorage>
  path Data.fs
</filestorage>
<eventlog>
  <logfile>
    path log
  </logfile>
</eventlog>
"""


def example(begin, tmp_path):
    """Return the example in README.txt that has the line `begin`, for this machine."""
    readme = pathlib.Path(zeolite.__file__).parent.parent / "README.txt"
    pattern = rf"(?m)^    {re.escape(begin)}\n(?:    .*\n)+"
    text = re.sub("(?m)^    ", "", re.search(pattern, readme.read_text())[0])
    text = text.replace("/srv/zeolite/venv/bin/python", sys.executable)
    return text.replace("/srv/zeolite", str(tmp_path))


class Supervised:
    """What a test looks at; `control(*arguments)` is the supervisor's own command."""

    def __init__(self, directory, control):
        self._directory = directory
        self.control = control
        self.port = free_port()
        (directory / "zeolite.conf").write_text(FILE.format(self.port))

    @property
    def pid(self):
        """The process's number once it serves, else None."""
        try:
            pid = int((self._directory / "pid").read_text() or 0)
        except FileNotFoundError:
            return None
        return pid if self._log().count(" serving storage") else None

    def wait_for_another(self, pid):
        wait_until(lambda: self.pid not in (None, pid), 30)
        return self.pid

    def rotate(self):
        """Rename the log, have `control` send SIGUSR2, wait for the new one."""
        log = self._directory / "log"
        log.rename(self._directory / "log.1")
        self.control("kill")
        wait_until(log.exists)
        wait_until(lambda: "opened again" in log.read_text())

    def _log(self):
        return "".join(p.read_text() for p in self._directory.glob("log*"))


def goes_through_its_life(server, start, stop):
    start()
    first = server.wait_for_another(None)
    assert store_and_read(server.port) == 1
    server.rotate()
    os.kill(first, signal.SIGHUP)
    second = server.wait_for_another(first)
    assert store_and_read(server.port) == 2
    os.kill(second, signal.SIGKILL)
    third = server.wait_for_another(second)
    assert store_and_read(server.port) == 3
    stop()
    wait_until(lambda: not psutil.pid_exists(third))
    assert server.pid is None


def test_supervisord(tmp_path):
    pytest.importorskip("supervisor")
    (tmp_path / "supervisord.conf").write_text(
        "[supervisord]\nlogfile=supervisord.log\npidfile=supervisord.pid\n"
        "[unix_http_server]\nfile=supervisor.sock\n"
        "[rpcinterface:supervisor]\nsupervisor.rpcinterface_factory="
        "supervisor.rpcinterface:make_main_rpcinterface\n"
        "[supervisorctl]\nserverurl=unix://supervisor.sock\n"
        + example("[program:zeolite]", tmp_path)
    )

    def control(*arguments):
        names = {"kill": ("signal", "USR2"), "stop": ("stop",)}
        command = [sys.executable, "-W", "ignore", "-m", "supervisor.supervisorctl"]
        subprocess.run(
            [*command, "-c", "supervisord.conf", *names[arguments[0]], "zeolite"],
            cwd=tmp_path,
            check=True,
            capture_output=True,
            timeout=60,
        )

    server = Supervised(tmp_path, control)
    command = [sys.executable, "-W", "ignore", "-m", "supervisor.supervisord"]
    daemon = subprocess.Popen(
        [*command, "-n", "-s", "-c", "supervisord.conf"],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        goes_through_its_life(server, lambda: None, lambda: control("stop"))
        # The end was not taken for a crash.
        said = (tmp_path / "supervisord.log").read_text()
        assert "stopped: zeolite (exit status 0)" in said
    finally:
        daemon.terminate()
        daemon.wait(60)


def test_zdaemon(tmp_path):
    pytest.importorskip("zdaemon")
    (tmp_path / "zdaemon.conf").write_text(example("<runner>", tmp_path))

    def control(*arguments):
        names = {"kill": ("kill", "USR2")}
        command = [sys.executable, "-W", "ignore", "-m", "zdaemon.zdctl"]
        subprocess.run(
            [*command, "-C", "zdaemon.conf", *names.get(arguments[0], arguments)],
            cwd=tmp_path,
            check=True,
            capture_output=True,
            timeout=60,
        )

    server = Supervised(tmp_path, control)
    try:
        goes_through_its_life(server, lambda: control("start"), lambda: control("stop"))
    finally:
        control("stop")


def test_runner_section_in_the_servers_own_file(tmp_path):
    """Zdaemon and the server may share a file, as with zeoctl."""
    port = free_port()
    text = example("<runner>", tmp_path) + FILE.format(port)
    (tmp_path / "zeolite.conf").write_text(text)
    process = subprocess.Popen(
        [sys.executable, "-m", "zeolite"], cwd=tmp_path, stderr=subprocess.PIPE
    )
    try:
        log = tmp_path / "log"
        wait_until(lambda: log.exists() and " serving " in log.read_text())
        assert "the runner section is for zdaemon" in log.read_text()
    finally:
        process.terminate()
        assert process.wait(30) == 0
        process.stderr.close()
