"""The client's cache of object records: a file of fixed size, written as a ring.

    offset 0        4 bytes     "ZLC1"
    then records, each:
           +0       4 bytes     size of the whole record, big-endian
           +4       8 bytes     oid
          +12       8 bytes     start tid: the commit that wrote this revision
          +20       8 bytes     end tid: the next commit that changed the object,
                                zeros while this revision is the current one
          +28       ...         data

New records are written at the head.  What stands there from the lap before is
evicted first, so the cache forgets in the order in which it learned.  A record
never wraps around the end of the file.
"""

import mmap
import os
import struct
import tempfile
import threading

from ZODB.fsIndex import fsIndex
from ZODB.utils import z64

MAGIC = b"ZLC1"
_HEADER = struct.Struct(">I8s8s8s")
_START = len(MAGIC)
_END_TID = 20

#: A record may take this share of the cache, 1/n.
SHARE = 4


class ClientCache:
    """A cache of `size` bytes in a temporary file.

    Any thread loads; only the connection's reader thread changes anything.

    Raises `OSError` if there is no room for the file: it is allocated at once,
    because a full disk found out later kills a process that maps the file.
    """

    def __init__(self, size):
        self._size = max(size, 64 * 1024)
        self._file = tempfile.TemporaryFile(prefix="zeolite-cache-")
        try:
            os.posix_fallocate(self._file.fileno(), 0, self._size)
            self._map = mmap.mmap(self._file.fileno(), self._size)
        except BaseException:
            self._file.close()
            raise
        self._map[:_START] = MAGIC
        self._lock = threading.Lock()  # Guards all of the below and the map.
        self._tid = None
        self._closed = False
        self._reset()

    def _reset(self):
        self._current = fsIndex()  # oid -> position
        self._earlier = {}  # oid -> {start tid: position}
        self._head = _START  # Where the next record goes.
        self._old = _START  # The first record of the lap before, at or after head.
        self._old_end = _START  # Where that lap ended.

    def close(self):
        """Give the file back.  What is loaded afterwards is not found."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._reset()
                self._map.close()
                self._file.close()

    def __len__(self):
        """The number of records."""
        with self._lock:
            return len(self._current) + sum(map(len, self._earlier.values()))

    def contents(self):
        """Return a list of (oid, start tid) of all records."""
        with self._lock:
            found = [(oid, self._read(pos)[1]) for oid, pos in self._current.items()]
            for oid, revisions in self._earlier.items():
                found += [(oid, start) for start in revisions]
            return found

    # The last tid.

    def getLastTid(self):
        """The tid up to which the cache is right, or None."""
        return self._tid

    def setLastTid(self, tid):
        """All invalidations up to `tid` have been applied."""
        self._tid = tid

    # Loading.

    def loadBefore(self, oid, tid):
        """Return (data, start tid, end tid or None) of the revision before `tid`.

        Returns None if it is not in the cache.
        """
        with self._lock:
            position = self._current.get(oid)
            if position is not None:
                data, start, _ = self._read(position)
                if start < tid:
                    return data, start, None
            revisions = self._earlier.get(oid)
            if revisions:
                start = max((s for s in revisions if s < tid), default=None)
                if start is not None:
                    data, start, end = self._read(revisions[start])
                    if tid <= end:
                        return data, start, end
            return None

    def has(self, oid, tid):
        """Whether `loadBefore` would find it."""
        return self.loadBefore(oid, tid) is not None

    # Changing.

    def store(self, oid, start, end, data):
        """Keep a revision; `end` is None if it is the current one."""
        size = _HEADER.size + len(data)
        if size > self._size // SHARE:
            return
        with self._lock:
            if self._closed or self._known(oid, start, end):
                return
            position = self._allocate(size)
            _HEADER.pack_into(self._map, position, size, oid, start, end or z64)
            self._map[position + _HEADER.size : position + size] = data
            if end is None:
                self._current[oid] = position
            else:
                self._earlier.setdefault(oid, {})[start] = position

    def invalidate(self, oid, tid):
        """The current revision of `oid` ended with the commit `tid`.

        With None for `tid` it is not known when: the revision is forgotten.
        """
        with self._lock:
            position = self._current.get(oid)
            if position is None:
                return
            start = self._map[position + 12 : position + _END_TID]
            if tid is not None and tid <= start:
                return  # It was loaded after that commit.
            del self._current[oid]
            if tid is not None:
                where = position + _END_TID
                self._map[where : where + 8] = tid
                self._earlier.setdefault(oid, {})[start] = position

    def clear(self):
        """Forget everything."""
        with self._lock:
            self._tid = None
            self._reset()

    # The ring.

    def _read(self, position):
        size, _, start, end = _HEADER.unpack_from(self._map, position)
        return self._map[position + _HEADER.size : position + size], start, end

    def _known(self, oid, start, end):
        """Whether there is no need to store; forgets what would contradict."""
        if start in self._earlier.get(oid, ()):
            return True
        position = self._current.get(oid)
        if position is None:
            return False
        present = self._map[position + 12 : position + _END_TID]
        if end is not None:
            return present == start
        if present >= start:
            return True
        # When the present one ended is not known.
        del self._current[oid]
        return False

    def _allocate(self, size):
        """Return a position with room for `size` bytes."""
        if self._head + size > self._size:
            self._evict(self._old_end)
            self._old_end = self._head
            self._head = self._old = _START
        position = self._head
        self._head += size
        self._evict(min(self._head, self._old_end))
        return position

    def _evict(self, end):
        """Forget the records of the lap before that begin before `end`."""
        while self._old < end:
            size, oid, start, _ = _HEADER.unpack_from(self._map, self._old)
            if self._current.get(oid) == self._old:
                del self._current[oid]
            else:
                revisions = self._earlier.get(oid)
                if revisions and revisions.get(start) == self._old:
                    del revisions[start]
                    if not revisions:
                        del self._earlier[oid]
            self._old += size
