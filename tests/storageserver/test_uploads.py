"""Blobs that clients send: files, errors, and who waits for them."""

import errno
import os
import shutil
import tempfile
import threading

import pytest
from ZODB.DemoStorage import DemoStorage
from ZODB.utils import p64, z64

from tests.support.blocking import Gate
from tests.support.rawclient import Closed, Failed
from tests.support.waiting import wait_until
from zeolite.clientstorage.storage import ClientStorage
from zeolite.storageserver import blobs
from zeolite.storageserver import uploads as uploads_module
from zeolite.wire.chunks import Chunk

from .blobtalk import (
    CHUNK,
    OID,
    OTHER,
    RECORD,
    commit,
    oid_directory,
    open_storage,
    received,
    refused,
    send_blob,
    upload,
    uploads,
)


@pytest.fixture
def storage(tmp_path):
    return open_storage(tmp_path)


class TestUpload:
    def test_chunks_are_on_disk_before_the_vote_and_nobody_has_the_lock(
        self, server, storage
    ):
        first, second = server.connect(), server.connect()
        first.begin(1, oids=())
        first.post("storeBlobStart")
        first.post("storeBlobChunk", CHUNK)
        first.ask("ping")
        [name] = uploads(storage)
        path = os.path.join(storage.temporaryDirectory(), name)
        assert os.path.getsize(path) == len(CHUNK)
        first.post("storeBlobEnd", OID, z64, RECORD, 1)
        first.ask("ping")
        assert server.served.commit_lock.since is None
        commit(second, 7, oid=OTHER)
        first.ask("vote", 1)
        assert server.served.commit_lock.since is not None
        tid = first.ask("tpc_finish", 1)
        with storage.openCommittedBlobFile(OID, tid) as file:
            assert file.read() == CHUNK
        assert uploads(storage) == []

    def test_the_storage_gets_the_file_without_copying_it(self, server, storage):
        client = server.connect()
        upload(client, 1)
        client.ask("ping")
        [name] = uploads(storage)
        path = os.path.join(storage.temporaryDirectory(), name)
        inode = os.stat(path).st_ino
        client.ask("vote", 1)
        tid = client.ask("tpc_finish", 1)
        assert os.stat(storage.loadBlob(OID, tid)).st_ino == inode

    def test_storage_may_take_the_file_when_it_votes(self, serve, storage, monkeypatch):
        """ZODB's interface lets it."""
        calls, vote = [], storage.tpc_vote

        def tpc_vote(transaction):
            for call in calls:
                type(storage).storeBlob(storage, *call)
            return vote(transaction)

        monkeypatch.setattr(storage, "storeBlob", lambda *call: calls.append(call))
        monkeypatch.setattr(storage, "tpc_vote", tpc_vote)
        client = serve(storage).connect()
        tid = commit(client, 1)
        assert received(client, client.call("sendBlob", OID, tid)) == CHUNK

    def test_empty_blob(self, server, storage):
        client = server.connect()
        client.begin(1, oids=())
        client.post("storeBlobStart")
        client.post("storeBlobEnd", OID, z64, RECORD, 1)
        client.ask("vote", 1)
        tid = client.ask("tpc_finish", 1)
        assert received(client, client.call("sendBlob", OID, tid)) == b""

    def test_abort_removes_the_file(self, server, storage):
        client = server.connect()
        upload(client, 1)
        client.ask("ping")
        assert len(uploads(storage)) == 1
        client.ask("tpc_abort", 1)
        assert uploads(storage) == []

    def test_abort_after_the_vote_removes_the_blob(self, server, storage):
        client = server.connect()
        upload(client, 1)
        client.ask("vote", 1)
        client.ask("tpc_abort", 1)
        assert uploads(storage) == []
        assert os.listdir(oid_directory(storage)) == []

    @pytest.mark.parametrize("ended", [False, True])
    def test_disconnect_removes_the_file(self, server, storage, ended):
        client = server.connect()
        client.begin(1, oids=())
        client.post("storeBlobStart")
        client.post("storeBlobChunk", CHUNK)
        if ended:
            client.post("storeBlobEnd", OID, z64, RECORD, 1)
        client.ask("ping")
        assert len(uploads(storage)) == 1
        client.close()
        wait_until(lambda: uploads(storage) == [])

    def test_failed_vote_removes_the_file(self, server, storage):
        client = server.connect()
        tid = commit(client, 1)
        upload(client, 2, serial=p64(5))  # Somebody else's revision.
        refused(client, 2, "ConflictError", "")
        assert uploads(storage) == []
        assert os.listdir(oid_directory(storage)) == [f"0x{tid.hex()}.blob"]

    def test_disconnect_while_it_waits_for_the_lock(self, server, storage):
        holder, waiting = server.connect(), server.connect()
        upload(holder, 1)
        holder.ask("vote", 1)
        upload(waiting, 1, oid=OTHER)
        waiting.call("vote", 1)
        wait_until(lambda: server.served.commit_lock.waiting == 1)
        assert len(uploads(storage)) == 1
        waiting.close()
        wait_until(lambda: uploads(storage) == [])
        holder.ask("tpc_finish", 1)

    def test_disconnect_in_mid_vote(self, server, storage):
        client = server.connect()
        upload(client, 1)
        gate = storage.gates["vote"] = Gate()
        client.call("vote", 1)
        gate.wait_until_reached()
        client.close()
        gate.open()
        wait_until(lambda: server.served.commit_lock.since is None)
        wait_until(lambda: os.listdir(oid_directory(storage)) == [])
        assert uploads(storage) == []

    def test_transaction_timeout(self, serve, storage):
        server = serve(storage, transaction_timeout=0.1)
        client = server.connect()
        upload(client, 1)
        client.ask("vote", 1)
        client.post("storeBlobStart")  # Of the next one already.
        assert client.is_closed()
        wait_until(lambda: uploads(storage) == [])
        assert os.listdir(oid_directory(storage)) == []

    def test_second_start_gives_the_first_up(self, server, storage):
        client = server.connect()
        client.post("storeBlobStart")
        client.post("storeBlobChunk", b"given up")
        client.ask("ping")
        [first] = uploads(storage)
        client.post("storeBlobStart")
        client.ask("ping")
        [second] = uploads(storage)
        assert first != second
        client.post("storeBlobChunk", b"kept")
        client.begin(1, oids=())
        client.post("storeBlobEnd", OID, z64, RECORD, 1)
        client.ask("vote", 1)
        tid = client.ask("tpc_finish", 1)
        assert received(client, client.call("sendBlob", OID, tid)) == b"kept"

    def test_end_without_a_transaction_removes_the_file(self, server, storage):
        client = server.connect()
        send_blob(client, 99)
        client.ask("ping")
        assert uploads(storage) == []

    def test_end_without_a_start(self, server):
        client = server.connect()
        client.begin(1, oids=())
        client.post("storeBlobChunk", CHUNK)
        client.post("storeBlobEnd", OID, z64, RECORD, 1)
        refused(client, 1, "StorageError", "no blob was uploaded")

    def test_what_a_killed_server_left_goes_at_the_start(self, serve, storage):
        for name in (blobs.PREFIX + "abc", "somebody-elses"):
            with open(os.path.join(storage.temporaryDirectory(), name), "w"):
                pass
        serve(storage)
        assert uploads(storage) == ["somebody-elses"]

    @pytest.mark.parametrize("is_shared", [True, False], ids=["shared", "cache"])
    def test_start_of_a_server_of_a_client_leaves_others_their_files(
        self, serve, storage, tmp_path, is_shared
    ):
        """The directory is the root server's, or that of several such servers."""
        root = serve(storage)
        directory = str(tmp_path / ("blobs" if is_shared else "cache"))

        def serve_client():
            settings = {"blob_dir": directory, "shared_blob_dir": is_shared}
            return serve(ClientStorage(root.address, **settings))

        client = (root if is_shared else serve_client()).connect()
        upload(client, 1)
        client.ask("ping")
        serve_client()
        client.ask("vote", 1)
        tid = client.ask("tpc_finish", 1)
        with storage.openCommittedBlobFile(OID, tid) as file:
            assert file.read() == CHUNK

    def test_storage_that_makes_a_directory_when_it_needs_one(self, serve):
        storage = DemoStorage()
        client = serve(storage).connect()
        assert os.listdir(tempfile.gettempdir()) == []
        tid = commit(client, 1)
        assert received(client, client.call("sendBlob", OID, tid)) == CHUNK
        shutil.rmtree(storage.temporaryDirectory())
        shutil.rmtree(storage.changes.fshelper.base_dir)

    def test_several_blobs_of_one_transaction(self, server, storage):
        client = server.connect()
        client.begin(1, oids=())
        for number in range(1, 6):
            send_blob(client, 1, b"%d" % number, p64(number))
        client.ask("vote", 1)
        tid = client.ask("tpc_finish", 1)
        for number in range(1, 6):
            call = client.call("sendBlob", p64(number), tid)
            assert received(client, call) == b"%d" % number


class FullFile:
    """Stands for an upload's file on a disk with room for a few bytes."""

    def __init__(self, file, room):
        self._file, self._room = file, room
        self.name = file.name

    def write(self, data):
        if not self._room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self.name)
        taken = self._file.write(data[: self._room])
        self._room -= taken
        return taken

    def close(self):
        self._file.close()


class TestFullDisk:
    @pytest.fixture
    def full(self, monkeypatch):
        """Call it to let disks have room for so many bytes."""
        make = uploads_module.tempfile.NamedTemporaryFile

        def fill(room):
            def full(*args, **kwargs):
                return FullFile(make(*args, **kwargs), room)

            monkeypatch.setattr(uploads_module.tempfile, "NamedTemporaryFile", full)

        yield fill

    def test_while_receiving(self, server, storage, full, monkeypatch):
        client = server.connect()
        full(500)
        client.begin(1, oids=())
        client.post("storeBlobStart")
        client.post("storeBlobChunk", CHUNK)
        client.ask("ping")
        assert uploads(storage) == []  # Its room is given back at once.
        client.post("storeBlobChunk", CHUNK)
        client.post("storeBlobEnd", OID, z64, RECORD, 1)
        refused(client, 1, "OSError", os.strerror(errno.ENOSPC))
        monkeypatch.undo()
        commit(client, 2)

    def test_when_it_begins(self, server, storage, monkeypatch):
        def full(*args, **kwargs):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        client = server.connect()
        monkeypatch.setattr(uploads_module.tempfile, "NamedTemporaryFile", full)
        upload(client, 1)
        refused(client, 1, "OSError", os.strerror(errno.ENOSPC))


def encoded(data, message_id):
    """The frame of a call of `storeBlobChunk`, as our clients make it."""
    chunk = Chunk(len(data))
    chunk.room[:] = data
    return bytes(chunk.encode(message_id, len(data)))


class TestLargeChunks:
    SIZES = 600_000, 65_536, 70_000, 1, 600_000, 2_000_000, 300_000

    @pytest.fixture(params=[False, True], ids=["plain", "tls"])
    def client(self, request, serve, storage):
        return serve(storage, tls=request.param).connect()

    @pytest.mark.parametrize("how", ["call", "one-way", "packed"])
    def test_arrive_as_they_were(self, client, storage, how):
        chunks = [os.urandom(size) for size in self.SIZES]
        client.begin(1, oids=())
        client.post("storeBlobStart")
        replies = []
        for chunk in chunks:
            if how == "call":
                replies.append(client.call("storeBlobChunk", chunk))
            elif how == "one-way":
                client.post("storeBlobChunk", chunk)
            else:
                replies.append(1000 + len(replies))
                client.socket.sendall(encoded(chunk, replies[-1]))
            client.post("set_client_label", "something in between")
        for message_id in replies:
            assert client.wait_for(message_id) is None
        client.post("storeBlobEnd", OID, z64, RECORD, 1)
        client.ask("vote", 1)
        tid = client.ask("tpc_finish", 1)
        with storage.openCommittedBlobFile(OID, tid) as file:
            assert file.read() == b"".join(chunks)

    def test_one_that_nobody_expects_is_ignored(self, client):
        client.socket.sendall(encoded(b"x" * 300_000, 5))
        client.ask("ping")

    def test_damaged_one_closes_the_connection(self, server, storage, caplog):
        client = server.connect()
        client.post("storeBlobStart")
        data = bytearray(encoded(b"x" * 300_000, 5))
        data[-2] ^= 1
        client.socket.sendall(data)
        with pytest.raises((Closed, OSError)):
            client.read()
        wait_until(lambda: uploads(storage) == [])

    def test_client_that_stops_in_the_middle_of_one_is_closed(self, serve, storage):
        client = serve(storage, client_timeout=0.2).connect()
        client.post("storeBlobStart")
        client.socket.sendall(encoded(b"x" * 300_000, 5)[:200_000])
        with pytest.raises((Closed, OSError)):
            client.read()
        wait_until(lambda: uploads(storage) == [])

    def test_server_stops_in_the_middle_of_one(self, server, storage):
        client = server.connect()
        client.post("storeBlobStart")
        client.ask("ping")
        client.socket.sendall(encoded(b"x" * 300_000, 5)[:200_000])
        server.server.stop()
        assert uploads(storage) == []


class TestSlowDisk:
    """The second chunk of a blob cannot be written for a while."""

    @pytest.fixture
    def gate(self, monkeypatch):
        gate, write_all = Gate(), uploads_module.write_all

        def write(file, chunk):
            if bytes(chunk[:4]) == b"slow":
                gate.stop_here()
            write_all(file, chunk)

        monkeypatch.setattr(uploads_module, "write_all", write)
        yield gate
        gate.open()

    def begin(self, client):
        client.begin(1, oids=())
        client.post("storeBlobStart")
        client.ask("storeBlobChunk", b"fast")
        return client.call("storeBlobChunk", b"slow")

    def test_other_calls_do_not_wait(self, server, storage, gate):
        client = server.connect()
        slow = self.begin(client)
        gate.wait_until_reached()
        client.ask("ping")
        with pytest.raises(Failed, match="POSKeyError"):
            client.ask("loadSerial", OTHER, z64)
        assert ("reply", slow, None) not in client.seen
        gate.open()
        assert client.wait_for(slow) is None
        client.post("storeBlobEnd", OID, z64, RECORD, 1)
        client.ask("vote", 1)
        tid = client.ask("tpc_finish", 1)
        with storage.openCommittedBlobFile(OID, tid) as file:
            assert file.read() == b"fastslow"

    def test_end_that_comes_early_waits(self, server, storage, gate):
        client = server.connect()
        self.begin(client)
        client.post("storeBlobEnd", OID, z64, RECORD, 1)
        vote = client.call("vote", 1)
        gate.wait_until_reached()
        gate.open()
        assert client.wait_for(vote) == []
        tid = client.ask("tpc_finish", 1)
        with storage.openCommittedBlobFile(OID, tid) as file:
            assert file.read() == b"fastslow"

    def test_only_so_many_chunks_are_kept(self, server, storage, gate):
        client = server.connect()
        self.begin(client)
        gate.wait_until_reached()
        session = server.session(client)
        for _ in range(100):
            client.post("storeBlobChunk", b"x")
        wait_until(session.upload._chunks.full)
        gate.open()
        client.post("storeBlobEnd", OID, z64, RECORD, 1)
        client.ask("vote", 1)
        tid = client.ask("tpc_finish", 1)
        with storage.openCommittedBlobFile(OID, tid) as file:
            assert file.read() == b"fastslow" + b"x" * 100

    def test_chunk_that_is_too_large_to_wait_comes_behind_those_that_do(
        self, server, storage, gate
    ):
        client = server.connect()
        self.begin(client)
        gate.wait_until_reached()
        few = [b"%d" % number for number in range(7)]
        for chunk in few:
            client.call("storeBlobChunk", chunk)
        large = b"x" * 1_200_000
        client.call("storeBlobChunk", large)
        # The writer is waited for.
        wait_until(lambda: server.session(client).upload._writer is None)
        gate.open()
        client.post("storeBlobEnd", OID, z64, RECORD, 1)
        client.ask("vote", 1)
        tid = client.ask("tpc_finish", 1)
        with storage.openCommittedBlobFile(OID, tid) as file:
            assert file.read() == b"".join([b"fastslow", *few, large])

    def test_next_start_gives_the_first_up(self, server, storage, gate):
        client = server.connect()
        slow = self.begin(client)
        gate.wait_until_reached()
        client.post("storeBlobStart")
        gate.open()
        assert client.wait_for(slow) is None  # Nobody is left waiting.
        send_blob(client, 1, b"second")
        client.ask("vote", 1)
        tid = client.ask("tpc_finish", 1)
        with storage.openCommittedBlobFile(OID, tid) as file:
            assert file.read() == b"second"
        assert uploads(storage) == []

    def test_client_that_vanishes(self, server, storage, gate):
        client = server.connect()
        self.begin(client)
        gate.wait_until_reached()
        client.close()
        gate.open()
        wait_until(lambda: uploads(storage) == [])

    def test_thread_that_cannot_be_had(self, server, storage, monkeypatch):
        client = server.connect()

        def full(thread):
            raise RuntimeError("can't start new thread")

        client.begin(1, oids=())
        client.post("storeBlobStart")
        client.ask("ping")
        monkeypatch.setattr(threading.Thread, "start", full)
        for chunk in b"a", b"b", b"c":
            client.ask("storeBlobChunk", chunk)
        monkeypatch.undo()
        client.post("storeBlobEnd", OID, z64, RECORD, 1)
        client.ask("vote", 1)
        tid = client.ask("tpc_finish", 1)
        with storage.openCommittedBlobFile(OID, tid) as file:
            assert file.read() == b"abc"
