"""A server between others: its storage is the client of another server."""

import pytest

import zeolite
from tests.support.blocking import Gate
from tests.support.waiting import wait_until


@pytest.fixture
def between(serve):
    """Call it with settings of a client storage: a root, that storage, its server."""
    storages = []

    def between(**settings):
        root = serve()
        storages.append(zeolite.client(root.address, **settings))
        return root, storages[0], serve(storages[0])

    yield between
    for storage in storages:
        storage.close()


@pytest.fixture
def pings(monkeypatch):
    """Call it with a server: returns a list that grows with each ping it gets."""

    def pings(server):
        found = []
        monkeypatch.setattr(server.served, "poll", lambda: found.append(1))
        return found

    return pings


@pytest.mark.parametrize("method", ["ping", "lastTransaction"])
def test_what_the_root_has_committed_comes_before_the_answer(
    between, pings, monkeypatch, method
):
    """Also where the server between has not heard of it when it is asked."""
    root, storage, middle = between(server_sync=True)
    leaf, writer = middle.connect(), root.connect()
    asked, gate, invalidated = pings(root), Gate(), storage._view.invalidated

    def late(tid, oids):
        gate.stop_here()
        invalidated(tid, oids)

    monkeypatch.setattr(storage._view, "invalidated", late)
    try:
        tid = writer.commit(1)
        gate.wait_until_reached()
        call = leaf.call(method)
        wait_until(lambda: asked)
    finally:
        gate.open()
    answer = leaf.wait_for(call)
    assert leaf.invalidations() == [tid]
    assert answer == (tid if method == "lastTransaction" else None)


def test_root_is_left_alone_by_default(between, pings):
    root, _, middle = between()
    asked = pings(root)
    middle.connect().ask("ping")
    assert asked == []


def test_new_client_does_not_depend_on_the_root(between, pings):
    root, _, middle = between(server_sync=True)
    asked = pings(root)
    middle.connect()
    assert asked == []
