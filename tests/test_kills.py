"""A server that is killed again and again, and clients that notice nothing else.

`ZEOLITE_KILLS` says how often it is killed in the slow test.
"""

import collections
import json
import os
import queue
import random
import signal
import subprocess
import sys
import threading

import pytest
import ZODB
from ZODB.FileStorage import FileStorage

import zeolite

from .support import accounts
from .support.processes import ServerProcess, free_port

KILLS = int(os.environ.get("ZEOLITE_KILLS", "100"))

#: How many threads work in each of the processes.
PROCESSES = (3, 3, 2)
WORKERS = sum(PROCESSES)

CONF = """
<zeolite>
  address 127.0.0.1:{port}
</zeolite>
<filestorage>
  path Data.fs
</filestorage>
"""


class Clients:
    """A process in which some workers work."""

    def __init__(self, port, first, number, seed, commits):
        arguments = map(str, ("127.0.0.1", port, first, number, seed))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.accounts", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._commits = commits
        self._result = None
        self._stopped = threading.Event()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self):
        for line in self._process.stdout:
            if line.startswith("{"):
                self._result = json.loads(line)
            elif line == "stopped\n":
                self._stopped.set()
            else:
                self._commits.put(int(line))

    def stop(self):
        """Have them commit no more."""
        self._process.stdin.write("stop\n")
        self._process.stdin.flush()
        assert self._stopped.wait(60)

    def finish(self):
        """End the process; return what it has found."""
        self._process.stdin.close()
        self._process.wait(60)
        self._reader.join()
        self._process.stdout.close()
        return self._result

    def close(self):
        if self._process.poll() is None:
            self._process.kill()
            self.finish()


def kill_again_and_again(directory, kills, seed):
    """Return (counts, problems) of all workers together."""
    rng = random.Random(seed)
    port = free_port()
    (directory / "zeolite.conf").write_text(CONF.format(port=port))
    commits = queue.SimpleQueue()

    def start():
        for _ in range(20):
            server = ServerProcess("-C", "zeolite.conf", cwd=directory)
            try:
                server.address()
                return server
            except AssertionError:  # A client may have got the port for itself.
                server.close()
        raise AssertionError("the port is not to be had")

    def wait_for_all():
        """Wait until each worker has committed once more."""
        while not commits.empty():
            commits.get()
        missing = set(range(WORKERS))
        while missing:
            missing.discard(commits.get(timeout=60))

    server, clients = start(), []
    try:
        db = zeolite.DB(port)
        accounts.set_up(db, WORKERS)
        db.close()
        first = 0
        for number in PROCESSES:
            clients.append(Clients(port, first, number, seed, commits))
            first += number
        for _ in range(kills):
            wait_for_all()
            for _ in range(rng.randrange(20)):
                commits.get(timeout=60)
            server.kill(signal.SIGKILL)
            server = start()
        wait_for_all()
        for client in clients:
            client.stop()
        results = [client.finish() for client in clients]
    finally:
        for client in clients:
            client.close()
        server.close()
    return look_at(directory, results)


def look_at(directory, results):
    counts, problems, done = collections.Counter(), [], {}
    for result in results:
        counts.update(result["counts"])
        problems += result["problems"]
        done.update(result["done"])
    db = ZODB.DB(FileStorage(str(directory / "Data.fs")))
    with db.transaction() as connection:
        root = connection.root()
        if accounts.total(root) != accounts.TOTAL:
            problems.append("the sum is wrong in the end")
        found = dict(enumerate(accounts.counters(root, WORKERS)))
    db.close()
    if found != {int(number): count for number, count in done.items()}:
        problems.append(f"{found} in the end, {done} were acknowledged")
    return counts, problems


def test_killed_a_few_times(tmp_path):
    counts, problems = kill_again_and_again(tmp_path, 3, seed=1)
    print(dict(counts))
    assert problems == []
    assert counts["disconnected"]


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_killed_many_times(tmp_path):
    counts, problems = kill_again_and_again(tmp_path, KILLS, seed=2)
    print(KILLS, "kills:", dict(counts))
    assert problems == []
