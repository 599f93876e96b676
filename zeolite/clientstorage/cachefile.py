"""A cache's file: found or made, locked, mapped, marked as open, given back.

A new file is made as `PATH.new` and then renamed, so that what is at PATH is
whole.  A file that is damaged is renamed to `PATH.bad`, in place of an earlier one:
the last damage is the one to look at, and the disk is not to fill up.

A file that another program made, or a later version, is an error, never replaced.
"""

import array
import contextlib
import errno
import logging
import mmap
import os
import stat
import tempfile

from ..errors import CacheFileError
from . import cacheformat
from .cacheformat import ALIGNMENT, START
from .cacheowner import boot_id, lock

logger = logging.getLogger(__name__)

#: The smallest cache, in bytes.
SMALLEST = 64 * 1024

#: A record may take this share of the cache, 1/n.
SHARE = 4

_CHUNK = bytes(1024 * 1024)


class CacheFile:
    """A mapped file of `size` bytes: `map`, and what happens to it as a whole.

    `path` is None for a temporary file.  Raises `CacheFileError`.  After opening,
    `recover` has to be called before anything is written.
    """

    def __init__(self, path, size):
        self.size = max(size, SMALLEST) // ALIGNMENT * ALIGNMENT
        self.path = path and os.path.realpath(path)
        self._pid = os.getpid()
        self._lock = self._file = self.map = None
        try:
            with self._explained():
                if self.path is None:
                    self._file = tempfile.TemporaryFile(prefix="zeolite-cache-")
                    self._fill(self._file)
                else:
                    self._lock = lock(self.path)
                    self._open()
                self._map()
        except BaseException:
            self._release()
            raise

    def recover(self, index):
        """Call `index(position, oid, start, end)` for each record.

        What follows a block that does not check is free afterwards.  Returns
        whether all is well; if not, the file was closed properly and is damaged,
        what was indexed is not to be trusted, and `set_aside` is next.
        """
        hint, head, stop = cacheformat.read_head(self.map), START, START
        forgotten = []
        blocks = cacheformat.scan(self.map, self.size)
        for position, behind, oid, start, end in blocks:
            if oid is not None:
                index(position, oid, start, end)
            if end == cacheformat.FORGOTTEN:
                forgotten.append((position, oid, start, end))
            if position == hint:
                head = position
            stop = behind
        if stop != self.size:
            if self.was_closed:
                return False
            logger.warning(
                "%s: was not closed, and the block at %s does not check; using the "
                "%s bytes before it",
                self.path,
                stop,
                stop,
            )
            head = stop
        self._begin()
        self.free(stop, self.size)
        for each in forgotten:
            self.end(*each)  # An end tid that was torn shall not heal.
        self.head = head
        return True

    def set_aside(self, why):
        """Rename the damaged file, and go on with an empty one."""
        self._close()
        _set_aside(self.path, why)
        with self._explained():
            self._create()
            self._map()
            self._begin()

    def close(self):
        """Give the file back, closed properly if this is the process that opened it."""
        if self._pid != os.getpid():
            # The child of a fork: file and lock are its parent's.
            self._lock = None
        elif self.map is not None and self.path is not None:
            self.map.flush()
            self.map[cacheformat.SESSION] = cacheformat.session()
            self.map.flush()
        self._release()

    # The parts that change.  The order of writing is explained in `cacheformat`.

    def free(self, position, stop):
        """Make one free block of what lies between."""
        if position < stop:
            free = cacheformat.free(stop - position)
            self.map[position : position + ALIGNMENT] = free

    def write(self, position, record, behind, stop):
        """Write a record, up to `behind`, into a free block that ends at `stop`."""
        self.free(behind, stop)
        first, rest, data = record
        place = position + ALIGNMENT
        self.map[place : position + cacheformat.RECORD_HEADER + len(data)] = rest + data
        self.map[position:place] = first

    def end(self, position, oid, start, end):
        """Write the end tid of a record."""
        place = slice(position + 24, position + cacheformat.RECORD_HEADER)
        self.map[place] = cacheformat.ending(oid, start, end)

    def set_tid(self, tid):
        """Write the last tid, None for none; everything before is written already."""
        sealed = cacheformat.sealed_tid(tid)
        if tid is None or tid < self.tid:
            places = cacheformat.TIDS
        else:
            self._turn = 1 - self._turn
            places = [cacheformat.TIDS[self._turn]]
        self.tid = tid or b""
        for place in places:
            self.map[place] = sealed

    # Opening and closing.

    def _open(self):
        try:
            self._file = open(self.path, "r+b")
        except FileNotFoundError:
            return self._create()
        status = os.fstat(self._file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise CacheFileError(f"{self.path}: is not a file")
        if _is_planted(self.path, status):
            raise CacheFileError(
                f"{self.path}: belongs to another user, in a directory where everybody "
                "may make files; what is in it would be taken for the database's: name "
                "another file for the cache"
            )
        if not status.st_size:
            return self._create()
        header = self._header()
        try:
            size = cacheformat.read_size(header, status.st_size)
        except cacheformat.Damaged as why:
            self._close()
            _set_aside(self.path, why)
            return self._create()
        except cacheformat.Foreign as why:
            raise CacheFileError(
                f"{self.path}: {why}; it is left alone: name another file for the "
                "cache, or remove this one if it is not needed"
            ) from None
        opened_in = cacheformat.read_session(header)
        if opened_in != b"" and opened_in != boot_id():
            logger.warning(
                "%s: its machine went down before it was closed; beginning with an "
                "empty cache",
                self.path,
            )
            return self._create()
        if size != self.size:
            return self._resize(size)
        _allocate(self._file, size)  # A copy may have holes.

    def _create(self, tid=None, records=()):
        """Make the file anew, with a last tid and records (an iterable of bytes)."""
        new = self.path + ".new"
        with contextlib.suppress(FileNotFoundError):
            os.unlink(new)  # What a process has left, or a link from somebody else.
        file = open(new, "x+b")
        try:
            self._fill(file, tid, records)
            os.fsync(file.fileno())
            os.replace(new, self.path)
        except BaseException:
            file.close()
            with contextlib.suppress(OSError):
                os.unlink(new)
            raise
        self._close()
        self._file = file

    def _fill(self, file, tid=None, records=()):
        """Write a whole new file."""
        _allocate(file, self.size)
        file.seek(START)
        for record in records:
            file.write(record.ljust(cacheformat.aligned(len(record)), b"\0"))
        head = file.tell()
        if head < self.size:
            file.write(cacheformat.free(self.size - head))
        file.seek(0)
        file.write(cacheformat.header(self.size, tid, head % self.size or START))
        file.flush()

    def _resize(self, size):
        """Copy what is youngest and fits from the file of another size."""
        logger.info("%s: copying %s to %s bytes", self.path, size, self.size)
        closed_properly = cacheformat.read_session(self._header()) == b""
        with mmap.mmap(self._file.fileno(), size, access=mmap.ACCESS_READ) as old:
            places, whole = _by_age(old, size)
            if not whole and closed_properly:
                self._close()
                _set_aside(self.path, "a record does not check")
                return self._create()
            room = self.size - START
            kept = array.array("Q")
            for position in reversed(places):
                used, space = cacheformat.block_at(old, position)
                if used > self.size // SHARE:
                    continue
                room -= space
                if room < 0:
                    break
                kept.append(position)
            records = (
                old[position : position + cacheformat.block_at(old, position)[0]]
                for position in reversed(kept)
            )
            self._create(cacheformat.read_tid(old), records)

    def _header(self):
        self._file.seek(0)
        return self._file.read(START)

    def _map(self):
        self.map = mmap.mmap(self._file.fileno(), self.size)
        self.tid = cacheformat.read_tid(self.map) or b""
        self.head = START
        #: Whether it was closed properly the last time.
        self.was_closed = cacheformat.read_session(self.map) == b""
        found = bytes(self.map[cacheformat.TIDS[0]])
        self._turn = 0 if found == cacheformat.sealed_tid(self.tid) else 1

    def _begin(self):
        """Mark the file as open, on the disk before anything else changes there."""
        if hasattr(mmap, "MADV_RANDOM"):
            # Reading ahead is of no use any more, and the system may take some
            # milliseconds for it, in which no thread runs.
            self.map.madvise(mmap.MADV_RANDOM)
        if self.path is not None:
            self.map[cacheformat.SESSION] = cacheformat.session(boot_id())
            self.map.flush(0, mmap.PAGESIZE)

    def _close(self):
        if self.map is not None:
            self.map.close()
            self.map = None
        if self._file is not None:
            self._file.close()
            self._file = None

    def _release(self):
        self._close()
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    @contextlib.contextmanager
    def _explained(self):
        """Let an `OSError` say what could not be done with which file."""
        try:
            yield
        except OSError as error:
            where = self.path or f"a temporary file in {tempfile.gettempdir()}"
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.ENOMEM):
                what = f"has no room for a cache of {self.size} bytes"
            else:
                what = "cannot be used as a cache"
            raise CacheFileError(
                f"{where}: {what}: {error.strerror or error}"
            ) from error


def _is_planted(path, status):
    """Whether anybody may have made the file, in a directory like /tmp."""
    mode = os.stat(os.path.dirname(path)).st_mode
    is_everybodys = mode & stat.S_ISVTX and mode & stat.S_IWOTH
    return bool(is_everybodys) and status.st_uid not in (os.geteuid(), 0)


def _by_age(buffer, size):
    """Return (positions of all records, the oldest first; whether all check)."""
    places = array.array("Q")
    head, first, stop = cacheformat.read_head(buffer), 0, START
    for position, behind, oid, _, end in cacheformat.scan(buffer, size):
        stop = behind
        if position == head:
            first = len(places)
        if oid is not None and end != cacheformat.FORGOTTEN:
            places.append(position)
    return places[first:] + places[:first], stop == size


def _allocate(file, size):
    """Give a file its room, so that a full disk shows now.

    Later it would kill a process that maps the file.
    """
    try:
        return os.posix_fallocate(file.fileno(), 0, size)
    except AttributeError:
        pass  # There is none on macOS.
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
            raise  # The file system could do it.
    file.seek(0, os.SEEK_END)
    for start in range(file.tell(), size, len(_CHUNK)):
        file.write(_CHUNK[: size - start])
    file.flush()


def _set_aside(path, why):
    os.replace(path, path + ".bad")
    logger.error(
        "%s: the cache is damaged (%s); it is now %s.bad, and the client goes on with "
        "an empty one",
        path,
        why,
        path,
    )
