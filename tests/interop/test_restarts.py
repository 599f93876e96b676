"""Servers that are restarted under the other kind's clients."""

import signal
import threading

import pytest
import transaction
import ZEO
from ZODB.POSException import ConflictError

import zeolite
from tests.support import accounts
from tests.support.processes import ServerProcess, free_port
from tests.support.waiting import wait_until

CONF = """
<zeo>
  address 127.0.0.1:{port}
</zeo>
<filestorage>
  path Data.fs
</filestorage>
<eventlog>
  level info
  <logfile>
    path STDERR
    format %(message)s
  </logfile>
</eventlog>
"""

#: Server's module, and what it says when it is ready.
SERVERS = {
    "zeolite": ("zeolite", r"serving .* at "),
    "zeo": ("ZEO.runzeo", r"listening on "),
}
RESTARTS = 3


class Restarted:
    """A server that comes back at the same port."""

    def __init__(self, kind, directory):
        self._kind = kind
        self._directory = directory
        self.port = free_port()
        (directory / "conf").write_text(CONF.format(port=self.port))
        self._server = None

    def start(self):
        module, ready = SERVERS[self._kind]
        for _ in range(20):
            self._server = ServerProcess(
                "-C", "conf", cwd=self._directory, module=module
            )
            try:
                self._server.wait_for(ready)
                return
            except AssertionError:  # Somebody may have got the port for himself.
                self._server.close()
        raise AssertionError("the port is not to be had")

    def restart(self):
        self._server.kill(signal.SIGKILL)
        self.start()

    def close(self):
        self._server.close()


@pytest.fixture(params=[(zeolite, "zeo"), (ZEO, "zeolite"), (zeolite, "zeolite")])
def restarted(request, tmp_path):
    """A package for clients, and a server, of another kind or the same."""
    package, kind = request.param
    server = Restarted(kind, tmp_path)
    server.start()
    yield package, server
    server.close()


def test_client_comes_back(restarted):
    package, server = restarted
    writer, reader = (package.DB(("127.0.0.1", server.port)) for _ in range(2))
    managers = [transaction.TransactionManager() for _ in range(2)]
    connections = [db.open(manager) for db, manager in zip((writer, reader), managers)]
    for number in range(RESTARTS):
        again(managers[0], lambda n=number: connections[0].root().update(x=n))
        wait_until(lambda n=number: value(managers[1], connections[1]) == n)
        server.restart()
        # What is committed while the reader is still away.
        again(managers[0], lambda n=number: connections[0].root().update(x=n + 100))
        wait_until(lambda n=number: value(managers[1], connections[1]) == n + 100)
    for connection, db in zip(connections, (writer, reader)):
        connection.close()
        db.close()


def again(manager, change):
    """Do a transaction until it works."""
    while True:
        try:
            manager.begin()
            change()
            manager.commit()
            return
        except (transaction.interfaces.TransientError, ConflictError):
            manager.abort()


def value(manager, connection):
    """What is read now, None while it cannot be."""
    try:
        manager.begin()
        return connection.root().get("x")
    except transaction.interfaces.TransientError:
        manager.abort()
        return None


def test_nothing_is_lost_at_a_restarted_zeo_server(tmp_path):
    server = Restarted("zeo", tmp_path)
    server.start()
    db = zeolite.DB(server.port, disconnect_poll=0.05)
    accounts.set_up(db, 3)
    committed = threading.Semaphore(0)
    workers = [
        accounts.Worker(db, number, number, lambda number: committed.release())
        for number in range(3)
    ]
    for worker in workers:
        worker.start()
    try:
        for _ in range(RESTARTS):
            for _ in range(20):
                assert committed.acquire(timeout=60)
            server.restart()
        for _ in range(20):
            assert committed.acquire(timeout=60)
    finally:
        for worker in workers:
            worker.stop()
        for worker in workers:
            worker.join()
    assert [problem for worker in workers for problem in worker.problems] == []
    fresh = zeolite.client(server.port)
    assert accounts.wrong_in_cache(db.storage, fresh) == []
    fresh.close()
    with db.transaction() as connection:
        root = connection.root()
        assert accounts.counters(root, 3) == [worker.done for worker in workers]
    db.close()
    server.close()
