"""Copying all transactions from one storage to another."""

import contextlib
import os
import shutil
import tempfile

from ZODB.blob import is_blob_record
from ZODB.interfaces import IBlobStorage, IStorageRestoreable
from ZODB.POSException import POSKeyError


def copy_transactions(source, destination):
    """Store all of `source`'s transactions in `destination`.

    They keep their tids if the destination can restore.  Blobs come along where
    both storages have them.
    """
    store = _Restore(destination)
    if not IStorageRestoreable.providedBy(destination):
        store = _Store(destination)
    blobs = IBlobStorage.providedBy(source) and IBlobStorage.providedBy(destination)
    for transaction in source.iterator():
        destination.tpc_begin(transaction, transaction.tid, transaction.status)
        try:
            for record in transaction:
                path = blobs and _blob_copy(source, destination, record)
                if path:
                    with _removed_on_error(path):
                        store.blob(record, path, transaction)
                else:
                    store.record(record, transaction)
            destination.tpc_vote(transaction)
            destination.tpc_finish(transaction)
        except BaseException:
            destination.tpc_abort(transaction)
            raise


class _Restore:
    """Stores records with the tids that they have."""

    def __init__(self, storage):
        self._storage = storage

    def record(self, record, transaction):
        self._storage.restore(
            record.oid, record.tid, record.data, "", record.data_txn, transaction
        )

    def blob(self, record, path, transaction):
        """The file at `path` is the storage's from here on, if there is no error."""
        self._storage.restoreBlob(
            record.oid, record.tid, record.data, path, record.data_txn, transaction
        )


class _Store:
    """Stores records anew, for storages that cannot restore."""

    def __init__(self, storage):
        self._storage = storage
        self._serials = {}

    def record(self, record, transaction):
        serial = self._serials.get(record.oid)
        self._storage.store(record.oid, serial, record.data, "", transaction)
        self._serials[record.oid] = record.tid

    def blob(self, record, path, transaction):
        serial = self._serials.get(record.oid)
        self._storage.storeBlob(record.oid, serial, record.data, path, "", transaction)
        self._serials[record.oid] = record.tid


@contextlib.contextmanager
def _removed_on_error(path):
    try:
        yield
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        raise


def _blob_copy(source, destination, record):
    """Return the path of a copy of the record's blob, None if it has none."""
    if not is_blob_record(record.data):
        return None
    try:
        blob = source.openCommittedBlobFile(record.oid, record.tid)
    except POSKeyError:
        return None  # It was packed, or belongs to another transaction.
    with blob:
        handle, path = tempfile.mkstemp(".tmp", dir=destination.temporaryDirectory())
        with _removed_on_error(path), open(handle, "wb") as file:
            shutil.copyfileobj(blob, file, 1024 * 1024)
    return path
