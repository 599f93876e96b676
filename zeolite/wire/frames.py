"""Sized frames in a byte stream.

    +------------------------+--------------------+
    | size, 4 bytes, big end | size bytes of data |
    +------------------------+--------------------+

Nothing here knows a socket: bytes go in, frames come out.  A frame that claims
to be larger than the limit is an error as soon as its size is known, before any
of it is kept.  For a large frame there may be a buffer, which is then what comes
out: the bytes that are missing can be put into it without another copy.
"""

import struct

from ..errors import ProtocolError

_SIZE = struct.Struct(">I")

#: The largest size that can be written, in bytes.
LARGEST = 2**32 - 1

#: Pieces of a frame that are kept apart.  The system's pieces are large; a peer that
#: makes them small shall not have us keep each in an object of its own.
_MOST_PIECES = 8192

#: What a peer that has not registered may send in one frame, in bytes.
STRANGER_LIMIT = 64 * 1024

#: What a registered peer may send in one frame, in bytes.
DEFAULT_LIMIT = 256 * 1024 * 1024


def frame(data):
    """Return `data` (bytes) with its size in front.

    Raises `ProtocolError` where the size does not fit into four bytes.
    """
    try:
        return _SIZE.pack(len(data)) + data
    except struct.error:
        raise ProtocolError(f"{len(data)} bytes do not fit into one frame") from None


class FrameReader:
    """Takes the stream in pieces of any size and hands out whole frames.

    Used by one thread.  `limit` (bytes) may be changed at any time.  For a frame
    that has not arrived whole, `find_buffer(beginning, size)` returns a bytearray
    of at least `size` bytes, or None.
    """

    def __init__(self, limit=STRANGER_LIMIT, find_buffer=None):
        self.limit = limit
        self._find_buffer = find_buffer
        self._buffer = None
        self._data = b""
        self._position = 0
        # A frame that arrives in many pieces is joined once, when it is whole; where
        # these are small, the first of them are others joined.
        self._pieces = []
        self._joined = 0
        self._whole = self._missing = 0

    def feed(self, data):
        """Add `data` (bytes), the next piece of the stream."""
        if self._buffer is not None:
            part = data[: self._missing]
            self.room[: len(part)] = part
            self._missing -= len(part)
            self._data = data[len(part) :]
        elif self._missing:
            self._pieces.append(data)
            self._missing -= len(data)
            if self._missing > 0:
                if len(self._pieces) - self._joined > _MOST_PIECES:
                    # Not with what was joined before, which may be much.
                    self._pieces[self._joined :] = [
                        b"".join(self._pieces[self._joined :])
                    ]
                    self._joined += 1
                return
            self._missing = 0
            self._data = b"".join(self._pieces)
            self._pieces.clear()
            self._joined = 0
        elif self._position < len(self._data):
            self._data = self._data[self._position :] + data
        else:
            self._data = data
        self._position = 0

    @property
    def is_partial(self):
        """Whether the rest of a frame is yet to come."""
        return self._missing > 0

    @property
    def arrived(self):
        """How many bytes of a frame have arrived while `is_partial`."""
        return self._whole - self._missing

    @property
    def room(self):
        """Where the missing bytes of a frame go (memoryview), None without a buffer."""
        return self._buffer and self._buffer[-self._missing :]

    def filled(self, count):
        """So many bytes have been put at the beginning of `room`."""
        self._missing -= count

    def next(self):
        """Return the next whole frame, or None until more was fed.

        It is bytes, or the part of its buffer (memoryview).  Raises `ProtocolError`
        for a frame over the limit.
        """
        if self._missing:
            return None
        if self._buffer is not None:
            whole, self._buffer = self._buffer, None
            return whole
        data, start = self._data, self._position + 4
        if len(data) < start:
            return None
        (size,) = _SIZE.unpack_from(data, start - 4)
        if size > self.limit:
            raise ProtocolError(
                f"a frame of {size} bytes, where {self.limit} are allowed"
            )
        end = start + size
        if len(data) < end:
            self._begin(data, start, size)
            return None
        self._position = end
        return data[start:end]

    def _begin(self, data, start, size):
        """Keep the beginning of a frame of `size` bytes."""
        self._whole, self._missing = 4 + size, start + size - len(data)
        self._data, self._position = b"", 0
        buffer = self._find_buffer and self._find_buffer(data[start:], size)
        if buffer is None:
            self._pieces.append(data[start - 4 :])
        else:
            self._buffer = memoryview(buffer)[:size]
            self._buffer[: len(data) - start] = data[start:]
