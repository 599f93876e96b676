"""The client's cache of object records: a ring of fixed size, in memory and a file.

New records are written at the head of the ring, over what has been there for the
longest time, so the cache forgets in the order in which it learned.  What was read
since it was written is moved to the head instead, once for any number of reads, as
long as that does not hold up whoever stores.

`cacheformat` has the format of the file, and `cachefile` opens it.
"""

import struct
import threading

from BTrees.LLBTree import LLBTree
from BTrees.OOBTree import OOTreeSet
from ZODB.utils import z64
from zope.interface import implementer

from ..interfaces import IClientCache
from . import cacheformat
from .cachefile import SHARE, CacheFile
from .cacheformat import FOR_ALL, FOR_LOADING, FORGOTTEN, RECORD_HEADER, START
from .cachestatistics import CacheStatistics

#: At one store, so many records are moved forward at most, of so many bytes.
_MOVES = 16
_MOVED_BYTES = 1024 * 1024

# Whether a record was read is noted for each 64 bytes of the file.  A record has
# that at least, if it has more than 12 bytes of data; smaller ones may share a note.
_NOTE_SHIFT = 6

# An oid as the key of the index: a signed number, and so of 8 bytes there.
_NUMBER = struct.Struct(">q")
_number = _NUMBER.unpack

# The file's counters are brought up to date with each commit, and every so many
# stores.
_SHOW = 64


@implementer(IClientCache)
class ClientCache:
    """A cache of `size` bytes (int), at least 64 KB.

    `path` (str) is its file's, for one process at a time, and is used again with
    all that is in it, also with another size: then what is youngest is kept.
    With None the cache is a temporary file.

    Any thread loads; only the connection's reader thread changes anything.

    Raises `CacheFileError` if the file cannot be used, or there is no room: it is
    allocated at once, because a full disk found out later kills a process that
    maps the file.
    """

    def __init__(self, path, size):
        self._lock = threading.Lock()  # Guards all of the below and the file.
        self._file = CacheFile(path, size)
        try:
            self._reset()
            if not self._file.recover(self._recovered):
                self._reset()
                self._file.set_aside("a record does not check")
            self._map = self._file.map
            self._size = self._file.size
            if not self._file.tid:
                # Without it there is no telling what has changed since.
                self._clear()
        except BaseException:
            self._file.close()
            raise
        self.path = self._file.path
        self._tid = self._file.tid or None
        self._read = bytearray((self._size >> _NOTE_SHIFT) + 1)
        self._hits = self._misses = self._stores = self._evictions = self._moves = 0
        self._write_counters()

    def _reset(self):
        self._room = START  # Where a free block at the head ends, if that is known.
        self._current = LLBTree()  # oid as a number -> position
        self._earlier = OOTreeSet()  # oid + start tid + position (6 bytes)
        self._count = 0  # Records that these two have,
        self._bytes = 0  # and what they take up.

    def _recovered(self, position, oid, start, end):
        """Index a record that was found in the file."""
        if end == FORGOTTEN:
            return
        if end == z64:
            self._current[_number(oid)[0]] = position
        else:
            self._earlier.insert(_key(oid, start, position))
        self._count += 1
        self._bytes += cacheformat.block_at(self._file.map, position)[1]

    def close(self):
        """Give the file back.  What is loaded afterwards is not found."""
        with self._lock:
            if self._map is not None:
                self._write_counters()
                self._map = None
                self._reset()
                self._file.close()

    def __len__(self):
        """The number of records."""
        with self._lock:
            return self._count

    def sample(self, count):
        """Return a list of (oid, start tid) of up to `count` current revisions."""
        with self._lock:
            positions = zip(self._current.values(), range(count))
            found = [self._map[p + 8 : p + 24] for p, _ in positions]
        return [(both[:8], both[8:]) for both in found]

    def contents(self):
        """Return a list of (oid, start tid) of all records."""
        with self._lock:
            found = [
                (_NUMBER.pack(number), self._start(position))
                for number, position in self._current.items()
            ]
            return found + [(key[:8], key[8:16]) for key in self._earlier]

    def statistics(self):
        """Return the `CacheStatistics`."""
        with self._lock:
            return CacheStatistics(
                self._size,
                self._bytes,
                self._count,
                self._hits,
                self._misses,
                self._stores,
                self._evictions,
                self._moves,
            )

    # The last tid.

    def getLastTid(self):
        """The tid up to which the cache is right, or None."""
        return self._tid

    def setLastTid(self, tid):
        """All invalidations up to `tid` have been applied."""
        with self._lock:
            self._tid = tid
            if self._map is not None:
                self._file.set_tid(tid)
                self._write_counters()

    # Loading.

    def loadBefore(self, oid, tid):
        """Return (data, start tid, end tid or None) of the revision before `tid`.

        Returns None if it is not in the cache.
        """
        with self._lock:
            # The usual case, and so written out.
            position = self._current.get(_number(oid)[0])
            if position is not None:
                size, start = FOR_LOADING.unpack_from(self._map, position)
                if start < tid:
                    self._hits += 1
                    self._read[position >> _NOTE_SHIFT] = 1
                    data = self._map[position + RECORD_HEADER : position + size]
                    return data, start, None
            position = self._earlier_before(oid, tid) if self._earlier else None
            if position is None:
                self._misses += 1
                return None
            self._hits += 1
            self._read[position >> _NOTE_SHIFT] = 1
            size, _, start, end = FOR_ALL.unpack_from(self._map, position)
            return self._map[position + RECORD_HEADER : position + size], start, end

    def has(self, oid, tid):
        """Whether `loadBefore` would find it."""
        with self._lock:
            position = self._current.get(_number(oid)[0])
            if position is not None and self._start(position) < tid:
                return True
            return self._earlier_before(oid, tid) is not None

    def _earlier_before(self, oid, tid):
        """Return the position of the earlier revision that was right before `tid`."""
        key = self._last_key(oid + tid)
        if key is not None and key[:8] == oid:
            position = _position(key)
            if tid <= self._map[position + 24 : position + 32]:
                return position
        return None

    def _last_key(self, limit):
        """Return the greatest key of an earlier revision up to `limit`, or None."""
        if not self._earlier:
            return None
        try:
            return self._earlier.maxKey(limit)
        except ValueError:
            return None

    # Changing.

    def store(self, oid, start, end, data):
        """Keep a revision; `end` is None if it is the current one.

        A revision larger than a quarter of the cache is not kept.
        """
        if RECORD_HEADER + len(data) > self._size // SHARE:
            return
        with self._lock:
            if self._map is None or self._known(oid, start, end):
                return
            self._stores += 1
            waiting = self._put(oid, start, end or z64, data)
            if waiting:
                self._move(waiting)
            if self._stores % _SHOW == 0:
                self._write_counters()

    def invalidate(self, oid, tid):
        """The current revision of `oid` ended with the commit `tid`.

        With None for `tid` it is not known when: the revision is forgotten.
        """
        with self._lock:
            number = _number(oid)[0]
            position = self._current.get(number)
            if position is None:
                return
            start = self._start(position)
            if tid is None:
                self._forget(oid, start, position)
            elif tid > start:  # Else it was loaded after that commit.
                self._file.end(position, oid, start, tid)
                del self._current[number]
                self._earlier.insert(_key(oid, start, position))

    def clear(self):
        """Forget everything."""
        with self._lock:
            self._tid = None
            if self._map is not None:
                self._clear()

    def _clear(self):
        self._reset()
        self._file.free(START, self._size)
        self._file.set_tid(None)
        self._file.head = START

    def _forget(self, oid, start, position):
        """Forget a current revision that may not be current any more."""
        self._file.end(position, oid, start, FORGOTTEN)
        del self._current[_number(oid)[0]]
        self._count -= 1
        self._bytes -= cacheformat.block_at(self._map, position)[1]

    def _known(self, oid, start, end):
        """Whether there is no need to store; forgets what would contradict."""
        if self._earlier:
            key = self._last_key(oid + start + b"\xff" * 6)
            if key is not None and key[:16] == oid + start:
                return True
        position = self._current.get(_number(oid)[0])
        if position is None:
            return False
        present = self._start(position)
        if end is not None:
            return present == start
        if present >= start:
            return True
        # When the present one ended is not known.
        self._forget(oid, present, position)
        return False

    def _start(self, position):
        return self._map[position + 16 : position + 24]

    def _write_counters(self):
        self._map[cacheformat.HEAD_AND_COUNTERS] = cacheformat.head_and_counters(
            self._file.head,
            self._hits,
            self._misses,
            self._stores,
            self._evictions,
            self._moves,
            self._bytes,
            self._count,
        )

    # The ring.

    def _move(self, waiting):
        """Write records at the head that had to go, and whom that drives out."""
        moves, room = _MOVES, min(_MOVED_BYTES, self._size // 8)
        while waiting and moves:
            record = waiting.pop(0)
            room -= len(record)
            if room < 0:
                break
            moves -= 1
            self._moves += 1
            self._evictions -= 1
            _, oid, start, end = FOR_ALL.unpack_from(record)
            waiting += self._put(oid, start, end, record[RECORD_HEADER:])

    def _put(self, oid, start, end, data):
        """Write a record; return those that had to go and were read since."""
        file, space = self._file, cacheformat.aligned(RECORD_HEADER + len(data))
        head, removed, stop = file.head, [], self._room
        self._room = START  # It is not known where to make room fails.
        if head + space > self._size:
            # A record never wraps around the end.
            self._free(head, self._size, removed)
            head = stop = START
        behind = head + space
        if behind > stop:
            stop = self._free(head, behind, removed)
        self._room = stop
        file.write(head, cacheformat.record(oid, start, end, data), behind, stop)
        if behind < self._size:
            file.head = behind
        else:
            file.head = self._room = START
        self._read[head >> _NOTE_SHIFT] = 0
        try:
            if end == z64:
                self._current[_number(oid)[0]] = head
            else:
                self._earlier.insert(_key(oid, start, head))
        except BaseException:
            # Nobody would end it, and in the file it would be there for ever.
            file.free(head, behind)
            raise
        self._count += 1
        self._bytes += space
        return removed

    def _free(self, position, limit, removed):
        """Make one free block up to `limit` at least; return where it ends.

        Records in it that are worth moving are added to `removed`.
        """
        size, space = cacheformat.block_at(self._map, position)
        if not size and position + space >= limit:
            return position + space  # It is one already.
        stop = position
        try:
            while stop < limit:
                size, space = cacheformat.block_at(self._map, stop)
                # Copied first: there may be no memory.
                is_read = size and self._read[stop >> _NOTE_SHIFT]
                record = self._map[stop : stop + size] if is_read else None
                is_known = size and self._remove(stop, space)
                stop += space
                if is_known and is_read:
                    removed.append(record)
        finally:
            # What the index has not is not to be in the file, either.
            self._file.free(position, stop)
        return stop

    def _remove(self, position, space):
        """Take a record out of the index; return whether it was there.

        One that was forgotten, or whose end tid was torn, was not.
        """
        _, oid, start, _ = FOR_ALL.unpack_from(self._map, position)
        number = _number(oid)[0]
        if self._current.get(number) == position:
            del self._current[number]
        else:
            key = _key(oid, start, position)
            if key not in self._earlier:
                return False
            self._earlier.remove(key)
        self._count -= 1
        self._bytes -= space
        self._evictions += 1
        return True


def _key(oid, start, position):
    return oid + start + position.to_bytes(6, "big")


def _position(key):
    return int.from_bytes(key[16:], "big")
