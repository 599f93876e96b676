"""A server tells when it begins to serve and when it has stopped."""

import pytest
import ZODB.event

from tests.support.blocking import BlockingStorage
from tests.support.rawclient import Closed as ClosedByServer
from tests.support.rawclient import RawClient
from zeolite.interfaces import Closed, Serving
from zeolite.storageserver.server import StorageServer


@pytest.fixture
def subscribe(monkeypatch):
    """Call it with a function that gets all events during the test.

    As zope.event would, which `ZODB.event` uses where it is installed.
    """
    return lambda function: monkeypatch.setattr(ZODB.event, "notify", function)


@pytest.fixture
def server():
    return StorageServer(("127.0.0.1", 0), {"1": BlockingStorage()})


def test_serving_and_closed(subscribe, server):
    seen = []

    def notice(event):
        if isinstance(event, Serving):
            # Whoever is told can connect.
            client = RawClient(event.address)
            client.close()
        seen.append((type(event), event.server))

    subscribe(notice)
    server.start()
    assert seen == [(Serving, server)]
    client = RawClient(server.address)
    server.stop()
    assert seen[1:] == [(Closed, server)]
    with pytest.raises(ClosedByServer):
        client.read_frame()
    client.close()


class Stubborn(BlockingStorage):
    """Cannot be closed at once, as a file storage whose disk is full."""

    def __init__(self):
        super().__init__()
        self.closings = 0

    def close(self):
        self.closings += 1
        if self.closings == 1:
            raise OSError(28, "No space left on device")


def test_storage_that_cannot_be_closed(subscribe, caplog):
    """It keeps no other from being closed, and whoever waits for the end is told."""
    seen, stubborn, other = [], Stubborn(), BlockingStorage()
    server = StorageServer(("127.0.0.1", 0), {"1": stubborn, "2": other})
    subscribe(seen.append)
    server.start()
    server.stop()
    assert stubborn.closings == 2
    assert not other.opened()
    assert isinstance(seen[-1], Closed)
    (said,) = [r.getMessage() for r in caplog.records if r.levelname == "ERROR"]
    assert said == (
        "storage 1: closing it failed: OSError: [Errno 28] No space left on device"
    )


def test_real_port_is_told(subscribe, server):
    addresses = []
    subscribe(lambda event: addresses.append(getattr(event, "address", None)))
    server.start()
    assert addresses == [server.address]
    assert addresses[0][1] != 0
    server.stop()


def test_error_of_a_subscriber_is_the_starters(subscribe):
    import zeolite

    def fail(event):
        if isinstance(event, Serving):
            raise ValueError("not announced")

    subscribe(fail)
    with pytest.raises(ValueError, match="not announced"):
        zeolite.server()
