"""Frames: a stream in pieces of any size gives the same frames."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zeolite.errors import ProtocolError
from zeolite.wire.frames import FrameReader, frame


def read_all(reader, pieces):
    found = []
    for piece in pieces:
        reader.feed(piece)
        while (data := reader.next()) is not None:
            found.append(data)
    return found


@given(st.lists(st.binary(max_size=300)), st.lists(st.integers(1, 100), min_size=1))
def test_any_cut_of_the_stream_gives_the_same_frames(frames, cuts):
    stream = b"".join(map(frame, frames))
    pieces, position, turn = [], 0, 0
    while position < len(stream):
        size = cuts[turn % len(cuts)]
        pieces.append(stream[position : position + size])
        position += size
        turn += 1
    assert read_all(FrameReader(), pieces) == frames


def test_size_is_big_endian():
    assert frame(b"x" * 258)[:4] == b"\0\0\1\2"


def test_large_frame_in_many_pieces():
    data = bytes(range(256)) * 4096
    stream = frame(b"a") + frame(data) + frame(b"b")
    pieces = [stream[i : i + 65536] for i in range(0, len(stream), 65536)]
    assert read_all(FrameReader(2**21), pieces) == [b"a", data, b"b"]


def test_oversized_frame_is_refused_before_it_arrives():
    reader = FrameReader(limit=10)
    reader.feed(b"\0\0\0\x0b")
    with pytest.raises(ProtocolError, match="11 bytes, where 10 are allowed"):
        reader.next()


def test_limit_can_be_raised():
    reader = FrameReader(limit=1)
    reader.feed(frame(b"a") + frame(b"abc"))
    assert reader.next() == b"a"
    reader.limit = 3
    assert reader.next() == b"abc"
    assert reader.next() is None


def test_empty_frame():
    assert read_all(FrameReader(), [frame(b"")]) == [b""]


def test_frame_in_tiny_pieces_takes_little_more_room_than_it_is_long():
    """A piece is an object of its own, which takes 34 bytes more than it has."""
    data = bytes(range(256)) * 400
    reader = FrameReader(2**20)
    stream, most = frame(data), 0
    for position in range(len(stream)):
        assert reader.next() is None
        reader.feed(stream[position : position + 1])
        most = max(most, len(reader._pieces))
    assert reader.next() == data
    assert most < 10_000 < len(stream)


def test_it_is_known_whether_the_rest_of_a_frame_is_to_come():
    reader = FrameReader()
    assert not reader.is_partial
    reader.feed(frame(b"a") + frame(b"data")[:-1])
    assert reader.next() == b"a"
    assert reader.next() is None
    assert reader.is_partial
    reader.feed(b"a")
    assert reader.next() == b"data"
    assert not reader.is_partial
