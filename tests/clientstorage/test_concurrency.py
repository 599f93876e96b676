"""Threads of one client storage that do not wait for each other."""

import contextlib

import pytest
from ZODB.Connection import TransactionMetaData
from ZODB.utils import maxtid, p64

from tests.support.blocking import BlockingStorage
from zeolite.clientstorage.storage import ClientStorage
from zeolite.storageserver.server import StorageServer

from .talking import Background


@pytest.fixture
def clients():
    """Two client storages of one server, what they share, and its storage."""
    with contextlib.ExitStack() as stack:
        backing = BlockingStorage()
        server = StorageServer(("127.0.0.1", 0), {"1": backing})
        server.start()
        stack.callback(server.stop)
        storages = [
            stack.enter_context(contextlib.closing(ClientStorage(server.address)))
            for _ in range(2)
        ]
        yield *storages, server._served["1"], backing


def begin(storage, oid, data=b"data"):
    txn = TransactionMetaData()
    storage.tpc_begin(txn)
    storage.store(oid, None, data, "", txn)
    return txn


def commit(storage, oid, data=b"data"):
    txn = begin(storage, oid, data)
    storage.tpc_vote(txn)
    return storage.tpc_finish(txn)


def test_loads_do_not_wait_for_a_vote_that_waits(clients):
    """Somebody else has the commit lock all the time."""
    first, second, served, _ = clients
    tids = [commit(first, p64(number), b"%d" % number) for number in range(20)]
    holding = begin(first, p64(100))
    first.tpc_vote(holding)
    waiting = begin(second, p64(101))
    vote = Background(second.tpc_vote, waiting)
    while served.commit_lock.waiting != 1:
        assert vote.is_alive()
    loads = [Background(second.loadBefore, p64(number), maxtid) for number in range(20)]
    for number, load in enumerate(loads):
        assert load.result() == (b"%d" % number, tids[number], None)
    assert second.history(p64(3))[0]["tid"] == tids[3]
    assert served.commit_lock.waiting == 1
    assert vote.is_alive()
    tid = first.tpc_finish(holding)
    assert vote.result() == []
    assert second.tpc_finish(waiting) > tid


def test_loads_of_others_do_not_wait_for_a_vote_or_a_finish(clients):
    """The storage itself is slow, at each step of a commit."""
    first, second, _, backing = clients
    tid = commit(first, p64(1))
    for number, where in enumerate(["before tpc_vote", "before tpc_finish"], 10):
        gate = backing.gate(where)
        slow = Background(commit, first, p64(number))
        gate.wait_until_reached()
        assert second.loadBefore(p64(1), maxtid) == (b"data", tid, None)
        assert second.getTid(p64(1)) == tid
        assert slow.is_alive()
        gate.open()
        assert slow.result()
