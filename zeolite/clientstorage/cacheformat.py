"""The format of a cache file.  Bytes only: nothing here opens or locks a file.

Integers are big-endian, a CRC is CRC-32, a tid of zeros is none.

    offset 0    4 bytes   "ZLC" and the version, "1"
           +4   4 bytes   CRC of the size
           +8   8 bytes   size of the file, a multiple of 16
          +16  16 bytes   boot id of the machine where it is open, zeros once it
                          was closed properly
          +32   4 bytes   CRC of that
          +36  12 bytes   last tid and its CRC
          +48  12 bytes   the same again: they are written in turns, and the
                          greater one of those that check is meant
          +64   8 bytes   where the next record goes; a hint
          +72  56 bytes   hits, misses, stores, evictions, moves, bytes in use and
                          records of the session, for people

    then blocks, one behind the other up to the end of the file, each at a multiple
    of 16.  A record:
           +0   4 bytes   CRC of +4 to +24 and of the data
           +4   4 bytes   size of the record, without what fills it up to 16
           +8   8 bytes   oid
          +16   8 bytes   start tid: the commit that wrote this revision
          +24   8 bytes   end tid: the next commit that changed the object, zeros
                          while this revision is the current one, ones when the
                          record is forgotten
          +32   4 bytes   CRC of +8 to +32
          +36  ...        data

    A free block:
           +0   4 bytes   CRC of the rest
           +4   4 bytes   zeros
           +8   8 bytes   size of the block

A process may be killed between any two bytes that it writes, so the order counts:

- A record is written into a free block, from its 16th byte on, with a free block
  behind it for the rest.  Its first 16 bytes come last, and make it one.
- An end tid is written in place and has a CRC of its own.  If that one does not
  check, the revision is forgotten, and the rest of the file is as good as before.
- The last tid is written after the end tids of its transaction.  A torn one
  leaves the one before it.
"""

import struct
from zlib import crc32

from ZODB.utils import z64

_MAGIC = b"ZLC"
_VERSION = b"1"

#: Where the blocks begin.
START = 128

#: Blocks begin at multiples of this.
ALIGNMENT = 16

SESSION = slice(16, 36)
TIDS = slice(36, 48), slice(48, 60)
_HEAD = slice(64, 72)
HEAD_AND_COUNTERS = slice(64, 128)

#: Bytes of a record before its data.
RECORD_HEADER = 36

#: The end tid of a record that is forgotten.
FORGOTTEN = b"\xff" * 8

_BEGINNING = struct.Struct(">IIQ")
_HEADER = struct.Struct(">II8s8s8sI")
_FIRST, _REST = struct.Struct(">II8s"), struct.Struct(">16sI")
_MIDDLE = struct.Struct(">I8s8s")
_FREE = struct.Struct(">IQ")
_U32 = struct.Struct(">I")
_U64 = struct.Struct(">Q")
_HEAD_AND_COUNTERS = struct.Struct(">8Q")

#: For records in a mapped file: size, start tid.
FOR_LOADING = struct.Struct(">4xI8x8s")
#: The same with oid and end tid: size, oid, start tid, end tid.
FOR_ALL = struct.Struct(">4xI8s8s8s")


class Foreign(Exception):
    """Not a cache file of this format.  The text says what it is instead."""


class Damaged(Exception):
    """A cache file that cannot be right.  The text says what is wrong."""


# The header.


def header(size, tid=None, head=START):
    """Return the header (bytes) of a file of `size` bytes that is not open.

    `tid` is the last tid or None, `head` where the next record goes.
    """
    start = _MAGIC + _VERSION + _sealed_size(size) + session()
    start += sealed_tid(tid) * 2
    return start.ljust(_HEAD.start, b"\0") + head_and_counters(head, *bytes(7))


def _sealed_size(size):
    return _U32.pack(crc32(_U64.pack(size))) + _U64.pack(size)


def read_size(buffer, length):
    """Return the size (int) that the header of a file of `length` bytes says.

    Raises `Foreign` and `Damaged`.
    """
    start = bytes(buffer[:4])
    if start[:3] != _MAGIC:
        if start == b"ZEC3":
            raise Foreign("is a cache of ZEO's")
        raise Foreign("is not a cache file")
    if start[3:] != _VERSION:
        raise Foreign(
            f"has version {start[3:].decode('latin-1')!r} of the cache's format, and "
            f"this Zeolite knows version {_VERSION.decode()!r} only"
        )
    if length < START:
        raise Damaged(f"it has {length} bytes, which is less than a header")
    sealed = bytes(buffer[4:16])
    (size,) = _U64.unpack(sealed[4:])
    if sealed != _sealed_size(size) or size % ALIGNMENT or size <= START:
        raise Damaged("its header does not check")
    if length < size:
        raise Damaged(f"it has {length} bytes instead of {size}")
    return size


def session(boot_id=bytes(16)):
    """Return the mark of a file that is open on a machine; by default, of none."""
    return boot_id + _U32.pack(crc32(boot_id))


def read_session(buffer):
    """Return the boot id (16 bytes) of the file's session.

    b"" if it was closed properly, None if it cannot be known.
    """
    mark = bytes(buffer[SESSION])
    if mark != session(mark[:16]):
        return None
    return b"" if mark == session() else mark[:16]


def sealed_tid(tid):
    """Return a last tid, or None for none, as it stands in the file."""
    tid = tid or z64
    return tid + _U32.pack(crc32(tid))


def read_tid(buffer):
    """Return the last tid, or None if there is none."""
    found = [bytes(buffer[place]) for place in TIDS]
    tid = max((t[:8] for t in found if t == sealed_tid(t[:8])), default=z64)
    return tid if tid != z64 else None


def read_head(buffer):
    return _U64.unpack(buffer[_HEAD])[0]


def head_and_counters(*numbers):
    return _HEAD_AND_COUNTERS.pack(*numbers)


def read_counters(buffer):
    return _HEAD_AND_COUNTERS.unpack(buffer[HEAD_AND_COUNTERS])[1:]


# Blocks.


def aligned(size):
    """Return what a block of `size` bytes takes up."""
    return (size + ALIGNMENT - 1) & -ALIGNMENT


def record(oid, start, end, data):
    """Return a record as three pieces (bytes), the first of which is written last.

    `end` is zeros for a current revision.
    """
    size = RECORD_HEADER + len(data)
    check = crc32(data, crc32(_MIDDLE.pack(size, oid, start)))
    tids = start + end
    return (
        _FIRST.pack(check, size, oid),
        _REST.pack(tids, crc32(oid + tids)),
        data,
    )


def ending(oid, start, end):
    """Return a record's end tid with its CRC, for the place +24."""
    return end + _U32.pack(crc32(oid + start + end))


def free(size):
    """Return the beginning of a free block of `size` bytes."""
    return _BEGINNING.pack(crc32(_FREE.pack(0, size)), 0, size)


def block_at(buffer, position):
    """Return (size of the record, or 0 if the block is free; what it takes up)."""
    _, size, free_size = _BEGINNING.unpack_from(buffer, position)
    return size, aligned(size) if size else free_size


def scan(buffer, size):
    """Yield all blocks as (position, end of the block, oid, start tid, end tid).

    A free block has None for an oid.  Stops at a block that does not check.
    """
    position = START
    with memoryview(buffer) as view:
        while position < size:
            check, used, number = _BEGINNING.unpack_from(view, position)
            if not used:
                stop = position + number
                good = crc32(view[position + 4 : position + 16]) == check
                if not good or stop > size or number < 16 or number % ALIGNMENT:
                    return
                yield position, stop, None, None, None
            else:
                stop = position + aligned(used)
                if used < RECORD_HEADER or stop > size:
                    return
                data = view[position + RECORD_HEADER : position + used]
                if crc32(data, crc32(view[position + 4 : position + 24])) != check:
                    return
                _, _, oid, start, end, seal = _HEADER.unpack_from(view, position)
                if crc32(view[position + 8 : position + 32]) != seal:
                    end = FORGOTTEN
                yield position, stop, oid, start, end
            position = stop
