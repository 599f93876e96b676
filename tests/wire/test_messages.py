"""Messages and errors, as they cross the wire."""

import copy
import pickle

import pytest
from ZODB import POSException
from ZODB.utils import p64

from zeolite import errors
from zeolite.errors import ProtocolError, ServerException
from zeolite.wire import messages


def body(frame):
    assert int.from_bytes(frame[:4], "big") == len(frame) - 4
    return frame[4:]


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


@pytest.mark.parametrize("error", [*SAME, OSError(28, "full")], ids=repr)
def test_errors_are_told_without_their_notes(error):
    """Python 3.14 notes where pickling has stopped, in whatever error stops it."""
    plain, noted = copy.copy(error), copy.copy(error)
    noted.__notes__ = ["when serializing tuple item 2"]
    assert repr(across(noted)) == repr(across(plain))
    assert not hasattr(across(noted), "__notes__")


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
        ("builtins.KeyError", {"__notes__": ["when serializing"]}),
        ("ZODB.POSException.BTreesConflictError", (1,)),
        ("ZODB.POSException.ConflictError", {"args": 5}),
        ("ZODB.POSException.transaction", ()),
        ("", ()),
        # These can be made, and then not be shown.
        ("ZODB.POSException.POSKeyError", ()),
        ("ZODB.POSException.ConflictError", {"message": 5}),
        ("ZODB.POSException.ConflictError", {"serials": 5}),
        # ZODB has its cache forget such an object.
        ("ZODB.POSException.ReadConflictError", {"oid": 5}),
        ("ZODB.POSException.ReadConflictError", {"oid": b"short"}),
    ],
)
def test_error_that_makes_no_sense_is_still_one(result):
    assert isinstance(messages.rebuild_error(2, result), ServerException)


def test_error_of_an_old_server_that_cannot_be_shown():
    error = POSException.ConflictError()
    error.serials = 5
    assert isinstance(messages.rebuild_error(0, (0, error)), ServerException)


@pytest.mark.parametrize("extension", [5, [1], "text", ("a",)])
def test_extended_info_that_is_no_dictionary_is_none(extension):
    assert messages.load_extension(pickle.dumps(extension, 3)) == {}
    assert messages.load_extension(pickle.dumps({"a": extension}, 3)) == {
        "a": extension
    }
