"""Copying all transactions, with blobs, from a storage to another."""

import os

import pytest
import transaction
import ZODB
from ZODB.blob import Blob, is_blob_record
from ZODB.FileStorage import FileStorage

import zeolite
from zeolite.clientstorage.copying import copy_transactions

from .storing import STORAGE, commit


@pytest.fixture
def source(tmp_path):
    """A file storage with two revisions of a blob, and something else."""
    path = str(tmp_path / "Source.fs")
    storage = FileStorage(path, blob_dir=str(tmp_path / "source"))
    db = ZODB.DB(storage)
    with db.transaction() as connection:
        connection.root()["blob"] = Blob(b"one")
        connection.root()["more"] = "text"
    with db.transaction() as connection:
        with connection.root()["blob"].open("w") as file:
            file.write(b"two" * 100_000)
    db.close()
    transaction.abort()
    storage = FileStorage(path, blob_dir=str(tmp_path / "source"))
    yield storage
    storage.close()


@pytest.fixture
def client(host, tmp_path):
    (tmp_path / "server").mkdir()
    running = host.start(STORAGE.format(tmp_path / "server"))
    storage = zeolite.client(running.address, blob_dir=str(tmp_path / "cache"))
    yield storage
    storage.close()
    running.stop()


def contents(storage):
    """All records with their tids, and the blobs among them."""
    found = []
    for record in (r for t in storage.iterator() for r in t):
        blob = None
        if is_blob_record(record.data):
            with storage.openCommittedBlobFile(record.oid, record.tid) as file:
                blob = file.read()
        found.append((record.oid, record.tid, record.data, blob))
    return found


def test_to_a_server_and_back(source, client, tmp_path):
    client.copyTransactionsFrom(source)
    expected = contents(source)
    assert {blob for *_, blob in expected} == {None, b"one", b"two" * 100_000}
    assert contents(client) == expected
    assert os.listdir(client.temporaryDirectory()) == []
    back = FileStorage(str(tmp_path / "B.fs"), blob_dir=str(tmp_path / "back"))
    copy_transactions(client, back)
    assert contents(back) == expected
    back.close()
    back = FileStorage(str(tmp_path / "C.fs"), blob_dir=str(tmp_path / "again"))
    back.copyTransactionsFrom(client)
    assert contents(back) == expected
    back.close()


def test_to_a_storage_without_blobs(source, host):
    running = host.start("<mappingstorage>\n</mappingstorage>\n")
    storage = zeolite.client(running.address)
    storage.copyTransactionsFrom(source)
    found = [record.data for t in storage.iterator() for record in t]
    assert found == [data for _, _, data, _ in contents(source)]
    storage.close()
    running.stop()


@pytest.mark.parametrize("method", ["restoreBlob", "tpc_vote"])
def test_error_leaves_no_file_and_no_transaction(source, client, monkeypatch, method):
    def fail(*args):
        raise OSError("failed")

    monkeypatch.setattr(client, method, fail)
    with pytest.raises(OSError, match="failed"):
        client.copyTransactionsFrom(source)
    assert os.listdir(client.temporaryDirectory()) == []
    monkeypatch.undo()
    commit(client, b"content")
