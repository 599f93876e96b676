"""Blobs on their way to the server, as its end of the connection sees it."""

import errno
import os
import threading

import pytest
from ZODB.Connection import TransactionMetaData
from ZODB.POSException import StorageTransactionError
from ZODB.utils import p64

from tests.support.blocking import Gate
from tests.support.waiting import wait_until
from zeolite.clientstorage import pace, transaction, transfer
from zeolite.errors import ClientDisconnected, ProtocolError, ServerException

from .storing import OID, RECORD, begin, store
from .talking import Background

PIECE = transfer.PIECE
OTHER = p64(8)
CHUNK = transfer.PIECE * transfer.MOST_PIECES


def take_upload(script):
    """Read calls up to the end of an upload, answering; return (bytes, arguments)."""
    data = b""
    while True:
        message_id, _, name, args = script.read()
        if name == "storeBlobStart":
            data = b""
        elif name == "storeBlobChunk":
            data += args[0]
            script.reply(message_id, None)
        elif name == "ping":
            script.reply(message_id, None)
        elif name == "storeBlobEnd":
            return data, args


def leftovers(tmp_path):
    return [p for p in (tmp_path / "cache").glob("*/*.dl")] + [
        p for p in (tmp_path / "cache" / "tmp").glob("*/*")
    ]


class TestUpload:
    def test_arrives_whole_with_its_record(self, connect_any):
        storage, script = connect_any()
        data = os.urandom(5 * CHUNK + 1)
        txn = begin(storage)
        storing = Background(store, storage, txn, data)
        assert script.expect("tpc_begin")
        received, args = take_upload(script)
        storing.result()
        assert received == data
        assert args[:3] == (OID, p64(0), RECORD)

    def test_never_interleaved(self, connect_zeolite):
        gate, gated = Gate(), []

        def progress(kind, oid, done, total):
            if not gated:
                gated.append(oid)
                gate.stop_here()

        storage, script = connect_zeolite(blob_progress=progress)
        contents = {p64(n): bytes([n]) * 3 * CHUNK for n in range(10, 14)}
        threads = []
        for oid, data in contents.items():
            txn = begin(storage)
            threads.append(Background(store, storage, txn, data, oid))
            if len(threads) == 1:
                gate.wait_until_reached()
        # The others have taken their files over, and want to send them.
        link = storage._connection.link()
        wait_until(
            lambda: all(t.is_alive() for t in threads) and link.uploads.lock.locked()
        )
        gate.open()
        for _ in contents:
            received, args = take_upload(script)
            assert contents[args[0]] == received
        for thread in threads:
            thread.result()

    def test_waits_for_the_server(self, connect_zeolite):
        storage, script = connect_zeolite()
        size = 20 * CHUNK
        txn = begin(storage)
        storing = Background(store, storage, txn, b"x" * size)
        script.expect("tpc_begin")
        script.expect("storeBlobStart")
        script.answer("ping", None)  # It measures the way.
        unanswered, done = [], 0
        while done < pace.START * PIECE:
            message_id, (chunk,) = script.expect("storeBlobChunk")
            unanswered.append(message_id)
            done += len(chunk)
        self.expect_silence(script)
        for message_id in unanswered:
            script.reply(message_id, None)
        while done < size:
            message_id, (chunk,) = script.expect("storeBlobChunk")
            script.reply(message_id, None)
            done += len(chunk)
        script.expect("storeBlobEnd")
        storing.result()

    def test_end_waits_until_all_chunks_are_written(self, connect_zeolite):
        storage, script = connect_zeolite()
        txn = begin(storage)
        storing = Background(store, storage, txn, b"x" * 2 * PIECE + b"x")
        script.expect("tpc_begin")
        script.expect("storeBlobStart")
        script.answer("ping", None)  # It measures the way.
        first, _ = script.expect("storeBlobChunk")
        second, _ = script.expect("storeBlobChunk")
        script.reply(first, None)
        self.expect_silence(script)
        script.reply(second, None)
        script.expect("storeBlobEnd")
        storing.result()

    def test_end_does_not_come_after_a_stock_server_has_failed_to_write(
        self, connect_zeo
    ):
        storage, script = connect_zeo()
        txn = begin(storage)
        storing = Background(store, storage, txn, b"small")
        script.expect("tpc_begin")
        script.expect("storeBlobStart")
        script.answer("ping", None)  # It measures the way.
        chunk, _ = script.expect("storeBlobChunk")
        script.fail(chunk, "builtins.OSError", (28, "no room"))
        with pytest.raises(ServerException):
            storing.result()
        assert script.is_closed()

    def test_chunks_are_small_while_others_load(self, connect_zeolite):
        storage, script = connect_zeolite()
        txn = begin(storage)
        storing = Background(store, storage, txn, b"x" * 20 * CHUNK)
        script.expect("tpc_begin")
        script.expect("storeBlobStart")
        script.answer("ping", None)  # It measures the way.
        loading, load, sizes, done = None, None, [], 0
        while done < 20 * CHUNK:
            message_id, _, name, args = script.read()
            if name == "loadBefore":
                load = message_id  # It is not answered for long.
                continue
            assert name == "storeBlobChunk"
            sizes.append(len(args[0]))
            done += sizes[-1]
            if loading is None and sizes[-1] == CHUNK:
                loading = Background(storage.loadBefore, OTHER, p64(9))
                wait_until(lambda: storage._connection.link().has_loads)
            script.reply(message_id, None)
        script.reply(load, (b"data", p64(1), None))
        loading.result()
        script.expect("storeBlobEnd")
        storing.result()
        # Those that were under way already were larger.
        assert CHUNK in sizes and set(sizes[-20:]) == {PIECE}

    def test_small_blobs_wait_for_the_server_as_well(self, connect_zeolite):
        storage, script = connect_zeolite()
        txn = begin(storage)

        def store_many():
            for number in range(20):
                store(storage, txn, b"small", p64(number + 1))

        storing = Background(store_many)
        ends, unanswered = 0, []
        while len(unanswered) < pace.START:
            message_id, _, name, _ = script.read()
            ends += name == "storeBlobEnd"
            if name == "ping":
                script.reply(message_id, None)  # It measures the way.
            elif name == "storeBlobChunk":
                unanswered.append(message_id)
        assert ends < pace.START
        self.expect_silence(script)
        for message_id in unanswered:
            script.reply(message_id, None)
        while ends < 20:
            message_id, _, name, _ = script.read()
            ends += name == "storeBlobEnd"
            if name == "storeBlobChunk":
                script.reply(message_id, None)
        storing.result()

    def expect_silence(self, script):
        script._socket.settimeout(0.1)
        with pytest.raises(TimeoutError):
            script._socket.recv(1)
        script._socket.settimeout(20)

    def test_connection_lost_in_the_middle(self, connect_any, tmp_path):
        storage, script = connect_any()
        txn = begin(storage)
        storing = Background(store, storage, txn, b"x" * 20 * CHUNK)
        script.expect("tpc_begin")
        script.expect("storeBlobStart")
        script.read()
        script.close()
        with pytest.raises(ClientDisconnected):
            storing.result()
        storage.tpc_abort(txn)
        assert leftovers(tmp_path) == []

    def test_given_up(self, connect_zeolite, tmp_path):
        def progress(kind, oid, done, total):
            raise KeyboardInterrupt if total is None else RuntimeError("enough")

        storage, script = connect_zeolite(blob_progress=progress)
        txn = begin(storage)
        storing = Background(store, storage, txn, b"x" * 3 * CHUNK)
        with pytest.raises(RuntimeError, match="enough"):
            storing.result()
        storage._connection.link().check()
        aborting = Background(storage.tpc_abort, txn)
        while True:
            message_id, _, name, _ = script.read()
            if message_id:
                script.reply(message_id, None)
            if name == "tpc_abort":
                break
        aborting.result()
        assert leftovers(tmp_path) == []

    def test_given_up_on_a_stock_server(self, connect_zeo):
        # It would take what comes next for more of the same blob.
        def progress(kind, oid, done, total):
            raise RuntimeError("enough")

        storage, _script = connect_zeo(blob_progress=progress)
        link = storage._connection.link()
        txn = begin(storage)
        with pytest.raises(RuntimeError, match="enough"):
            store(storage, txn, b"x" * 3 * CHUNK)
        wait_until(lambda: storage._connection._link is not link)
        storage.tpc_abort(txn)


class TestShared:
    """The client puts the file where the server has it."""

    @pytest.fixture
    def connect_shared(self, connect, fake, tmp_path):
        def connect_shared(is_zeolite):
            if is_zeolite:
                fake.info["zeolite"] = 1
            directory = str(tmp_path / "blobs")
            return connect(blob_dir=directory, shared_blob_dir=True)

        return connect_shared

    def files(self, storage):
        path = os.path.dirname(storage.temporaryDirectory())
        return [name for _, _, names in os.walk(path) for name in names]

    def begin_to_vote(self, storage, script):
        """Return a transaction, its vote on a stock server, and the file's name there."""
        txn = begin(storage)
        store(storage, txn, b"content")
        voting = Background(storage.tpc_vote, txn)
        script.expect("tpc_begin")
        return txn, voting, script.expect("storeBlobShared")[1][3]

    def test_file_moves_when_the_server_knows_of_it(self, connect_shared):
        storage, script = connect_shared(is_zeolite=True)
        txn = begin(storage)
        storing = Background(store, storage, txn, b"content")
        script.expect("tpc_begin")
        message_id, _ = script.expect("shareBlob")
        assert not any(name.endswith(".tmp") for name in self.files(storage))
        script.reply(message_id, "given.tmp")
        storing.result()
        assert "given.tmp" in os.listdir(storage.temporaryDirectory())
        voting = Background(storage.tpc_vote, txn)
        name = script.expect("storeBlobShared")[1][3]
        assert name == "given.tmp"
        script.answer("vote", [])
        voting.result()

    def test_file_that_cannot_be_removed_does_not_fail_the_commit(
        self, connect_shared, monkeypatch
    ):
        """Over a network file system, for instance."""
        storage, script = connect_shared(is_zeolite=False)
        txn, voting, _ = self.begin_to_vote(storage, script)
        script.answer("vote", [])
        voting.result()

        def unlink(path):
            raise OSError(errno.ESTALE, "Stale file handle", path)

        monkeypatch.setattr(transaction.os, "unlink", unlink)
        finish = Background(storage.tpc_finish, txn)
        script.answer("tpc_finish", p64(9))
        assert finish.result() == p64(9)
        storage.tpc_begin(TransactionMetaData())  # Nobody is waited for.

    def test_stock_server_finds_it_beside_the_blob(self, connect_shared):
        storage, script = connect_shared(is_zeolite=False)
        _, voting, name = self.begin_to_vote(storage, script)
        assert name in os.listdir(storage.fshelper.getPathForOID(OID))
        script.answer("vote", [])
        voting.result()

    def test_error_leaves_the_file_where_it_was(self, connect_shared):
        storage, script = connect_shared(is_zeolite=True)
        txn = begin(storage)
        storing = Background(store, storage, txn, b"content")
        script.expect("tpc_begin")
        message_id, _ = script.expect("shareBlob")
        script.fail(message_id, "ZODB.POSException.StorageTransactionError", ("no",))
        with pytest.raises(StorageTransactionError):
            storing.result()
        assert os.listdir(storage.temporaryDirectory()) == [f"new-{OID.hex()}"]

    @pytest.mark.parametrize("name", ["../x.tmp", "a/b", "/x", "", "..", None, 5, b"x"])
    def test_name_that_is_none(self, connect_shared, tmp_path, name):
        storage, script = connect_shared(is_zeolite=True)
        before = self.files(storage)
        txn = begin(storage)
        storing = Background(store, storage, txn, b"content")
        script.expect("tpc_begin")
        message_id, _ = script.expect("shareBlob")
        script.reply(message_id, name)
        with pytest.raises(ProtocolError):
            storing.result()
        assert sorted(self.files(storage)) == sorted([*before, f"new-{OID.hex()}"])


def test_loads_of_others_go_on_during_a_transfer(connect_zeolite):
    gate = Gate()
    storage, script = connect_zeolite(blob_progress=lambda *args: gate.stop_here())
    txn = begin(storage)
    storing = Background(store, storage, txn, b"x" * PIECE)
    gate.wait_until_reached()
    script.expect("tpc_begin")
    script.expect("storeBlobStart")
    script.answer("ping", None)  # It measures the way.
    chunk_id, _ = script.expect("storeBlobChunk")
    loading = Background(storage.loadBefore, OTHER, p64(9))
    message_id, _ = script.expect("loadBefore")
    script.reply(message_id, (b"data", p64(1), None))
    assert loading.result() == (b"data", p64(1), None)
    assert threading.current_thread() is not storing
    gate.open()
    script.reply(chunk_id, None)
    storing.result()
