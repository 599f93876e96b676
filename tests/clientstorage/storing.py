"""Blobs that tests of a client store, and those that they find."""

import os

from ZODB.blob import Blob
from ZODB.Connection import TransactionMetaData
from ZODB.serialize import ObjectWriter
from ZODB.utils import p64

OID = p64(7)
TID = p64(5)
RECORD = ObjectWriter().serialize(Blob())
STORAGE = "<filestorage>\npath {0}/Data.fs\nblob-dir {0}/blobs\n</filestorage>\n"


def read(path):
    with open(path, "rb") as file:
        return file.read()


def begin(storage):
    txn = TransactionMetaData()
    storage.tpc_begin(txn)
    return txn


def store(storage, txn, data, oid=OID):
    """Store the first revision of a blob."""
    path = os.path.join(storage.temporaryDirectory(), f"new-{oid.hex()}")
    with open(path, "wb") as file:
        file.write(data)
    storage.storeBlob(oid, p64(0), RECORD, path, "", txn)


def commit(storage, data, oid=OID):
    """Commit the first revision of a blob; return the tid."""
    txn = begin(storage)
    store(storage, txn, data, oid)
    storage.tpc_vote(txn)
    return storage.tpc_finish(txn)
