"""Keeping a cache directory of blobs at its size.

Whoever brings blobs in counts their bytes in a file, and who makes the count reach
the check share of the size removes what was not used for longest, until the
directory is smaller than its size by that share.  What is open is not removed.
"""

import contextlib
import fcntl
import logging
import math
import os
import threading

from ..files import open_file
from ..threads import try_start

logger = logging.getLogger(__name__)

_STEP = 1024 * 1024


def try_lock(path, create=False):
    """Lock a file; return its descriptor, or None if somebody else has it locked.

    The lock ends with `unlock`.  Raises `FileNotFoundError` if
    there is no file and it is not to be created.
    """
    handle = open_file(path, os.O_RDWR | (os.O_CREAT if create else 0), 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return None
    except BaseException:
        os.close(handle)
        raise
    return handle


def unlock(handle):
    """Unlock an open file, for a child as well that was forked while it was locked."""
    fcntl.flock(handle, fcntl.LOCK_UN)


def is_at(handle, path):
    """Whether an open file is still the one at `path`."""
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except FileNotFoundError:
        return False


def files_in(directory, endings):
    """Yield the `os.DirEntry` of each file of a cache whose name ends like that.

    What a symbolic link leads to is not the cache's.
    """
    for bucket in os.scandir(directory):
        if bucket.name.isdigit() and bucket.is_dir(follow_symlinks=False):
            for entry in os.scandir(bucket.path):
                is_file = entry.is_file(follow_symlinks=False)
                if is_file and entry.name.endswith(endings):
                    yield entry


class SizeCheck:
    """Watches the size of the directory `path`.

    `size` is in bytes, None for no limit; `check` is the share of it, in percent,
    that comes in between two checks.  Any thread calls `added`.
    """

    def __init__(self, path, size, check):
        self._path = path
        self._size = size
        self._share = size and max(1, size * check // 100)
        #: Bytes of one blob that may come in before they are counted.
        self.step = min(_STEP, self._share or _STEP)
        self._lock = threading.Lock()  # Guards the three below.
        self._thread = None
        self._due = self._closed = False
        self.added(0, always=True)

    def added(self, size, always=False):
        """`size` bytes came or come in; look at the directory if it is time.

        Raises `OSError` where that cannot be counted.
        """
        if self._size is None or not (self._count(size) >= self._share or always):
            return
        with self._lock:
            self._due = True
            if self._closed or self._thread is not None:
                return
            self._thread = threading.Thread(
                target=self._run, name="zeolite-blob-check", daemon=True
            )
            if not try_start(self._thread):
                self._thread = None  # Another time.

    def close(self):
        """End the thread, if there is one."""
        with self._lock:
            self._closed = True
            thread = self._thread
        if thread is not None:
            thread.join()

    def _count(self, size, anew=False):
        """Add to the number that all processes share, or begin anew; return the sum."""
        path = os.path.join(self._path, "check_size.added")
        with open(open_file(path, os.O_RDWR | os.O_CREAT, 0o600), "r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            known = file.read(20)
            total = size + (int(known) if known.isdigit() and not anew else 0)
            # As long as before, so that it needs no room on a disk that is full.
            file.seek(0)
            file.write(b"%020d" % total)
            file.flush()
            unlock(file.fileno())
        return total

    def _run(self):
        while self._is_due():
            try:
                self.check()
            except Exception:
                logger.exception("%s: removing old blobs failed", self._path)

    def _is_due(self):
        with self._lock:
            due, self._due = self._due and not self._closed, False
            if not due:
                self._thread = None
            return due

    def check(self):
        """Remove what was not used for longest, unless another process does.

        That one counts once more when it is done, so that nothing is forgotten
        that came in meanwhile.
        """
        due = True
        while due and not self._closed:
            lock = try_lock(os.path.join(self._path, "check_size.lock"), create=True)
            if lock is None:
                return
            try:
                self._count(0, anew=True)
                self._remove(self._size - self._share)
            finally:
                unlock(lock)
                os.close(lock)
            due = self._count(0) >= self._share

    def _remove(self, target):
        found = sorted(self._files())
        size = sum(size for _, size, _ in found)
        removed = 0
        for _, file_size, path in found:
            if size - removed <= target or self._closed:
                break
            if _remove_unused(path):
                removed += file_size
        if removed:
            logger.info("%s: %d bytes of old blobs removed", self._path, removed)

    def _files(self):
        """Yield (time of the last use, size, path) of all blobs, and of downloads
        that are under way.

        Removes downloads whose process is gone.
        """
        for entry in files_in(self._path, (".blob", ".blob.dl")):
            with contextlib.suppress(FileNotFoundError):
                if entry.name.endswith(".blob"):
                    status = entry.stat()
                    yield status.st_atime, status.st_size, entry.path
                elif not _remove_unused(entry.path):
                    yield math.inf, entry.stat().st_size, entry.path


class Arriving:
    """Counts for a `SizeCheck` what of one blob has come in.

    Any piece is counted in the end, but not each at once.
    """

    def __init__(self, check):
        self._check = check
        self._gathered = 0

    def add(self, size):
        """`size` bytes more are there.  Raises `OSError`, see `SizeCheck.added`."""
        self._gathered += size
        if self._gathered >= self._check.step:
            self.end()

    def end(self):
        """The blob is whole.  Raises `OSError`, see `SizeCheck.added`."""
        self._check.added(self._gathered)
        self._gathered = 0


def _remove_unused(path):
    """Remove a file that nobody has locked; return whether it is gone."""
    try:
        handle = open_file(path, os.O_RDONLY)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not is_at(handle, path):
            return False  # It was renamed, and this is another one.
        os.unlink(path)
    except BlockingIOError:
        return False
    except FileNotFoundError:
        pass
    finally:
        unlock(handle)
        os.close(handle)
    return True
