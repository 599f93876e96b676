"""A server in this process that has a monitor."""

import contextlib
import http.client
import json

import pytest

from tests.storageserver.conftest import ServerForTests


class MonitoredServer(ServerForTests):
    """What it tells over HTTP, besides."""

    def __init__(self, stack, storage=None, **options):
        super().__init__(stack, storage, monitor_address=("127.0.0.1", 0), **options)
        self.monitor = self.server.monitor_address

    def get(self, path, method="GET"):
        """Return (status, headers, body as text)."""
        connection = http.client.HTTPConnection(*self.monitor, timeout=20)
        try:
            connection.request(method, path)
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read().decode()
        finally:
            connection.close()

    def status(self):
        """Return what is told of the one storage."""
        (found,) = json.loads(self.get("/status.json")[2])["storages"]
        return found


@pytest.fixture
def serve():
    """Call it with settings to get a `MonitoredServer`."""
    with contextlib.ExitStack() as stack:
        yield lambda storage=None, **options: MonitoredServer(stack, storage, **options)


@pytest.fixture
def server(serve):
    """A server with the default settings."""
    return serve()
