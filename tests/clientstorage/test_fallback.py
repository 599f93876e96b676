"""A client that makes do with a read-only server until there is a writable one."""

import threading

import pytest
from ZODB.Connection import TransactionMetaData
from ZODB.MappingStorage import MappingStorage
from ZODB.POSException import ReadOnlyError
from ZODB.utils import maxtid, p64

from tests.support import deadservers
from tests.support.processes import free_port
from tests.support.waiting import wait_until
from zeolite.clientstorage import connecting
from zeolite.clientstorage.storage import ClientStorage
from zeolite.errors import ClientDisconnected
from zeolite.storageserver.server import StorageServer

from .talking import (
    Background,
    accept_read_only,
    open_in_background,
    settle,
)

OID = p64(7)


class TestFallback:
    @pytest.fixture
    def pair(self, stack, fake, another):
        """A client of a read-only server, its script, and a writable server.

        The writable one does not accept yet.
        """
        writable = another()
        writable.close_listener()
        opening = open_in_background(
            stack, [writable.address, fake.address], read_only_fallback=True
        )
        script = accept_read_only(fake)
        script.answer("get_info", {})
        storage = opening.result()
        return storage, script, writable

    def test_takes_a_read_only_server(self, pair):
        storage, script, _ = pair
        assert storage.isReadOnly()
        with pytest.raises(ReadOnlyError):
            storage.tpc_begin(None)
        settle(storage, script)

    def test_moves_over_without_an_error_for_readers(self, pair):
        storage, script, writable = pair
        load = Background(storage.loadBefore, OID, maxtid)
        history = Background(storage.history, OID)
        script.expect_all("loadBefore", "history")
        writable.open_listener()
        better = writable.accept()
        better.answer_all(loadBefore=(b"data", p64(1), None), history=[{"tid": p64(1)}])
        assert load.result() == (b"data", p64(1), None)
        assert history.result() == [{"tid": p64(1)}]
        assert not storage.isReadOnly()

    def test_blob_goes_on_at_the_better_server(self, stack, fake, another, tmp_path):
        writable = another()
        writable.close_listener()
        opening = open_in_background(
            stack,
            [writable.address, fake.address],
            read_only_fallback=True,
            blob_dir=str(tmp_path / "blobs"),
        )
        script = accept_read_only(fake)
        script.answer("get_info", {})
        storage, tid = opening.result(), p64(1)
        opened = Background(storage.openCommittedBlobFile, OID, tid)
        script.expect("sendBlob")
        script.call("receiveBlobStart", OID, tid)
        script.call("receiveBlobChunk", OID, tid, b"half of ")
        writable.open_listener()
        better = writable.accept()
        message_id, _ = better.expect("sendBlob")
        better.call("receiveBlobStart", OID, tid)
        better.call("receiveBlobChunk", OID, tid, b"whole")
        better.call("receiveBlobStop", OID, tid)
        better.reply(message_id, None)
        with opened.result() as file:
            assert file.read() == b"whole"

    def test_no_thread_to_look_for_the_writable_one(
        self, stack, fake, monkeypatch, caplog
    ):
        """It is connected again, and looks then."""
        start = threading.Thread.start

        def fail(thread):
            if thread.name.startswith("zeolite-second-search"):
                monkeypatch.undo()
                raise RuntimeError("can't start new thread")
            start(thread)

        monkeypatch.setattr(threading.Thread, "start", fail)
        opening = open_in_background(stack, fake.address, read_only_fallback=True)
        script = accept_read_only(fake)
        script.answer("get_info", {})
        assert script.is_closed()
        script = fake.accept()  # A writable one.
        settle(opening.result(), script)
        script.close()
        settle(opening.result(), fake.accept())
        assert "can't start new thread" in caplog.text
        assert "cannot join thread" not in caplog.text

    def test_verifies_when_it_moves(self, pair):
        storage, script, writable = pair
        load = Background(storage.loadBefore, OID, maxtid)
        script.answer("loadBefore", (b"old", p64(1), None))
        load.result()
        writable.open_listener()
        better = writable.accept(register=False)
        better.answer("register", p64(5))
        better.answer("get_info", {})
        assert better.answer("getInvalidations", (p64(5), [OID])) == (p64(1),)
        settle(storage, better)
        load = Background(storage.loadBefore, OID, maxtid)
        better.answer("loadBefore", (b"new", p64(5), None))
        assert load.result() == (b"new", p64(5), None)

    def test_iterators_go_on(self, pair):
        """In the midst of the transactions, and of the records of one."""
        storage, script, writable = pair
        iterator = Background(storage.iterator)
        script.answer("iterator_start", 1)
        iterator = iterator.result()
        advance = Background(next, iterator)
        script.answer("iterator_next", (p64(3), " ", b"", b"", {}))
        records = iter(advance.result())
        record = Background(next, records)
        script.answer("iterator_record_start", 2)
        script.answer("iterator_record_next", (p64(1), p64(3), b"", None))
        assert record.result().oid == p64(1)
        record = Background(next, records)
        script.answer("iterator_record_next", (p64(2), p64(3), b"", None))
        assert record.result().oid == p64(2)
        writable.open_listener()
        better = writable.accept()
        settle(storage, better)
        record = Background(next, records)
        assert better.answer("iterator_start", 8) == (p64(3), None)
        transaction = p64(3), " ", b"", b"", {}
        assert better.answer("iterator_next", transaction) == (8,)
        assert better.answer("iterator_record_start", 9) == (8, p64(3))
        for oid in (1, 2, 3):
            better.answer("iterator_record_next", (p64(oid), p64(3), b"", None))
        assert record.result().oid == p64(3)
        advance = Background(next, iterator)
        # A stock server, as this one seems to be, is not asked for records ahead.
        assert better.answer("iterator_next", (p64(4), " ", b"", b"", {})) == (8,)
        assert advance.result().tid == p64(4)

    def test_iterator_that_has_not_begun_begins_there(self, pair):
        storage, script, writable = pair
        begin = Background(storage.iterator)
        script.expect("iterator_start")
        writable.open_listener()
        better = writable.accept()
        better.answer("iterator_start", 8)
        advance = Background(next, begin.result())
        better.answer("iterator_next", (p64(4), " ", b"", b"", {}))
        assert advance.result().tid == p64(4)

    def test_iterator_between_two_transactions_goes_on(self, pair):
        storage, script, writable = pair
        iterator = Background(storage.iterator, p64(2), p64(9))
        script.answer("iterator_start", 1)
        iterator = iterator.result()
        advance = Background(next, iterator)
        script.answer("iterator_next", (p64(3), " ", b"", b"", {}))
        advance.result()
        advance = Background(next, iterator)
        script.expect("iterator_next")
        writable.open_listener()
        better = writable.accept()
        assert better.answer("iterator_start", 8) == (p64(4), p64(9))
        better.answer("iterator_next", (p64(4), " ", b"", b"", {}))
        assert advance.result().tid == p64(4)

    def test_does_not_move_to_one_that_is_behind(self, pair):
        storage, script, writable = pair
        script.call("invalidateTransaction", p64(9), [OID])
        settle(storage, script)
        writable.open_listener()
        for _ in range(2):
            behind = writable.accept(register=False)
            behind.answer("register", p64(8))
            assert behind.is_closed()
        settle(storage, script)
        assert storage.isReadOnly()
        better = writable.accept(register=False)
        better.answer("register", p64(9))
        better.answer("get_info", {})
        settle(storage, better)
        assert not storage.isReadOnly()

    def test_better_one_dies_while_it_moves(self, pair, fake):
        storage, script, writable = pair
        load = Background(storage.loadBefore, OID, maxtid)
        script.expect("loadBefore")
        writable.open_listener()
        better = writable.accept(register=False)
        better.answer("register", p64(1))
        better.expect("get_info")
        writable.close_listener()
        better.close()
        script = accept_read_only(fake)
        script.answer("get_info", {})
        script.answer("loadBefore", (b"data", p64(1), None))
        assert load.result() == (b"data", p64(1), None)

    def test_connection_is_lost_meanwhile(self, pair, fake):
        storage, script, _ = pair
        script.close()
        script = accept_read_only(fake)
        script.answer("get_info", {})
        settle(storage, script)
        assert storage.isReadOnly()

    def test_writable_one_is_preferred(self, stack, fake, another, monkeypatch):
        monkeypatch.setattr(connecting, "PREFERENCE", 1000)
        writable = another()
        opening = open_in_background(
            stack, [fake.address, writable.address], read_only_fallback=True
        )
        accept_read_only(fake)
        writable.accept()
        assert not opening.result().isReadOnly()

    def test_nobody_is_waited_for_when_all_have_answered(
        self, stack, fake, another, monkeypatch
    ):
        monkeypatch.setattr(connecting, "PREFERENCE", 1000)
        dead = another()
        dead.close_listener()
        opening = open_in_background(
            stack, [dead.address, fake.address], read_only_fallback=True
        )
        accept_read_only(fake).answer("get_info", {})
        assert opening.result().isReadOnly()

    def test_slow_ones_are_not_waited_for(self, stack, fake, patience):
        silent = stack.enter_context(deadservers.silent())
        opening = open_in_background(
            stack, [silent, fake.address], read_only_fallback=True
        )
        script = accept_read_only(fake)
        script.answer("get_info", {})
        assert opening.result().isReadOnly()

    def test_other_attempts_end_when_a_better_one_is_found(
        self, stack, fake, another, patience
    ):
        silent, writable = stack.enter_context(deadservers.silent()), another()
        writable.close_listener()
        opening = open_in_background(
            stack, [silent, writable.address, fake.address], read_only_fallback=True
        )
        accept_read_only(fake).answer("get_info", {})
        storage = opening.result()
        writable.open_listener()
        settle(storage, writable.accept())
        wait_until(
            lambda: (
                not any(
                    thread.name.startswith("zeolite-connect")
                    for thread in threading.enumerate()
                )
            )
        )

    def test_read_only_is_ignored_then(self, server):
        storage = ClientStorage(server.address, read_only=True, read_only_fallback=True)
        assert not storage.isReadOnly()
        storage.close()

    def test_on_real_servers(self, stack, serve):
        """A reader that never stops, while a writable server comes and goes."""
        data = MappingStorage()
        store(data)
        reading = serve(Shared(data), read_only=True)
        port = free_port()
        storage = ClientStorage(
            [port, reading.address],
            read_only_fallback=True,
            disconnect_poll=0.01,
            cache_size=1,
        )
        stack.callback(storage.close)
        wanted, problems = [True], []

        def read():
            while wanted:
                try:
                    storage.getTid(OID)
                except Exception as error:
                    problems.append(error)

        reader = threading.Thread(target=read)
        reader.start()
        try:
            for _ in range(5):
                writable = StorageServer(("127.0.0.1", port), {"1": Shared(data)})
                writable.start()
                wait_until(lambda: not storage.isReadOnly())
                assert not problems
                writable.stop()
                wait_until(storage.isReadOnly)
                # Its stop is a loss like any other: calls in flight fail.
                assert {type(error) for error in problems} <= {ClientDisconnected}
                problems.clear()
        finally:
            wanted.clear()
            reader.join()


class Shared:
    """A storage that is not closed, because another server has it as well."""

    def __init__(self, storage):
        self._storage = storage

    def __getattr__(self, name):
        return getattr(self._storage, name)

    def __len__(self):
        return len(self._storage)

    def close(self):
        pass


def store(storage):
    """Store OID."""
    txn = TransactionMetaData()
    storage.tpc_begin(txn)
    storage.store(OID, None, b"data", "", txn)
    storage.tpc_vote(txn)
    storage.tpc_finish(txn)
