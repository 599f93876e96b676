"""Servers are killed and PostgreSQL crashes while everybody commits.

Three servers, six processes of clients, and two programs that use RelStorage without
a server; in the slow one PostgreSQL also ends some connections now and then.  Sums are
right and pairs are equal in every read, and nothing that was acknowledged is lost or
done twice.  What a program with RelStorage counts as "in doubt" is any error of the
database, while it is away as quickly as they come.  `ZEOLITE_STORM_SECONDS` and
`ZEOLITE_STORM_SEED` set how long the slow one takes, and how it goes.
`ZEOLITE_STORM_OPTIONS` (JSON) has other numbers: {"servers": 0, "clients": 0,
"plain": 4} are programs with RelStorage alone, and "cache_local_mb" is the size of
their caches.  With such a cache RelStorage 4.3.0 reads sums that are wrong, see
`alone`, so they have none.
"""

import collections
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest
import ZODB

from tests.support.accounts import TOTAL, counters, total
from tests.support.processes import ServerProcess, free_port

from .storm import set_up_all

WORKERS = 2


class Servers:
    """Some of them, on ports that they keep."""

    def __init__(self, database, directory, number):
        self._directory = directory
        self.ports = [free_port() for _ in range(number)]
        for port in self.ports:
            (directory / f"{port}.conf").write_text(
                f"<zeolite>\naddress 127.0.0.1:{port}\npoll-interval 0.1\n"
                f"</zeolite>\n{database.section()}"
            )
        self.running = {port: self._start(port) for port in self.ports}

    def _start(self, port):
        server = ServerProcess("-C", f"{port}.conf", cwd=self._directory)
        try:
            server.address()
        except BaseException:
            server.close()
            raise
        return server

    def kill(self, port):
        self.running[port].kill(signal.SIGKILL)
        self.running[port].close()
        self.running[port] = self._start(port)

    def close(self):
        for server in self.running.values():
            server.close()


def start(*args):
    args = [sys.executable, "-m", "tests.relstorage.storm", *map(str, args)]
    return subprocess.Popen(
        args, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def read_until(process, beginning):
    """Return the next line that begins so: RelStorage writes to stdout as well."""
    for line in process.stdout:
        if line.startswith(beginning):
            return line
    raise AssertionError("a process has ended too early")


def storm(
    database,
    directory,
    seconds,
    seed,
    restarts,
    servers=3,
    clients=6,
    plain=2,
    breaks=0.0,
    outage=0,
    **options,
):
    """Without PostgreSQL for `outage` seconds in each restart.

    `breaks` is how many of the other events are broken connections, a share of one.
    """
    chance = random.Random(seed)
    section = directory / "plain.conf"
    section.write_text(database.section(**options))
    db = ZODB.DB(database.storage())
    set_up_all(db, (clients + plain) * WORKERS)
    db.close()
    servers = Servers(database, directory, servers)
    processes = []
    happened = collections.Counter()
    try:
        for number in range(clients + plain):
            where = ("zeolite", *servers.ports)
            if number >= clients:
                where = ("plain", section)
            first = number * WORKERS
            processes.append(start(first, WORKERS, seed + first, *where))
        for process in processes:
            read_until(process, "ready")  # To open a database it has to be there.
        begin = time.monotonic()
        due = [begin + seconds * (n + 1) / (restarts + 1) for n in range(restarts)]
        while due or time.monotonic() < begin + seconds:
            time.sleep(chance.uniform(0.2, 1.5))
            if due and time.monotonic() > due[0]:
                due.pop(0)
                database.cluster.stop()
                time.sleep(outage)
                database.cluster.start()
                happened["restarts"] += 1
            elif chance.random() < breaks:
                pids = database.cluster.connected(database.name)
                some = chance.sample(pids, chance.randint(0, len(pids)))
                database.cluster.disconnect(some)
                happened["broken connections"] += len(some)
            elif servers.ports:
                servers.kill(chance.choice(servers.ports))
                happened["kills"] += 1
        for process in processes:
            process.stdin.write("stop\n")
            process.stdin.flush()
        for process in processes:
            read_until(process, "stopped")
        done, problems = {}, []
        for process in processes:
            process.stdin.close()
            found = json.loads(read_until(process, "{"))
            problems += found["problems"]
            happened.update(found["counts"])
            done.update({int(number): n for number, n in found["done"].items()})
            process.wait()
    finally:
        for process in processes:
            process.kill()
            process.wait()
            process.stdout.close()
            with contextlib.suppress(OSError):
                process.stdin.close()
        servers.close()
    print(f"\n{seconds} s, seed {seed}: {dict(happened)}")
    db = ZODB.DB(database.storage())
    connection = db.open()
    assert problems == [], problems[:4]
    root = connection.root()
    assert total(root) == TOTAL, total(root)
    assert root["left"].value == root["right"].value
    assert counters(root, len(done)) == [done[number] for number in sorted(done)]
    connection.close()
    assert happened["commits"] > 0
    assert happened["restarts"] == restarts
    assert not servers.ports or happened["kills"] > 0
    assert not breaks or happened["broken connections"] > 0


@pytest.mark.timeout(480)
@pytest.mark.parametrize("keep_history", [True], ids=["history"], indirect=True)
def test_short_storm(database, tmp_path):
    storm(database, tmp_path, seconds=5, seed=1, restarts=1, cache_local_mb=0)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_long_storm(database, tmp_path):
    seconds = float(os.environ.get("ZEOLITE_STORM_SECONDS", "120"))
    seed = int(os.environ.get("ZEOLITE_STORM_SEED", "1"))
    options = json.loads(os.environ.get("ZEOLITE_STORM_OPTIONS", "{}"))
    defaults = {"restarts": 2, "breaks": 0.3, "outage": 4, "cache_local_mb": 0}
    storm(database, tmp_path, seconds, seed, **{**defaults, **options})
