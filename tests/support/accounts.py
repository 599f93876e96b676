"""Money that is moved between accounts: what committers and readers must see.

The sum of all accounts is the same at all times.  Each worker counts its commits
in an object of its own, in the same transactions, so that a commit which was
acknowledged and lost, or done twice, shows.

    python -m tests.support.accounts HOST PORT FIRST_WORKER WORKERS SEED

runs workers in a process of its own.  It writes a worker's number on a line for
each of its commits.  A line on its stdin stops the workers, after which it writes
"stopped".  At the end of its stdin, when nobody commits any more, it looks at its
cache and writes what it has found, as JSON.
"""

import collections
import json
import logging
import random
import sys
import threading

import transaction
from persistent import Persistent
from ZODB.POSException import ConflictError, ReadConflictError
from ZODB.utils import maxtid

import zeolite
from zeolite.errors import ClientDisconnected, CommitInDoubt

ACCOUNTS, BALANCE = 30, 100
TOTAL = ACCOUNTS * BALANCE


class Number(Persistent):
    def __init__(self, value):
        self.value = value


def set_up(db, workers):
    """Make the accounts, and counters for so many workers."""
    with db.transaction() as connection:
        root = connection.root()
        for number in range(ACCOUNTS):
            root[f"account {number}"] = Number(BALANCE)
        for number in range(workers):
            root[f"counter {number}"] = Number(0)


def accounts(root):
    return [root[f"account {number}"] for number in range(ACCOUNTS)]


def total(root):
    return sum(account.value for account in accounts(root))


def counters(root, workers):
    return [root[f"counter {number}"].value for number in range(workers)]


class Worker(threading.Thread):
    """Moves money and looks at all accounts until it is told to `stop`.

    `counts` says what happened how often, `problems` what must not.  `committed`
    is called after each commit with the worker's number.
    """

    def __init__(self, db, number, seed, committed=lambda number: None):
        super().__init__(name=f"worker {number}")
        self._db = db
        self._number = number
        self._random = random.Random(seed)
        self._committed = committed
        self._wanted = True
        self._manager = transaction.TransactionManager()
        #: The commits that were acknowledged, or have turned out to have happened.
        self.done = 0
        self._in_doubt = False
        self.counts = collections.Counter()
        self.problems = []

    def stop(self):
        self._wanted = False

    def run(self):
        connection = None
        try:
            while self._wanted or self._in_doubt:
                try:
                    if connection is None:
                        connection = self._db.open(self._manager)
                    self._transact(connection)
                except (ConflictError, ReadConflictError):
                    self.counts["conflicts"] += 1
                except ClientDisconnected:
                    self.counts["disconnected"] += 1
                except CommitInDoubt:
                    self.counts["in doubt"] += 1
                    self._in_doubt = True
                finally:
                    self._manager.abort()
        except Exception as error:
            self.problems.append(f"worker {self._number}: {error!r}")
        finally:
            if connection is not None:
                connection.close()

    def _transact(self, connection):
        if self._in_doubt:
            self._db.storage.ping()  # What may have happened is known then.
        self._manager.begin()
        root = connection.root()
        if self._random.random() < 0.3:
            connection.cacheMinimize()
        found = total(root)
        if found != TOTAL:
            self.problems.append(f"worker {self._number}: a sum of {found}")
        counter = root[f"counter {self._number}"]
        self._check(counter.value)
        if self._random.random() < 0.3:
            self.counts["reads"] += 1
            return
        source, target = self._random.sample(accounts(root), 2)
        source.value -= 1
        target.value += 1
        counter.value += 1
        self._manager.commit()
        self.done += 1
        self.counts["commits"] += 1
        self._committed(self._number)

    def _check(self, count):
        if self._in_doubt and count == self.done + 1:
            self.done = count
            self.counts["in doubt, happened"] += 1
        self._in_doubt = False
        if count != self.done:
            self.problems.append(
                f"worker {self._number}: {count} commits, of {self.done} done"
            )


def wrong_in_cache(storage, fresh):
    """Return what a storage has in its cache and another one reads differently."""
    storage.ping()
    oids = {oid for oid, _ in storage._cache.contents()}
    return [
        f"{oid.hex()} is wrong in the cache"
        for oid in oids
        if storage.loadBefore(oid, maxtid) != fresh.loadBefore(oid, maxtid)
    ]


def end_when_told(workers):
    """Stop and say so, at a line on stdin; at its end, return what was wrong."""
    sys.stdin.readline()
    for worker in workers:
        worker.stop()
    for worker in workers:
        worker.join()
    print("stopped", flush=True)
    sys.stdin.read()
    return [problem for worker in workers for problem in worker.problems]


def work(address, first, number, seed):
    logging.disable()  # Lost connections are what this is about.
    lock = threading.Lock()

    def committed(worker):
        with lock:
            print(worker, flush=True)

    db = zeolite.DB(
        address, disconnect_poll=0.1, cache_size=200_000, client_label=f"{first}"
    )
    workers = [
        Worker(db, worker, seed + worker, committed)
        for worker in range(first, first + number)
    ]
    for worker in workers:
        worker.start()
    problems = end_when_told(workers)
    fresh = zeolite.client(address)
    problems += wrong_in_cache(db.storage, fresh)
    fresh.close()
    db.close()
    problems += [
        f"thread {thread.name} is left over"
        for thread in threading.enumerate()
        if thread is not threading.main_thread()
    ]
    counts = sum((worker.counts for worker in workers), collections.Counter())
    done = {worker._number: worker.done for worker in workers}
    print(json.dumps({"done": done, "counts": counts, "problems": problems}))


if __name__ == "__main__":
    host, *numbers = sys.argv[1:]
    port, first, number, seed = map(int, numbers)
    work((host, port), first, number, seed)
