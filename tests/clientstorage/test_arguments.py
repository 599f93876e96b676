"""Arguments that make no sense are refused at once, and cost no connection."""

import pytest
from ZODB.Connection import TransactionMetaData
from ZODB.utils import maxtid, p64

from tests.support.processes import free_port
from zeolite.clientstorage.storage import ClientStorage

from .talking import Background, settle

OID = p64(7)


@pytest.mark.parametrize(
    "arguments, error, text",
    [
        ({"storage": 1}, TypeError, "storage is a str, not 1 .int.; write storage='1'"),
        ({"storage": b"1"}, TypeError, "storage is a str"),
        ({"storage": None}, TypeError, "storage is a str"),
        ({"client_label": 5}, TypeError, "client_label is a str, not 5"),
        ({"client_label": b"app"}, TypeError, "client_label is a str"),
        ({"name": 5}, TypeError, "name is a str"),
        ({"wait_timeout": "30"}, TypeError, "wait_timeout is a number of seconds"),
        ({"wait_timeout": True}, TypeError, "wait_timeout is a number of seconds"),
        ({"wait_timeout": -1}, ValueError, "wait_timeout .* not negative"),
        ({"wait_timeout": float("nan")}, ValueError, "wait_timeout"),
        ({"wait_timeout": float("inf")}, ValueError, "wait_timeout .* at most"),
        ({"disconnect_poll": 0}, ValueError, "disconnect_poll .* greater than 0"),
        ({"disconnect_poll": -1}, ValueError, "disconnect_poll .* greater than 0"),
        ({"disconnect_poll": "1"}, TypeError, "disconnect_poll"),
        ({"keep_alive": -1}, ValueError, "keep_alive .* not negative"),
        ({"keep_alive": 10_001}, ValueError, "keep_alive .* at most 10000"),
        ({"keep_alive": "x"}, TypeError, "keep_alive"),
        ({"blob_dir": 7}, TypeError, "blob_dir is the path of a directory .*, not 7"),
        ({"blob_progress": 3}, TypeError, "blob_progress is a function, not 3"),
    ],
)
def test_of_the_constructor(arguments, error, text):
    with pytest.raises(error, match=text):
        ClientStorage(free_port(), **{"wait_timeout": 1000, **arguments})


def test_none_stands_for_the_default(connect):
    connect(wait_timeout=None, disconnect_poll=None, keep_alive=None)


def test_empty_paths_are_none(connect, tmp_path, monkeypatch):
    """As with ZEO, for settings that come from elsewhere, such as the environment."""
    monkeypatch.chdir(tmp_path)
    storage, _ = connect(cache="", blob_dir="")
    assert storage.fshelper is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("bad", [b"short", b"more than eight", "text", None, 7])
def test_what_is_no_oid_or_tid_is_refused(connect, bad):
    storage, script = connect()
    txn = TransactionMetaData()
    storage.tpc_begin(txn)
    calls = [
        (storage.load, bad),
        (storage.loadBefore, bad, maxtid),
        (storage.loadBefore, OID, bad),
        (storage.prefetch, [OID, bad], maxtid),
        (storage.prefetch, [OID], bad),
        (storage.loadSerial, bad, OID),
        (storage.loadSerial, OID, bad),
        (storage.getTid, bad),
        (storage.history, bad),
        (storage.store, bad, None, b"", "", txn),
        (storage.restore, bad, OID, b"", "", None, txn),
        (storage.restore, OID, bad, b"", "", None, txn),
        (storage.deleteObject, bad, OID, txn),
        (storage.deleteObject, OID, bad, txn),
        (storage.checkCurrentSerialInTransaction, bad, OID, txn),
        (storage.checkCurrentSerialInTransaction, OID, bad, txn),
    ]
    if bad is not None:
        calls += [
            (storage.record_iternext, bad),
            (storage.iterator, bad),
            (storage.iterator, None, bad),
            (storage.store, OID, bad, b"", "", txn),
            (storage.restore, OID, OID, b"", "", bad, txn),
            (storage.tpc_begin, TransactionMetaData(), bad),
        ]
    for call, *args in calls:
        with pytest.raises((TypeError, ValueError), match="is 8 bytes, not"):
            call(*args)
    storage.tpc_abort(txn)
    settle(storage, script)  # Nothing of it was sent.


class Thing:
    """What no server knows."""


def test_what_the_server_would_not_take(connect, tmp_path):
    """It would close the connection, and other threads' calls would fail with it."""
    storage, script = connect(blob_dir=tmp_path / "blobs")
    file = tmp_path / "file"
    file.write_bytes(b"data")
    txn = TransactionMetaData()
    storage.tpc_begin(txn)
    calls = [
        ("size is a whole number, not 'a'", storage.history, OID, "a"),
        ("size is a whole number, not None", storage.history, OID, None),
        ("first is a whole number", storage.undoLog, "0", 20),
        ("last is a whole number", storage.undoLog, 0, 20.0),
        ("last is a whole number", storage.undoLog, 0, None, bool),
        ("first is a whole number", storage.undoInfo, None),
        ("last is a whole number", storage.undoInfo, 0, "20"),
        ("specification is a dict", storage.undoInfo, 0, -20, [("user_name", b"")]),
        ("Thing in a pickle", storage.undoInfo, 0, -20, {"user_name": Thing()}),
        ("specification may have", storage.undoInfo, 0, -20, {"user_name": print}),
        ("transaction_id is bytes, not str", storage.undo, "abc", txn),
        ("transaction_id is bytes, not None", storage.undo, None, txn),
        ("data is bytes, not str", storage.store, OID, None, "text", "", txn),
        ("data is bytes, not None", storage.store, OID, None, None, "", txn),
        ("data is bytes, not byte", storage.store, OID, None, bytearray(9), "", txn),
        ("data is bytes", storage.restore, OID, OID, "text", "", None, txn),
        ("oid is 8", storage.storeBlob, "oid", None, b"", str(file), "", txn),
        ("serial is 8", storage.storeBlob, OID, "serial", b"", str(file), "", txn),
        ("data is bytes", storage.storeBlob, OID, None, "text", str(file), "", txn),
        ("oid is 8", storage.loadBlob, "oid", OID),
        ("serial is 8", storage.loadBlob, OID, None),
        ("serial is 8", storage.openCommittedBlobFile, OID, "serial"),
        ("tid is 8", storage.getInvalidations, None),
        ("t is a number", storage.pack, "yesterday"),
        ("t is a number", storage.pack, True),
        ("days is a number", storage.pack, None, None, True, "1"),
    ]
    for words, call, *args in calls:
        with pytest.raises((TypeError, ValueError), match=words):
            call(*args)
    assert file.read_bytes() == b"data"  # It was not taken over.
    storage.tpc_abort(txn)
    settle(storage, script)  # Nothing of it was sent.


def test_what_a_specification_may_have(connect):
    storage, script = connect()
    wanted = {"user_name": b"me", "n": 1, "flags": [True, None], "x": {"y": (1, 2.5)}}
    asked = Background(storage.undoInfo, 0, -20, wanted)
    assert script.answer("undoInfo", []) == (0, -20, wanted)
    assert asked.result() == []


def test_oid_that_cannot_be_stored(connect):
    storage, script = connect()
    txn = TransactionMetaData()
    storage.tpc_begin(txn)
    with pytest.raises(ValueError, match="less than 2"):
        storage.store(b"\x80" + bytes(7), None, b"", "", txn)
    storage.tpc_abort(txn)
    settle(storage, script)
