"""What can be staged, and how a storage is told of it once it is its turn.

Each operation is a function that takes the storage, the transaction's metadata, a dictionary to which it
adds the oids that it changes, and the arguments of the operation.  It returns what
was changed besides, or None.
"""

from ZODB.POSException import StorageError, UndoError
from ZODB.utils import maxtid

from .blobs import check_file


def begin(storage, metadata, tid, status):
    """Begin a transaction; `tid` and `status` are those of a recovered one.

    Raises `StorageError` unless it can follow the last one.
    """
    if tid is None:
        storage.tpc_begin(metadata)
        return
    last = storage.lastTransaction()
    if not last < tid < maxtid:
        raise StorageError(
            f"transaction {tid.hex()} cannot be stored after {last.hex()}"
        )
    # Not every storage takes all of it.
    storage.tpc_begin(metadata, tid, *() if status == " " else (status,))


def _store(storage, metadata, oids, oid, serial, data):
    storage.store(oid, serial, data, "", metadata)
    oids[oid] = None


def _restore(storage, metadata, oids, oid, serial, data, prev_txn):
    if data is None:
        # An object whose creation was undone.  Where its data might be is of no use
        # then, and a file storage cannot compare what is there with nothing.
        prev_txn = None
    storage.restore(oid, serial, data, "", prev_txn, metadata)
    oids[oid] = None


def _store_blob(storage, metadata, oids, oid, serial, data, path):
    check_file(path)
    storage.storeBlob(oid, serial, data, path, "", metadata)
    oids[oid] = None


def _restore_blob(storage, metadata, oids, oid, serial, data, prev_txn, path):
    check_file(path)
    storage.restoreBlob(oid, serial, data, path, prev_txn, metadata)
    oids[oid] = None


def _delete(storage, metadata, oids, oid, serial):
    storage.deleteObject(oid, serial, metadata)
    oids[oid] = None


def _check_current(storage, metadata, oids, oid, serial):
    storage.checkCurrentSerialInTransaction(oid, serial, metadata)


def _undo(storage, metadata, oids, transaction_id):
    try:
        undone = storage.undo(transaction_id, metadata)
    except (AssertionError, ValueError) as error:
        # Storages take it for granted that they have made this id themselves.
        raise UndoError(f"there is no transaction {transaction_id!r}") from error
    # A storage may tell here what it has undone, or only when it votes.
    return undone[1] if undone else ()


OPERATIONS = {
    "store": _store,
    "restore": _restore,
    "store_blob": _store_blob,
    "restore_blob": _restore_blob,
    "delete": _delete,
    "check": _check_current,
    "undo": _undo,
}

#: Operations whose last argument is a file that the storage takes over.
TAKE_FILES = ("store_blob", "restore_blob")
