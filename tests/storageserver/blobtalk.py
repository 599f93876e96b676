"""What the tests of blobs say to the server, and the storage that it serves."""

import os

import pytest
from ZODB.blob import Blob
from ZODB.FileStorage import FileStorage
from ZODB.serialize import ObjectWriter
from ZODB.utils import p64, z64

from tests.support.rawclient import Failed

OID = p64(1)
OTHER = p64(2)
RECORD = ObjectWriter().serialize(Blob())
CHUNK = b"c" * 1000


class BlockingBlobStorage(FileStorage):
    """Stops the first call after `gate` was set, at the vote or in a download."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.gates = {}

    def _pass(self, where):
        gate = self.gates.pop(where, None)
        if gate is not None:
            gate.stop_here()

    def tpc_vote(self, transaction):
        self._pass("vote")
        return super().tpc_vote(transaction)

    def openCommittedBlobFile(self, oid, serial, blob=None):
        self._pass("open")
        return super().openCommittedBlobFile(oid, serial, blob)


def open_storage(directory):
    """Return a `BlockingBlobStorage` in a directory (a path)."""
    return BlockingBlobStorage(
        str(directory / "Data.fs"), blob_dir=str(directory / "blobs")
    )


def uploads(storage):
    """The files of uploads that are there."""
    return sorted(os.listdir(storage.temporaryDirectory()))


def oid_directory(storage, oid=OID):
    return storage.fshelper.getPathForOID(oid, create=True)


def upload(client, id, data=CHUNK, oid=OID, serial=z64):
    """Begin a transaction and send a blob, up to its vote."""
    client.begin(id, oids=())
    send_blob(client, id, data, oid, serial)


def send_blob(client, id, data=CHUNK, oid=OID, serial=z64):
    client.post("storeBlobStart")
    client.post("storeBlobChunk", data)
    client.post("storeBlobEnd", oid, serial, RECORD, id)


def commit(client, id, data=CHUNK, oid=OID, serial=z64):
    upload(client, id, data, oid, serial)
    client.ask("vote", id)
    return client.ask("tpc_finish", id)


def received(client, message_id):
    """Return the bytes of the blob that a call has asked for."""
    start = len(client.seen)
    client.wait_for(message_id)
    return b"".join(m[3] for m in client.seen[start:] if m[0] == "receiveBlobChunk")


def refused(client, id, error, words):
    """The transaction's vote fails, and the connection lives."""
    with pytest.raises(Failed) as caught:
        client.ask("vote", id)
    name, details = caught.value.args
    assert name.endswith(error)
    assert words in str(details)
    client.ask("ping")
