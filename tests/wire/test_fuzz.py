"""Frames and pickles that nobody wrote: refused, or plain data, and always the same."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.bombs import BOMBS
from tests.support.fuzzcalls import EVERYTHING, Arguments
from tests.support.fuzzpickles import as_message, damage, dumps, program
from zeolite.errors import ProtocolError
from zeolite.wire import messages, packed
from zeolite.wire.frames import FrameReader, frame

_DECODERS = [messages.decode_call, messages.decode_reply, messages.load_plain]

#: What pickles may become: of these types, and of nothing else.
_PLAIN = {
    *(type(None), bool, int, float, complex, str, bytes),
    *(list, tuple, dict, set, frozenset),
}
_ERRORS = set(messages._ERRORS.values())


def _types(value, seen=None):
    """Yield the types, and the classes, of all that a value is made of."""
    seen, left = set(), [value]
    while left:
        part = left.pop()
        if id(part) in seen:
            continue
        seen.add(id(part))
        if callable(part):
            yield part
            continue
        yield type(part)
        if isinstance(part, dict):
            left += [*part, *part.values()]
        elif isinstance(part, (list, tuple, set, frozenset)):
            left += part
        elif isinstance(part, Exception):
            left += [part.args, part.__dict__]


def decode(data):
    """Decode in all ways; what comes out is plain."""
    for decoder in _DECODERS:
        try:
            value = decoder(data)
        except ProtocolError:
            continue
        allowed = _PLAIN | set(messages._PLAIN.values())
        if decoder is messages.decode_reply:
            allowed |= _ERRORS | {messages._exception}
        assert set(_types(value)) <= allowed


def _any_pickle(rng):
    kind = rng.randrange(4)
    if kind == 0:
        return b"\x80\x03" + program(rng) + b"."
    if kind == 1:
        return as_message(rng, 1, 0, rng.choice(["ping", ".reply"]))
    name = rng.choice(EVERYTHING)
    data = dumps((1, 0, name, Arguments(rng, [], None).of("storea")))
    return damage(rng, rng.choice([data, dumps((1, 2, ".reply", ("a.b", (name,))))]))


@settings(max_examples=300, deadline=None)
@given(rng=st.randoms(use_true_random=False))
def test_any_pickle_is_refused_or_plain(rng):
    decode(_any_pickle(rng))


def test_many_pickles_are_refused_or_plain():
    for seed in range(5000):
        decode(_any_pickle(random.Random(seed)))


@pytest.mark.parametrize("data", BOMBS.values(), ids=BOMBS)
def test_bombs_are_refused_or_plain(data):
    decode(data)


def _packed(rng):
    """The bytes of a message that has a short way, and its decoders."""
    eight = [rng.randbytes(8) for _ in range(3)]
    number, data = rng.choice([0, 1, 2**31 - 1]), rng.randbytes(rng.randrange(50))
    calls = [
        packed.pack_load(number, *eight[:2]),
        packed.pack_call(number, rng.choice(["vote", "tpc_finish"]), (7,)),
        packed.pack_one_way("storea", (eight[0], None, data, 1)),
        packed.pack_one_way("storea", (*eight[:2], data, 1)),
    ]
    replies = [
        packed.pack_loaded(number, (data, eight[0], rng.choice([None, eight[1]]))),
        packed.pack_reply(number, rng.choice([None, [], eight[0]])),
    ]
    return rng.choice(calls + replies)


@settings(max_examples=1000, deadline=None)
@given(rng=st.randoms(use_true_random=False), damaged=st.booleans())
def test_the_short_way_says_what_the_pickle_says(rng, damaged):
    data = _packed(rng)
    if damaged:
        data = damage(rng, data)
    load = packed.unpack_load(data)
    if load is not None:
        message_id, *args = load
        assert messages._load_call(data) == (message_id, 0, "loadBefore", tuple(args))
    loaded = packed.unpack_loaded(data)
    if loaded is not None:
        message_id, found = loaded
        assert messages._load_reply(data) == (message_id, 0, ".reply", found)
    for unpack in (packed.unpack_call, packed.unpack_reply):
        message = unpack(data)
        if message is not None:
            assert messages._load_reply(data) == message


@given(st.lists(st.binary(max_size=30), max_size=20), st.data())
def test_frames_come_out_as_they_went_in_however_the_stream_is_cut(frames, data):
    stream = b"".join(map(frame, frames))
    reader, found = FrameReader(), []
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        reader.feed(stream[:size])
        stream = stream[size:]
        while (one := reader.next()) is not None:
            found.append(one)
    assert found == frames
