"""Transactions and uploads that a client has begun and forgotten."""

import os
import threading

import pytest
from ZODB.FileStorage import FileStorage
from ZODB.utils import p64, z64

from tests.support.blocking import Gate
from tests.support.bystander import BLOB_RECORD, refused, works_before_and_after
from tests.support.rawclient import Failed
from tests.support.waiting import wait_until


class TestIdleTransactions:
    def test_it_is_aborted_and_its_client_told(self, serve, caplog):
        server = serve(idle_transaction_timeout=0.2)
        with works_before_and_after(server):
            client = server.connect()
            client.begin(1, oids=range(30), data=b"x" * 100_000)
            wait_until(lambda: "nothing was said about it" in caplog.text)
            held = server.session(client).transactions[1]._staging
            assert held._operations == [] and held._file is None
            refused(client, 1, "nothing was said about it for 0.2 seconds")
            client.commit(2)

    def test_none_is_idle_that_was_voted(self, serve):
        server = serve(idle_transaction_timeout=0.001)
        client, waiter = server.connect(), server.connect()
        server.server._housekeeper.stop()  # The test looks itself.
        client.begin(1)
        client.ask("vote", 1)
        waiter.begin(1, oids=(2,))
        vote = waiter.call("vote", 1)
        wait_until(lambda: server.served.commit_lock.waiting == 1)
        threading.Event().wait(0.01)
        server.server._housekeeper.look()
        client.ask("tpc_finish", 1)
        assert waiter.wait_for(vote) == []

    def test_storing_keeps_it_alive(self, serve):
        server = serve(idle_transaction_timeout=3600)
        client = server.connect()
        client.begin(1)
        client.ask("ping")
        transaction = server.session(client).transactions[1]
        transaction._touched -= 3601
        client.post("storea", p64(2), None, b"data", 1)
        client.ask("ping")
        server.server._housekeeper.look()
        assert client.ask("vote", 1) == []

    def test_a_blob_that_is_being_sent_keeps_all_alive(self, serve, tmp_path):
        storage = FileStorage(str(tmp_path / "fs"), blob_dir=str(tmp_path / "blobs"))
        server = serve(storage, idle_transaction_timeout=3600)
        client = server.connect()
        client.begin(1, oids=())
        client.post("storeBlobStart")
        client.ask("ping")
        session = server.session(client)
        session.transactions[1]._touched -= 3601
        session.upload._touched -= 3601
        client.post("storeBlobChunk", b"more")
        client.ask("ping")
        server.server._housekeeper.look()
        client.post("storeBlobEnd", p64(1), z64, BLOB_RECORD, 1)
        assert client.ask("vote", 1) == []

    def test_upload_without_an_end_is_forgotten(self, serve, tmp_path):
        storage = FileStorage(str(tmp_path / "fs"), blob_dir=str(tmp_path / "blobs"))
        server = serve(storage, idle_transaction_timeout=3600)
        with works_before_and_after(server):
            client = server.connect()
            client.begin(1, oids=())
            client.post("storeBlobStart")
            client.post("storeBlobChunk", b"x" * 1000)
            client.ask("ping")
            assert len(os.listdir(storage.temporaryDirectory())) == 1
            server.session(client).upload._touched -= 3601
            server.server._housekeeper.look()
            assert os.listdir(storage.temporaryDirectory()) == []
            client.post("storeBlobChunk", b"late")
            client.post("storeBlobEnd", p64(1), z64, BLOB_RECORD, 1)
            refused(client, 1, "no piece of a blob came for 3600 seconds")

    def test_abort_meets_a_store(self, serve, monkeypatch):
        """The store has found the transaction alive, and stages after the abort."""
        server = serve(idle_transaction_timeout=3600)
        client = server.connect()
        client.begin(1, oids=())
        client.ask("ping")
        transaction = server.session(client).transactions[1]
        gate = Gate()
        expect = transaction._expect

        def stopped(*states):
            result = expect(*states)
            monkeypatch.setattr(transaction, "_expect", expect)
            gate.stop_here()
            return result

        monkeypatch.setattr(transaction, "_expect", stopped)
        client.post("storea", p64(2), None, b"data", 1)
        gate.wait_until_reached()
        transaction._touched -= 3601
        server.server._housekeeper.look()
        gate.open()
        client.ask("ping")
        assert transaction._staging._operations == []
        refused(client, 1, "nothing was said")

    def test_client_gets_no_other_error_however_often_it_asks(self, serve):
        server = serve(idle_transaction_timeout=0.05)
        client = server.connect()
        client.begin(1)
        client.ask("ping")
        transaction = server.session(client).transactions[1]
        wait_until(lambda: transaction.has_ended)
        for _ in range(3):
            with pytest.raises(Failed, match="nothing was said"):
                client.ask("vote", 1)
