"""Blobs in the server: files, errors, and a download that others pass.

What leaves the server is seen by a raw client, or by a channel that stops.
"""

import errno
import logging
import os
import select
import shutil
import tempfile
import threading

import pytest
from ZODB.blob import Blob, BlobStorage
from ZODB.DemoStorage import DemoStorage
from ZODB.FileStorage import FileStorage
from ZODB.MappingStorage import MappingStorage
from ZODB.serialize import ObjectWriter
from ZODB.utils import p64, z64

from tests.support.blocking import Gate
from tests.support.rawclient import Failed
from tests.support.waiting import wait_until
from zeolite.storageserver import blobs
from zeolite.storageserver.delivery import Delivery
from zeolite.wire.channel import ConnectionLost

from .test_delivery import FakeChannel

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


@pytest.fixture
def storage(tmp_path):
    return BlockingBlobStorage(
        str(tmp_path / "Data.fs"), blob_dir=str(tmp_path / "blobs")
    )


@pytest.fixture
def server(serve, storage):
    return serve(storage)


def uploads(storage):
    """The files of uploads that are there."""
    return sorted(os.listdir(storage.temporaryDirectory()))


def oid_directory(storage, oid=OID):
    return storage.fshelper.getPathForOID(oid, create=True)


def upload(client, id, data=CHUNK, oid=OID, serial=z64):
    """Begin a transaction and send a blob, up to its vote."""
    client.post("tpc_begin", id, b"", b"", {}, None, " ")
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


class TestUpload:
    def test_chunks_are_on_disk_before_the_vote_and_nobody_has_the_lock(
        self, server, storage
    ):
        first, second = server.connect(), server.connect()
        first.post("tpc_begin", 1, b"", b"", {}, None, " ")
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

    def test_empty_blob(self, server, storage):
        client = server.connect()
        client.post("tpc_begin", 1, b"", b"", {}, None, " ")
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
        client.post("tpc_begin", 1, b"", b"", {}, None, " ")
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
        client.post("tpc_begin", 1, b"", b"", {}, None, " ")
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
        client.post("tpc_begin", 1, b"", b"", {}, None, " ")
        client.post("storeBlobChunk", CHUNK)
        client.post("storeBlobEnd", OID, z64, RECORD, 1)
        refused(client, 1, "StorageError", "no blob was uploaded")

    def test_what_a_killed_server_left_goes_at_the_start(self, serve, storage):
        for name in (blobs.PREFIX + "abc", "somebody-elses"):
            with open(os.path.join(storage.temporaryDirectory(), name), "w"):
                pass
        serve(storage)
        assert uploads(storage) == ["somebody-elses"]

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
        client.post("tpc_begin", 1, b"", b"", {}, None, " ")
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
        make = blobs.tempfile.NamedTemporaryFile

        def fill(room):
            def full(*args, **kwargs):
                return FullFile(make(*args, **kwargs), room)

            monkeypatch.setattr(blobs.tempfile, "NamedTemporaryFile", full)

        yield fill

    def test_while_receiving(self, server, storage, full, monkeypatch):
        client = server.connect()
        full(500)
        client.post("tpc_begin", 1, b"", b"", {}, None, " ")
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
        monkeypatch.setattr(blobs.tempfile, "NamedTemporaryFile", full)
        upload(client, 1)
        refused(client, 1, "OSError", os.strerror(errno.ENOSPC))


class TestShared:
    def post(self, client, id, name, oid=OID):
        client.post("tpc_begin", id, b"", b"", {}, None, " ")
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


class TestWithoutBlobs:
    @pytest.fixture
    def client(self, serve):
        return serve(MappingStorage()).connect()

    def test_upload(self, client):
        upload(client, 1)
        refused(client, 1, "Unsupported", "this storage does not have blobs")

    def test_shared(self, client):
        client.post("tpc_begin", 1, b"", b"", {}, None, " ")
        client.post("storeBlobShared", OID, z64, RECORD, "a.tmp", 1)
        refused(client, 1, "Unsupported", "this storage does not have blobs")

    def test_download(self, client):
        with pytest.raises(Failed, match="Unsupported"):
            client.ask("sendBlob", OID, p64(5))

    def test_file_storage_without_a_directory(self, serve, tmp_path):
        client = serve(FileStorage(str(tmp_path / "Data.fs"))).connect()
        upload(client, 1)
        refused(client, 1, "Unsupported", "this storage does not have blobs")

    def test_wrapped_storage(self, serve, tmp_path):
        storage = BlobStorage(str(tmp_path / "blobs"), MappingStorage())
        client = serve(storage).connect()
        tid = commit(client, 1)
        assert received(client, client.call("sendBlob", OID, tid)) == CHUNK


class TestDownload:
    BLOB = os.urandom(1024 * 1024)

    def test_whole(self, server):
        client = server.connect()
        tid = commit(client, 1, self.BLOB)
        start = len(client.seen)
        assert received(client, client.call("sendBlob", OID, tid)) == self.BLOB
        names = [message[0] for message in client.seen[start:]]
        count = -(-len(self.BLOB) // blobs.CHUNK)
        expected = ["receiveBlobStart", *["receiveBlobChunk"] * count]
        assert names == [*expected, "receiveBlobStop", "reply"]

    def test_missing_blob(self, server):
        client = server.connect()
        commit(client, 1)
        with pytest.raises(Failed, match="POSKeyError"):
            client.ask("sendBlob", OID, p64(5))

    def test_loads_pass_between_the_chunks_of_one_that_is_read_slowly(self, server):
        # More than the buffers of both ends take.
        blob = os.urandom(24 * 1024 * 1024)
        writer = server.connect()
        tid = commit(writer, 1, blob)
        client = server.connect(receive_buffer=64 * 1024)
        channel, waits = server.session(client)._channel, threading.Event()
        wait = channel._wait

        def noticed(event, seconds):
            if event == select.POLLOUT:
                waits.set()
            return wait(event, seconds)

        channel._wait = noticed
        download = client.call("sendBlob", OID, tid)
        assert waits.wait(20)
        assert client.wait_for(client.load(1))[1] == tid
        assert received(client, download) != b""

    def test_chunks_wait_for_room(self, server):
        client = server.connect()
        tid = commit(client, 1, self.BLOB)
        download = client.call("sendBlob", OID, tid, 2)
        for _ in range(3):
            client.read()
        client.ask("ping")
        chunks = [m for m in client.seen if m[0] == "receiveBlobChunk"]
        assert len(chunks) == 2
        session = server.session(client)
        window = session.windows[OID, tid]
        wait_until(lambda: window._room._value == 0)
        assert client.seen[-1][0] == "reply"  # Of the ping, and nothing came since.
        client.post("blobReceived", OID, tid, 1000)
        client.wait_for(download)
        chunks = [m[3] for m in client.seen if m[0] == "receiveBlobChunk"]
        assert b"".join(chunks) == self.BLOB
        assert session.windows == {}

    def test_client_gives_up(self, server):
        client = server.connect()
        tid = commit(client, 1, self.BLOB)
        download = client.call("sendBlob", OID, tid, 1)
        client.post("blobReceived", OID, tid, 0)
        until_begun = client.read()
        assert until_begun[0] == "receiveBlobStart"
        client.post("blobReceived", OID, tid, 0)
        with pytest.raises(Failed, match="given up"):
            client.wait_for(download)
        assert server.session(client).windows == {}
        client.post("blobReceived", OID, tid, 5)  # Too late, and no harm.
        client.ask("ping")

    def test_same_blob_twice_at_a_time(self, server):
        client = server.connect()
        tid = commit(client, 1, self.BLOB)
        first = client.call("sendBlob", OID, tid, 1)
        client.read()
        with pytest.raises(Failed, match="being sent already"):
            client.ask("sendBlob", OID, tid, 1)
        client.post("blobReceived", OID, tid, 1000)
        client.wait_for(first)

    @pytest.mark.parametrize("room", [None, 1])
    def test_client_that_vanishes_leaves_no_thread(self, server, room):
        writer = server.connect()
        tid = commit(writer, 1, os.urandom(24 * 1024 * 1024))
        client = server.connect(receive_buffer=64 * 1024)
        args = (OID, tid) if room is None else (OID, tid, room)
        client.call("sendBlob", *args)
        client.read()
        assert any("send_blob" in t.name for t in threading.enumerate())
        client.close()
        wait_until(
            lambda: not any("send_blob" in t.name for t in threading.enumerate())
        )
        wait_until(lambda: len(server.served._sessions) == 1)
        writer.ask("ping")

    def test_server_stops_in_mid_download(self, server):
        client = server.connect()
        tid = commit(client, 1, self.BLOB)
        client.call("sendBlob", OID, tid, 1)
        client.read()
        server.server.stop()
        assert client.is_closed()
        assert not any("send_blob" in t.name for t in threading.enumerate())

    def test_two_at_a_time(self, server):
        client = server.connect()
        data = {p64(n): os.urandom(300_000) for n in (1, 2)}
        tids = {oid: commit(client, 1, blob, oid) for oid, blob in data.items()}
        # Each waits for room, so neither has ended when the other one begins.
        calls = [client.call("sendBlob", oid, tids[oid], 1) for oid in data]
        seen = {"receiveBlobChunk": set()}
        while seen["receiveBlobChunk"] != set(data):
            message = client.read()
            seen.setdefault(message[0], set()).add(message[1])
        for oid in data:
            client.post("blobReceived", oid, tids[oid], 100)
        for call in calls:
            if not any(m[:2] == ("reply", call) for m in client.seen):
                client.wait_for(call)
        for oid, blob in data.items():
            chunks = [m[3] for m in client.seen if m[:2] == ("receiveBlobChunk", oid)]
            assert b"".join(chunks) == blob


class StoppingChannel(FakeChannel):
    """Stops the thread that sends a given frame."""

    def __init__(self):
        super().__init__()
        self.gates = {}

    def send(self, data=b""):
        gate = self.gates.pop(data, None)
        if gate is not None:
            gate.stop_here()
        super().send(data)


class TestStream:
    def run(self, function, *args):
        thread = threading.Thread(target=function, args=args)
        thread.start()
        return thread

    def test_own_thread_goes_before_the_next_chunk(self):
        channel = StoppingChannel()
        delivery = Delivery(channel, lambda error: None)
        gate = channel.gates[b"one "] = Gate()

        def stream():
            for frame in (b"one ", b"two "):
                delivery.stream(frame)

        streaming = self.run(stream)
        gate.wait_until_reached()

        def answer():
            delivery.gather(b"reply ")
            delivery.flush()

        answering = self.run(answer)
        wait_until(delivery._turn.locked)  # It waits for the chunk that is on its way.
        gate.open()
        streaming.join()
        answering.join()
        assert channel.sent == b"one reply two "

    def test_after_the_end(self):
        failures = []
        delivery = Delivery(FakeChannel(), failures.append)
        delivery.close()
        with pytest.raises(ConnectionLost):
            delivery.stream(b"chunk")
        assert not failures  # The session is over.


class TestHostile:
    @pytest.mark.parametrize(
        "name, args",
        [
            ("storeBlobStart", (1,)),
            ("storeBlobChunk", ("text",)),
            ("storeBlobChunk", ()),
            ("storeBlobEnd", (OID, z64, RECORD, "1")),
            ("storeBlobEnd", (b"short", z64, RECORD, 1)),
            ("storeBlobEnd", (b"\xff" * 8, z64, RECORD, 1)),
            ("storeBlobEnd", (OID, z64, None, 1)),
            ("storeBlobShared", (OID, z64, RECORD, b"a.tmp", 1)),
            ("storeBlobShared", (OID, z64, RECORD, None, 1)),
            ("restoreBlob", (OID, None, RECORD, None, None, 1)),
            ("sendBlob", (OID,)),
            ("sendBlob", (OID, "serial")),
            ("sendBlob", (OID, z64, "room")),
            ("blobReceived", (OID, z64, None)),
        ],
    )
    def test_wrong_types_close_the_connection(self, server, caplog, name, args):
        client = server.connect()
        with caplog.at_level(logging.WARNING):
            client.post(name, *args)
            assert client.is_closed()
            wait_until(lambda: not server.served._sessions)
        assert len(caplog.records) == 1
        assert name in caplog.records[0].getMessage()

    def test_absurd_numbers(self, server):
        client = server.connect()
        tid = commit(client, 1, os.urandom(200_000))
        download = client.call("sendBlob", OID, tid, -5)
        assert client.read()[0] == "receiveBlobStart"
        client.post("blobReceived", OID, tid, 10**30)
        client.wait_for(download)
