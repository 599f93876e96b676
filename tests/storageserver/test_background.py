"""Calls that run in threads of their own, and replies that nobody takes."""

import contextlib
import select
import socket
import threading
import types

import pytest
from ZODB.Connection import TransactionMetaData
from ZODB.FileStorage import FileStorage
from ZODB.MappingStorage import MappingStorage
from ZODB.utils import p64, u64, z64

from tests.support.blocking import BlockingStorage
from tests.support.bystander import BLOB_RECORD, works_before_and_after
from tests.support.rawclient import Failed
from tests.support.waiting import wait_until
from zeolite.storageserver import calls, helpers, served
from zeolite.storageserver.delivery import MOST_LATER


class SlowLog(MappingStorage):
    """Whose undo log takes as long as the test wants."""

    def __init__(self):
        super().__init__()
        self.gate = threading.Event()
        self.asked = []

    def undoLog(self, first, last):
        self.asked.append((first, last))
        assert self.gate.wait(20)
        return [{"id": b"%d" % number} for number in range(first, min(last, 20_000))]


class TestBackgroundCalls:
    def test_more_calls_than_are_allowed_at_once_are_refused(self, serve):
        storage = SlowLog()
        server = serve(storage, max_background_calls=3)
        with works_before_and_after(server) as other:
            client = server.connect()
            running = [client.call("undoLog", 0, 1) for _ in range(3)]
            for _ in range(1000):
                last = client.call("undoLog", 0, 1)
            with pytest.raises(Failed, match="max-background-calls"):
                client.wait_for(last)
            assert len(self.threads()) == 3
            # Other clients have their own.
            theirs = other.call("undoLog", 0, 1)
            storage.gate.set()
            assert other.wait_for(theirs) == [{"id": b"0"}]
            while not {m[1] for m in client.seen if m[0] == "reply"} >= {*running}:
                client.read()
            wait_until(lambda: not self.threads())
            client.ask("undoLog", 0, 1)

    def threads(self):
        return [t for t in threading.enumerate() if "undo_log" in t.name]

    def test_who_takes_no_replies_gets_no_more_made(self, serve):
        """The thread that has made a reply waits until it is taken."""
        storage = SlowLog()
        storage.gate.set()
        server = serve(storage, max_background_calls=3)
        with works_before_and_after(server):
            client = server.connect(receive_buffer=4096)
            count = threading.active_count()
            session = server.session(client)
            sender = threading.Thread(target=self.ask_often, args=(client, 1000))
            sender.start()
            # Three wait with a reply, and three behind them; or fewer, if the own
            # thread has refused one meanwhile and waits with that reply.
            channel, delivery = session._channel, session.delivery
            wait_until(lambda: stuck(channel))
            wait_until(
                lambda: (
                    session.background_calls == session.background_replies == 3
                    or (delivery._turn.locked() and stuck(channel))
                )
            )
            assert len(storage.asked) < 1000
            assert threading.active_count() - count <= 7
            assert len(session.delivery._later) == 0
            client.socket.shutdown(socket.SHUT_RDWR)
            sender.join()
            client.close()
            wait_until(lambda: threading.active_count() == count - 1)

    def ask_often(self, client, times):
        with contextlib.suppress(OSError):
            for _ in range(times):
                client.call("undoLog", 0, 10_000)

    def test_who_has_a_reply_may_call_again_at_once(self, serve):
        storage = SlowLog()
        storage.gate.set()
        client = serve(storage, max_background_calls=1).connect()
        for _ in range(500):
            client.ask("undoLog", 0, 1)

    def test_downloads_that_nobody_takes(self, serve, tmp_path):
        storage = FileStorage(str(tmp_path / "fs"), blob_dir=str(tmp_path / "blobs"))
        server = serve(storage, max_background_calls=2)
        with works_before_and_after(server) as other:
            client = server.connect()
            for oid in (1, 2, 3):
                other.begin(9, oids=())
                other.post("storeBlobStart")
                other.post("storeBlobChunk", b"x" * 500_000)
                other.post("storeBlobEnd", p64(oid), z64, BLOB_RECORD, 9)
                other.ask("vote", 9)
                tid = other.ask("tpc_finish", 9)
                download = client.call("sendBlob", p64(oid), tid, 1)
                # The window is there when the first chunk is.
                if oid < 3:
                    while client.read()[0] != "receiveBlobChunk":
                        pass
            with pytest.raises(Failed, match="max-background-calls"):
                client.wait_for(download)
            assert len(server.session(client).windows) == 2

    def test_no_thread_to_be_had(self, serve, monkeypatch):
        storage = SlowLog()
        storage.gate.set()
        server = serve(storage)
        with works_before_and_after(server):
            client = server.connect()
            with monkeypatch.context() as patched:
                none = types.SimpleNamespace(Thread=Unstartable)
                patched.setattr(helpers, "threading", none)
                with pytest.raises(Failed, match="cannot have more threads"):
                    client.ask("undoLog", 0, 1)
            assert client.ask("undoLog", 0, 1) == [{"id": b"0"}]


class Unstartable(threading.Thread):
    def start(self):
        raise RuntimeError("can't start new thread")


def stuck(channel):
    """Whether the kernel takes nothing more of what is sent to a client."""
    poll = select.poll()
    poll.register(channel._socket, select.POLLOUT)
    return not poll.poll(0)


class TestReplies:
    def test_of_votes_that_nobody_takes_are_few(self, server):
        """Votes that wait are answered by another thread, which never waits."""
        with works_before_and_after(server):
            client = server.connect()
            delivery = server.session(client).delivery
            count = threading.active_count()
            with delivery._lock:  # The client takes nothing.
                for number in range(MOST_LATER + 10):
                    delivery.send(b"%d" % number)
                assert threading.active_count() == count + 1
                assert len(delivery._later) <= MOST_LATER + 10
            assert client.is_closed()

    def test_of_other_threads_all_arrive(self, server):
        holder, client = server.connect(), server.connect()
        holder.begin(1)
        holder.ask("vote", 1)
        votes = {}
        for id in range(100):
            client.begin(id, oids=(id + 10,))
            votes[id] = client.call("vote", id)
        wait_until(lambda: server.served.commit_lock.waiting == 100)
        delivery = server.session(client).delivery
        with delivery._lock:
            for id in votes:
                server.session(client).transactions[id].abort("the test wants it")
        for call in votes.values():
            with contextlib.suppress(Failed):
                if not any(m[1] == call for m in client.seen):
                    client.wait_for(call)
        answered = [m[1] for m in client.seen if m[0] == "error"]
        assert sorted(answered) == sorted(votes.values())
        holder.ask("tpc_finish", 1)

    @pytest.mark.parametrize("last", [10**9, -(10**9)])
    def test_undo_log_is_told_in_parts(self, serve, last, monkeypatch):
        monkeypatch.setattr(calls, "MOST_RESULTS", 100)
        asked = []

        class Log(MappingStorage):
            def undoLog(self, first, last):
                asked.append((first, last))
                if last < 0:
                    last = first - last
                return [{"id": b"%d" % n} for n in range(first, min(last, 300))]

            def undoInfo(self, first, last, specification):
                return self.undoLog(first, last)

        client = serve(Log()).connect()
        for method in ("undoLog", "undoInfo"):
            with pytest.raises(Failed, match="more than 100"):
                client.ask(method, 0, last)
            assert asked[-1] in ((0, 101), (0, -101))
            assert len(client.ask(method, 0, 100)) == 100
            assert len(client.ask(method, 250, last)) == 50
            assert len(client.ask(method, -(10**12), 20)) == 20

    def test_history_is_told_in_parts(self, serve, monkeypatch):
        monkeypatch.setattr(calls, "MOST_RESULTS", 5)
        client = serve().connect()
        tid = None
        for id in range(8):
            tid = client.commit(id, serial=tid)
        assert len(client.ask("history", p64(1), 5)) == 5
        with pytest.raises(Failed, match="more than 5"):
            client.ask("history", p64(1), 10**9)

    def test_new_oids_are_few(self, server):
        client = server.connect()
        assert len(client.ask("new_oids", 10**18)) == 100
        assert len(client.ask("new_oids", -(10**18))) == 1

    @pytest.fixture
    def away(self, serve, tmp_path):
        """Call it to get a server whose log has nothing, and the tids of two commits."""

        def away(**options):
            storage = FileStorage(str(tmp_path / "Data.fs"))
            tids = []
            for start in (0, 8):
                txn = TransactionMetaData()
                storage.tpc_begin(txn)
                for oid in range(start, start + 8):
                    storage.store(p64(oid), z64, b"data", "", txn)
                storage.tpc_vote(txn)
                tids.append(storage.tpc_finish(txn))
            storage.close()
            storage = FileStorage(storage.getName())
            return serve(storage, invalidation_queue_size=1, **options), tids

        return away

    def test_changes_of_ages_are_not_told(self, away, monkeypatch):
        monkeypatch.setattr(served, "MOST_CHANGED", 10)
        server, tids = away(invalidation_age=3600)
        client = server.connect()
        tid, oids = client.ask("getInvalidations", tids[0])
        assert (tid, len(oids)) == (tids[1], 8)
        before = p64(u64(tids[0]) - 1)
        assert client.ask("getInvalidations", before) is None

    def test_who_was_away_for_longer_than_is_set_is_told_nothing(self, away):
        server, tids = away(invalidation_age=0)
        assert server.connect().ask("getInvalidations", tids[0]) is None

    def test_own_thread_makes_no_more_replies_than_are_taken(self, serve):
        """Loads: the gathered replies leave before the next call is executed."""
        storage = BlockingStorage()
        server = serve(storage)
        with works_before_and_after(server) as other:
            other.commit(5, data=b"x" * 1_000_000)
            client = server.connect(receive_buffer=4096)
            session = server.session(client)
            sent = 0
            for _ in range(500):
                client.load(1)
                sent += 1
            wait_until(lambda: stuck(session._channel))
            loads = session.counts["loads"]
            assert loads < sent
            assert len(session.delivery._gathered) <= 1
