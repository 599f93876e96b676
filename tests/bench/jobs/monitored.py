"""A server whose monitor comes and goes, and a client that keeps it busy.

Two servers that are alike differ by more than a monitor costs.  So this is one
server, which has all that `monitor-address` gives it or nothing of that.
"""

import sys
import threading
import time

from ZODB.Connection import TransactionMetaData
from ZODB.FileStorage import FileStorage
from ZODB.utils import maxtid, p64, z64

from zeolite.monitor.pages import Monitor
from zeolite.storageserver.measures import LOAD_BOUNDS, Histogram
from zeolite.storageserver.server import StorageServer

from ..databases import RECORD_SIZE
from ..systems import open_storage

#: Bytes; so little that what is loaded in turns is never in the cache.
_CACHE_SIZE = 20_000


def serve(path, port):
    """Serve a file; on each go have a monitor, or have none.

    The result is the monitor's port or None, the server's CPU time in seconds when it
    was asked and when it answers, and how many loads and commits there were.
    """
    server = StorageServer(("127.0.0.1", port), {"1": FileStorage(path)})
    server.start()
    [served] = server.storages
    monitor = None

    def measure(wanted):
        nonlocal monitor
        asked = time.process_time()
        if wanted and monitor is None:
            monitor = Monitor(("127.0.0.1", 0), server)
            monitor.start()
        elif monitor is not None and not wanted:
            monitor.close()
            monitor = None
        for session in served.sessions():
            session.load_times = Histogram(LOAD_BOUNDS) if wanted else None
        done = served.status()
        counts = {kind: done[kind] for kind in ("loads", "commits")}
        return monitor and monitor.address[1], asked, time.process_time(), counts

    return measure


def busy(target, kind, objects):
    """Load by four threads or commit by one, on each go for so many seconds.

    The result is how often, and the seconds it took.
    """
    storage = open_storage(target, cache_size=_CACHE_SIZE)
    if kind == "loads":
        work = [_loading(storage, range(first, objects, 4)) for first in range(1, 5)]
    else:
        work = [_committing(storage)]

    def run(step, barrier, deadline, counts):
        barrier.wait()
        count = 0
        while time.monotonic() < deadline:
            step()
            count += 1
        counts.append(count)

    def measure(seconds):
        barrier = threading.Barrier(len(work))
        counts = []
        start = time.monotonic()
        arguments = barrier, start + seconds, counts
        threads = [
            threading.Thread(target=run, args=(step, *arguments)) for step in work
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if len(counts) < len(work):
            sys.exit("a thread has failed")
        return sum(counts), time.monotonic() - start

    return measure


def _loading(storage, numbers):
    oids = [p64(number) for number in numbers]
    position = 0

    def step():
        nonlocal position
        storage.loadBefore(oids[position], maxtid)
        position = (position + 1) % len(oids)

    return step


def _committing(storage):
    oid, serial = storage.new_oid(), z64
    data = b"x" * RECORD_SIZE

    def step():
        nonlocal serial
        metadata = TransactionMetaData()
        storage.tpc_begin(metadata)
        storage.store(oid, serial, data, "", metadata)
        storage.tpc_vote(metadata)
        serial = storage.tpc_finish(metadata)

    return step
