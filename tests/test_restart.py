"""What clients keep of their caches when a server restarts."""

import contextlib

import pytest
import ZODB
from ZODB.Connection import TransactionMetaData
from ZODB.FileStorage import FileStorage
from ZODB.utils import maxtid, p64

from tests.clientstorage.talking import Database
from tests.support.blocking import BlockingStorage
from tests.support.processes import free_port
from tests.support.waiting import wait_until
from zeolite.clientstorage.storage import ClientStorage
from zeolite.storageserver.options import ServerOptions
from zeolite.storageserver.server import StorageServer

X, Y = p64(1), p64(2)


class Restarting:
    """A server on one port, and a client that has x and y in its cache."""

    def __init__(self, stack, open_storage, **options):
        self._stack = stack
        self.open_storage = open_storage
        self._address = "127.0.0.1", free_port()
        self._options = ServerOptions(**options)
        self._server = None
        self.start()
        stack.callback(lambda: self._server.stop())
        self.tid = self.commit(X, Y)
        self.client = stack.enter_context(
            contextlib.closing(ClientStorage(self._address, disconnect_poll=0.01))
        )
        self.database = Database()
        self.client.registerDB(self.database)
        for oid in X, Y:
            self.client.loadBefore(oid, maxtid)

    def start(self):
        storage = self.open_storage()
        self._server = StorageServer(self._address, {"1": storage}, self._options)
        self._server.start()

    def stop(self):
        self._server.stop()

    def commit(self, *oids):
        """Commit through the running server."""
        with contextlib.closing(ClientStorage(self._address)) as storage:
            return commit(storage, *oids)

    def commit_while_stopped(self, *commits):
        """Have others change what the storage has; return the last tid."""
        with contextlib.closing(self.open_storage()) as storage:
            return [commit(storage, *oids) for oids in commits][-1]

    def cached(self):
        return {oid for oid in (X, Y) if self.client._cache.has(oid, maxtid)}


def commit(storage, *oids):
    txn = TransactionMetaData()
    storage.tpc_begin(txn)
    for oid in oids:
        try:
            serial = ZODB.utils.load_current(storage, oid)[1]
        except KeyError:
            serial = None
        storage.store(oid, serial, b"data", "", txn)
    storage.tpc_vote(txn)
    return storage.tpc_finish(txn)


@pytest.fixture
def restarting(tmp_path):
    with contextlib.ExitStack() as stack:

        def make(open_storage=lambda: FileStorage(str(tmp_path / "D.fs")), **options):
            return Restarting(stack, open_storage, **options)

        yield make


def test_replay_begins_with_what_the_storage_remembers(restarting):
    case = restarting()
    case.stop()
    tid = case.commit_while_stopped([X], [X])
    case.start()
    wait_until(lambda: case.client.lastTransaction() == tid)
    assert case.database.told == [(tid, [X])]
    assert case.cached() == {Y}


def test_storage_remembers_no_more_than_the_queue_is_long(restarting):
    case = restarting(invalidation_queue_size=3)
    case.stop()
    tid = case.commit_while_stopped([X], [X], [X], [X])
    case.start()
    wait_until(lambda: case.client.lastTransaction() == tid)
    wait_until(lambda: case.database.told[-1] == "everything")
    assert case.cached() == set()


def test_storage_that_remembers_nothing(restarting):
    """What was committed before the start cannot be told, and what came later can."""
    backing = BlockingStorage()
    assert not hasattr(backing, "lastInvalidations")
    case = restarting(backing.reopened)
    case.stop()
    case.start()
    tid = case.commit(X)
    wait_until(lambda: case.client.lastTransaction() == tid)
    assert case.database.told == [(tid, [X])]
    assert case.cached() == {Y}
    case.stop()
    tid = case.commit_while_stopped([X])
    case.start()
    wait_until(lambda: case.client.lastTransaction() == tid)
    wait_until(lambda: case.database.told[-1] == "everything")
    assert case.cached() == set()


def test_new_oids_of_the_server_that_was_are_not_used(restarting):
    """The next one may give them to others: a storage counts on from what it has."""
    case = restarting()
    case.client.new_oid()
    case.stop()
    wait_until(lambda: not case.client.is_connected())
    case.start()
    wait_until(case.client.is_connected)
    with contextlib.closing(ClientStorage(case._address)) as other:
        oids = [storage.new_oid() for storage in (case.client, other) for _ in "ab"]
    assert len(set(oids)) == 4


def test_new_oids_that_arrive_late_are_not_used(restarting, monkeypatch):
    case = restarting()
    call = case.client._call

    def call_and_restart(name):
        oids = call(name)
        case.stop()
        wait_until(lambda: not case.client.is_connected())
        case.start()
        wait_until(case.client.is_connected)
        monkeypatch.setattr(case.client, "_call", call)
        return oids

    monkeypatch.setattr(case.client, "_call", call_and_restart)
    case.client.new_oid()
    with contextlib.closing(ClientStorage(case._address)) as other:
        oids = [storage.new_oid() for storage in (case.client, other) for _ in "ab"]
    assert len(set(oids)) == 4


def test_server_of_a_client_asks_the_server_above(restarting, tmp_path):
    """It remembers nothing itself when it restarts."""
    with contextlib.ExitStack() as stack:
        root = StorageServer(
            ("127.0.0.1", 0), {"1": FileStorage(str(tmp_path / "root.fs"))}
        )
        root.start()
        stack.callback(root.stop)
        case = restarting(lambda: ClientStorage(root.address))
        assert not hasattr(ClientStorage, "lastInvalidations")
        case.stop()
        tid = case.commit_while_stopped([X], [X])
        case.start()
        wait_until(lambda: case.client.lastTransaction() == tid)
        assert case.database.told == [(tid, [X])]
        assert case.cached() == {Y}
        case.client.close()
        case.stop()
