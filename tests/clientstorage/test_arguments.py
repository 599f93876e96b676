"""Arguments that make no sense are refused at once, and cost no connection."""

import pytest
from ZODB.Connection import TransactionMetaData
from ZODB.utils import maxtid, p64

from tests.support.processes import free_port
from zeolite.clientstorage.storage import ClientStorage

from .talking import settle

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
    ],
)
def test_of_the_constructor(arguments, error, text):
    with pytest.raises(error, match=text):
        ClientStorage(free_port(), **{"wait_timeout": 1000, **arguments})


def test_none_stands_for_the_default(connect):
    connect(wait_timeout=None, disconnect_poll=None, keep_alive=None)


@pytest.mark.parametrize("bad", [b"short", b"more than eight", "text", None, 7])
def test_ids(connect, bad):
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


def test_oid_that_cannot_be_stored(connect):
    storage, script = connect()
    txn = TransactionMetaData()
    storage.tpc_begin(txn)
    with pytest.raises(ValueError, match="less than 2"):
        storage.store(b"\x80" + bytes(7), None, b"", "", txn)
    storage.tpc_abort(txn)
    settle(storage, script)
