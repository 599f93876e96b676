"""Servers that are started as a user starts them."""

import contextlib
import os
import pathlib
import queue
import re
import signal
import socket
import subprocess
import sys
import threading

#: Seconds in which a server is to start or stop, on a machine that is busy.
PATIENCE = 60


class ServerProcess:
    """`python -m zeolite` with the given arguments, in a directory of its own.

    `lines` are what it has written to stderr, one by one.
    """

    def __init__(self, *arguments, cwd, module="zeolite", pass_fds=(), **environment):
        self.lines = []
        self._queue = queue.Queue()
        path = os.pathsep.join(filter(None, [_root(), os.environ.get("PYTHONPATH")]))
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            cwd=cwd,
            pass_fds=pass_fds,
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": path, **environment},
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self):
        for line in self._process.stderr:
            self.lines.append(line.rstrip("\n"))
            self._queue.put(line)
        self._process.stderr.close()
        self._queue.put(None)

    def wait_for(self, pattern):
        """Wait for a line that matches; return the match."""
        while True:
            line = self._queue.get(timeout=PATIENCE)
            assert line is not None, f"the server has ended: {self.lines}"
            if match := re.search(pattern, line):
                return match

    def address(self):
        """Wait until it serves; return (host, port)."""
        match = self.wait_for(r"serving .* at (\S+):(\d+)$")
        return match[1], int(match[2])

    def kill(self, number=signal.SIGTERM):
        """Send a signal and wait; return the exit status."""
        self._process.send_signal(number)
        return self.wait()

    def wait(self, patience=PATIENCE):
        """Wait for the end; return the exit status.

        Raises `TimeoutError` after `patience` seconds.
        """
        try:
            status = self._process.wait(patience)
        except subprocess.TimeoutExpired as error:
            raise TimeoutError(str(error)) from error
        self._reader.join()
        return status

    @property
    def pid(self):
        return self._process.pid

    def close(self):
        if self._process.poll() is None:
            self._process.kill()
        self.wait()


@contextlib.contextmanager
def running(*arguments, cwd, **kwargs):
    """A `ServerProcess` that is ended at the end."""
    server = ServerProcess(*arguments, cwd=cwd, **kwargs)
    try:
        yield server
    finally:
        server.close()


def free_port():
    """A port on which nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return sock.getsockname()[1]


def _root():
    return str(pathlib.Path(__file__).parent.parent.parent)
