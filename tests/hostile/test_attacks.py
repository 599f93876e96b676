"""The scripts, against a server process: it goes on, stays small, gets rid of them."""

import os
import resource
import threading

import pytest
import transaction

import zeolite
from tests.hostile import attacks
from tests.support.processes import running
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

#: MB that the server may have in memory.
_MOST = 200


class Work(threading.Thread):
    """Loads and commits all the time; `done` is how often."""

    def __init__(self, address):
        super().__init__()
        self._address = address
        self._wanted = True
        self.done, self.error = 0, None
        self.start()

    def run(self):
        manager = transaction.TransactionManager()
        try:
            db = zeolite.DB(self._address)
            connection = db.open(manager)
            while self._wanted:
                connection.cacheMinimize()
                root = connection.root()
                assert root.get("n", 0) == self.done
                root["n"] = self.done + 1
                manager.commit()
                self.done += 1
            connection.close()
            db.close()
        except BaseException as error:
            self.error = error

    def stop(self):
        self._wanted = False
        self.join()
        assert self.error is None, self.error


@pytest.fixture(autouse=True)
def many_descriptors():
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[1], before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.fixture
def server(tmp_path):
    """A server that waits 5 seconds for strangers, and a client that works."""
    arguments = str(tmp_path / "Data.fs"), "handshake_timeout=5"
    with running(*arguments, cwd=tmp_path, module="tests.hostile.serving") as server:
        server.place = server.address()
        server.work = Work(server.place)
        wait_until(lambda: server.work.done or server.work.error)
        yield server
        before = server.work.done
        wait_until(lambda: server.work.done > before or server.work.error)
        server.work.stop()
        assert _status(server, "VmHWM") < _MOST * 1024


def _status(server, key):
    with open(f"/proc/{server.pid}/status") as file:
        (line,) = [line for line in file if line.startswith(key)]
    return int(line.split()[1])


@pytest.mark.parametrize("name", ["silent", "slow", "half", "large"])
def test_crowds_of_strangers_are_gone_after_the_deadline(server, name):
    before, threads = server.work.done, _status(server, "Threads")
    crowd = attacks.ATTACKS[name](server.place, patience=60)
    assert crowd.connected == crowd.wanted
    assert crowd.still_open == 0
    assert server.work.done > before
    wait_until(lambda: _status(server, "Threads") <= threads)
    print(name, *crowd.lines(), sep="\n  ")
    print(f"  {server.work.done - before} commits and loads of another client")
    print(f"  {_status(server, 'VmHWM') / 1024:.0f} MB at most")


def test_bombs_hurt_nobody(server):
    report = attacks.bombs(server.place)
    outcomes = {what: outcome for what, outcome in report.outcomes}
    assert len(outcomes) > 100
    assert "no answer" not in outcomes.values()
    before = server.work.done
    wait_until(lambda: server.work.done > before or server.work.error)
    files = os.listdir(os.path.dirname(f"/proc/{server.pid}/cwd/"))
    assert all(name.startswith("Data.fs") for name in files)
    print(*list(report.lines())[-4:], sep="\n")
    print(f"{_status(server, 'VmHWM') / 1024:.0f} MB at most")
