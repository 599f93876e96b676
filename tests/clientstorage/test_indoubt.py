"""The connection breaks inside `tpc_finish`: did the server commit?"""

import contextlib

import pytest
from ZODB.Connection import TransactionMetaData
from ZODB.POSException import StorageError
from ZODB.utils import maxtid, p64

import zeolite
from tests.support.blocking import BlockingStorage
from tests.support.processes import free_port
from tests.support.waiting import wait_until
from zeolite.clientstorage.storage import ClientStorage
from zeolite.errors import ClientDisconnected, CommitInDoubt
from zeolite.storageserver.server import StorageServer

from .talking import Background

OID = p64(7)


class Broken:
    """A client whose connection is broken while the server finishes."""

    def __init__(self, stack, **kwargs):
        self.backing = BlockingStorage()
        self.server = StorageServer(("127.0.0.1", 0), {"1": self.backing})
        self.server.start()
        stack.callback(self.server.stop)
        self.storage = ClientStorage(
            self.server.address, **{"disconnect_poll": 0.01, **kwargs}
        )
        stack.callback(self.storage.close)
        self.tids = []

    def commit(self, data=b"data", description=b"mine", store=True):
        txn = TransactionMetaData("user", description)
        self.storage.tpc_begin(txn)
        if store:
            serial = self.tids[-1] if self.tids else None
            self.storage.store(OID, serial, data, "", txn)
        self.storage.tpc_vote(txn)
        tid = self.storage.tpc_finish(txn, self.tids.append)
        return tid

    def finish(self, where, error=None, **kwargs):
        """Commit, and break the connection when the storage is at `where`."""
        gate = self.backing.gate(where)
        commit = Background(lambda: self.commit(**kwargs))
        gate.wait_until_reached()
        (session,) = self.server._served["1"].sessions()
        session.end("the test wants it")
        while self.storage._connection.link().is_zeolite and (
            session in self.server._served["1"].sessions()
            and len(self.server._served["1"].sessions()) == 1
        ):
            pass  # Until the client is back, while the server is not done yet.
        gate.open(error)
        return commit


@pytest.fixture
def broken():
    with contextlib.ExitStack() as stack:
        yield lambda **kwargs: Broken(stack, **kwargs)


@pytest.mark.parametrize("where", ["before tpc_finish", "after tpc_finish"])
@pytest.mark.parametrize("history", [0, 3])
def test_it_was_committed(broken, where, history):
    case = broken()
    for number in range(history):
        case.commit(b"%d" % number)
    with pytest.raises(CommitInDoubt) as error:
        case.finish(where).result()
    tid = case.backing.lastTransaction()
    assert f"transaction {tid.hex()} did the same" in str(error.value)
    assert case.storage.loadBefore(OID, maxtid) == (b"data", tid, None)
    assert case.storage.lastTransaction() == tid


def test_error_of_the_callback_is_not_taken_for_a_lost_answer(broken):
    case = broken()

    class Full(list):
        def append(self, tid):
            raise ClientDisconnected("from the callback")

    case.tids = Full()
    with pytest.raises(ClientDisconnected, match=r"from the callback$"):
        case.commit()


def test_it_was_not_committed_but_the_same_was_before(broken):
    case = broken()
    case.commit()
    finish = case.finish("before tpc_finish", OSError("disk full"))
    with pytest.raises(ClientDisconnected, match="it was not committed"):
        finish.result()


def test_it_was_not_committed(broken):
    case = broken()
    case.commit(b"old")
    finish = case.finish("before tpc_finish", OSError("disk full"))
    with pytest.raises(ClientDisconnected, match="it was not committed"):
        finish.result()
    assert case.storage.loadBefore(OID, maxtid)[0] == b"old"
    assert case.commit(b"again")


def test_new_object_was_not_committed(broken):
    case = broken()
    finish = case.finish("before tpc_finish", OSError("disk full"))
    with pytest.raises(ClientDisconnected, match="it was not committed"):
        finish.result()


@pytest.mark.parametrize(
    "other", [{"data": b"other"}, {"description": b"not mine"}], ids=str
)
def test_the_commit_of_somebody_else_is_not_ours(broken, other):
    case = broken()
    case.commit(b"old")
    gate = case.backing.gate("before tpc_finish")
    commit = Background(case.commit)
    gate.wait_until_reached()
    (session,) = case.server._served["1"].sessions()
    second = zeolite.client(case.server.address)
    txn = TransactionMetaData("user", other.get("description", b"mine"))
    second.tpc_begin(txn)
    second.store(OID, case.tids[0], other.get("data", b"data"), "", txn)
    vote = Background(second.tpc_vote, txn)
    # It is in the queue before the first client can have the lock again.
    wait_until(lambda: case.server._served["1"].commit_lock.waiting)
    session.end("the test wants it")
    gate.open(OSError("disk full"))
    vote.result()
    second.tpc_finish(txn)
    with pytest.raises(ClientDisconnected, match="it was not committed"):
        commit.result()
    second.close()


def test_no_connection_in_time(broken):
    case = broken(wait_timeout=0.3)
    gate = case.backing.gate("before tpc_finish")
    commit = Background(case.commit)
    gate.wait_until_reached()
    case.storage._connection._addresses[:] = [("127.0.0.1", free_port())]
    (session,) = case.server._served["1"].sessions()
    session.end("the test wants it")
    with pytest.raises(CommitInDoubt, match="may have been committed"):
        commit.result()
    gate.open()


def test_transaction_without_a_trace(broken):
    case = broken()
    with pytest.raises(CommitInDoubt, match="changed no object"):
        case.finish("after tpc_finish", store=False).result()


def test_storage_without_history(broken, monkeypatch):
    case = broken()

    def history(*args):
        raise NotImplementedError("no history here")

    monkeypatch.setattr(case.backing, "history", history)
    with pytest.raises(CommitInDoubt, match="no history here"):
        case.finish("after tpc_finish").result()


def test_server_that_allows_no_writing_any_more_cannot_tell(broken):
    """Its error would look as if nothing had been committed."""
    case = broken(read_only_fallback=True)
    gate = case.backing.gate("after tpc_finish")
    commit = Background(case.commit)
    gate.wait_until_reached()
    case.backing.isReadOnly = lambda: True
    (session,) = case.server._served["1"].sessions()
    session.end("the test wants it")
    gate.open()
    with pytest.raises(CommitInDoubt, match="ReadOnlyError"):
        commit.result()


def test_vote_that_fails_while_it_is_looked_for_leaves_nothing_behind(broken):
    case = broken()
    gate = case.backing.gate("after tpc_finish")
    commit = Background(case.commit)
    gate.wait_until_reached()
    (session,) = case.server._served["1"].sessions()
    case.backing.fail("before tpc_vote", StorageError("no room"))
    session.end("the test wants it")
    gate.open()
    with pytest.raises(CommitInDoubt, match="no room"):
        commit.result()
    case.storage.ping()
    (session,) = case.server._served["1"].sessions()
    assert session.transactions == {}
