"""A process of workers on a shared database, through servers or without.

    python -m tests.relstorage.storm FIRST_WORKER WORKERS SEED zeolite PORT...
    python -m tests.relstorage.storm FIRST_WORKER WORKERS SEED plain FILE

Like tests.support.accounts, with two objects that are always equal besides.  FILE has
a `<relstorage>` section.  It writes "ready" when the database is open.  A line on stdin
stops the workers; after "stopped" and the end of stdin it writes what it has found, as
JSON.
"""

import collections
import contextlib
import functools
import json
import logging
import sys

import transaction
import ZODB.config

import zeolite
from tests.support.accounts import (
    Number,
    Worker,
    end_when_told,
    set_up,
    wrong_in_cache,
)
from zeolite.errors import ClientDisconnected, CommitInDoubt


def set_up_all(db, workers):
    set_up(db, workers)
    with db.transaction() as connection:
        for name in ("left", "right"):
            connection.root()[name] = Number(0)


class PairWorker(Worker):
    """Also looks at two objects, and changes both now and then."""

    def _transact(self, connection):
        if not self._in_doubt and self._random.random() < 0.2:
            self._manager.begin()
            root = connection.root()
            left, right = root["left"], root["right"]
            if left.value != right.value:
                self.problems.append(f"{left.value} is not {right.value}")
            self.counts["pairs"] += 1
            left.value += 1
            right.value += 1
            self._manager.commit()
        else:
            super()._transact(connection)


class Manager(transaction.TransactionManager):
    """One whose transactions can be ended when the database is gone."""

    def abort(self):
        with contextlib.suppress(Exception):
            super().abort()


class PlainWorker(PairWorker):
    """One to whom the database's own errors come."""

    def __init__(self, *args):
        super().__init__(*args)
        self._manager = Manager()

    def _transact(self, connection):
        try:
            super()._transact(connection)
        except Exception as error:
            # It may have been in the middle of a commit, whatever the error is.
            raise CommitInDoubt(repr(error)) from error


def open_connection(open, manager):
    try:
        return open(manager)
    except Exception as error:
        raise ClientDisconnected(repr(error)) from error


def main(first, number, seed, kind, *where):
    logging.disable()
    if kind == "zeolite":
        addresses = [("127.0.0.1", int(port)) for port in where]
        addresses = (
            addresses[first % len(addresses) :] + addresses[: first % len(addresses)]
        )
        db = zeolite.DB(addresses, disconnect_poll=0.1, cache_size=200_000)
        class_ = PairWorker
    else:
        with open(where[0]) as file:
            db = ZODB.DB(ZODB.config.storageFromFile(file))
        db.storage.ping = lambda: None
        db.open = functools.partial(open_connection, db.open)
        class_ = PlainWorker
    workers = [class_(db, first + n, seed + n) for n in range(number)]
    for worker in workers:
        worker.start()
    print("ready", flush=True)
    problems = end_when_told(workers)
    if kind == "zeolite":
        fresh = zeolite.client(addresses)
        problems += wrong_in_cache(db.storage, fresh)
        fresh.close()
    db.close()
    counts = sum((worker.counts for worker in workers), collections.Counter())
    done = {worker._number: worker.done for worker in workers}
    print(json.dumps({"done": done, "counts": counts, "problems": problems}))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:4]), *sys.argv[4:])
