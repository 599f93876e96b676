"""Blobs that clients put into the server's own directory."""

import os

import pytest
from ZODB.utils import z64

from tests.support.rawclient import Failed
from tests.support.waiting import wait_until

from .blobtalk import (
    CHUNK,
    OID,
    OTHER,
    RECORD,
    commit,
    oid_directory,
    open_storage,
    refused,
)


@pytest.fixture
def storage(tmp_path):
    return open_storage(tmp_path)


class TestShared:
    def post(self, client, id, name, oid=OID):
        client.begin(id, oids=())
        client.post("storeBlobShared", oid, z64, RECORD, name, id)

    @pytest.fixture
    def client(self, server):
        return server.connect()

    def put(self, storage, name, oid=OID, data=CHUNK):
        path = os.path.join(oid_directory(storage, oid), name)
        with open(path, "wb") as file:
            file.write(data)
        return path

    @pytest.mark.parametrize("name", ["zeolite-abc.tmp", "0x03abc.tmp-"])
    def test_file_is_taken_over(self, client, storage, name):
        path = self.put(storage, name)
        self.post(client, 1, name)
        client.ask("vote", 1)
        tid = client.ask("tpc_finish", 1)
        assert not os.path.exists(path)
        with storage.openCommittedBlobFile(OID, tid) as file:
            assert file.read() == CHUNK

    def test_abort_and_disconnect_remove_the_file(self, server, client, storage):
        path = self.put(storage, "a.tmp")
        self.post(client, 1, "a.tmp")
        client.ask("tpc_abort", 1)
        assert not os.path.exists(path)
        self.put(storage, "a.tmp")
        self.post(client, 2, "a.tmp")
        client.ask("ping")
        client.close()
        wait_until(lambda: not os.path.exists(path))

    @pytest.mark.parametrize(
        "name",
        [
            "",
            ".",
            "..",
            ".tmp",
            ".hidden.tmp",
            "../a.tmp",
            "/etc/passwd.tmp",
            "a/b.tmp",
            "a.tmp\0",
            "a\0.tmp",
            "a.txt",
            "a.tmp\n",
            "x" * 300 + ".tmp",
            "\ud800.tmp",
        ],
    )
    def test_name_that_is_none(self, client, storage, name):
        secret = self.put(storage, "a.tmp", OTHER)
        self.post(client, 1, name)
        refused(client, 1, "StorageError", "no name for a blob's file")
        assert os.path.exists(secret)

    def test_committed_blob(self, client, storage):
        tid = commit(client, 1)
        name = os.path.basename(storage.loadBlob(OID, tid))
        self.post(client, 2, name)
        refused(client, 2, "StorageError", "no name for a blob's file")
        with storage.openCommittedBlobFile(OID, tid) as file:
            assert file.read() == CHUNK

    def test_symlink(self, client, storage, tmp_path):
        secret = tmp_path / "secret"
        secret.write_text("secret")
        link = os.path.join(oid_directory(storage), "a.tmp")
        os.symlink(secret, link)
        self.post(client, 1, "a.tmp")
        refused(client, 1, "StorageError", "is not a file")
        assert secret.read_text() == "secret"
        assert os.path.islink(link)

    @pytest.mark.parametrize("is_there", [True, False])
    def test_file_that_becomes_a_symlink(self, client, storage, tmp_path, is_there):
        secret = tmp_path / "secret"
        secret.write_text("secret")
        path = self.put(storage, "a.tmp")
        self.post(client, 1, "a.tmp")
        client.ask("ping")
        os.unlink(path)
        if is_there:
            os.symlink(secret, path)
        message = "is not a file any more" if is_there else "is gone"
        refused(client, 1, "StorageError", message)
        assert secret.read_text() == "secret"
        assert secret.stat().st_mode & 0o200
        commit(client, 2)

    def test_directory(self, client, storage):
        path = os.path.join(oid_directory(storage), "a.tmp")
        os.mkdir(path)
        self.post(client, 1, "a.tmp")
        refused(client, 1, "StorageError", "is not a file")
        assert os.path.isdir(path)

    def test_file_of_another_object(self, client, storage):
        path = self.put(storage, "a.tmp", OTHER)
        self.post(client, 1, "a.tmp")
        refused(client, 1, "StorageError", "do server and client share")
        assert os.path.exists(path)

    def test_twice_the_same_file(self, client, storage):
        self.put(storage, "a.tmp")
        self.post(client, 1, "a.tmp")
        client.post("storeBlobShared", OTHER, z64, RECORD, "a.tmp", 1)
        refused(client, 1, "StorageError", "no file a.tmp")
        assert os.listdir(oid_directory(storage)) == []


class TestExpected:
    """The server says how the file is to be called before it is there."""

    def share(self, client, id, storage, data=CHUNK):
        """Have a name given and put the file there; return its path."""
        client.begin(id, oids=())
        path = os.path.join(storage.fshelper.temp_dir, client.ask("shareBlob", id))
        with open(path, "xb") as file:
            file.write(data)
        return path

    def store(self, client, id, path, oid=OID):
        name = os.path.basename(path)
        client.post("storeBlobShared", oid, z64, RECORD, name, id)

    def test_file_is_taken_over(self, server, storage):
        client = server.connect()
        path = self.share(client, 1, storage)
        self.store(client, 1, path)
        client.ask("vote", 1)
        tid = client.ask("tpc_finish", 1)
        assert not os.path.exists(path)
        with storage.openCommittedBlobFile(OID, tid) as file:
            assert file.read() == CHUNK

    @pytest.mark.parametrize("is_stored", [False, True])
    def test_abort_and_disconnect_remove_it(self, server, storage, is_stored):
        client = server.connect()
        path = self.share(client, 1, storage)
        if is_stored:
            self.store(client, 1, path)
        client.ask("tpc_abort", 1)
        assert not os.path.exists(path)
        path = self.share(client, 2, storage)
        if is_stored:
            self.store(client, 2, path)
        client.ask("ping")
        client.close()
        wait_until(lambda: not os.path.exists(path))

    def test_vote_without_it_removes_it(self, server, storage):
        client = server.connect()
        path = self.share(client, 1, storage)
        client.ask("vote", 1)
        client.ask("tpc_finish", 1)
        assert not os.path.exists(path)

    def test_start_removes_what_a_server_has_left_that_was_killed(
        self, server, serve, storage
    ):
        client = server.connect()
        path = self.share(client, 1, storage)
        # Another one is not told of it, as after a crash.
        serve(storage)
        assert not os.path.exists(path)

    def test_somebody_elses_is_not_there(self, server, storage):
        client, thief = server.connect(), server.connect()
        path = self.share(client, 1, storage)
        thief.begin(1, oids=())
        self.store(thief, 1, path)
        refused(thief, 1, "StorageError", "no file")
        assert os.path.exists(path)

    def test_symlink(self, server, storage, tmp_path):
        client = server.connect()
        secret = tmp_path / "secret"
        secret.write_text("secret")
        path = self.share(client, 1, storage)
        os.unlink(path)
        os.symlink(secret, path)
        self.store(client, 1, path)
        refused(client, 1, "StorageError", "is not a file")
        assert secret.read_text() == "secret"

    def test_transaction_that_has_failed(self, server, storage):
        client = server.connect()
        client.begin(1, oids=())
        client.post("storea", OID, z64, b"", 1)
        with pytest.raises(Failed, match="empty"):
            client.ask("shareBlob", 1)
        client.ask("tpc_abort", 1)
        with pytest.raises(Failed, match="no such transaction"):
            client.ask("shareBlob", 1)

    def test_each_has_its_own(self, server, storage):
        client = server.connect()
        client.begin(1, oids=())
        names = {client.ask("shareBlob", 1) for _ in range(10)}
        assert len(names) == 10
