"""Databases in a PostgreSQL of the tests' own, with and without history."""

import contextlib

import pytest
import ZODB.config

import zeolite
from tests.support import postgres


@pytest.fixture(scope="session")
def cluster():
    """A running PostgreSQL."""
    why = postgres.why_missing()
    if why:
        pytest.skip(why)
    cluster = postgres.Cluster()
    yield cluster
    cluster.close()


class Database:
    """A database in PostgreSQL, and what a test opens on it."""

    def __init__(self, cluster, stack, keep_history):
        self.cluster = cluster
        self.name = cluster.create()
        stack.callback(cluster.drop, self.name)
        self._stack = stack
        self.keep_history = keep_history

    def section(self, **options):
        return postgres.section(
            self.cluster.dsn(self.name), self.keep_history, **options
        )

    def storage(self, **options):
        """Open it with RelStorage, without a server."""
        storage = ZODB.config.storageFromString(self.section(**options))
        self._stack.callback(storage.close)
        return storage

    def serve(self, options=None, **settings):
        """Serve it in this process; return the address."""
        settings.setdefault("poll_interval", 30)  # Nothing happens by chance.
        address, stop = zeolite.server(
            storage_conf=self.section(**(options or {})), zeo_conf=settings
        )
        self._stack.callback(stop)
        return address

    def client(self, address, **settings):
        storage = zeolite.client(address, **settings)
        self._stack.callback(storage.close)
        return storage

    def db(self, address, **settings):
        db = zeolite.DB(address, **settings)
        self._stack.callback(db.close)
        return db


@pytest.fixture(params=[True, False], ids=["history", "no-history"])
def keep_history(request):
    return request.param


@pytest.fixture
def database(cluster, keep_history):
    """An empty `Database`, once with and once without history."""
    with contextlib.ExitStack() as stack:
        yield Database(cluster, stack, keep_history)
