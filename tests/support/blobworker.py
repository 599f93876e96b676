"""Processes that tests of blobs kill.

    python -m tests.support.blobworker JOB PARAMETERS

`JOB` is a function below, `PARAMETERS` its arguments as JSON.  A process says on
stdout how far it is.
"""

import hashlib
import json
import os
import random
import sys
import time

import psutil
from transaction.interfaces import TransientError
from ZODB.blob import Blob
from ZODB.Connection import TransactionMetaData
from ZODB.POSException import POSKeyError
from ZODB.serialize import ObjectWriter
from ZODB.utils import load_current, p64, z64

import zeolite

MB = 1024 * 1024

RECORD = ObjectWriter().serialize(Blob())


def commit(storage, oid, content, serial=z64):
    """Commit a blob, bytes or an iterable of them, whose record has the digest."""
    path = os.path.join(storage.temporaryDirectory(), f"{time.monotonic_ns()}")
    digest = hashlib.sha256()
    with open(path, "wb") as file:
        for piece in [content] if isinstance(content, bytes) else content:
            file.write(piece)
            digest.update(piece)
    txn = TransactionMetaData()
    storage.tpc_begin(txn)
    try:
        record = RECORD + digest.digest()
        storage.storeBlob(oid, serial, record, path, "", txn)
        storage.tpc_vote(txn)
        return storage.tpc_finish(txn)
    except BaseException:
        storage.tpc_abort(txn)
        raise


def check(storage, oid):
    """Read a blob; return its size.  Raises `AssertionError` for another content."""
    record, serial = load_current(storage, oid)
    digest, size = hashlib.sha256(), 0
    with storage.openCommittedBlobFile(oid, serial) as file:
        while piece := file.read(MB):
            digest.update(piece)
            size += len(piece)
    assert digest.digest() == record[-32:], f"{oid.hex()} {serial.hex()} is wrong"
    return size


def _say(text):
    print(text, flush=True)


def use_cache(address, cache, size, largest, count):
    """Read and write `count` blobs of up to `largest` bytes at random, for ever."""
    storage = zeolite.client(
        tuple(address), blob_dir=cache, blob_cache_size=size, blob_cache_size_check=10
    )
    while True:
        oid = p64(random.randrange(1, count + 1))
        try:
            if random.random() < 0.3:
                serial = storage.getTid(oid)
                content = random.randbytes(random.randrange(largest))
                commit(storage, oid, content, serial)
                _say("written")
            else:
                check(storage, oid)
                _say("read")
        except (TransientError, POSKeyError) as error:
            # Another process was faster, or the blob is evicted again and again.
            _say(f"again: {type(error).__name__}")


def stop_in_transfer(address, cache, oid, content_size):
    """Store a blob and stop in the middle; with no size, load one."""

    def progress(kind, oid, done, total):
        if done >= MB:
            _say(kind)
            time.sleep(3600)

    storage = zeolite.client(tuple(address), blob_dir=cache, blob_progress=progress)
    oid = p64(oid)
    if content_size:
        commit(storage, oid, random.randbytes(content_size))
    else:
        storage.loadBlob(oid, load_current(storage, oid)[1])


def measure_memory(address, cache, megabytes):
    """Say how many bytes this process has grown at most, up and down."""
    process, most = psutil.Process(), 0

    def progress(*args):
        nonlocal most
        most = max(most, process.memory_info().rss)

    storage = zeolite.client(tuple(address), blob_dir=cache, blob_progress=progress)
    oid = p64(1)
    serial = commit(storage, oid, random.randbytes(MB))
    os.unlink(storage.loadBlob(oid, serial))
    storage.loadBlob(oid, serial)
    piece = random.randbytes(MB)
    before = process.memory_info().rss
    most = 0
    _say("begins")
    serial = commit(storage, oid, (piece for _ in range(megabytes)), serial)
    os.unlink(storage.loadBlob(oid, serial))
    assert check(storage, oid) == megabytes * MB
    _say(most - before)
    storage.close()


if __name__ == "__main__":
    job, parameters = sys.argv[1:]
    globals()[job](**json.loads(parameters))
