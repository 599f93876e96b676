"""A server that says what a test tells it to, and storages that are its clients."""

import contextlib

import pytest

from tests.storageserver.conftest import serve, server  # noqa: F401
from tests.support.fakeserver import FakeServer
from zeolite.clientstorage.storage import ClientStorage


@pytest.fixture
def stack():
    with contextlib.ExitStack() as stack:
        yield stack


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
