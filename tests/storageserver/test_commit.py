"""Votes that wait for the commit lock, aborts, disconnects, and stores that come late."""

import io
import threading

import pytest
from ZODB.POSException import POSKeyError, StorageError
from ZODB.utils import maxtid, p64

from tests.support.blocking import Gate
from tests.support.rawclient import Failed
from tests.support.waiting import wait_until
from zeolite.storageserver import staging

from .voting import voting


class TestWaitingVotes:
    def test_they_are_served_in_the_order_in_which_they_came(self, server):
        clients = voting(server, 4)
        tids = []
        for id, client in enumerate(clients, 1):
            if id > 1:
                client.wait_for(client.vote)
            tids.append(client.ask("tpc_finish", id))
        assert tids == sorted(tids)

    def test_loads_of_the_same_client_go_on_meanwhile(self, server):
        holder, waiter = voting(server, 2)
        with pytest.raises(Failed, match="POSKeyError"):
            waiter.wait_for(waiter.load(77))
        waiter.ask("ping")
        assert not any(message[1] == waiter.vote for message in waiter.seen)
        holder.ask("tpc_abort", 1)
        assert waiter.wait_for(waiter.vote) == []

    def test_another_transaction_of_the_same_client_can_wait(self, server):
        client = server.connect()
        client.begin(1)
        client.begin(2, oids=(2,))
        client.ask("vote", 1)
        vote = client.call("vote", 2)
        assert client.ask("tpc_finish", 1) < (client.wait_for(vote), b"\xff" * 8)[1]
        client.ask("tpc_finish", 2)
        assert server.served.status()["commits"] == 2

    def test_the_first_of_two_disconnects(self, server):
        holder, first, second = voting(server, 3)
        gone = server.session(first)
        first.close()
        wait_until(lambda: gone not in server.served.sessions())
        holder.ask("tpc_finish", 1)
        second.wait_for(second.vote)
        second.ask("tpc_finish", 3)
        assert server.served.status()["waiting"] == 0

    def test_the_holder_disconnects(self, server):
        holder, waiter = voting(server, 2)
        holder.close()
        assert waiter.wait_for(waiter.vote) == []
        waiter.ask("tpc_finish", 2)
        assert server.served.status()["commits"] == 1

    def test_abort_takes_a_vote_out_of_the_queue(self, server):
        holder, waiter = voting(server, 2)
        assert waiter.ask("tpc_abort", 2) is None
        with pytest.raises(Failed, match="aborted"):
            raise Failed(*next(m for m in waiter.seen if m[1] == waiter.vote)[2])
        assert server.served.commit_lock.waiting == 0
        holder.ask("tpc_finish", 1)
        assert waiter.commit(3, oids=(3,))

    def test_abort_while_the_storage_votes(self, server):
        (holder, waiter) = voting(server, 2)
        vote = server.storage.gate("before tpc_vote")
        holder.ask("tpc_abort", 1)
        vote.wait_until_reached()  # The vote runner is in the storage.
        waiter.ask("tpc_abort", 2)
        other = server.connect()
        other.begin(3)
        other_vote = other.call("vote", 3)
        vote.open()
        other.wait_for(other_vote)
        other.ask("tpc_finish", 3)
        assert server.served.status()["commits"] == 1

    def test_a_conflict_of_a_waiting_vote_is_answered(self, server):
        writer = server.connect()
        old = writer.commit(9, oids=(2,))
        writer.commit(10, oids=(2,), serial=old)
        holder, waiter = server.connect(), server.connect()
        holder.begin(1, oids=(1,))
        holder.ask("vote", 1)
        waiter.begin(2, oids=(2,), serial=old)
        vote = waiter.call("vote", 2)
        wait_until(lambda: server.served.commit_lock.waiting == 1)
        holder.ask("tpc_finish", 1)
        with pytest.raises(Failed, match="ConflictError"):
            waiter.wait_for(vote)
        assert server.served.status()["conflicts"] == 1
        assert writer.commit(11, oids=(5,))


class TestAborting:
    """Who comes next gets the lock when the storage is done with who had it."""

    @pytest.fixture
    def aborting(self, server, monkeypatch):
        """The gate at which the storage stops before it aborts."""
        aborting, abort = Gate(), server.storage.tpc_abort

        def tpc_abort(transaction):
            aborting.stop_here()
            abort(transaction)

        monkeypatch.setattr(server.storage, "tpc_abort", tpc_abort)
        yield aborting
        aborting.open()

    @pytest.mark.parametrize(
        "how", ["vote fails", "finish fails", "client aborts", "client leaves"]
    )
    def test_the_lock_is_kept_until_the_storage_has_aborted(
        self, server, aborting, how
    ):
        client, next = server.connect(), server.connect()
        client.begin(1)
        if how == "vote fails":
            server.storage.fail("before tpc_vote", StorageError("no"))
            client.call("vote", 1)
        else:
            client.ask("vote", 1)
        if how == "finish fails":
            server.storage.fail("before tpc_finish", StorageError("no"))
            client.call("tpc_finish", 1)
        elif how == "client aborts":
            client.call("tpc_abort", 1)
        elif how == "client leaves":
            client.close()
        aborting.wait_until_reached()
        next.begin(2, oids=(2,))
        vote = next.call("vote", 2)
        wait_until(lambda: server.served.commit_lock.waiting == 1)
        aborting.open()
        next.wait_for(vote)
        next.ask("tpc_finish", 2)


class TestErrors:
    def test_only_stores_are_left_to_the_client_to_resolve(self, serve):
        """That an object is not the one that was read is for nobody to resolve."""
        server = serve(client_conflict_resolution=True)
        client = server.connect()
        old = client.commit(1, oids=(1,))
        client.commit(2, oids=(1,), serial=old)
        client.begin(3, oids=(2,))
        client.post("checkCurrentSerialInTransaction", p64(1), old, 3)
        with pytest.raises(Failed, match="ReadConflictError"):
            client.ask("vote", 3)

    def test_error_of_a_call_without_reply_is_raised_by_the_vote(self, serve):
        server = serve(read_only=True)
        client = server.connect(register=False)
        client.handshake()
        client.ask("register", "1", True)
        client.begin(1)
        with pytest.raises(Failed, match="ReadOnlyError"):
            client.ask("vote", 1)
        client.ask("ping")

    def test_finish_without_vote(self, server):
        client = server.connect()
        client.begin(1)
        with pytest.raises(Failed, match="StorageTransactionError"):
            client.ask("tpc_finish", 1)
        with pytest.raises(Failed, match="StorageTransactionError"):
            client.ask("tpc_finish", 2)

    def test_second_vote(self, server):
        client = server.connect()
        client.begin(1)
        client.ask("vote", 1)
        with pytest.raises(Failed, match="StorageTransactionError"):
            client.ask("vote", 1)
        assert client.ask("tpc_finish", 1)

    def test_unknown_abort_is_fine(self, server):
        assert server.connect().ask("tpc_abort", 12345) is None

    def test_failed_vote_releases_the_lock(self, server):
        client, other = server.connect(), server.connect()
        server.storage.fail("before tpc_vote", OSError("disk full"))
        client.begin(1)
        with pytest.raises(Failed, match="disk full"):
            client.ask("vote", 1)
        assert other.commit(2)

    def test_failed_begin_releases_the_lock(self, server, monkeypatch):
        client, other = server.connect(), server.connect()

        def fail(*args):
            raise ValueError("not now")

        monkeypatch.setattr(server.storage, "tpc_begin", fail)
        client.begin(1)
        with pytest.raises(Failed, match="not now"):
            client.ask("vote", 1)
        monkeypatch.undo()
        assert other.commit(2)

    def test_extension_that_runs_code_is_refused(self, server):
        client = server.connect()
        client.post("tpc_begin", 1, b"", b"", b"cos\nsystem\n(S'true'\ntR.", None, " ")
        with pytest.raises(Failed, match="plain data"):
            client.ask("vote", 1)

    def test_full_disk_while_staging_releases_everything(self, server, monkeypatch):
        class FullFile(io.BytesIO):
            def write(self, data):
                raise OSError(28, "No space left on device")

            def close(self):
                if not self.closed:
                    super().close()  # Else it would be tried again at its end.
                    raise OSError(28, "No space left on device")

        monkeypatch.setattr(
            staging.tempfile, "TemporaryFile", lambda **kwargs: FullFile()
        )
        client, other = server.connect(), server.connect()
        client.begin(1, oids=range(3), data=b"x" * staging.MEMORY)
        with pytest.raises(Failed, match="No space left"):
            client.ask("vote", 1)
        client.begin(2, oids=range(3), data=b"x" * staging.MEMORY)
        client.close()
        assert other.commit(3)
        wait_until(lambda: len(server.served.sessions()) == 1)

    def test_size_that_cannot_be_told_does_not_fail_the_commit(
        self, server, monkeypatch
    ):
        def fail():
            raise OSError("no idea")

        monkeypatch.setattr(server.storage, "getSize", fail)
        assert server.connect().commit(1)

    @pytest.mark.parametrize(
        "where", ["before loadBefore", "before tpc_vote", "before tpc_finish"]
    )
    def test_one_that_cannot_say_anything_holds_nobody_up(self, server, where):
        """As ZODB's `POSKeyError` where it has no oid."""
        client, other = server.connect(), server.connect()
        server.storage.fail(where, POSKeyError())
        with pytest.raises(Failed, match="POSKeyError"):
            if where == "before loadBefore":
                client.ask("loadBefore", p64(1), maxtid)
            client.commit(1)
        assert client.ask("ping") is None
        assert other.commit(2)

    def test_one_that_cannot_say_anything_answers_a_vote_that_has_waited(self, server):
        first, second = voting(server, 2)
        server.storage.fail("before tpc_vote", POSKeyError())
        first.ask("tpc_abort", 1)
        with pytest.raises(Failed, match="POSKeyError"):
            second.wait_for(second.vote)
        assert first.commit(3)

    def test_failure_before_the_storage_finishes_releases_the_lock(
        self, server, monkeypatch
    ):
        def fail(oids):
            monkeypatch.undo()
            raise MemoryError

        client, other = server.connect(), server.connect()
        client.begin(1)
        client.ask("vote", 1)
        monkeypatch.setattr(server.served.journal, "finishing", fail)
        with pytest.raises(Failed, match="MemoryError"):
            client.ask("tpc_finish", 1)
        assert other.commit(2)

    def test_failed_finish_leaves_no_transaction(self, server):
        client = server.connect()
        server.storage.fail("before tpc_finish", OSError("disk full"))
        client.begin(1)
        client.ask("vote", 1)
        with pytest.raises(Failed, match="disk full"):
            client.ask("tpc_finish", 1)
        assert server.served.status()["active_txns"] == 0

    @pytest.mark.parametrize(
        "tid, status, extension, text",
        [
            (None, "c", {}, "no status"),
            (None, "X" * 60, {}, "no status"),
            (b"\0" * 7 + b"\1", " ", {}, "cannot be stored after"),
            (b"\xff" * 8, " ", {}, "a day ahead"),
            (None, " ", b"\x80\x03K\x05.", "no dictionary"),
        ],
    )
    def test_metadata_that_would_spoil_the_database(
        self, server, tid, status, extension, text
    ):
        client = server.connect()
        client.commit(1)
        client.post("tpc_begin", 2, b"", b"", extension, tid, status)
        with pytest.raises(Failed, match=text):
            client.ask("vote", 2)
        assert client.commit(3, oids=(3,))

    def test_large_transaction_goes_through_a_file(self, server):
        client = server.connect()
        client.commit(1, oids=range(300), data=b"x" * 10_000)
        data, _, _ = client.wait_for(client.load(299))
        assert data == b"x" * 10_000


class TestLateStores:
    """Stores behind the vote that they should be in."""

    def test_vote_that_waits_fails_and_does_not_commit_a_part(self, server):
        holder, waiter = voting(server, 2)
        waiter.post("storea", p64(9), None, b"late", 2)
        waiter.ask("ping")
        holder.ask("tpc_abort", 1)
        with pytest.raises(Failed, match="not not voted"):
            waiter.wait_for(waiter.vote)
        assert holder.commit(3, oids=(3,))  # The commit lock is free.

    def test_vote_that_runs_fails_and_does_not_commit_a_part(self, server, monkeypatch):
        monkeypatch.setattr("zeolite.storageserver.commit.MEMORY", 1000)
        holder, waiter = voting(server, 1)[0], server.connect()
        waiter.begin(2, oids=range(1, 9), data=b"x" * 500)
        vote = waiter.call("vote", 2)
        wait_until(lambda: server.served.commit_lock.waiting)
        store, gate = server.storage.store, Gate()

        def stop_once(*args):
            server.storage.store = store
            gate.stop_here()
            return store(*args)

        server.storage.store = stop_once
        holder.ask("tpc_abort", 1)
        gate.wait_until_reached()
        waiter.post("storea", p64(9), None, b"late", 2)
        waiter.ask("ping")
        gate.open()
        with pytest.raises(Failed):
            waiter.wait_for(vote)
        assert holder.commit(3, oids=(3,))

    def test_vote_that_begins_while_a_store_fails_does_not_commit_a_part(
        self, server, monkeypatch
    ):
        """What was stored is given up then, and must not be taken for all there was."""
        holder, waiter = voting(server, 2)
        giving_up, close = Gate(), staging.Staging.close

        def stop_once(staged):
            close(staged)
            if threading.current_thread().name.startswith("zeolite-client"):
                monkeypatch.setattr(staging.Staging, "close", close)
                giving_up.stop_here()

        monkeypatch.setattr(staging.Staging, "close", stop_once)
        waiter.post("storea", p64(9), None, b"late", 2)
        giving_up.wait_until_reached()
        holder.ask("tpc_abort", 1)
        with pytest.raises(Failed):
            waiter.wait_for(waiter.vote)
        giving_up.open()
        assert holder.commit(3, oids=(3,))
