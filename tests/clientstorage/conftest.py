"""A server that says what a test tells it to, and storages that are its clients."""

import pytest

from tests.storageserver.conftest import serve  # noqa: F401
from tests.support.fakeserver import FakeServer
from zeolite.clientstorage import connecting
from zeolite.clientstorage.cache import ClientCache
from zeolite.clientstorage.storage import ClientStorage

from .cachefiles import SIZE


@pytest.fixture
def server(serve):  # noqa: F811
    """A server with the default settings."""
    return serve()


@pytest.fixture
def fake(stack):
    fake = FakeServer()
    stack.callback(fake.close)
    return fake


@pytest.fixture
def connect(stack, fake):
    """Call it to get (storage, script): a client, and the server's end."""

    def connect(**kwargs):
        tid = kwargs.pop("tid", None)
        accepting = fake.accept_in_background(*([tid] if tid else []))
        kwargs.setdefault("disconnect_poll", 0.01)
        kwargs.setdefault("wait_timeout", 20)
        storage = ClientStorage(fake.address, **kwargs)
        stack.callback(storage.close)
        accepting.join()
        return storage, accepting.script

    return connect


@pytest.fixture
def patience(monkeypatch):
    """Have each attempt take longer than a test may."""
    for name in ("CONNECT_TIMEOUT", "HANDSHAKE_TIMEOUT", "GREETING_TIMEOUT"):
        monkeypatch.setattr(connecting, name, 1000)


@pytest.fixture
def another(stack):
    """Call it to get one more `FakeServer`."""

    def another(*args):
        fake = FakeServer(*args)
        stack.callback(fake.close)
        return fake

    return another


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "cache")


@pytest.fixture
def opened(stack, path):
    """Call it to open a cache, which is closed at the end."""

    def opened(path=path, size=SIZE):
        cache = ClientCache(path, size)
        stack.callback(cache.close)
        return cache

    return opened


@pytest.fixture
def connect_zeolite(connect, fake, tmp_path):
    """Call it to get (storage, script); the server is one of ours."""

    def connect_zeolite(**kwargs):
        fake.info["zeolite"] = 1
        return connect(blob_dir=str(tmp_path / "cache"), **kwargs)

    return connect_zeolite


@pytest.fixture
def connect_zeo(connect, tmp_path):
    """Call it to get (storage, script); the server is a stock one."""
    return lambda **kwargs: connect(blob_dir=str(tmp_path / "cache"), **kwargs)


@pytest.fixture(params=["zeolite", "zeo"])
def connect_any(request):
    return request.getfixturevalue(f"connect_{request.param}")
