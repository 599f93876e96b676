"""Stock ZEO clients and servers as peers, and both kinds of client on one server."""

import random
import threading

import pytest
import transaction
import ZEO
from persistent.mapping import PersistentMapping
from ZODB.POSException import ConflictError, POSKeyError, ReadConflictError
from ZODB.tests.MinPO import MinPO
from ZODB.utils import maxtid, p64

import zeolite
from tests.support.waiting import wait_until

CLIENTS = {"zeolite": zeolite, "zeo": ZEO}
PAIRS = [("zeo", "zeolite"), ("zeolite", "zeo"), ("zeolite", "zeolite")]
MAPPING = "<mappingstorage>\n</mappingstorage>\n"


class Pair:
    """A server, and a way to open databases on it."""

    def __init__(self, client, server):
        self._package = CLIENTS[client]
        self.address = server.address
        self._opened = []

    def database(self, package=None, **kwargs):
        db = (package or self._package).DB(self.address, **kwargs)
        self._opened.append(db)
        return db

    def storage(self, package=None, **kwargs):
        storage = (package or self._package).client(self.address, **kwargs)
        self._opened.append(storage)
        return storage

    def close(self):
        for opened in self._opened:
            opened.close()


@pytest.fixture(params=PAIRS, ids="client-{0[0]}-server-{0[1]}".format)
def pair(request):
    client, server = request.param
    name = "host" if server == "zeolite" else "zeo_host"
    hosted = request.getfixturevalue(name).start(MAPPING)
    pair = Pair(client, hosted)
    yield pair
    pair.close()
    hosted.stop()


def open_connection(db):
    manager = transaction.TransactionManager()
    return manager, db.open(manager)


def test_commit_and_read_back(pair):
    manager, connection = open_connection(pair.database())
    connection.root()["x"] = PersistentMapping(a=1)
    manager.commit()
    manager_2, connection_2 = open_connection(pair.database())
    assert connection_2.root()["x"]["a"] == 1
    connection_2.root()["x"]["a"] = 2
    manager_2.commit()
    wait_until(lambda: manager.begin() and connection.root()["x"]["a"] == 2)


def test_conflict_reaches_the_client_with_its_details(pair):
    managers = [open_connection(pair.database()) for _ in range(2)]
    for _, connection in managers:
        connection.root()["x"] = 1
    managers[0][0].commit()
    with pytest.raises(ConflictError) as error:
        managers[1][0].commit()
    assert error.value.oid == p64(0)
    assert len(error.value.serials) == 2
    managers[1][0].abort()


def test_read_current(pair):
    first, second = (open_connection(pair.database()) for _ in range(2))
    first[1].root()["x"] = PersistentMapping()
    first[0].commit()
    wait_until(lambda: second[0].begin() and "x" in second[1].root())
    assert dict(second[1].root()["x"]) == {}  # It is loaded now.
    second[1].readCurrent(second[1].root()["x"])
    second[1].root()["y"] = 1
    first[1].root()["x"]["changed"] = True
    first[0].commit()
    with pytest.raises((ReadConflictError, ConflictError)):
        second[0].commit()
    second[0].abort()


def test_missing_object(pair):
    storage = pair.storage()
    with pytest.raises(POSKeyError):
        storage.loadBefore(p64(99), maxtid)


def test_large_and_many_objects(pair):
    manager, connection = open_connection(pair.database())
    connection.root()["large"] = MinPO(b"x" * 3_000_000)
    for number in range(1000):
        connection.root()[f"n{number}"] = MinPO(number)
    manager.commit()
    _, connection_2 = open_connection(pair.database(cache_size=40_000_000))
    root = connection_2.root()
    assert root["large"].value == b"x" * 3_000_000
    assert [root[f"n{n}"].value for n in range(1000)] == list(range(1000))


def test_metadata_of_a_transaction_arrives(pair):
    manager, connection = open_connection(pair.database())
    txn = manager.begin()
    txn.note("a note")
    txn.setUser("user")
    txn.setExtendedInfo("key", "value")
    connection.root()["x"] = 1
    manager.commit()
    (entry,) = pair.storage().history(p64(0), 1)
    assert entry["description"].endswith(b"a note")
    assert entry["user_name"].endswith(b"user")


def test_new_oids_differ(pair):
    storages = [pair.storage() for _ in range(2)]
    oids = [storage.new_oid() for storage in storages for _ in range(150)]
    assert len(set(oids)) == 300


def test_prefetch(pair):
    manager, connection = open_connection(pair.database())
    for number in range(50):
        connection.root()[f"n{number}"] = MinPO(number)
    manager.commit()
    oids = [connection.root()[f"n{n}"]._p_oid for n in range(50)]
    storage = pair.storage()
    storage.prefetch(oids, maxtid)
    for oid in oids:
        assert storage.loadBefore(oid, maxtid)[2] is None


def test_both_kinds_of_client_commit_on_one_server(host):
    """Transfers between accounts; every reader sees the same sum at all times.

    Each client also keeps its view of the invalidations, which must agree.
    """
    hosted = host.start(MAPPING)
    pair = Pair("zeolite", hosted)
    accounts, rounds, total = 5, 40, 500
    manager, connection = open_connection(pair.database())
    for number in range(accounts):
        connection.root()[number] = MinPO(total // accounts)
    manager.commit()
    problems, conflicts, commits = [], [], []

    def work(package, seed):
        rng = random.Random(seed)
        try:
            manager, connection = open_connection(pair.database(package))
            done = 0
            while done < rounds:
                manager.begin()
                root = connection.root()
                values = [root[number].value for number in range(accounts)]
                if sum(values) != total:
                    problems.append((package.__name__, values))
                source, target = rng.sample(range(accounts), 2)
                root[source].value -= 1
                root[target].value += 1
                try:
                    manager.commit()
                except ConflictError:
                    conflicts.append(package)
                    manager.abort()
                else:
                    done += 1
                    commits.append(package)
        except Exception as error:
            problems.append(error)

    threads = [
        threading.Thread(target=work, args=(package, seed))
        for seed, package in enumerate([zeolite, ZEO] * 2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not problems
    assert len(commits) == 4 * rounds
    status = pair.storage().server_status()
    assert status["commits"] == 4 * rounds + 2
    assert status["conflicts"] == len(conflicts)
    # What one kind of client was told is what the other kind was told.
    last = [pair.storage(package).lastTransaction() for package in (zeolite, ZEO)]
    assert last[0] == last[1] == bytes.fromhex(status["last-transaction"])
    pair.close()
    hosted.stop()


def test_both_kinds_are_told_the_same(host):
    hosted = host.start(MAPPING)
    pair = Pair("zeolite", hosted)

    class Database:
        def __init__(self):
            self.told = []

        def invalidate(self, tid, oids):
            self.told.append((tid, sorted(oids)))

        def transform_record_data(self, data):
            return data

        untransform_record_data = transform_record_data

    databases = []
    for package in (zeolite, ZEO):
        database = Database()
        pair.storage(package).registerDB(database)
        databases.append(database)
    manager, connection = open_connection(pair.database())
    for number in range(20):
        connection.root()[number] = MinPO(number)
        manager.commit()
    # One more is for the root object.
    wait_until(lambda: all(len(database.told) == 21 for database in databases))
    assert databases[0].told == databases[1].told
    pair.close()
    hosted.stop()


def test_msgpack_server_is_refused(zeo_host):
    hosted = zeo_host.start(MAPPING, msgpack="true")
    with pytest.raises(zeolite.errors.ProtocolError, match="switch msgpack off"):
        zeolite.client(hosted.address)
    hosted.stop()
