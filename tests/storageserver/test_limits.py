"""What one client may use of a server, and that the others do not notice.

Each test has the client go over one limit, while another one works.
"""

import logging
import os
import pickle
import struct
import tracemalloc

import pytest
from ZODB.FileStorage import FileStorage
from ZODB.MappingStorage import MappingStorage
from ZODB.utils import p64, z64

from tests.support.bombs import tuples_as_keys
from tests.support.bystander import BLOB_RECORD, refused, works_before_and_after
from tests.support.rawclient import Failed
from tests.support.waiting import wait_until
from zeolite.storageserver import staging
from zeolite.storageserver.unfinished import Unfinished
from zeolite.wire.messages import MOST_PLAIN, load_extension


def framed(data):
    return struct.pack(">I", len(data)) + data


class Ended:
    """In the place of a session: notes why it was to end."""

    def __init__(self):
        self.reasons = []

    def end(self, reason):
        self.reasons.append(reason)


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

    def test_unfinished_messages_of_all_together(self, serve, caplog):
        """Whose is under way for the longest has to go; what others do goes on."""
        server = serve(max_unfinished_size=3 * 2**20)
        unfinished = server.server._listener._unfinished
        with works_before_and_after(server):
            half = struct.pack(">I", 5 * 2**20) + b"x" * (2**21 - 4)
            first, second = server.connect(), server.connect()
            first.socket.sendall(half)
            wait_until(lambda: unfinished.total == 2**21)
            second.socket.sendall(half)
            assert first.is_closed()
            wait_until(lambda: unfinished.total == 2**21)
            # One alone may be larger.
            third = server.connect()
            third.begin(1, data=b"x" * 4 * 2**20)
            assert third.ask("vote", 1) == []
            assert second.is_closed()
            third.ask("tpc_finish", 1)
            wait_until(lambda: unfinished.total == 0)
        assert "together have more than max-unfinished-size" in caplog.text

    @pytest.mark.parametrize("most", [0, 100])
    def test_unfinished_messages_below_the_limit_are_fine(self, most):
        first, second = Ended(), Ended()
        unfinished = Unfinished(most)
        unfinished.update(first, 50)
        unfinished.update(second, 50)
        assert not first.reasons and not second.reasons

    def test_whose_message_became_whole_does_not_have_to_go(self):
        first, second, third = Ended(), Ended(), Ended()
        unfinished = Unfinished(100)
        for size in (90, 0):
            unfinished.update(first, size)
        unfinished.update(second, 90)
        assert not second.reasons
        unfinished.update(third, 20)
        assert second.reasons and not first.reasons and not third.reasons
        assert unfinished.total == 20

    def test_small_unfinished_messages_do_not_count(self, serve):
        server = serve(max_unfinished_size=10)
        clients = [server.connect() for _ in range(5)]
        for client in clients:
            client.socket.sendall(struct.pack(">I", 2**21) + b"x" * 60_000)
        clients.append(server.connect())
        clients[-1].ask("ping")
        assert all(s in server.served.sessions() for s in map(server.session, clients))
        assert server.server._listener._unfinished.total == 0

    def test_what_was_unfinished_is_forgotten_with_its_client(self, serve):
        server = serve()
        unfinished = server.server._listener._unfinished
        client = server.connect()
        client.socket.sendall(struct.pack(">I", 2**21) + b"x" * 2**20)
        wait_until(lambda: unfinished.total == 2**20 + 4)
        client.close()
        wait_until(lambda: unfinished.total == 0)

    def test_silence_between_messages_is_fine(self, serve):
        server = serve(client_timeout=0.05)
        client = server.connect()
        client.socket.settimeout(0.5)
        with pytest.raises(TimeoutError):
            client.read()
        client.ask("ping")

    @pytest.mark.parametrize(
        "args",
        [b"}" * MOST_PLAIN, b"]" * MOST_PLAIN, b"X" + struct.pack("<I", 2**21) + b"x" * 2**21],
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
        client.begin(1, oids=())
        # Neither of the two ways in which pickles write bytes, nor the packed one.
        for oid, message in (
            (1, (0, 1, "storea", (p64(1), z64, data, 1))),
            (2, (0, True, "storea", (p64(2), None, data, 1))),
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


@pytest.fixture
def allocated():
    """Call it to get the bytes that Python has allocated."""
    tracemalloc.start()
    yield lambda: tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()


class TestTransactions:
    def test_more_transactions_than_are_allowed_are_refused(self, serve, caplog):
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
            client.begin(id, oids=())
            for oid in range(4):
                client.post("storea", p64(oid), None, b"x" * 100_000, id)
        client.ask("ping")
        transactions = server.session(client).transactions
        in_memory = sum(t._staging._in_memory for t in transactions.values())
        assert len(transactions) == 100
        assert in_memory < 12 * staging.MEMORY

    @pytest.mark.parametrize(
        "extension",
        [
            b"\x80\x03}(K\x01](" + b"}" * 60_000 + b"eu.",
            {1: [{} for _ in range(12_000)]},
            {1: [{} for _ in range(20_000)]},  # Too large, and so an error.
        ],
    )
    def test_extended_info_takes_no_more_than_was_sent(
        self, server, allocated, extension
    ):
        client = server.connect()
        before = allocated()
        for id in range(10):
            client.post("tpc_begin", id, b"", b"", extension, None, " ")
        client.ask("ping")
        assert len(server.session(client).transactions) == 10
        assert allocated() - before < 3 * 2**20

    def test_extended_info_has_not_many_tuples(self, server):
        """Some have: it is as small with these as what is refused here is with more."""
        changes = {f"changed by {n:050}": (f"{n}", n) for n in range(150)}
        fine, much = pickle.dumps(changes, 3), b"\x80\x03" + tuples_as_keys(1100) + b"."
        assert len(load_extension(much)) == 1100  # What a database has already.
        for id, extension in enumerate([fine, much]):
            client = server.connect()
            client.post("tpc_begin", id, b"", b"", extension, None, " ")
            if extension is fine:
                assert client.ask("vote", id) == []
                client.ask("tpc_abort", id)
            else:
                refused(client, id, "too many tuples")

    def test_what_was_refused_is_not_kept(self, serve, allocated):
        client = serve(max_transaction_size=10_000).connect()
        before = allocated()
        for id in range(10):
            client.begin(id, oids=())
            client.post("storea", p64(1), None, b"x" * 2**20, id)
        client.ask("ping")
        assert allocated() - before < 3 * 2**20
        refused(client, 9, "max-transaction-size")

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
            client.begin(1, oids=())
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


class TestBlobs:
    @pytest.fixture
    def storage(self, tmp_path):
        return FileStorage(str(tmp_path / "fs"), blob_dir=str(tmp_path / "blobs"))

    def upload(self, client, id, *chunks):
        client.begin(id, oids=())
        self.send(client, id, *chunks)

    def send(self, client, id, *chunks, oid=1):
        client.post("storeBlobStart")
        for chunk in chunks:
            client.post("storeBlobChunk", chunk)
        client.post("storeBlobEnd", p64(oid), z64, BLOB_RECORD, id)

    def test_one_that_is_larger_than_a_transaction_leaves_the_disk(
        self, serve, storage
    ):
        server = serve(storage, max_transaction_size=10_000)
        with works_before_and_after(server):
            client = server.connect()
            client.begin(1, oids=())
            client.post("storeBlobStart")
            for _ in range(11):
                client.post("storeBlobChunk", b"x" * 1000)
            client.ask("ping")
            # A thread of its own writes.
            wait_until(lambda: os.listdir(storage.temporaryDirectory()) == [])
            client.post("storeBlobEnd", p64(1), z64, BLOB_RECORD, 1)
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

    @pytest.mark.parametrize("is_dropped", [True, False])
    def test_over_records_end_with_the_file_that_they_read(
        self, serve, tmp_path, caplog, is_dropped
    ):
        client = serve(FileStorage(str(tmp_path / "Data.fs"))).connect()
        client.commit(1)
        iterator, other = (client.ask("iterator_start", None, None) for _ in "ab")
        tid = client.ask("iterator_next", iterator)[0]
        client.ask("iterator_next", other)
        records = client.ask("iterator_record_start", iterator, tid)
        others = client.ask("iterator_record_start", other, tid)
        if is_dropped:
            client.post("iterator_gc", [iterator])
        else:
            assert client.ask("iterator_next", iterator) is None
        with pytest.raises(Failed, match="no iterator"):
            client.ask("iterator_record_next", records)
        assert not [r for r in caplog.records if r.levelname == "ERROR"]
        assert client.ask("iterator_record_next", others)[0] == p64(1)

    @pytest.mark.parametrize("how", ["ended", "dropped", "client left"])
    def test_they_are_closed(self, serve, monkeypatch, how):
        """A storage may hold a connection to a database for each."""
        closed = []

        class Iterator:
            def __iter__(self):
                return self

            def __next__(self):
                raise StopIteration

            def close(self):
                closed.append(self)

        server = serve()
        monkeypatch.setattr(server.storage, "iterator", lambda *range: Iterator())
        client = server.connect()
        iterator = client.ask("iterator_start", None, None)
        assert not closed
        if how == "ended":
            assert client.ask("iterator_next", iterator) is None
        elif how == "dropped":
            client.post("iterator_gc", [iterator])
            client.ask("ping")
        else:
            client.close()
        wait_until(lambda: len(closed) == 1)

    def test_records_of_a_transaction_that_is_past_are_refused(self, server):
        client = server.connect()
        first, second = client.commit(1), client.commit(2, oids=(2,))
        iterator = client.ask("iterator_start", None, None)
        client.ask("iterator_next", iterator)
        assert client.ask("iterator_next", iterator)[0] == second
        with pytest.raises(Failed, match="until the next transaction"):
            client.ask("iterator_record_start", iterator, first)
        records = client.ask("iterator_record_start", iterator, second)
        assert client.ask("iterator_record_next", records)[0] == p64(2)
        client.post("iterator_gc", [records])
        with pytest.raises(Failed, match="no iterator"):
            client.ask("iterator_record_next", records)


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
