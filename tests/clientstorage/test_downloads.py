"""Blobs on their way to the client, as the server's end of the connection sees it."""

import errno
import os

import pytest
from ZODB.POSException import POSKeyError
from ZODB.utils import p64

from tests.support.blocking import Gate
from tests.support.waiting import wait_until
from zeolite.clientstorage import blobs, pace, transfer
from zeolite.errors import ClientDisconnected, ProtocolError

from .storing import OID, TID
from .talking import Background, settle

OTHER = p64(8)
PIECE = transfer.PIECE
CHUNK = transfer.PIECE * transfer.MOST_PIECES


def leftovers(tmp_path):
    return [p for p in (tmp_path / "cache").glob("*/*.dl")] + [
        p for p in (tmp_path / "cache" / "tmp").glob("*/*")
    ]


class TestDownload:
    def ask(self, storage, script, oid=OID):
        """Ask for a blob; return (background, message id, the other arguments)."""
        loading = Background(storage.loadBlob, oid, TID)
        message_id, args = script.expect("sendBlob")
        assert args[:2] == (oid, TID)
        return loading, message_id, args[2:]

    def send(self, script, *chunks, oid=OID):
        for chunk in chunks:
            script.call("receiveBlobChunk", oid, TID, chunk)

    def finish(self, script, message_id, oid=OID):
        script.call("receiveBlobStop", oid, TID)
        script.reply(message_id, None)

    def test_arrives_whole(self, connect_any):
        seen = []
        storage, script = connect_any(blob_progress=lambda *args: seen.append(args))
        loading, message_id, _ = self.ask(storage, script)
        script.call("receiveBlobStart", OID, TID)
        self.send(script, b"one ", b"two ")
        self.finish(script, message_id)
        with open(loading.result(), "rb") as file:
            assert file.read() == b"one two "
        assert seen == [("download", OID, 4, None), ("download", OID, 8, None)]
        assert storage.loadBlob(OID, TID) == loading.result()  # It asks nobody.
        assert storage._connection.link().downloads == {}

    def test_tells_a_server_of_ours_what_was_taken(self, connect_zeolite):
        storage, script = connect_zeolite()
        loading, message_id, room = self.ask(storage, script)
        assert room == (pace.START,)
        allowed, sent = pace.START, 0
        while sent < 20:
            self.send(script, *[b"chunk"] * (allowed - sent))
            sent = allowed
            allowed += self.allowance(script)
            assert sent < allowed <= sent + pace.MOST
        self.finish(script, message_id)
        loading.result()

    def allowance(self, script):
        """How many more chunks the client allows; waits for it to say so."""
        args = script.expect("blobReceived")[1]
        assert args[:2] == (OID, TID) and args[2] > 0
        return args[2]

    def test_chunks_that_were_not_allowed(self, connect_zeolite):
        storage, script = connect_zeolite()
        loading, message_id, _ = self.ask(storage, script)
        self.send(script, *[b"chunk"] * 3 * pace.START)
        self.finish(script, message_id)
        with open(loading.result(), "rb") as file:
            assert file.read() == b"chunk" * 3 * pace.START

    def test_stock_server_is_told_nothing(self, connect_zeo):
        storage, script = connect_zeo()
        loading, message_id, room = self.ask(storage, script)
        assert room == ()
        self.send(script, *[b"chunk"] * 100)
        self.finish(script, message_id)
        loading.result()
        settle(storage, script)  # The ping is what comes next.

    def test_two_at_a_time(self, connect_any):
        storage, script = connect_any()
        first, first_id, _ = self.ask(storage, script)
        second = Background(storage.loadBlob, OTHER, TID)
        while True:  # It may tell of nothing received yet.
            second_id, _, name, _args = script.read()
            if name == "sendBlob":
                break
        for number in range(4):
            self.send(script, b"first %d " % number)
            self.send(script, b"second %d " % number, oid=OTHER)
        self.finish(script, second_id, OTHER)
        with open(second.result(), "rb") as file:
            assert file.read() == b"second 0 second 1 second 2 second 3 "
        self.finish(script, first_id)
        with open(first.result(), "rb") as file:
            assert file.read() == b"first 0 first 1 first 2 first 3 "

    def test_error_of_the_server(self, connect_any, tmp_path):
        storage, script = connect_any()
        loading, message_id, _ = self.ask(storage, script)
        self.send(script, b"chunk")
        script.fail(message_id, "ZODB.POSException.POSKeyError", (OID,))
        with pytest.raises(POSKeyError):
            loading.result()
        assert leftovers(tmp_path) == []

    def test_blob_without_an_end(self, connect_any, tmp_path):
        storage, script = connect_any()
        loading, message_id, _ = self.ask(storage, script)
        self.send(script, b"half")
        script.reply(message_id, None)
        with pytest.raises(ProtocolError, match="whole blob"):
            loading.result()
        assert leftovers(tmp_path) == []

    def test_connection_lost_in_the_middle(self, connect_any, fake, tmp_path):
        storage, script = connect_any()
        loading, _, _ = self.ask(storage, script)
        self.send(script, b"half")
        script.close()
        with pytest.raises(ClientDisconnected):
            loading.result()
        assert leftovers(tmp_path) == []
        script = fake.accept()
        again = Background(storage.loadBlob, OID, TID)
        message_id, _ = script.expect("sendBlob")
        self.send(script, b"whole")
        self.finish(script, message_id)
        with open(again.result(), "rb") as file:
            assert file.read() == b"whole"

    def test_full_disk(self, connect_any, monkeypatch, tmp_path):
        def full(file, data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        storage, script = connect_any()
        loading, message_id, _ = self.ask(storage, script)
        monkeypatch.setattr(blobs, "write_all", full)
        self.send(script, b"chunk")
        with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
            loading.result()
        assert leftovers(tmp_path) == []
        monkeypatch.undo()
        self.finish(script, message_id)
        storage._connection.link().check()

    def given_up(self, connect, progress=None):
        """Return (storage, script, message id of a download that was given up)."""

        def enough(kind, oid, done, total):
            raise RuntimeError("enough")

        storage, script = connect(blob_progress=enough)
        loading, message_id, _ = self.ask(storage, script)
        self.send(script, b"old ")
        with pytest.raises(RuntimeError, match="enough"):
            loading.result()
        storage._blob_progress = None
        return storage, script, message_id

    def test_server_of_ours_is_told_of_giving_up(self, connect_zeolite, tmp_path):
        _, script, _ = self.given_up(connect_zeolite)
        while (count := script.expect("blobReceived")[1][2]) > 0:
            pass
        assert count == 0
        assert leftovers(tmp_path) == []

    def test_giving_up_does_not_block_the_reader(self, connect_zeo):
        storage, script, message_id = self.given_up(connect_zeo)
        self.send(script, *[b"old "] * 3 * transfer._WAITING)
        settle(storage, script)
        self.finish(script, message_id)

    def test_giving_up_while_the_reader_waits_for_room(self, connect_zeo):
        gate = Gate()
        storage, script = connect_zeo(blob_progress=lambda *args: gate.stop_here())
        loading, message_id, _ = self.ask(storage, script)
        self.send(script, *[b"chunk"] * 3 * transfer._WAITING)
        gate.wait_until_reached()
        download = storage._connection.link().downloads[OID, TID]
        wait_until(download._chunks.full)
        gate.open(RuntimeError("enough"))
        with pytest.raises(RuntimeError, match="enough"):
            loading.result()
        settle(storage, script)
        self.finish(script, message_id)

    def test_who_takes_nothing_does_not_block_the_others(
        self, connect_zeo, monkeypatch, tmp_path
    ):
        monkeypatch.setattr(transfer, "STALL_TIMEOUT", 0.05)
        gate = Gate()
        storage, script = connect_zeo(blob_progress=lambda *args: gate.stop_here())
        loading, message_id, _ = self.ask(storage, script)
        self.send(script, *[b"chunk"] * 3 * transfer._WAITING)
        gate.wait_until_reached()
        settle(storage, script)
        gate.open()
        with pytest.raises(TimeoutError, match="nothing was written"):
            loading.result()
        self.finish(script, message_id)
        assert leftovers(tmp_path) == []

    def test_chunks_of_one_given_up_are_not_taken_for_the_next(self, connect_zeo):
        storage, script, first_id = self.given_up(connect_zeo)
        again = Background(storage.loadBlob, OID, TID)
        script._socket.settimeout(0.1)
        with pytest.raises(TimeoutError):  # It waits for the end of the first.
            script._socket.recv(1)
        script._socket.settimeout(20)
        self.send(script, b"old ")
        self.finish(script, first_id)
        second_id, _ = script.expect("sendBlob")
        self.send(script, b"new")
        self.finish(script, second_id)
        with open(again.result(), "rb") as file:
            assert file.read() == b"new"

    @pytest.mark.parametrize(
        "call",
        [
            ("receiveBlobChunk", OID, TID),
            ("receiveBlobChunk", OID, TID, "text"),
            ("receiveBlobStop", OID, TID, b""),
            ("receiveBlobStart", OID),
        ],
    )
    def test_call_that_makes_no_sense(self, connect_zeo, tmp_path, call):
        storage, script = connect_zeo()
        loading, _, _ = self.ask(storage, script)
        script.call(*call)
        with pytest.raises(ClientDisconnected, match="makes no sense"):
            loading.result()
        assert leftovers(tmp_path) == []

    def test_chunks_that_nobody_wants(self, connect_zeo):
        storage, script = connect_zeo()
        self.send(script, b"unasked")
        settle(storage, script)

    def test_callback_may_load(self, connect_zeolite):
        storage = None

        def load(*args):
            storage.loadBefore(OTHER, p64(9))

        storage, script = connect_zeolite(blob_progress=load)
        loading, message_id, _ = self.ask(storage, script)
        self.send(script, b"chunk")
        script.expect("blobReceived")
        load_id, _ = script.expect("loadBefore")
        script.reply(load_id, (b"data", p64(1), None))
        self.finish(script, message_id)
        loading.result()
