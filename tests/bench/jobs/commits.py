"""Committing at the level of the storage, as `ZODB.Connection` does it."""

import time

from ZODB.Connection import TransactionMetaData
from ZODB.utils import z64

from ..databases import RECORD_SIZE
from ..systems import open_storage

_DATA = b"x" * RECORD_SIZE


def commits(target, objects, count, warm_up):
    """Change the same objects again and again; the result is seconds a commit."""
    storage = open_storage(target)
    oids = [storage.new_oid() for _ in range(objects)]
    serial = z64
    for _ in range(warm_up):
        serial = _commit(storage, oids, serial)

    def measure(serial=serial):
        start = time.perf_counter()
        for _ in range(count):
            serial = _commit(storage, oids, serial)
        seconds = time.perf_counter() - start
        storage.close()
        return seconds / count

    return measure


def _commit(storage, oids, serial):
    metadata = TransactionMetaData()
    storage.tpc_begin(metadata)
    for oid in oids:
        storage.store(oid, serial, _DATA, "", metadata)
    storage.tpc_vote(metadata)
    return storage.tpc_finish(metadata)
