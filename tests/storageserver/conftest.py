"""A server in this process, on a storage that stops where a test says."""

import contextlib

import pytest

from tests.support.blocking import BlockingStorage
from tests.support.certificates import client_context, server_context
from tests.support.rawclient import RawClient
from tests.support.sharedmemory import ExactChanges, SharedDatabase, SharedStorage
from zeolite.storageserver import shared
from zeolite.storageserver.options import ServerOptions
from zeolite.storageserver.server import StorageServer


class ServerForTests:
    """A `StorageServer` with what is inside it, and clients that get closed."""

    def __init__(self, stack, storage=None, tls=False, **options):
        self._stack = stack
        #: What clients encrypt with, an `ssl.SSLContext` or None.
        self.tls = client_context() if tls else None
        self.storage = BlockingStorage() if storage is None else storage
        self.server = StorageServer(
            ("127.0.0.1", 0),
            {"1": self.storage},
            ServerOptions(**options),
            server_context() if tls else None,
        )
        self.server.start()
        stack.callback(self.server.stop)
        self.address = self.server.address
        self.served = self.server._served["1"]

    def connect(self, **kwargs):
        """Return a new `RawClient`."""
        client = RawClient(self.address, tls=self.tls, **kwargs)
        self._stack.callback(client.close)
        return client

    def session(self, client):
        """Return the server's session of a client."""
        name = "{}:{}".format(*client.socket.getsockname())
        (found,) = [s for s in self.served.sessions() if s._address == name]
        return found


@pytest.fixture
def serve():
    """Call it with settings to get a `ServerForTests`."""
    with contextlib.ExitStack() as stack:
        yield lambda storage=None, **options: ServerForTests(stack, storage, **options)


@pytest.fixture
def storage():
    """What `server` serves; modules have others."""
    return BlockingStorage()


@pytest.fixture
def server(serve, storage):
    """A server with the default settings."""
    return serve(storage)


@pytest.fixture(params=[False, True], ids=["stock", "packed"])
def loads(request, monkeypatch):
    """Clients load as stock ones do, and as Zeolite's."""
    monkeypatch.setattr(RawClient, "packs_loads", request.param)


@pytest.fixture
def database():
    """One in memory that several servers may share."""
    return SharedDatabase()


@pytest.fixture
def serve_it(serve, database, monkeypatch):
    """Call it to get a server on the database, which polls only when asked to."""
    monkeypatch.setattr(shared, "find_changes", lambda storage: ExactChanges())

    def serve_it(storage=None, **options):
        options = {"poll_interval": 3600, **options}
        return serve(SharedStorage(database) if storage is None else storage, **options)

    return serve_it
