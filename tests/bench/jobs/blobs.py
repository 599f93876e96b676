"""Blobs: sending, receiving, and what loads of another thread take meanwhile.

The floor is a copy of the file on the same disk.
"""

import os
import shutil
import statistics
import tempfile
import threading
import time

from ZODB.blob import Blob
from ZODB.Connection import TransactionMetaData
from ZODB.serialize import ObjectWriter
from ZODB.utils import maxtid, p64, z64

from ..systems import open_storage

_PIECE = os.urandom(1024 * 1024)


def copy(size):
    """Copy a file of `size` bytes; the result is seconds."""

    def measure():
        with tempfile.TemporaryDirectory() as directory:
            source = os.path.join(directory, "source")
            _fill(source, size)
            start = time.perf_counter()
            shutil.copyfile(source, os.path.join(directory, "copy"))
            return time.perf_counter() - start

    return measure


def transfer(target, size):
    """Upload a blob, and download it with an empty cache; the results are seconds."""
    writer = _Client(target)
    writer.store(_PIECE_SIZE)

    def measure():
        upload, oid, serial = writer.timed_store(size)
        writer.close()
        client = _Client(target)
        client.storage.ping()
        start = time.perf_counter()
        client.storage.loadBlob(oid, serial)
        download = time.perf_counter() - start
        client.close()
        return upload, download

    return measure


def blob_loads(target, size, count):
    """Load cold objects in one thread while another one transfers blobs.

    The results are medians in seconds: nothing else going on, during uploads,
    during downloads.
    """
    writer = _Client(target)
    oid, serial = writer.store(size)
    reader = _Client(target)

    def download():
        os.unlink(reader.storage.loadBlob(oid, serial))

    def measure():
        # Each object is loaded once by each client, so that it is cold.
        quiet = _median(reader.storage, range(1, count + 1))
        during_upload = _meanwhile(
            lambda: writer.store(size),
            lambda: _median(writer.storage, range(1, count + 1)),
        )
        during_download = _meanwhile(
            download,
            lambda: _median(reader.storage, range(count + 1, 2 * count + 1)),
        )
        writer.close()
        reader.close()
        return quiet, during_upload, during_download

    return measure


def _median(storage, numbers):
    """Return the median of the seconds that loading objects takes."""
    seconds = []
    for number in numbers:
        start = time.perf_counter()
        storage.loadBefore(p64(number), maxtid)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def _meanwhile(transfer, measure):
    """Return what `measure` does while `transfer` is done again and again."""
    done, began = threading.Event(), threading.Event()
    failures = []

    def run():
        try:
            while not done.is_set():
                began.set()
                transfer()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    began.wait()
    time.sleep(0.2)  # Until the transfer is under way.
    try:
        return measure()
    finally:
        done.set()
        thread.join()
        if failures:
            raise failures[0]


_PIECE_SIZE = len(_PIECE)


class _Client:
    """A client storage with an empty cache directory of its own."""

    def __init__(self, target):
        self._directory = tempfile.TemporaryDirectory()
        self.storage = open_storage(target, blob_dir=self._directory.name)
        self._record = ObjectWriter().serialize(Blob())

    def store(self, size):
        """Commit a new blob; return (oid, serial)."""
        return self.timed_store(size)[1:]

    def timed_store(self, size):
        """Like `store`; return (seconds, oid, serial)."""
        path = os.path.join(self.storage.temporaryDirectory(), "new")
        _fill(path, size)
        oid = self.storage.new_oid()
        metadata = TransactionMetaData()
        start = time.perf_counter()
        self.storage.tpc_begin(metadata)
        self.storage.storeBlob(oid, z64, self._record, path, "", metadata)
        self.storage.tpc_vote(metadata)
        tid = self.storage.tpc_finish(metadata)
        return time.perf_counter() - start, oid, tid

    def close(self):
        self.storage.close()
        self._directory.cleanup()


def _fill(path, size):
    with open(path, "wb") as file:
        for _ in range(size // _PIECE_SIZE):
            file.write(_PIECE)
