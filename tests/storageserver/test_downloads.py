"""Blobs that are sent to clients, while other things pass.

What leaves the server is seen by a raw client, or by a channel that stops.
"""

import os
import select
import threading

import pytest
from ZODB.utils import p64

from tests.support.blocking import Gate
from tests.support.rawclient import Failed
from tests.support.waiting import wait_until
from zeolite.storageserver import downloads
from zeolite.storageserver.delivery import Delivery
from zeolite.wire.channel import ConnectionLost

from .blobtalk import OID, commit, open_storage, received
from .test_delivery import FakeChannel


@pytest.fixture
def storage(tmp_path):
    return open_storage(tmp_path)


class TestDownload:
    BLOB = os.urandom(1024 * 1024)

    def test_whole(self, server):
        client = server.connect()
        tid = commit(client, 1, self.BLOB)
        start = len(client.seen)
        assert received(client, client.call("sendBlob", OID, tid)) == self.BLOB
        names = [message[0] for message in client.seen[start:]]
        count = -(-len(self.BLOB) // downloads.CHUNK)
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

    def test_client_gives_up_before_it_has_begun(self, server, monkeypatch):
        client = server.connect()
        tid = commit(client, 1, self.BLOB)
        gate, directory_of = Gate(), downloads.directory_of

        def stopped(storage):
            gate.stop_here()
            return directory_of(storage)

        monkeypatch.setattr(downloads, "directory_of", stopped)
        download = client.call("sendBlob", OID, tid, 1)
        gate.wait_until_reached()
        client.post("blobReceived", OID, tid, 0)
        client.ask("ping")
        gate.open()
        with pytest.raises(Failed, match="given up"):
            client.wait_for(download)
        assert server.session(client).windows == {}

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
        wait_until(lambda: len(server.served.sessions()) == 1)
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
