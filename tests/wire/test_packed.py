"""The frequent messages, whose bytes are made and read without the pickle module."""

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ZODB.utils import p64

from zeolite.errors import ProtocolError
from zeolite.wire import messages, packed

eight = st.binary(min_size=8, max_size=8)
numbers = st.integers(0, 2**31 - 1)
ids = st.integers(0, 2**40) | st.tuples(eight, eight) | st.text(max_size=5)
data = st.binary(max_size=300)


def body(frame):
    assert int.from_bytes(frame[:4], "big") == len(frame) - 4
    return frame[4:]


@given(numbers, eight, eight)
def test_load_is_a_pickle_like_any_other(message_id, oid, tid):
    data = body(messages.encode_load(message_id, oid, tid))
    assert pickle.loads(data) == (message_id, 0, "loadBefore", (oid, tid))
    assert messages.decode_load(data) == (message_id, oid, tid)


@given(ids, eight, eight)
def test_loads_that_others_pickled(message_id, oid, tid):
    call = message_id, 0, "loadBefore", (oid, tid)
    assert messages.decode_call(pickle.dumps(call, 3)) == call


def test_numbers_go_on_behind_those_that_fit():
    """A client that has made two thousand million calls makes more."""
    number, oid = 2**31, p64(1)
    data = body(messages.encode_load(number, oid, oid))
    assert messages.decode_call(data) == (number, 0, "loadBefore", (oid, oid))
    for name, args in (
        ("tpc_begin", (number, b"", b"", b"", None, " ")),
        ("storea", (oid, None, b"data", number)),
    ):
        data = body(messages.encode_one_way(name, args))
        assert messages.decode_call(data) == (0, 1, name, args)
    data = body(messages.encode_call(number, "vote", (number,)))
    assert messages.decode_call(data) == (number, 0, "vote", (number,))


def test_unusual_load_takes_the_long_way():
    for oid, tid in ((b"short", p64(1)), (p64(1), b"much too long")):
        data = body(messages.encode_load(1, oid, tid))
        assert messages.decode_load(data) is None
        assert messages.decode_call(data) == (1, 0, "loadBefore", (oid, tid))


@given(numbers, st.sampled_from(["vote", "tpc_finish", "tpc_abort"]), numbers)
def test_call_with_a_transaction(message_id, name, transaction):
    data = packed.pack_call(message_id, name, (transaction,))
    expected = message_id, 0, name, (transaction,)
    assert pickle.loads(data) == expected
    assert packed.unpack_call(data) == expected


@given(eight, st.none() | eight, st.binary(min_size=1, max_size=300), numbers)
def test_store(oid, serial, data, transaction):
    args = oid, serial, data, transaction
    message = packed.pack_one_way("storea", args)
    assert pickle.loads(message) == (0, 1, "storea", args)
    assert packed.unpack_call(message) == (0, 1, "storea", args)


texts = st.binary(max_size=300)


@given(numbers, texts, texts, texts)
def test_beginning_of_a_transaction(number, user, description, extension):
    args = number, user, description, extension, None, " "
    data = body(messages.encode_one_way("tpc_begin", args))
    assert pickle.loads(data) == (0, 1, "tpc_begin", args)
    assert messages.decode_call(data) == (0, 1, "tpc_begin", args)
    is_short = max(map(len, (user, description, extension))) < 256
    assert bool(packed.unpack_call(data)) == is_short


@given(numbers, texts, texts | st.text(), st.dictionaries(st.text(), numbers))
def test_unusual_beginnings_arrive_all_the_same(number, user, description, extension):
    for tid, status in ((None, " "), (None, "p"), (p64(1), " ")):
        args = number, user, description, extension, tid, status
        data = body(messages.encode_one_way("tpc_begin", args))
        assert packed.unpack_call(data) is None
        assert messages.decode_call(data) == (0, 1, "tpc_begin", args)


BEGINNING = body(
    messages.encode_one_way("tpc_begin", (1, b"user", b"text", b"", None, " "))
)


@given(st.binary(min_size=1, max_size=30))
def test_a_beginning_that_ends_too_early_or_goes_on_is_none(more):
    for stop in range(len(BEGINNING)):
        assert packed.unpack_call(BEGINNING[:stop]) is None
    assert packed.unpack_call(BEGINNING + more) is None


@given(st.integers(0, len(BEGINNING) - 1), st.integers(0, 255))
def test_a_damaged_beginning_is_what_the_unpickler_says_or_none(position, byte):
    damaged = bytearray(BEGINNING)
    damaged[position] = byte
    message = packed.unpack_call(bytes(damaged))
    assert message is None or message == messages._load_call(bytes(damaged))


@given(numbers | st.integers(0, 2**63 - 1), st.integers(0, 2**70))
def test_news_of_the_size(length, size):
    args = ({"length": length, "size": size},)
    data = body(messages.encode_one_way("info", args))
    assert pickle.loads(data) == (0, 1, "info", args)
    assert messages.decode_reply(data) == (0, 1, "info", args)
    assert bool(packed.unpack_reply(data)) == (size < 2**63)


@given(
    st.dictionaries(st.sampled_from(["length", "size", "name"]), ids | st.booleans())
)
def test_unusual_news_arrives_all_the_same(info):
    data = body(messages.encode_one_way("info", (info,)))
    assert messages.decode_reply(data) == (0, 1, "info", (info,))
    assert type(messages.decode_reply(data)[3][0].get("size")) is type(info.get("size"))


any_id = eight | st.binary(max_size=9) | st.none() | st.text(max_size=8)


@given(
    ids,
    st.sampled_from(["vote", "tpc_finish", "storea", "ping"]),
    st.tuples(any_id, any_id, data | st.none() | st.text(), ids)
    | st.tuples(ids)
    | st.just(()),
)
def test_unusual_calls_arrive_all_the_same(number, name, args):
    data = body(messages.encode_call(number, name, args))
    assert messages.decode_call(data) == (number, 0, name, args)
    data = body(messages.encode_one_way(name, args))
    assert messages.decode_call(data) == (0, 1, name, args)


@given(ids, st.none() | st.tuples(data, eight, st.none() | eight))
def test_reply_to_a_load(message_id, found):
    data = body(messages.encode_loaded(message_id, found))
    expected = message_id, 0, ".reply", found
    assert pickle.loads(data) == expected
    assert messages.decode_reply(data) == expected
    is_short = found is not None and type(message_id) is int and message_id < 2**31
    expected = (message_id, found) if is_short else None
    assert messages.decode_loaded(data) == expected


@given(ids, st.none() | eight | data | st.lists(eight, max_size=2) | st.just(()))
def test_other_replies(message_id, result):
    data = body(messages.encode_reply(message_id, result))
    expected = message_id, 0, ".reply", result
    assert pickle.loads(data) == expected
    decoded = messages.decode_reply(data)
    assert decoded == expected
    assert type(decoded[3]) is type(result)


FREQUENT = {
    "load": messages.encode_load(5, p64(1), p64(2)),
    "vote": messages.encode_call(5, "vote", (1,)),
    "finish": messages.encode_call(5, "tpc_finish", (1,)),
    "store": messages.encode_one_way("storea", (p64(1), p64(2), b"some data", 3)),
    "new object": messages.encode_one_way("storea", (p64(1), None, b"data" * 99, 3)),
    "loaded": messages.encode_loaded(5, (b"some data", p64(1), None)),
    "loaded, not current": messages.encode_loaded(5, (b"data", p64(1), p64(2))),
    "tid": messages.encode_reply(5, p64(1)),
    "nothing": messages.encode_reply(5, None),
    "no conflicts": messages.encode_reply(5, []),
}


def call_of_a_load(data):
    load = messages.decode_load(data)
    return load and (load[0], 0, "loadBefore", load[1:])


def reply_to_a_load(data):
    loaded = messages.decode_loaded(data)
    return loaded and (loaded[0], 0, ".reply", loaded[1])


@pytest.mark.parametrize("frame", FREQUENT.values(), ids=FREQUENT)
@pytest.mark.parametrize(
    "decode",
    [messages.decode_call, messages.decode_reply, call_of_a_load, reply_to_a_load],
)
def test_damaged_bytes_are_read_as_the_pickle_that_they_are(frame, decode):
    frame = body(frame)
    damaged = [frame[:n] for n in range(len(frame))] + [frame + b".", frame + frame]
    for where in range(len(frame)):
        for byte in (0, 1, 8, 127, 255, frame[where] ^ 1, ord("B"), ord("N")):
            damaged.append(frame[:where] + bytes([byte]) + frame[where + 1 :])
    for data in damaged:
        try:
            message = decode(data)
        except ProtocolError:
            continue
        if message is not None:
            assert message == pickle.loads(data)
