"""Clients of servers that are clients, while connections break and servers go.

One server has the data, two in the middle are its clients, and six clients use all
three.  They commit and read at random, while connections break at random and the
servers in the middle are stopped, or lose all connections at once, and come back.
Whatever anybody has read has to be what the storage had at that time, and so has
what is left in the caches.
"""

import contextlib
import random
import sys
import threading

import pytest
from ZODB.Connection import TransactionMetaData
from ZODB.FileStorage import FileStorage
from ZODB.MappingStorage import MappingStorage
from ZODB.POSException import ConflictError, POSKeyError, StorageTransactionError
from ZODB.utils import maxtid, p64, u64

from tests.clientstorage.talking import Database
from tests.support.waiting import wait_until
from zeolite.clientstorage.storage import ClientStorage
from zeolite.errors import ClientDisconnected, CommitInDoubt
from zeolite.storageserver.options import ServerOptions
from zeolite.storageserver.server import StorageServer

OIDS = [p64(number) for number in range(1, 21)]

#: What may become of a commit while servers come and go.
_FAILURES = ConflictError, ClientDisconnected, CommitInDoubt, StorageTransactionError

pytestmark = pytest.mark.slow


class Tier:
    """A server, at the same address whenever it is there."""

    def __init__(self, open_storage, options):
        self._open_storage = open_storage
        self._options = options
        self.address = "127.0.0.1", 0
        self.start()

    def start(self):
        self.storage = self._open_storage()
        self._server = StorageServer(
            self.address, {"1": self.storage}, ServerOptions(**self._options)
        )
        self.address = self._server.address
        self._server.start()

    def stop(self, is_abrupt=False):
        if is_abrupt:
            self.storage._connection.link().end()
            for session in self._server.storages[0].sessions():
                session.end("killed")
        self._server.stop()


class Client(threading.Thread):
    """Commits and reads, `count` times."""

    def __init__(self, seed, addresses, count):
        super().__init__()
        self._random = random.Random(seed)
        self._count = count
        self.database = Database()
        self.storage = ClientStorage(addresses, disconnect_poll=0.005)
        self.storage.registerDB(self.database)
        #: (oid, before which tid, data, tid)
        self.seen = []
        self.error = None

    def run(self):
        try:
            for _ in range(self._count):
                with contextlib.suppress(ClientDisconnected):
                    self._commit() if self._random.random() < 0.3 else self._read()
        except Exception as error:
            self.error = error

    def _commit(self):
        txn = TransactionMetaData()
        try:
            self.storage.tpc_begin(txn)
            for oid in self._random.sample(OIDS, self._random.randint(0, 3)):
                found = self._load(oid, maxtid)
                data = b"%d" % self._random.getrandbits(60)
                self.storage.store(oid, found and found[1], data, "", txn)
            self.storage.tpc_vote(txn)
            self.storage.tpc_finish(txn)
        except _FAILURES:
            self.storage.tpc_abort(txn)

    def _read(self):
        """Read some objects as of what is known now."""
        before = p64(u64(self.storage.lastTransaction()) + 1)
        for oid in self._random.sample(OIDS, 5):
            found = self._load(oid, before)
            if found is not None:
                self.seen.append((oid, before, *found[:2]))

    def _load(self, oid, tid):
        try:
            return self.storage.loadBefore(oid, tid)
        except POSKeyError:
            return None


class Breaker(threading.Thread):
    """Breaks connections, and restarts servers, until it is stopped."""

    def __init__(self, seed, clients, tiers):
        super().__init__()
        self._random = random.Random(seed)
        self._clients, self._tiers = clients, tiers
        self._over = threading.Event()

    def run(self):
        while not self._over.wait(self._random.random() * 0.05):
            if self._random.random() < 0.05:
                tier = self._random.choice(self._tiers)
                tier.stop(is_abrupt=self._random.random() < 0.5)
                tier.start()
                continue
            storages = [each.storage for each in self._clients + self._tiers]
            link = self._random.choice(storages)._connection._link
            if link is not None:
                link.end()

    def stop(self):
        self._over.set()
        self.join()


@contextlib.contextmanager
def switching_often():
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def wrong_reads(storage, seen):
    """Return what of `seen` is not what the storage had."""
    return [read for read in seen if storage.loadBefore(*read[:2])[:2] != read[2:]]


def wrong_records(storage, cache):
    """Return what a cache has that is not what the storage has."""
    wrong = []
    for oid, start in cache.contents():
        before = p64(u64(start) + 1)
        found = cache.loadBefore(oid, before)
        if found is None:
            continue
        data, _, end = found
        right_data, right_start, right_end = storage.loadBefore(oid, before)
        # It may have ended too early, for want of knowing, and not too late.
        is_too_long = right_end is not None and (end is None or end > right_end)
        if (data, start) != (right_data, right_start) or is_too_long:
            wrong.append((oid, start, end, right_start, right_end))
    return wrong


@pytest.mark.timeout(300)
@pytest.mark.parametrize("queue_size", [1, 5, 100])
@pytest.mark.parametrize("kind", ["file", "memory"])
@pytest.mark.parametrize("seed", range(3))
def test_everybody_sees_what_there_was(tmp_path, kind, queue_size, seed, count=200):
    def open_root():
        return FileStorage(str(tmp_path / "root.fs")) if kind == "file" else memory

    memory = MappingStorage()
    options = {"invalidation_queue_size": queue_size}
    with contextlib.ExitStack() as stack:
        root = Tier(open_root, options)
        stack.callback(root.stop)

        def open_middle():
            return ClientStorage(root.address, disconnect_poll=0.005)

        tiers = []
        for _ in range(2):
            tiers.append(Tier(open_middle, options))
            stack.callback(tiers[-1].stop)
        clients = []
        for number in range(6):
            order = [tiers[number % 2], tiers[1 - number % 2]]
            order = [root] if number > 3 else order
            addresses = [tier.address for tier in order]
            clients.append(Client(seed * 100 + number, addresses, count))
            stack.callback(clients[-1].storage.close)
        breaker = Breaker(seed, clients, tiers)
        with switching_often():
            for thread in [breaker, *clients]:
                thread.start()
            for thread in clients:
                thread.join()
            breaker.stop()

        last = root.storage.lastTransaction()
        storages = [each.storage for each in clients + tiers]
        for storage in storages:
            wait_until(lambda storage=storage: storage.lastTransaction() == last)
        for client in clients:
            assert client.error is None
            assert wrong_reads(root.storage, client.seen) == []
            tids = [told[0] for told in client.database.told if told != "everything"]
            assert tids == sorted(tids)
        for storage in storages:
            assert wrong_records(root.storage, storage._cache) == []
