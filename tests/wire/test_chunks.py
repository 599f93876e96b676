"""Chunks of blobs: their bytes, and what is received as one."""

import pickle

import pytest

from zeolite.wire import messages
from zeolite.wire.chunks import Chunk, begins_chunk, decode_chunk
from zeolite.wire.frames import FrameReader


def encode(data, message_id=5, most=100):
    chunk = Chunk(most)
    chunk.room[: len(data)] = data
    return bytes(chunk.encode(message_id, len(data)))


@pytest.mark.parametrize("message_id", [1, 2**31 - 1, 2**31, 2**62])
@pytest.mark.parametrize("size", [0, 1, 99, 100])
def test_any_peer_reads_it_as_a_pickle(message_id, size):
    data = bytes(range(size))
    frame = encode(data, message_id)
    message = message_id, 0, "storeBlobChunk", (data,)
    assert pickle.loads(frame[4:]) == message
    assert messages.decode_call(frame[4:]) == message
    reader = FrameReader()
    reader.feed(frame)
    assert reader.next() == frame[4:]


def test_buffer_is_used_again():
    chunk = Chunk(10)
    for size in (10, 3, 7):
        chunk.room[:size] = bytes([size]) * size
        frame = chunk.encode(size, size)
        assert pickle.loads(frame[4:]) == (
            size,
            0,
            "storeBlobChunk",
            (bytes([size]) * size,),
        )


def test_received_in_a_buffer_it_is_a_part_of_that():
    buffer = bytearray(encode(b"content")[4:])
    message_id, flag, name, (data,) = messages.decode_call(memoryview(buffer))
    assert (message_id, flag, name, bytes(data)) == (5, 0, "storeBlobChunk", b"content")
    assert data.obj is buffer


def test_other_calls_in_a_buffer_are_understood():
    data = messages.encode_call(7, "loadSerial", (b"o" * 8, b"s" * 8))[4:]
    message = messages.decode_call(memoryview(bytearray(data)))
    assert message == (7, 0, "loadSerial", (b"o" * 8, b"s" * 8))


def test_damaged_ones_are_not_taken_for_chunks():
    whole = encode(b"content")[4:]
    for at in range(len(whole)):
        damaged = bytearray(whole)
        damaged[at] ^= 0xFF
        found = decode_chunk(memoryview(damaged))
        if found is not None:  # The id and the contents may be anything.
            assert pickle.loads(damaged) == (*found[:3], (bytes(found[3][0]),))
    for size in range(len(whole)):
        assert decode_chunk(memoryview(whole[:size])) is None
    assert decode_chunk(memoryview(whole + b".")) is None


def test_known_by_its_beginning():
    whole = encode(b"content")[4:]
    assert begins_chunk(whole) and begins_chunk(whole[:-8])
    assert not begins_chunk(whole[:20])
    assert not begins_chunk(messages.encode_one_way("storeBlobChunk", (b"x",))[4:])
    assert not begins_chunk(b"x" * 100)
