"""A server whose storage is a client storage of another server."""

import contextlib

import pytest
import transaction
import ZODB
from ZODB.POSException import ConflictError
from ZODB.tests.MinPO import MinPO
from ZODB.utils import maxtid, z64

import zeolite
from tests.support.hosting import Host
from tests.support.processes import free_port
from tests.support.waiting import wait_until
from zeolite.errors import ClientDisconnected

MAPPING = "<mappingstorage>\n</mappingstorage>\n"


def client_section(address, wait_timeout=20):
    return (
        "%import zeolite\n<clientstorage>\n"
        f"server {address[0]}:{address[1]}\ndisconnect-poll 0.05\n"
        f"wait-timeout {wait_timeout}\n</clientstorage>\n"
    )


class Tier:
    """A server and connections to it."""

    def __init__(self, server):
        self.server = server
        self._databases = []

    def open(self):
        db = zeolite.DB(self.server.address, disconnect_poll=0.05, server_sync=True)
        self._databases.append(db)
        manager = transaction.TransactionManager()
        return manager, db.open(manager)

    def close(self):
        for db in self._databases:
            db.close()
        self.server.stop()


@pytest.fixture(params=["host", "zeo_host"], ids=["zeolite-root", "zeo-root"])
def tiers(request, host):
    """The root, a server on it, and a server on that one."""
    root = Tier(request.getfixturevalue(request.param).start(MAPPING))
    root.open()  # It makes the root object, before anybody else looks for it.
    middle = Tier(host.start(client_section(root.server.address)))
    leaf = Tier(host.start(client_section(middle.server.address)))
    yield root, middle, leaf
    for tier in (leaf, middle, root):
        tier.close()


def test_commits_are_seen_on_all_tiers(tiers):
    opened = [tier.open() for tier in tiers]
    for number, (manager, connection) in enumerate(opened):
        manager.begin()
        connection.root()[number] = MinPO(number)
        manager.commit()
        for other_manager, other in opened:
            wait_until(
                lambda m=other_manager, c=other, n=number: m.begin() and n in c.root()
            )
            assert other.root()[number].value == number


def test_invalidations_reach_cached_objects(tiers):
    opened = [tier.open() for tier in tiers]
    opened[0][1].root()["x"] = MinPO(0)
    opened[0][0].commit()
    for value in range(1, 10):
        manager, connection = opened[value % 3]
        wait_until(lambda m=manager, c=connection: m.begin() and "x" in c.root())
        wait_until(
            lambda m=manager, c=connection, v=value: (
                m.begin() and c.root()["x"].value == v - 1
            )
        )
        connection.root()["x"].value = value
        manager.commit()


def test_conflicts_between_tiers(tiers):
    (root_manager, root), _, (leaf_manager, leaf) = [tier.open() for tier in tiers]
    leaf.root()["x"] = 1
    root.root()["x"] = 2
    root_manager.commit()
    with pytest.raises(ConflictError):
        leaf_manager.commit()
    leaf_manager.abort()


def test_middle_server_restarts(host):
    root = Tier(host.start(MAPPING))
    middle = Tier(host.start(client_section(root.server.address)))
    manager, connection = root.open()
    other_manager, other = middle.open()
    other.root()["x"] = 1
    other_manager.commit()
    middle.close()
    middle = Tier(host.start(client_section(root.server.address)))
    other_manager, other = middle.open()
    assert other.root()["x"] == 1
    wait_until(lambda: manager.begin() and connection.root().get("x") == 1)
    middle.close()
    root.close()


class RestartableRoot:
    """A server on a file, and how its file changes while it is down."""

    def __init__(self, kind, path):
        self._kind = kind
        self._path = path
        self._port = free_port()
        self.start()

    @property
    def address(self):
        return self._server.address

    def start(self, **settings):
        section = f"<filestorage>\npath {self._path}\n</filestorage>\n"
        # A process of its own: only with that one do all of ZEO's sockets end.
        self._host = Host(self._kind)
        self._server = self._host.start(section, self._port, **settings)

    def stop(self):
        self._server.stop()
        self._host.close()

    def change_file(self, value, times=1):
        """Commit to the file; call it while the server is stopped."""
        db = ZODB.DB(str(self._path))
        for _ in range(times):
            set_value(db, value)
        db.close()


def set_value(db, value):
    with db.transaction() as connection:
        connection.root()["x"].value = value


def has_value(opened, value):
    """For `wait_until`: whether a connection shows `value` in a new transaction.

    A client that cannot be told what it has missed is cut off, and comes again.
    """

    def condition():
        manager, connection = opened
        try:
            manager.begin()
            return connection.root()["x"].value == value
        except ClientDisconnected:
            return False

    return condition


@pytest.fixture(params=["zeolite", "zeo"], ids=["zeolite-root", "zeo-root"])
def restartable(request, host, tmp_path):
    """A root that may be restarted, and two tiers of servers on it."""
    root = RestartableRoot(request.param, tmp_path / "Data.fs")
    with contextlib.closing(zeolite.DB(root.address)) as db, db.transaction() as first:
        first.root()["x"] = MinPO(0)
        first.root()["y"] = MinPO("y")
    middle = Tier(host.start(client_section(root.address)))
    leaf = Tier(host.start(client_section(middle.server.address)))
    yield root, middle, leaf
    leaf.close()
    middle.close()
    root.stop()


@pytest.mark.parametrize("missed", ["few", "too many"])
def test_root_restarts(restartable, missed):
    """What changed while it was down, and what changes afterwards, is seen below."""
    root, middle, leaf = restartable
    opened = [middle.open(), leaf.open(), leaf.open()]
    for manager, connection in opened:
        manager.begin()
        assert connection.root()["x"].value == 0
    root.stop()
    root.change_file("meanwhile", times=1 if missed == "few" else 5)
    root.start(invalidation_queue_size=100 if missed == "few" else 2)
    for each in opened:
        wait_until(has_value(each, "meanwhile"))
    with contextlib.closing(zeolite.DB(root.address)) as db:
        set_value(db, "afterwards")
    for each in opened:
        wait_until(has_value(each, "afterwards"))
    manager, connection = opened[-1]
    for attempt in manager.attempts(5):
        with attempt:
            connection.root()["x"].value = "from a leaf"
    for each in opened:
        wait_until(has_value(each, "from a leaf"))


def test_leaf_keeps_its_cache_when_the_root_restarts(restartable):
    root, _, leaf = restartable
    manager, connection = leaf.open()
    assert (connection.root()["x"].value, connection.root()["y"].value) == (0, "y")
    storage = connection.db().storage
    oid = connection.root()["y"]._p_oid
    root.stop()
    root.change_file("meanwhile")
    root.start()
    wait_until(has_value((manager, connection), "meanwhile"))
    assert storage._cache.has(oid, maxtid)


def test_lost_root_is_a_transient_error_at_the_leaf(host, tmp_path):
    root = RestartableRoot("zeolite", tmp_path / "Data.fs")
    db = zeolite.DB(root.address)
    with db.transaction() as connection:
        x = connection.root()["x"] = MinPO(0)
    oid = x._p_oid
    db.close()
    middle = Tier(host.start(client_section(root.address, wait_timeout=1.5)))
    leaf = Tier(host.start(client_section(middle.server.address)))
    manager, connection = leaf.open()
    assert "x" in connection.root()  # It is loaded now, and x is not.
    root.stop()
    with pytest.raises(ClientDisconnected) as error:
        connection.get(oid)._p_activate()
    assert isinstance(error.value, transaction.interfaces.TransientError)
    assert f":{root.address[1]}" in str(error.value)  # Whom the middle one has lost.
    connection.root()["y"] = 1
    with pytest.raises(ClientDisconnected):
        manager.commit()
    manager.abort()
    assert connection.db().storage.is_connected()

    # `transaction` tries again.
    attempts = []
    for attempt in manager.attempts(2):
        with attempt:
            attempts.append(attempt)
            if len(attempts) == 2:
                root.start()
                wait_until(lambda: is_back(connection.db().storage))
            connection.get(oid).value = 1
    assert len(attempts) == 2
    assert connection.get(oid).value == 1
    leaf.close()
    middle.close()
    root.stop()


def is_back(storage):
    try:
        storage.getTid(z64)
    except ClientDisconnected:
        return False
    return True
