"""Sized frames in a byte stream.

    +------------------------+--------------------+
    | size, 4 bytes, big end | size bytes of data |
    +------------------------+--------------------+

Nothing here knows a socket: bytes go in, frames come out.  A frame that claims
to be larger than the limit is an error as soon as its size is known, before any
of it is kept.
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

    Used by one thread.  `limit` (bytes) may be changed at any time.
    """

    def __init__(self, limit=STRANGER_LIMIT):
        self.limit = limit
        self._data = b""
        self._position = 0
        # A frame that arrives in many pieces is joined once, when it is whole.
        self._pieces = []
        self._missing = 0

    def feed(self, data):
        """Add `data` (bytes), the next piece of the stream."""
        if self._missing:
            self._pieces.append(data)
            self._missing -= len(data)
            if self._missing > 0:
                if len(self._pieces) > _MOST_PIECES:
                    self._pieces = [b"".join(self._pieces)]
                return
            self._missing = 0
            self._data = b"".join(self._pieces)
            self._pieces.clear()
        elif self._position < len(self._data):
            self._data = self._data[self._position :] + data
        else:
            self._data = data
        self._position = 0

    @property
    def is_partial(self):
        """Whether the rest of a frame is yet to come."""
        return self._missing > 0

    def next(self):
        """Return the next whole frame (bytes), or None until more was fed.

        Raises `ProtocolError` for a frame over the limit.
        """
        if self._missing:
            return None
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
            self._pieces.append(data[start - 4 :])
            self._missing = end - len(data)
            self._data, self._position = b"", 0
            return None
        self._position = end
        return data[start:end]
