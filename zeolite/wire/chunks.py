"""Chunks of blobs that are uploaded: large enough for each copy to count.

    80 03 ( 8a 8 id K 0 X 14 storeBlobChunk B size data 85 t .

A pickle as all messages are, of a call that wants a reply.  Its sender reads the
file into the middle of what it sends; its receiver has a buffer filled by the
system, and what it writes is a part of that.
"""

import struct

_NAME = b"K\x00X" + struct.pack("<I", 14) + b"storeBlobChunkB"
_START = b"\x80\x03(\x8a\x08"
_HEAD = struct.Struct(f"<5sq{len(_NAME)}sI")
_TAIL = b"\x85t."
_AROUND = _HEAD.size + len(_TAIL)
_FRAME = struct.Struct(">I")


class Chunk:
    """A buffer for up to `most` bytes of a blob, with the message around them.

    `room` (memoryview) is where they go.
    """

    def __init__(self, most):
        self._all = memoryview(bytearray(_FRAME.size + _AROUND + most))
        self._start = _FRAME.size + _HEAD.size
        self.room = self._all[self._start : self._start + most]

    def encode(self, message_id, size):
        """Return the frame (memoryview) of a call with the first `size` bytes.

        The buffer is not to be changed until that has been sent.
        """
        _FRAME.pack_into(self._all, 0, _AROUND + size)
        _HEAD.pack_into(self._all, _FRAME.size, _START, message_id, _NAME, size)
        end = self._start + size
        self._all[end : end + len(_TAIL)] = _TAIL
        return self._all[: end + len(_TAIL)]


def begins_chunk(data):
    """Whether `data` (bytes), the beginning of a message, is one of a chunk."""
    if len(data) < _HEAD.size:
        return False
    start, _, name, _ = _HEAD.unpack_from(data)
    return start == _START and name == _NAME


def decode_chunk(data):
    """Return the message in `data` (memoryview) if it is just this call, or None.

    The bytes of the blob are a part of `data`.
    """
    if len(data) < _AROUND:
        return None
    start, message_id, name, size = _HEAD.unpack_from(data)
    end = _HEAD.size + size
    if start != _START or name != _NAME or data[end:] != _TAIL:
        return None
    return message_id, 0, "storeBlobChunk", (data[_HEAD.size : end],)
