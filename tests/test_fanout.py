"""A server whose storage is a client storage of another server."""

import time

import pytest
import transaction
from ZODB.POSException import ConflictError
from ZODB.tests.MinPO import MinPO

import zeolite

MAPPING = "<mappingstorage>\n</mappingstorage>\n"


def client_section(address):
    return (
        "%import zeolite\n<clientstorage>\n"
        f"server {address[0]}:{address[1]}\ndisconnect-poll 0.05\n</clientstorage>\n"
    )


def wait_until(condition):
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


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
