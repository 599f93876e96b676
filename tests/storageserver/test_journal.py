"""What a server keeps in memory of a storage is what the storage would say."""

import contextlib

import pytest
from ZODB.Connection import TransactionMetaData
from ZODB.DemoStorage import DemoStorage
from ZODB.MappingStorage import MappingStorage
from ZODB.utils import maxtid, p64, z64

from tests.support.blocking import Gate
from tests.support.rawclient import Failed


@pytest.fixture
def writer(server):
    return server.connect()


@pytest.fixture
def reader(server):
    return server.connect()


def begin_to_finish(writer, serial):
    """Change object 1; return the call of `tpc_finish`, which is not answered yet."""
    writer.begin(2, serial=serial, data=b"new")
    writer.ask("vote", 2)
    return writer.call("tpc_finish", 2)


def load(client, tid=maxtid, oid=1):
    return client.ask("loadBefore", p64(oid), tid)


def refuse_questions(server):
    server.storage.fail("before loadBefore", KeyError("it was asked"))


def is_asked(server, client):
    """Whether the storage is asked for object 1 when a client loads that."""
    refuse_questions(server)
    try:
        load(client)
    except Failed as error:
        assert "it was asked" in str(error)
        return True
    return False


class TestKeeping:
    def test_what_was_loaded_is_in_memory_for_all_clients(self, server, writer, reader):
        tid = writer.commit(1, data=b"data")
        load(reader)
        refuse_questions(server)
        assert load(reader) == (b"data", tid, None)
        assert load(writer) == (b"data", tid, None)

    def test_earlier_revisions_are_asked_for(self, server, writer, reader):
        first = writer.commit(1, data=b"old")
        second = writer.commit(2, serial=first, data=b"new")
        load(reader)
        assert load(reader, second) == (b"old", first, second)
        assert load(reader, first) is None
        assert load(reader) == (b"new", second, None)

    def test_nothing_is_kept_where_the_size_is_zero(self, serve):
        server = serve(storage_cache_size=0)
        client = server.connect()
        client.commit(1)
        load(client)
        assert is_asked(server, client)

    @pytest.mark.parametrize("is_wrapped", [False, True])
    def test_client_of_another_server_keeps_things_itself(
        self, serve, storage, is_wrapped
    ):
        storage.is_connected = lambda: True
        server = serve(DemoStorage(changes=storage) if is_wrapped else storage)
        server.storage = storage
        client = server.connect()
        client.commit(1)
        load(client)
        assert is_asked(server, client)


class TestCommits:
    """A load meets a commit that changes its object."""

    def test_load_that_a_commit_overtakes_is_not_kept(self, server, writer, reader):
        first = writer.commit(1, data=b"old")
        loaded = server.storage.gate("after loadBefore")
        call = reader.call("loadBefore", p64(1), maxtid)
        loaded.wait_until_reached()
        second = writer.commit(2, serial=first, data=b"new")
        loaded.open()
        assert reader.wait_for(call) == (b"old", first, None)
        assert load(reader) == (b"new", second, None)

    def test_what_can_be_read_already_is_read(self, server, writer, reader):
        first = writer.commit(1, data=b"old")
        load(reader)
        finished = server.storage.gate("after tpc_finish")
        call = begin_to_finish(writer, first)
        finished.wait_until_reached()
        assert load(reader)[0] == b"new"
        finished.open()
        assert load(reader) == (b"new", writer.wait_for(call), None)

    def test_load_that_ends_while_a_commit_does_is_not_kept(
        self, server, writer, reader
    ):
        first = writer.commit(1, data=b"old")
        loaded = server.storage.gate("after loadBefore")
        old = reader.call("loadBefore", p64(1), maxtid)
        loaded.wait_until_reached()
        finished = server.storage.gate("after tpc_finish")
        finish = begin_to_finish(writer, first)
        finished.wait_until_reached()
        loaded.open()
        assert reader.wait_for(old) == (b"old", first, None)
        assert load(reader)[0] == b"new"
        finished.open()
        writer.wait_for(finish)

    def test_commit_that_fails_may_have_been_done(self, server, writer, reader):
        first = writer.commit(1, data=b"old")
        loaded = server.storage.gate("after loadBefore")
        call = reader.call("loadBefore", p64(1), maxtid)
        loaded.wait_until_reached()
        server.storage.fail("after tpc_finish", OSError("disk full"))
        with pytest.raises(Failed, match="disk full"):
            writer.wait_for(begin_to_finish(writer, first))
        loaded.open()
        assert reader.wait_for(call) == (b"old", first, None)
        assert load(reader)[0] == b"new"

    def test_what_is_read_before_it_is_undone_is_not_kept(self, server, writer, reader):
        first = writer.commit(1, data=b"old")
        undoing = Gate()

        def tpc_abort(transaction):
            undoing.stop_here()
            revisions = server.storage._data[p64(1)]
            del revisions[revisions.maxKey()]

        server.storage.tpc_abort = tpc_abort
        server.storage.fail("after tpc_finish", OSError("disk full"))
        finish = begin_to_finish(writer, first)
        undoing.wait_until_reached()
        assert load(reader)[0] == b"new"
        undoing.open()
        with pytest.raises(Failed, match="disk full"):
            writer.wait_for(finish)
        assert load(reader) == (b"old", first, None)

    def test_commit_that_fails_leaves_what_follows_to_be_kept(self, server, writer):
        first = writer.commit(1, data=b"old")
        server.storage.fail("before tpc_finish", OSError("disk full"))
        with pytest.raises(Failed, match="disk full"):
            writer.wait_for(begin_to_finish(writer, first))
        load(writer)
        refuse_questions(server)
        assert load(writer) == (b"old", first, None)

    def test_tids_may_be_less_than_those_before(self, serve, storage):
        """As those of a demo storage are whose base has the wrong time."""
        base, future = MappingStorage(), b"\x7e" + b"\0" * 7
        metadata = TransactionMetaData()
        base.tpc_begin(metadata, future)
        base.store(p64(2), None, b"base", "", metadata)
        base.tpc_vote(metadata)
        base.tpc_finish(metadata)
        server = serve(DemoStorage(base=base, changes=storage))
        writer, reader = server.connect(), server.connect()
        first = writer.commit(1, data=b"old")
        loaded = storage.gate("after loadBefore")
        call = reader.call("loadBefore", p64(1), maxtid)
        loaded.wait_until_reached()
        second = writer.commit(2, serial=first, data=b"new")
        loaded.open()
        assert reader.wait_for(call) == (b"old", first, None)
        assert second < future
        assert load(reader) == (b"new", second, None)


class TestOtherChanges:
    @pytest.mark.parametrize("is_failing", [False, True])
    def test_what_a_pack_removes_is_forgotten(self, server, writer, reader, is_failing):
        writer.commit(1)
        loaded = server.storage.gate("after loadBefore")
        call = writer.call("loadBefore", p64(1), maxtid)
        loaded.wait_until_reached()

        def pack(when, references):
            server.storage._data.clear()
            if is_failing:
                raise OSError("disk full")

        server.storage.pack = pack
        with contextlib.suppress(Failed) if is_failing else contextlib.nullcontext():
            reader.ask("pack", 0.0, True)
        loaded.open()
        assert writer.wait_for(call)[0] == b"data"
        for client in (reader, writer):
            with pytest.raises(Failed, match="POSKeyError"):
                load(client)

    def test_what_the_storage_changes_by_itself_is_forgotten(
        self, server, writer, reader
    ):
        writer.commit(1)
        writer.commit(2, oids=(2,))
        load(reader)
        load(reader, oid=2)
        server.served.invalidate(b"\x7e" + b"\0" * 7, iter([p64(1)]))
        refuse_questions(server)
        load(reader, oid=2)
        assert is_asked(server, reader)

    def test_what_may_have_changed_is_forgotten(self, server, writer):
        writer.commit(1)
        load(writer)
        server.served.invalidateCache()
        reader = server.connect()
        assert is_asked(server, reader)

    def test_there_is_no_telling_from_when_on(self, server, writer):
        writer.commit(1)
        server.served.invalidateCache()
        client = server.connect()
        load(client)
        server.served.invalidate(b"\x7e" + b"\0" * 7, [])
        reader = server.connect()
        assert is_asked(server, reader)


def test_look_at_the_storage_asks_it(server, writer):
    writer.commit(1, oids=(0,))
    writer.ask("loadBefore", z64, maxtid)
    refuse_questions(server)
    assert "it was asked" in server.served.trouble()
