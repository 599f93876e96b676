"""What one client may use of a server, and that the others do not notice.

Each test has the client go over one limit; `others` is a client that must be able
to work before, meanwhile and after.
"""

import contextlib
import logging
import os
import pickle
import select
import socket
import struct
import threading

import pytest
from ZODB.blob import Blob
from ZODB.Connection import TransactionMetaData
from ZODB.FileStorage import FileStorage
from ZODB.MappingStorage import MappingStorage
from ZODB.serialize import ObjectWriter
from ZODB.utils import p64, u64, z64

from tests.support.blocking import BlockingStorage, Gate
from tests.support.rawclient import Failed
from tests.support.waiting import wait_until
from zeolite.storageserver import calls, served, staging
from zeolite.storageserver.delivery import MOST_LATER
from zeolite.wire.messages import MOST_PLAIN

RECORD = ObjectWriter().serialize(Blob())


def framed(data):
    return struct.pack(">I", len(data)) + data


@contextlib.contextmanager
def works_before_and_after(server):
    """A client that did nothing wrong notices nothing."""
    other = server.connect()
    other.commit(1, oids=(900,))
    yield other
    other.ask("ping")
    assert other.commit(2, oids=(901,))


def refused(client, id, words):
    with pytest.raises(Failed) as caught:
        client.ask("vote", id)
    assert words in str(caught.value.args)
    client.ask("tpc_abort", id)


class TestMessages:
    def test_size_before_registering(self, serve, caplog):
        server = serve(max_register_size=2000)
        with works_before_and_after(server):
            client = server.connect(register=False)
            client.handshake()
            client.call("register", "x" * 2000, False)
            assert client.is_closed()
        assert "a frame of 2037 bytes, where 2000 are allowed" in caplog.text

    def test_size_after_registering(self, serve, caplog):
        server = serve(max_message_size=2**20)
        with works_before_and_after(server):
            client = server.connect()
            client.begin(1, data=b"x" * (2**20 - 1000))
            assert client.ask("vote", 1) == []
            client.socket.sendall(struct.pack(">I", 2**20 + 1))
            assert client.is_closed()
        assert "where 1048576 are allowed" in caplog.text

    def test_who_stops_in_the_middle_is_closed(self, serve):
        server = serve(client_timeout=0.2)
        with works_before_and_after(server) as other:
            other_session = server.session(other)
            client = server.connect()
            client.socket.sendall(struct.pack(">I", 10_000_000) + b"x" * 1_000_000)
            assert client.is_closed()
            # Who is silent between two messages is not.
            assert other_session in server.served.sessions()

    def test_silence_between_messages_is_fine(self, serve):
        server = serve(client_timeout=0.05)
        client = server.connect()
        client.socket.settimeout(0.5)
        with pytest.raises(TimeoutError):
            client.read()
        client.ask("ping")

    @pytest.mark.parametrize(
        "args",
        [b"}" * MOST_PLAIN, b"]" * MOST_PLAIN, b"X" + struct.pack("<I", 2**19) + b"x" * 2**19],
        ids=["dictionaries", "lists", "text"],
    )  # fmt: skip
    def test_small_messages_of_many_objects(self, server, caplog, args):
        """256 MB of these would have taken 18 GB."""
        with works_before_and_after(server):
            client = server.connect()
            client.socket.sendall(
                framed(b"\x80\x03(K\x05K\x00X\x04\0\0\0ping(" + args + b"tt.")
            )
            assert client.is_closed()
        assert "too much in a pickle that is not bytes" in caplog.text

    def test_records_and_chunks_are_not_small_messages(self, server):
        client = server.connect()
        data = b"x" * (2 * MOST_PLAIN)
        client.post("tpc_begin", 1, b"", b"", {}, None, " ")
        # Neither of the two ways in which pickles write bytes, nor the packed one.
        for oid, message in (
            (1, (0, 1, "storea", (p64(1), z64, data, 1))),
            (2, (0, True, "restorea", (p64(2), p64(9), data, None, 1))),
        ):
            assert len(pickle.dumps(message, 3)) > MOST_PLAIN, oid
            client.send_frame(pickle.dumps(message, 3))
        client.ask("ping")
        assert server.session(client).transactions[1]._staging._size > 4 * MOST_PLAIN

    @pytest.mark.parametrize(
        "message_id", [b"x" * 1001, "x" * 1001, (1,) * 9, ((b"x" * 1001,),)]
    )
    def test_what_is_sent_back_as_it_came_is_small(self, server, message_id):
        with works_before_and_after(server):
            client = server.connect()
            client.send_frame(pickle.dumps((message_id, 0, "ping", ()), 3))
            assert client.is_closed()


class TestTransactions:
    def test_number(self, serve, caplog):
        server = serve(max_transactions=3)
        with works_before_and_after(server):
            client = server.connect()
            for id in range(1, 6):
                client.begin(id, oids=(id,))
            refused(client, 5, "max-transactions")
            assert len(server.session(client).transactions) == 3
            # What there was goes on, and its end makes room.
            client.ask("vote", 1)
            client.ask("tpc_finish", 1)
            client.commit(6, oids=(6,))
        lines = [r for r in caplog.records if "max-transactions" in r.getMessage()]
        assert len(lines) == 1

    def test_all_together_stay_in_little_memory(self, server):
        client = server.connect()
        for id in range(100):
            client.post("tpc_begin", id, b"", b"", {}, None, " ")
            for oid in range(4):
                client.post("storea", p64(oid), None, b"x" * 100_000, id)
        client.ask("ping")
        transactions = server.session(client).transactions
        in_memory = sum(t._staging._in_memory for t in transactions.values())
        assert len(transactions) == 100
        assert in_memory < 12 * staging.MEMORY

    def test_size_of_records(self, serve):
        server = serve(max_transaction_size=10_000)
        with works_before_and_after(server):
            client = server.connect()
            client.begin(1, oids=range(20), data=b"x" * 1000)
            client.ask("ping")
            kept = server.session(client).transactions[1]._staging
            assert kept._operations == []
            refused(client, 1, "10000 bytes of max-transaction-size")
            client.commit(2, data=b"x" * 5000)

    def test_records_in_a_file_count(self, serve):
        server = serve(max_transaction_size=3 * staging.MEMORY)
        client = server.connect()
        client.begin(1, oids=range(31), data=b"x" * (staging.MEMORY // 10))
        refused(client, 1, "max-transaction-size")

    def test_no_limit_by_default(self, server):
        client = server.connect()
        client.begin(1, oids=range(40), data=b"x" * 500_000)
        assert client.ask("vote", 1) == []

    @pytest.mark.parametrize(
        "method, args",
        [
            ("storea", (p64(1), z64, b"", 1)),
            ("restorea", (p64(1), p64(9), b"", None, 1)),
            ("storeBlobShared", (p64(1), z64, b"", "x.tmp", 1)),
        ],
    )
    def test_empty_records_break_no_file(self, serve, tmp_path, method, args):
        path = str(tmp_path / "Data.fs")
        server = serve(FileStorage(path, blob_dir=str(tmp_path / "blobs")))
        with works_before_and_after(server):
            client = server.connect()
            client.post("tpc_begin", 1, b"", b"", {}, None, " ")
            client.post(method, *args)
            refused(client, 1, "the record of an object is empty")
        server.server.stop()
        os.unlink(path + ".index")
        FileStorage(path).close()  # It reads all of it.

    @pytest.mark.parametrize(
        "text",
        [
            (b"x" * 65536, b"", {}),
            (b"", "x" * 65536, {}),
            (b"", b"", {"x": b"x" * 65536}),
            (b"", b"", pickle.dumps({"x": b"x" * 65536}, 3)),
        ],
        ids=["user", "description", "extension", "pickle"],
    )
    def test_long_texts_are_not_kept(self, server, text):
        with works_before_and_after(server):
            client = server.connect()
            client.post("tpc_begin", 1, *text, None, " ")
            client.ask("ping")
            assert server.session(client).transactions[1]._metadata is None
            refused(client, 1, "more than 65535 bytes")

    def test_conflicts_for_the_client_fit_into_a_message(self, serve):
        server = serve(client_conflict_resolution=True, max_message_size=2**20)
        with works_before_and_after(server) as other:
            other.commit(3, oids=range(20))
            client = server.connect()
            client.begin(1, oids=range(20), serial=p64(1), data=b"x" * 100_000)
            refused(client, 1, "ConflictError")

    def test_resolved_conflicts_are_staged_again(self, serve):
        server = serve(client_conflict_resolution=True)
        client = server.connect()
        tid = client.commit(1)
        client.begin(2, serial=p64(1))
        (conflict,) = client.ask("vote", 2)
        assert conflict["serials"][0] == tid
        client.post("storea", p64(1), tid, b"resolved", 2)
        client.ask("vote", 2)
        client.ask("tpc_finish", 2)
        assert client.wait_for(client.load(1))[0] == b"resolved"


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
        client.post("tpc_begin", 1, b"", b"", {}, None, " ")
        client.post("storeBlobStart")
        client.ask("ping")
        session = server.session(client)
        session.transactions[1]._touched -= 3601
        session.upload._touched -= 3601
        client.post("storeBlobChunk", b"more")
        client.ask("ping")
        server.server._housekeeper.look()
        client.post("storeBlobEnd", p64(1), z64, RECORD, 1)
        assert client.ask("vote", 1) == []

    def test_upload_without_an_end_is_forgotten(self, serve, tmp_path):
        storage = FileStorage(str(tmp_path / "fs"), blob_dir=str(tmp_path / "blobs"))
        server = serve(storage, idle_transaction_timeout=3600)
        with works_before_and_after(server):
            client = server.connect()
            client.post("tpc_begin", 1, b"", b"", {}, None, " ")
            client.post("storeBlobStart")
            client.post("storeBlobChunk", b"x" * 1000)
            client.ask("ping")
            assert len(os.listdir(storage.temporaryDirectory())) == 1
            server.session(client).upload._touched -= 3601
            server.server._housekeeper.look()
            assert os.listdir(storage.temporaryDirectory()) == []
            client.post("storeBlobChunk", b"late")
            client.post("storeBlobEnd", p64(1), z64, RECORD, 1)
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


class TestBlobs:
    @pytest.fixture
    def storage(self, tmp_path):
        return FileStorage(str(tmp_path / "fs"), blob_dir=str(tmp_path / "blobs"))

    def upload(self, client, id, *chunks):
        client.post("tpc_begin", id, b"", b"", {}, None, " ")
        self.send(client, id, *chunks)

    def send(self, client, id, *chunks, oid=1):
        client.post("storeBlobStart")
        for chunk in chunks:
            client.post("storeBlobChunk", chunk)
        client.post("storeBlobEnd", p64(oid), z64, RECORD, id)

    def test_one_that_is_larger_than_a_transaction_leaves_the_disk(
        self, serve, storage
    ):
        server = serve(storage, max_transaction_size=10_000)
        with works_before_and_after(server):
            client = server.connect()
            client.post("tpc_begin", 1, b"", b"", {}, None, " ")
            client.post("storeBlobStart")
            for _ in range(11):
                client.post("storeBlobChunk", b"x" * 1000)
            client.ask("ping")
            assert os.listdir(storage.temporaryDirectory()) == []
            client.post("storeBlobEnd", p64(1), z64, RECORD, 1)
            refused(client, 1, "max-transaction-size")
            self.upload(client, 2, b"x" * 9000)
            assert client.ask("vote", 2) == []
            client.ask("tpc_finish", 2)

    def test_several_count_together(self, serve, storage):
        server = serve(storage, max_transaction_size=10_000)
        client = server.connect()
        self.upload(client, 1, b"x" * 4000)
        self.send(client, 1, b"x" * 4000, oid=2)
        self.send(client, 1, b"x" * 4000, oid=3)
        client.ask("ping")
        assert os.listdir(storage.temporaryDirectory()) == []
        refused(client, 1, "max-transaction-size")


class TestIterators:
    def test_over_transactions(self, serve):
        server = serve(max_iterators=3)
        with works_before_and_after(server) as other:
            client = server.connect()
            first, *_ = [client.ask("iterator_start", None, None) for _ in range(3)]
            with pytest.raises(Failed, match="max-iterators"):
                client.ask("iterator_start", None, None)
            other.ask("iterator_start", None, None)
            client.post("iterator_gc", [first])
            client.ask("iterator_start", None, None)

    def test_of_those_over_records_the_oldest_goes(self, serve):
        server = serve(max_iterators=3)
        client = server.connect()
        client.commit(1)
        iterator = client.ask("iterator_start", None, None)
        tid = client.ask("iterator_next", iterator)[0]
        records = [
            client.ask("iterator_record_start", iterator, tid) for _ in range(100)
        ]
        assert len(server.session(client).iterators._records) == 3
        with pytest.raises(Failed, match="no iterator"):
            client.ask("iterator_record_next", records[0])
        assert client.ask("iterator_record_next", records[-1])[0] == p64(1)


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
    def test_number(self, serve):
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
            # Three wait with a reply, and three behind them.
            channel = session._channel
            wait_until(lambda: session.background_calls == 3 and stuck(channel))
            wait_until(lambda: session.background_replies == 3)
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
                other.post("tpc_begin", 9, b"", b"", {}, None, " ")
                other.post("storeBlobStart")
                other.post("storeBlobChunk", b"x" * 500_000)
                other.post("storeBlobEnd", p64(oid), z64, RECORD, 9)
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
            thread = server.served._thread

            def none(role, target):
                made = thread(role, target)
                monkeypatch.setattr(made, "start", self.fail)
                return made

            with monkeypatch.context() as patched:
                patched.setattr(server.served, "_thread", none)
                with pytest.raises(Failed, match="cannot have more threads"):
                    client.ask("undoLog", 0, 1)
            assert client.ask("undoLog", 0, 1) == [{"id": b"0"}]

    def fail(self):
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

    def test_changes_of_ages_are_not_told(self, serve, tmp_path, monkeypatch):
        monkeypatch.setattr(served, "MOST_CHANGED", 10)
        path = str(tmp_path / "Data.fs")
        storage = FileStorage(path)
        tids = []
        for start in (0, 8):
            txn = TransactionMetaData()
            storage.tpc_begin(txn)
            for oid in range(start, start + 8):
                storage.store(p64(oid), z64, b"data", "", txn)
            storage.tpc_vote(txn)
            tids.append(storage.tpc_finish(txn))
        storage.close()
        # Nothing of it is in the server's log.
        server = serve(
            FileStorage(path), invalidation_age=3600, invalidation_queue_size=1
        )
        client = server.connect()
        tid, oids = client.ask("getInvalidations", tids[0])
        assert (tid, len(oids)) == (tids[1], 8)
        before = p64(u64(tids[0]) - 1)
        assert client.ask("getInvalidations", before) is None

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


def test_log_is_not_filled_by_errors_of_one_client(serve, caplog):
    class Broken(MappingStorage):
        def history(self, oid, size=1):
            raise RuntimeError("broken")

    server = serve(Broken())
    client = server.connect()
    for _ in range(50):
        with pytest.raises(Failed, match="broken"):
            client.ask("history", p64(1), 1)
    errors = [r for r in caplog.records if r.levelno == logging.ERROR]
    assert len(errors) == 1
    server.server.stop()
    assert "49 more like this were not logged: history failed" in caplog.text
