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


def test_much_is_not_copied_again_for_each_few_bytes_that_follow():
    """Who has sent a large part of a frame goes on byte by byte."""
    much, pieces = bytes(2**20), 3 * 8192 + 5
    reader = FrameReader(2**21)
    reader.feed(frame(bytes(len(much) + pieces + 1))[:4] + much[:-1])
    assert reader.next() is None
    reader.feed(much[-1:])
    for number in range(pieces):
        reader.feed(bytes([number % 256]))
        if number == 10_000:
            first = reader._pieces[0]
    assert reader._pieces[0] is first
    assert len(reader._pieces) < 10_000
    assert sum(map(len, reader._pieces)) == 4 + len(much) + pieces
    reader.feed(b"!" + frame(b"next"))
    data = reader.next()
    assert data == much + bytes(n % 256 for n in range(pieces)) + b"!"
    assert reader.next() == b"next"


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


class TestBuffer:
    """A large frame that is received into a buffer of somebody's."""

    DATA = bytes(range(256)) * 10

    def reader(self, spare=0):
        self.seen = []

        def find_buffer(beginning, size):
            self.seen.append((beginning, size))
            self.buffer = bytearray(size + spare)
            return self.buffer

        return FrameReader(2**20, find_buffer)

    @pytest.mark.parametrize("first", [4, 5, 100, 2563])
    @pytest.mark.parametrize("spare", [0, 50])
    def test_is_filled_from_outside(self, first, spare):
        reader, whole = self.reader(spare), frame(self.DATA)
        reader.feed(whole[:first])
        assert reader.next() is None
        assert self.seen == [(whole[4:first], len(self.DATA))]
        done = first
        while reader.is_partial:
            part = whole[done : done + 1000][: len(reader.room)]
            reader.room[: len(part)] = part
            reader.filled(len(part))
            done += len(part)
        data = reader.next()
        assert data == self.DATA
        assert data.obj is self.buffer
        assert reader.next() is None
        assert reader.room is None

    @pytest.mark.parametrize("size", [1, 7, 1000, 5000])
    def test_can_be_fed_as_well(self, size):
        reader, frames = self.reader(), [b"a", self.DATA, b"b", self.DATA, b"", b"c"]
        stream = b"".join(map(frame, frames))
        pieces = [stream[at : at + size] for at in range(0, len(stream), size)]
        assert read_all(reader, pieces) == frames

    def test_not_found_it_is_received_as_ever(self):
        reader = FrameReader(2**20, lambda beginning, size: None)
        whole = frame(self.DATA)
        assert read_all(reader, [whole[:9], whole[9:]]) == [self.DATA]
        assert reader.room is None

    def test_not_looked_for_where_a_frame_is_too_large(self):
        reader = self.reader()
        reader.limit = 100
        reader.feed(frame(self.DATA)[:50])
        with pytest.raises(ProtocolError):
            reader.next()
        assert self.seen == []
