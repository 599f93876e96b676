"""Loading: from the server, from the server ahead of time, from the client's cache.

A new client storage has an empty cache, so whatever it loads first is cold.
"""

import threading
import time

import transaction
import ZODB
from ZODB.utils import maxtid, p64

from ..systems import open_storage

#: Objects loaded before anything is measured; the measured ones come after them.
WARM_UP = 200


def cold_loads(target, threads, count):
    """Load objects by several threads on one storage; the result is start and end."""
    storage = open_storage(target)
    _load(storage, _oids(0, WARM_UP))
    oids = _oids(WARM_UP, count)
    barrier = threading.Barrier(threads)
    starts, ends = [], []

    def run(part):
        barrier.wait()
        starts.append(time.monotonic())
        _load(storage, part)
        ends.append(time.monotonic())

    def measure():
        running = [
            threading.Thread(target=run, args=(oids[number::threads],))
            for number in range(threads)
        ]
        for thread in running:
            thread.start()
        for thread in running:
            thread.join()
        storage.close()
        if len(ends) < threads:
            raise RuntimeError("a thread has failed")
        return min(starts), max(ends)

    return measure


def cold_transactions(target, count, **options):
    """Open a connection, read an object and close it, again and again.

    That is what applications do.  The result is start and end.  `options` are for
    client storages.
    """
    db = ZODB.DB(open_storage(target, **options))
    manager = transaction.TransactionManager(explicit=True)

    def read(oids):
        for oid in oids:
            manager.begin()
            connection = db.open(manager)
            connection.get(oid)["text"]
            manager.abort()
            connection.close()

    read(_oids(0, WARM_UP))
    oids = _oids(WARM_UP, count)

    def measure():
        start = time.monotonic()
        read(oids)
        end = time.monotonic()
        db.close()
        return start, end

    return measure


def prefetched_loads(target, batches, size):
    """Announce objects and load them, batch by batch; the result is seconds each."""
    storage = open_storage(target)
    _load_prefetched(storage, _oids(0, WARM_UP))
    parts = [_oids(WARM_UP + number * size, size) for number in range(batches)]

    def measure():
        start = time.perf_counter()
        for part in parts:
            _load_prefetched(storage, part)
        seconds = time.perf_counter() - start
        storage.close()
        return seconds / batches

    return measure


def warm_loads(target, count, repeat):
    """Load again what was loaded before; the result is seconds for each load."""
    storage = open_storage(target)
    oids = _oids(0, count)
    _load(storage, oids)
    _load(storage, oids)

    def measure():
        start = time.perf_counter()
        for _ in range(repeat):
            _load(storage, oids)
        seconds = time.perf_counter() - start
        storage.close()
        return seconds / (repeat * count)

    return measure


def _oids(skip, count):
    return [p64(number) for number in range(skip + 1, skip + count + 1)]


def _load(storage, oids):
    load = storage.loadBefore
    for oid in oids:
        load(oid, maxtid)


def _load_prefetched(storage, oids):
    storage.prefetch(oids, maxtid)
    _load(storage, oids)
