"""A client storage: its calls, its connection, and what it says when they fail."""

import logging
import socket
import threading

import pytest
import transaction
from ZODB.Connection import TransactionMetaData
from ZODB.POSException import (
    POSKeyError,
    ReadOnlyError,
    StorageTransactionError,
)
from ZODB.utils import maxtid, p64

from tests.support.fakeserver import FakeServer
from tests.support.processes import free_port
from tests.support.waiting import wait_until
from zeolite.clientstorage import connecting
from zeolite.clientstorage.link import Link
from zeolite.clientstorage.storage import ClientStorage
from zeolite.clientstorage.transaction import GATHER, REMEMBER
from zeolite.errors import ClientDisconnected, ProtocolError, ServerException

from .talking import Background, settle

OID = p64(7)


class TestLoading:
    def test_threads_that_want_the_same_share_a_request(self, connect):
        storage, script = connect()
        loads = [Background(storage.loadBefore, OID, maxtid) for _ in range(4)]
        message_id, _ = script.expect("loadBefore")
        # The others have joined when this reply comes, or find it in the cache.
        settle(storage, script)
        script.reply(message_id, (b"data", p64(1), None))
        for load in loads:
            assert load.result() == (b"data", p64(1), None)

    def test_error_reaches_all_that_wait(self, connect, monkeypatch):
        storage, script = connect()
        waiting, load = [], Link.load

        def load_and_tell(*args):
            waiting.append(load(*args))
            return waiting[-1]

        monkeypatch.setattr(Link, "load", load_and_tell)
        callers = [Background(storage.loadBefore, OID, p64(2)) for _ in range(2)]
        wait_until(lambda: len(waiting) == 2)
        message_id, _ = script.expect("loadBefore")
        script.fail(message_id, "ZODB.POSException.POSKeyError", (OID,))
        for caller in callers:
            with pytest.raises(POSKeyError):
                caller.result()

    def test_prefetched_objects_are_asked_for_once(self, connect):
        storage, script = connect()
        oids = [p64(number) for number in range(10)]
        storage.prefetch(oids, maxtid)
        storage.prefetch(oids, maxtid)
        load = Background(storage.loadBefore, oids[3], maxtid)
        for oid in oids:
            message_id, args = script.expect("loadBefore")
            assert args == (oid, maxtid)
            script.reply(message_id, (oid, p64(1), None))
        assert load.result() == (oids[3], p64(1), None)
        ping = Background(storage.ping)
        script.answer("ping", None)  # No other load came before it.
        ping.result()
        storage.prefetch(oids, maxtid)
        assert storage.loadBefore(oids[5], maxtid)[0] == oids[5]

    def test_object_that_did_not_exist_yet(self, connect):
        storage, script = connect()
        load = Background(storage.loadBefore, OID, p64(1))
        script.answer("loadBefore", None)
        assert load.result() is None

    def test_bad_argument_does_not_spoil_the_next_load(self, connect):
        storage, script = connect()
        for _ in range(2):
            with pytest.raises(TypeError):
                storage.loadBefore(OID, None)
        settle(storage, script)

    def test_error_of_unknown_class(self, connect):
        storage, script = connect()
        call = Background(storage.getTid, OID)
        message_id, _ = script.expect("getTid")
        script.fail(message_id, "application.OutOfPaper", ("tray 2",))
        with pytest.raises(
            ServerException,
            match=r"the server failed with application\.OutOfPaper: tray 2",
        ):
            call.result()


class TestTransactions:
    def test_calls_are_gathered_until_the_vote(self, connect):
        storage, script = connect()
        txn = TransactionMetaData("user", "description", {"a": 1})
        storage.tpc_begin(txn)
        storage.store(OID, p64(1), b"data", "", txn)
        storage.checkCurrentSerialInTransaction(p64(8), p64(2), txn)
        script._socket.settimeout(0.05)
        with pytest.raises(TimeoutError):
            script._socket.recv(1)
        script._socket.settimeout(20)
        vote = Background(storage.tpc_vote, txn)
        _, (id, user, description, extension, tid, status) = script.expect("tpc_begin")
        assert (user, description, tid, status) == (b"user", b"description", None, " ")
        assert extension == txn.extension_bytes
        assert script.expect("storea") == (0, (OID, p64(1), b"data", id))
        check = "checkCurrentSerialInTransaction"
        assert script.expect(check) == (0, (p64(8), p64(2), id))
        assert script.answer("vote", None) == (id,)
        assert vote.result() == []

    def test_much_data_leaves_before_the_vote(self, connect):
        storage, script = connect()
        txn = TransactionMetaData()
        storage.tpc_begin(txn)
        storage.store(OID, p64(1), b"x" * GATHER, "", txn)
        script.expect("tpc_begin")
        script.expect("storea")
        abort = Background(storage.tpc_abort, txn)
        script.answer("tpc_abort", None)
        abort.result()

    def test_abort_of_what_was_not_sent_costs_nothing(self, connect):
        storage, script = connect()
        txn = TransactionMetaData()
        storage.tpc_begin(txn)
        storage.store(OID, p64(1), b"data", "", txn)
        storage.tpc_abort(txn)
        settle(storage, script)

    def test_data_kept_for_the_cache_is_bounded(self, connect):
        storage, script = connect()
        txn = TransactionMetaData()
        storage.tpc_begin(txn)
        state = txn.data(storage)
        for number in range(8):
            storage.store(p64(number), None, b"x" * (REMEMBER // 4), "", txn)
            while script.read()[2] != "storea":
                pass
        kept = [data for data in state.stored.values() if data is not None]
        assert len(kept) == 4
        abort = Background(storage.tpc_abort, txn)
        script.answer("tpc_abort", None)
        abort.result()

    def test_one_at_a_time_where_the_server_wants_it(self, connect):
        """As stock ZEO servers do, which say nothing of it."""
        storage, script = connect()
        first, second = TransactionMetaData(), TransactionMetaData()

        def store(txn):
            storage.tpc_begin(txn)
            storage.store(OID, None, b"data", "", txn)

        store(first)
        waiting = Background(store, second)
        vote = Background(storage.tpc_vote, first)
        script.expect("tpc_begin")
        script.expect("storea")
        script.answer("vote", [])
        vote.result()
        assert waiting.is_alive()
        abort = Background(storage.tpc_abort, first)
        script.answer("tpc_abort", None)
        abort.result()
        waiting.result()
        vote = Background(storage.tpc_vote, second)
        script.expect("tpc_begin")
        script.expect("storea")
        script.answer("vote", [])
        assert vote.result() == []
        finish = Background(storage.tpc_finish, second)
        script.answer("tpc_finish", p64(2))
        finish.result()
        Background(store, first).result()
        storage.tpc_abort(first)

    def test_wrong_order_of_calls(self, connect):
        storage, _ = connect()
        txn = TransactionMetaData()
        for call in (storage.tpc_vote, storage.tpc_finish):
            with pytest.raises(StorageTransactionError):
                call(txn)
        storage.tpc_abort(txn)
        storage.tpc_begin(txn)
        with pytest.raises(StorageTransactionError, match="Duplicate"):
            storage.tpc_begin(txn)
        with pytest.raises(StorageTransactionError, match="before tpc_vote"):
            storage.tpc_finish(txn)

    def test_read_only_storage_sends_nothing(self, connect):
        storage, script = connect(read_only=True)
        txn = TransactionMetaData()
        for call, *args in (
            (storage.new_oid,),
            (storage.tpc_begin, txn),
            (storage.store, OID, None, b"", "", txn),
            (storage.tpc_vote, txn),
        ):
            with pytest.raises(ReadOnlyError):
                call(*args)
        settle(storage, script)

    def test_new_oids_come_by_the_hundred(self, connect):
        storage, script = connect()
        first = Background(storage.new_oid)
        script.answer("new_oids", [p64(1), p64(2), p64(3)])
        assert first.result() == p64(1)
        assert storage.new_oid() == p64(2)
        assert storage.new_oid() == p64(3)
        fourth = Background(storage.new_oid)
        script.answer("new_oids", [p64(4)])
        assert fourth.result() == p64(4)

    def test_connection_lost_during_a_transaction(self, fake, connect):
        storage, script = connect()
        txn = TransactionMetaData()
        storage.tpc_begin(txn)
        script.close()
        fake.accept()
        with pytest.raises(ClientDisconnected, match="during the transaction"):
            storage.store(OID, None, b"", "", txn)
        with pytest.raises(ClientDisconnected, match="during the transaction"):
            storage.tpc_vote(txn)
        storage.tpc_abort(txn)


class TestConnecting:
    def test_calls_in_flight_fail_with_a_transient_error(self, fake, connect):
        storage, script = connect()
        calls = [Background(storage.ping), Background(storage.getTid, OID)]
        script.read()
        script.read()
        script.close()
        for call in calls:
            with pytest.raises(ClientDisconnected, match="closed the connection") as e:
                call.result()
            assert isinstance(e.value, transaction.interfaces.TransientError)

    def test_new_calls_wait_for_the_next_connection(self, fake, connect):
        storage, script = connect()
        script.close()
        while storage.is_connected():
            pass
        ping = Background(storage.ping)
        script = fake.accept()
        script.answer("ping", None)
        ping.result()
        assert storage.is_connected()

    def test_cached_reads_go_on_without_a_connection(self, connect):
        storage, script = connect(wait_timeout=0.5)
        load = Background(storage.loadBefore, OID, maxtid)
        script.answer("loadBefore", (b"data", p64(1), None))
        load.result()
        script.close()
        while storage.is_connected():
            pass
        assert storage.loadBefore(OID, maxtid) == (b"data", p64(1), None)
        with pytest.raises(ClientDisconnected):
            storage.loadBefore(p64(8), maxtid)
        assert storage.lastTransaction() == p64(1)

    def test_reason_of_each_address(self, tmp_path):
        port, path = free_port(), str(tmp_path / "none")
        with pytest.raises(ClientDisconnected) as error:
            ClientStorage([port, path], wait_timeout=0.2)
        assert f"127.0.0.1:{port}: Connection refused" in str(error.value)
        assert f"{path}: there is no such Unix socket" in str(error.value)

    def test_without_waiting(self, fake, stack):
        port = free_port()
        storage = ClientStorage(port, wait=False, wait_timeout=0.1)
        stack.callback(storage.close)
        assert not storage.is_connected()
        assert "disconnected" in storage.getName()
        with pytest.raises(ClientDisconnected):
            storage.ping()

    def test_first_transaction_is_waited_for(self, fake, stack):
        storage = ClientStorage(fake.address, wait=False)
        stack.callback(storage.close)
        last = Background(storage.lastTransaction)
        fake.accept(p64(5))
        assert last.result() == p64(5)

    def test_reader_survives_whatever_connecting_raises(self, monkeypatch, stack):
        raised = threading.Event()

        def search(self):
            raised.set()
            raise OSError(24, "Too many open files")

        monkeypatch.setattr(connecting.Search, "next", search)
        storage = ClientStorage(free_port(), wait=False, disconnect_poll=0.01)
        stack.callback(storage.close)
        for _ in range(3):
            raised.clear()
            assert raised.wait(20)

    def test_unknown_storage_fails_at_once(self, fake):
        def refuse():
            script = fake.accept(register=False)
            message_id, _ = script.expect("register")
            script.fail(message_id, "builtins.ValueError", ("this server has 'main'",))

        refusing = threading.Thread(target=refuse)
        refusing.start()
        with pytest.raises(ClientDisconnected, match="this server has 'main'"):
            ClientStorage(fake.address, storage="x", wait_timeout=1000)
        refusing.join()

    @pytest.mark.parametrize(
        "offer, text",
        [(b"M5", "switch msgpack off"), (b"Z4", "Z4"), (b"HTTP/1.1 400", "HTTP")],
    )
    def test_other_protocol(self, stack, offer, text):
        fake = FakeServer(offer)
        stack.callback(fake.close)
        accepting = threading.Thread(target=lambda: fake.accept(register=False))
        accepting.start()
        with pytest.raises(ProtocolError, match=text):
            ClientStorage(fake.address, wait_timeout=1000)
        accepting.join()

    def test_silent_server(self, stack, monkeypatch):
        monkeypatch.setattr(connecting, "HANDSHAKE_TIMEOUT", 0.05)
        with socket.create_server(("127.0.0.1", 0)) as silent:
            with pytest.raises(ClientDisconnected, match="does not say"):
                ClientStorage(silent.getsockname(), wait_timeout=0.3)

    @pytest.mark.parametrize(
        "message",
        [
            (0, 1, "eval", ("1",)),
            (5, 0, ".reply", None),
            (0, 1, "invalidateTransaction", (1,)),
            (0, 1, "invalidateTransaction", (b"short", [])),
            (0, 1, "invalidateTransaction", (p64(9), [1])),
            (0, 1, "info", (5,)),
            "nonsense",
        ],
    )
    def test_server_that_talks_nonsense_is_left(self, fake, connect, message, caplog):
        storage, script = connect()
        script.send(*message)
        script = fake.accept()
        settle(storage, script)
        assert not [r for r in caplog.records if r.levelno >= logging.ERROR]

    def test_label_is_told(self, fake, stack):
        accepted = Background(fake.accept, p64(1), False)
        opened = Background(lambda: ClientStorage(fake.address, client_label="app"))
        script = accepted.result()
        script.answer("register", p64(1))
        assert script.expect("set_client_label") == (0, ("app",))
        script.answer("get_info", {})
        stack.callback(opened.result().close)

    def test_info_is_merged(self, connect):
        storage, script = connect()
        assert (len(storage), storage.getSize()) == (1, 2)
        script.call("info", {"size": 5})
        settle(storage, script)
        assert (len(storage), storage.getSize()) == (1, 5)

    def test_close_ends_calls_and_is_final(self, connect):
        storage, script = connect()
        call = Background(storage.ping)
        script.read()
        storage.close()
        storage.close()
        with pytest.raises(ClientDisconnected):
            call.result()
        with pytest.raises(ClientDisconnected, match="closed"):
            storage.ping()

    def test_server_sync(self, connect):
        storage, script = connect(server_sync=True)
        sync = Background(storage.sync)
        script.answer("ping", None)
        sync.result()

    def test_no_server_sync(self, connect):
        storage, _ = connect()
        storage.sync()


class TestArguments:
    @pytest.mark.parametrize(
        "argument, value",
        [
            ("credentials", "x"),
            ("username", "x"),
        ],
    )
    def test_later_features_are_refused_by_name(self, argument, value):
        with pytest.raises(NotImplementedError, match=argument):
            ClientStorage(free_port(), wait_timeout=0, **{argument: value})

    def test_old_arguments_are_accepted(self, connect):
        connect(
            min_disconnect_poll=1,
            max_disconnect_poll=30,
            drop_cache_rather_verify=False,
            blob_cache_size_check=10,
        )
