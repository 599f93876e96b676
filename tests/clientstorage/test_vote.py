"""Conflicts that come of a cache that is wrong come once, and not for ever."""

import contextlib

import pytest
import transaction
from persistent.mapping import PersistentMapping
from ZODB.Connection import TransactionMetaData
from ZODB.POSException import ConflictError, ReadConflictError
from ZODB.utils import maxtid, p64, z64

import zeolite
from zeolite.clientstorage.cache import ClientCache

from .talking import OID, Background, settle


class DeafCache(ClientCache):
    """Does not listen to what others commit, while `is_deaf`."""

    is_deaf = False

    def invalidate(self, oid, tid):
        if tid is None or not self.is_deaf:
            super().invalidate(oid, tid)


@pytest.fixture(params=[{}, {"client_conflict_resolution": True}], ids=str)
def dbs(request):
    """One with a cache that has an object as it was, and one that has changed it."""
    with contextlib.ExitStack() as stack:
        address, stop = zeolite.server(zeo_conf=request.param)
        stack.callback(stop)
        other = zeolite.DB(address)
        stack.callback(other.close)
        with other.transaction() as connection:
            connection.root()["x"] = 1
        cache = DeafCache(None, 2**20)
        db = zeolite.DB(address, cache=cache, server_sync=True)
        stack.callback(db.close)
        with db.transaction() as connection:
            assert connection.root()["x"] == 1
        cache.is_deaf = True
        with other.transaction() as connection:
            connection.root()["x"] = 2
        with db.transaction() as connection:
            assert connection.root()["x"] == 1  # As it should not be.
        cache.is_deaf = False
        yield db, other


def test_a_wrong_revision_that_was_changed_is_forgotten(dbs):
    db, _ = dbs
    with pytest.raises(ConflictError), db.transaction() as connection:
        connection.root()["y"] = 1
    with db.transaction() as connection:
        assert connection.root()["x"] == 2
        connection.root()["y"] = 1


def test_a_wrong_revision_that_was_read_is_forgotten(dbs):
    db, _ = dbs
    manager = transaction.TransactionManager()
    connection = db.open(manager)
    # So that there is a transaction at all.
    connection.add(new := PersistentMapping())
    connection.readCurrent(connection.root())
    with pytest.raises(ReadConflictError):
        manager.commit()
    manager.begin()
    assert new._p_jar is None
    assert connection.root()["x"] == 2
    connection.close()


def test_a_right_revision_stays(dbs):
    """Who tries again need not read the object again."""
    _, db = dbs
    manager = transaction.TransactionManager()
    late = db.open(manager)
    late.root()["x"] = 3
    with db.transaction() as connection:
        connection.root()["y"] = 1
    before = db.storage._cache.loadBefore(z64, maxtid)
    assert before[2] is None
    with pytest.raises(ConflictError):
        manager.commit()
    assert db.storage._cache.loadBefore(z64, maxtid) == before
    manager.abort()
    late.close()


@pytest.mark.parametrize("kind", ["error", "left to the client"])
def test_a_cache_that_fails_keeps_nobody_waiting(connect, monkeypatch, kind):
    storage, script = connect()
    txn = TransactionMetaData()
    storage.tpc_begin(txn)
    storage.store(OID, p64(1), b"mine", "", txn)
    monkeypatch.setattr(storage._cache, "loadBefore", fail)
    vote = Background(storage.tpc_vote, txn)
    script.expect_all("tpc_begin", "storea")
    message_id, _ = script.expect("vote")
    conflict = {"oid": OID, "serials": (p64(2), p64(1))}
    if kind == "error":
        script.fail(message_id, "ZODB.POSException.ConflictError", conflict)
    else:
        script.reply(message_id, [{**conflict, "data": b"mine"}])
    with pytest.raises(ConflictError):
        vote.result()
    settle(storage, script)


def fail(*args):
    raise MemoryError
