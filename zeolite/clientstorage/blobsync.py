"""Blobs in a cache that a crash of the machine does not turn into half ones.

Nobody waits for the disk: a file gets its name as soon as it is whole, and a thread
syncs it a little later.  Until then it is *marked*, with the sticky bit, which means
nothing for a file.  The mark is older than the name and goes after the sync.

A process that dies takes nothing with it, because the system has the contents; a
machine that dies does.  So who opens the directory first after a boot removes what
is marked.  For that, the directory has a file

    synced.boot                 the boot in which that was done last; locked meanwhile

Where a file cannot be marked, or boots not be told from each other, files are synced
before they get their names.
"""

import contextlib
import fcntl
import logging
import os
import stat
import threading

from ..files import open_file
from ..threads import try_start
from .blobcheck import files_in, unlock
from .cacheowner import known_boot_id

logger = logging.getLogger(__name__)

_MARK = stat.S_ISVTX

#: Seconds until what came in is synced.
DELAY = 5


def begin(handle):
    """Mark a file that is to enter the cache, if possible.  Before it has its name."""
    if known_boot_id() is not None:
        with contextlib.suppress(OSError):
            os.fchmod(handle, stat.S_IMODE(os.fstat(handle).st_mode) | _MARK)


def make_safe(handle):
    """Sync a whole file that has no mark, before it gets its name."""
    if not os.fstat(handle).st_mode & _MARK:
        os.fsync(handle)


def remove_doubtful(directory):
    """Remove blobs that the machine may not have written before it crashed.

    Whoever opens the cache `directory` (str) calls this before it uses any.
    """
    boot = (known_boot_id() or b"").hex().encode()
    path = os.path.join(directory, "synced.boot")
    with open(open_file(path, os.O_RDWR | os.O_CREAT, 0o600), "r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        if not boot or file.read(100) != boot:
            for entry in files_in(directory, ".blob"):
                with contextlib.suppress(FileNotFoundError):
                    if entry.stat(follow_symlinks=False).st_mode & _MARK:
                        os.unlink(entry.path)
            file.seek(0)
            file.truncate()
            file.write(boot)
            file.flush()
        unlock(file.fileno())


class DiskSync:
    """Syncs blobs that came into the cache, and takes their marks.

    `later` and `close` are for any thread.
    """

    def __init__(self):
        self._lock = threading.RLock()  # Guards the three below.
        self._condition = threading.Condition(self._lock)
        self._paths = []
        self._thread = None
        self._closed = False

    def later(self, path):
        """A marked file is there, with its name; it is synced in a while."""
        with self._lock:
            self._paths.append(path)
            if self._closed or self._thread is not None:
                return  # After closing, a mark stays until somebody else comes.
            self._thread = threading.Thread(
                target=self._run, name="zeolite-blob-sync", daemon=True
            )
            if not try_start(self._thread):
                self._thread = None  # Another time.

    def close(self):
        """Sync what is left, and end the thread."""
        with self._lock:
            self._closed = True
            self._condition.notify()
            thread = self._thread
        if thread is not None:
            thread.join()

    def _run(self):
        while paths := self._next():
            for path in paths:
                _sync(path)

    def _next(self):
        """Return what has waited long enough; without any, the thread has ended."""
        with self._lock:
            if self._paths:
                self._condition.wait_for(lambda: self._closed, DELAY)
            paths, self._paths = self._paths, []
            if not paths:
                self._thread = None
            return paths


def _sync(path):
    try:
        handle = open_file(path, os.O_RDONLY)
    except OSError:
        return  # It was removed meanwhile.
    try:
        mode = os.fstat(handle).st_mode
        if mode & _MARK:
            os.fsync(handle)
            os.fchmod(handle, stat.S_IMODE(mode) & ~_MARK)
    except OSError as error:
        # What the disk has not taken may be lost here as well, later.
        logger.error("%s: cannot be synced and is removed: %s", path, error)
        with contextlib.suppress(OSError):
            os.unlink(path)
    finally:
        os.close(handle)
