"""Messages and errors, as they cross the wire."""

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ZODB import POSException
from ZODB.utils import p64

from zeolite import errors
from zeolite.errors import ProtocolError, ServerException
from zeolite.wire import messages

eight = st.binary(min_size=8, max_size=8)
ids = st.integers(0, 2**40) | st.tuples(eight, eight) | st.text(max_size=5)


def body(frame):
    assert int.from_bytes(frame[:4], "big") == len(frame) - 4
    return frame[4:]


@given(st.integers(0, 2**31 - 1), eight, eight)
def test_load_is_a_pickle_like_any_other(message_id, oid, tid):
    data = body(messages.encode_load(message_id, oid, tid))
    assert pickle.loads(data) == (message_id, 0, "loadBefore", (oid, tid))
    assert messages.decode_load(data) == (message_id, oid, tid)


@given(ids, eight, eight)
def test_loads_that_others_pickled(message_id, oid, tid):
    call = message_id, 0, "loadBefore", (oid, tid)
    assert messages.decode_call(pickle.dumps(call, 3)) == call


def test_unusual_load_takes_the_long_way():
    for oid, tid in ((b"short", p64(1)), (p64(1), b"much too long")):
        data = body(messages.encode_load(1, oid, tid))
        assert messages.decode_load(data) is None
        assert messages.decode_call(data) == (1, 0, "loadBefore", (oid, tid))


@given(ids, st.none() | st.tuples(st.binary(max_size=100), eight, st.none() | eight))
def test_reply_to_a_load(message_id, found):
    data = body(messages.encode_loaded(message_id, found))
    expected = message_id, 0, ".reply", found
    assert pickle.loads(data) == expected
    assert messages.decode_reply(data) == expected


@given(st.binary(max_size=30), st.integers(0, 40), st.integers(0, 255))
def test_damaged_reply_to_a_load(data, where, byte):
    frame = bytearray(body(messages.encode_loaded(5, (data, p64(1), None))))
    frame[where % len(frame)] = byte
    try:
        found = messages.decode_reply(bytes(frame))
    except ProtocolError:
        return
    assert found == pickle.loads(bytes(frame))


BAD = {
    "no tuple": 5,
    "three parts": (1, 0, "ping"),
    "five parts": (1, 0, "ping", (), ()),
    "a name that is bytes": (1, 0, b"ping", ()),
    "arguments in a list": (1, 0, "ping", []),
    "no arguments": (1, 0, "ping", None),
    "a flag that is text": (1, "0", "ping", ()),
    "an id that is a list": ([1], 0, "ping", ()),
    "an id that is None": (None, 0, "ping", ()),
    "an id that is deep": (((((((1,),),),),),), 0, "ping", ()),
    "an id that is a float": (1.5, 0, "ping", ()),
}


@pytest.mark.parametrize("message", BAD.values(), ids=BAD)
def test_what_is_no_message_is_refused(message):
    with pytest.raises(ProtocolError):
        messages.decode_call(pickle.dumps(message, 3))


def test_keep_alive_is_a_message():
    data = pickle.dumps((-1, 0, ".reply", None), 3)
    assert messages.decode_call(data) == (-1, 0, ".reply", None)


# Plain data.


def test_plain_only_keeps_plain_data():
    value = {"a": [1, 2.5, None, True], b"b": ("x", {})}
    assert messages.plain_only(value) == value


def test_plain_only_tells_the_rest_as_text():
    assert messages.plain_only([object(), {1}]) == ["<object>", "<set>"]


def test_plain_only_is_bounded():
    value = []
    for _ in range(60):
        value = [value, value]
    assert len(pickle.dumps(messages.plain_only(value), 3)) < 1_000_000
    deep = []
    for _ in range(100_000):
        deep = [deep]
    assert "..." in str(messages.plain_only(deep))


# Errors.


def across(error):
    """What a client raises when a server has raised `error`."""
    data = body(messages.encode_error(5, error))
    message_id, flag, name, result = messages.decode_reply(data)
    assert (message_id, name) == (5, ".reply")
    assert messages.is_error(flag, result)
    return messages.rebuild_error(flag, result)


OID, TID_1, TID_2 = p64(1), p64(2), p64(3)
SAME = [
    POSException.POSKeyError(OID),
    POSException.ReadOnlyError(),
    POSException.StorageTransactionError("a", "b"),
    POSException.ConflictError(oid=OID, serials=(TID_1, TID_2)),
    POSException.ReadConflictError(oid=OID, serials=(TID_1, TID_2)),
    POSException.BTreesConflictError(1, 2, 3, 4),
    POSException.UndoError("no", OID),
    POSException.StorageError("x"),
    errors.ClientDisconnected("y"),
    errors.CommitInDoubt("z"),
    KeyError("x"),
    TypeError("y"),
    ValueError("z"),
]


@pytest.mark.parametrize("error", SAME, ids=lambda error: type(error).__name__)
def test_errors_keep_type_and_attributes(error):
    found = across(error)
    assert type(found) is type(error)
    assert str(found) == str(error)
    for name, value in vars(error).items():
        assert getattr(found, name) == value


def test_errors_inside_an_error():
    error = POSException.MultipleUndoErrors([(OID, POSException.UndoError("no", OID))])
    found = across(error)
    assert type(found) is POSException.MultipleUndoErrors
    ((oid, inner),) = found._errs
    assert (oid, str(inner)) == (OID, str(error._errs[0][1]))


class Unknown(Exception):
    pass


@pytest.mark.parametrize(
    "error, text",
    [(OSError(28, "No space left"), "No space left"), (Unknown(object()), "object")],
)
def test_unknown_errors_arrive_readable(error, text):
    found = across(error)
    assert type(found) is ServerException
    assert type(error).__name__ in str(found)
    assert text in str(found)


def test_error_of_an_old_server():
    error = POSException.ConflictError("x")
    data = pickle.dumps((5, 0, ".reply", (type(error), error)), 3)
    _, flag, _, result = messages.decode_reply(data)
    assert messages.is_error(flag, result)
    assert str(messages.rebuild_error(flag, result)) == "x"


@pytest.mark.parametrize(
    "result",
    [
        None,
        (),
        ("a", "b", "c"),
        (1, 2),
        ("os.system", ("true",)),
        ("builtins.eval", ("1",)),
        ("builtins.KeyError", 5),
        ("ZODB.POSException.BTreesConflictError", (1,)),
        ("ZODB.POSException.ConflictError", {"args": 5}),
        ("ZODB.POSException.transaction", ()),
        ("", ()),
    ],
)
def test_error_that_makes_no_sense_is_still_one(result):
    assert isinstance(messages.rebuild_error(2, result), ServerException)
