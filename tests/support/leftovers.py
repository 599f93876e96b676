"""What a test must not leave behind: threads, processes, temporary files."""

import os
import pathlib
import threading
import time

import psutil

from . import hosting

#: Seconds that what is on its way out may still take.
PATIENCE = 20


class Leftovers:
    """Compares what there is with what there was when it was made."""

    def __init__(self, temporary):
        self._temporary = temporary
        self._threads = set(threading.enumerate())
        self._processes = _children()
        self._files = set(os.listdir(temporary))

    def found(self):
        """Return a list of texts, empty if all is clean; waits a little."""
        deadline = time.monotonic() + PATIENCE
        while True:
            found = [
                *(f"thread {t.name}" for t in self._new_threads()),
                *(f"process {pid}" for pid in _children() - self._processes),
                *(f"file {n}" for n in self._new_files()),
            ]
            if not found or time.monotonic() > deadline:
                return found
            time.sleep(0.01)

    def _new_threads(self):
        return [t for t in set(threading.enumerate()) - self._threads if t.is_alive()]

    def _new_files(self):
        return sorted(set(os.listdir(self._temporary)) - self._files)


def _children():
    """The processes of tests, without those that serve a whole run, and theirs."""
    found, parents = set(), [os.getpid()]
    while parents:
        new = _children_of(parents.pop()) - hosting.HOSTS
        found |= new
        parents += new
    return found


def _children_of(pid):
    """Return the ids of a process's children.

    This is done twice for each test, and psutil looks at all processes of the machine.
    """
    paths = list(pathlib.Path(f"/proc/{pid}/task").glob("*/children"))
    try:
        if paths:
            return {int(child) for path in paths for child in path.read_text().split()}
    except OSError:
        pass  # It is gone, or a thread of it is.
    try:
        return {child.pid for child in psutil.Process(pid).children()}
    except psutil.NoSuchProcess:
        return set()
