"""What a test must not leave behind: threads, processes, temporary files."""

import contextlib
import os
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
                *(f"process {p.pid}" for p in _children() - self._processes),
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
    found, parents = set(), [psutil.Process()]
    while parents:
        with contextlib.suppress(psutil.NoSuchProcess):
            children = parents.pop().children()
            new = {child for child in children if child.pid not in hosting.HOSTS}
            found |= new
            parents += new
    return found
