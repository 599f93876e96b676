"""Blobs of a running server, and several clients with their directories."""

import os

import pytest
from ZODB.Connection import TransactionMetaData
from ZODB.POSException import POSKeyError, Unsupported
from ZODB.utils import maxtid, p64, u64, z64

import zeolite
from tests.support.waiting import wait_until

from .storing import OID, RECORD, STORAGE, TID, commit, read
from .talking import Background


@pytest.fixture
def server(host, tmp_path):
    running = host.start(STORAGE.format(tmp_path))
    yield running
    running.stop()


@pytest.fixture
def client(server, tmp_path):
    storage = zeolite.client(server.address, blob_dir=str(tmp_path / "cache"))
    yield storage
    storage.close()


class TestOnAServer:
    def test_threads_store_and_load_at_once(self, client, server, tmp_path):
        other = zeolite.client(server.address, blob_dir=str(tmp_path / "other"))
        contents = {p64(n): os.urandom(300_000) for n in range(1, 7)}

        def run(oid, data):
            tid = commit(client, data, oid)
            return read(other.loadBlob(oid, tid)) == data

        threads = [Background(run, *item) for item in contents.items()]
        assert all(thread.result() for thread in threads)
        other.close()

    def test_what_was_committed_can_be_read_while_disconnected(self, client, server):
        tid = commit(client, b"content")
        server.stop = _once(server.stop)
        server.stop()
        wait_until(lambda: not client.is_connected())
        with client.openCommittedBlobFile(OID, tid) as file:
            assert file.read() == b"content"
        assert os.listdir(client.temporaryDirectory()) == []

    def test_progress_is_told_of_both_ways(self, server, tmp_path):
        seen = []
        storage = zeolite.client(
            server.address,
            blob_dir=str(tmp_path / "cache"),
            blob_progress=lambda *args: seen.append(args),
        )
        size = 300_000
        tid = commit(storage, b"x" * size)
        os.unlink(storage.loadBlob(OID, tid))
        storage.loadBlob(OID, tid)
        storage.close()
        for kind, total in (("upload", size), ("download", None)):
            found = [args for args in seen if args[0] == kind]
            steps = [done for _, _, done, _ in found]
            assert steps == sorted(steps) and steps[-1] == size and len(steps) > 1
            assert {args[1::2] for args in found} == {(OID, total)}

    def test_without_blob_dir(self, server):
        storage = zeolite.client(server.address)
        with pytest.raises(Unsupported, match="blob_dir"):
            storage.temporaryDirectory()
        with pytest.raises(Unsupported, match="blob_dir"):
            storage.loadBlob(OID, TID)
        storage.close()

    def test_blob_of_another_object(self, client):
        commit(client, b"content")
        with pytest.raises(POSKeyError):
            client.loadBlob(p64(99), TID)

    def test_restored_blob_is_the_current_one(self, client, tmp_path):
        old = commit(client, b"old")
        tid, path = p64(u64(old) + 1), tmp_path / "new"
        path.write_bytes(b"restored")
        txn = TransactionMetaData()
        client.tpc_begin(txn, tid)
        client.restoreBlob(OID, tid, RECORD, str(path), None, txn)
        client.tpc_vote(txn)
        client.tpc_finish(txn)
        assert client.loadBefore(OID, maxtid)[1] == tid
        assert read(client.loadBlob(OID, tid)) == b"restored"

    def test_abort_leaves_nothing(self, client, tmp_path):
        path = os.path.join(client.temporaryDirectory(), "new")
        with open(path, "wb") as file:
            file.write(b"content")
        txn = TransactionMetaData()
        client.tpc_begin(txn)
        client.storeBlob(OID, z64, RECORD, path, "", txn)
        client.tpc_abort(txn)
        assert os.listdir(client.temporaryDirectory()) == []
        assert os.listdir(tmp_path / "blobs" / "tmp") == []


def _once(stop):
    """Stop a server that the fixture will stop again."""
    done = []

    def once():
        if not done:
            done.append(True)
            stop()

    return once
