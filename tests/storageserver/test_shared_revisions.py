"""What a server keeps in memory of a database to which others write as well."""

import contextlib

import pytest
from ZODB.POSException import POSKeyError
from ZODB.utils import maxtid, p64

from tests.support.blocking import Gate
from tests.support.rawclient import Failed
from tests.support.sharedmemory import SharedStorage


class TestRevisionsThatAreKept:
    def test_database_is_asked_once(self, database, serve_it):
        server = serve_it()
        clients = [server.connect() for _ in range(3)]
        tid = database.commit(1)
        for client in clients:
            client.ask("ping")
        assert clients[0].ask("loadBefore", p64(1), maxtid) == (b"foreign", tid, None)
        database.fail("before loadBefore", RuntimeError("asked again"))
        for client in clients:
            answer = client.ask("loadBefore", p64(1), maxtid)
            assert answer == (b"foreign", tid, None)
        # What was before is not among them.
        with pytest.raises(Failed, match="asked again"):
            clients[0].ask("loadBefore", p64(1), tid)

    def test_not_what_a_commit_has_overtaken(self, database, serve_it):
        """It was read before the commit, and arrives after that was told of."""
        server = serve_it()
        other, client = server.connect(), server.connect()
        database.commit(1, b"old")
        client.ask("ping")
        loaded = database.gate("after loadBefore")
        load = client.load(1)
        loaded.wait_until_reached()
        second = database.commit(1, b"new")
        other.ask("ping")
        loaded.open()
        assert client.wait_for(load)[0] == b"old"
        client.ask("ping")
        assert client.ask("loadBefore", p64(1), maxtid) == (b"new", second, None)

    def test_not_what_was_seen_in_a_view_without_the_last_commits(
        self, database, serve_it, monkeypatch
    ):
        """The server knows of a commit that no client has been told of yet."""
        server = serve_it()
        other, client = server.connect(), server.connect()
        database.commit(1, b"old")
        database.commit(2)
        client.ask("ping")
        client.ask("loadBefore", p64(2), maxtid)  # Makes an instance.
        second = database.commit(1, b"new")
        with self.stopped_poll(server, other, monkeypatch, is_in_log=False):
            assert client.ask("loadBefore", p64(1), maxtid)[0] == b"old"
        client.ask("ping")
        assert client.ask("loadBefore", p64(1), maxtid) == (b"new", second, None)

    def test_not_what_a_client_was_told_to_be_past(
        self, database, serve_it, monkeypatch
    ):
        """The commit is in the log, and the poll that put it there is not over."""
        server = serve_it()
        other, client = server.connect(), server.connect()
        database.commit(1, b"old")
        client.ask("ping")
        client.ask("loadBefore", p64(1), maxtid)
        second = database.commit(1, b"new")
        with self.stopped_poll(server, other, monkeypatch, is_in_log=True):
            assert client.ask("loadBefore", p64(1), maxtid) == (b"new", second, None)

    @contextlib.contextmanager
    def stopped_poll(self, server, other, monkeypatch, is_in_log):
        """The `other` client's poll stops before or after what it puts into the log."""
        put, gate = server.served.log.put, Gate()

        def put_and_stop(entries):
            if is_in_log:
                put(entries)
            gate.stop_here()
            if not is_in_log:
                put(entries)

        with monkeypatch.context() as patched:
            patched.setattr(server.served.log, "put", put_and_stop)
            ping = other.call("ping")
            gate.wait_until_reached()
            yield
            gate.open()
            other.wait_for(ping)

    @pytest.mark.parametrize("own", [True, False])
    def test_not_what_was_changed(self, database, serve_it, own):
        client = serve_it().connect()
        first = client.commit(1, oids=(1,), data=b"old")
        assert client.ask("loadBefore", p64(1), maxtid) == (b"old", first, None)
        if own:
            second = client.commit(2, oids=(1,), serial=first, data=b"new")
        else:
            second = database.commit(1, b"new")
            client.ask("ping")
        assert client.ask("loadBefore", p64(1), maxtid) == (b"new", second, None)

    def test_not_what_is_seen_in_a_view_from_before_a_commit(self, database, serve_it):
        server = serve_it()
        client, other = server.connect(), server.connect()
        old = database.commit(1, b"old")
        client.ask("ping")
        polled = self.gate_for_instances(server)
        call = client.call("loadBefore", p64(1), maxtid)
        polled.wait_until_reached()
        new = database.commit(1, b"new")
        other.ask("ping")
        polled.open()
        assert client.wait_for(call) == (b"old", old, None)
        client.ask("ping")
        assert client.ask("loadBefore", p64(1), maxtid) == (b"new", new, None)

    def gate_for_instances(self, server):
        """Stop the next instance that has got a view and is not the feed's."""
        gate, new_instance = Gate(), server.served.storage.new_instance

        def new_stopping_instance():
            instance = new_instance()
            poll = instance.poll_invalidations

            def poll_and_stop():
                poll()
                del instance.poll_invalidations
                gate.stop_here()

            instance.poll_invalidations = poll_and_stop
            return instance

        server.served.storage.new_instance = new_stopping_instance
        return gate

    def test_not_what_is_seen_in_a_view_from_before_a_pack(
        self, database, serve_it, monkeypatch
    ):
        class Packed(SharedStorage):
            sees_pack = False

            def new_instance(self):
                return Packed(self.database, is_root=False)

            def poll_invalidations(self):
                self.sees_pack = bool(packs)
                return super().poll_invalidations()

            def loadBefore(self, oid, tid):
                if self.sees_pack and oid == p64(1):
                    raise POSKeyError(oid)
                return super().loadBefore(oid, tid)

            def pack(self, when, referencesf):
                packs.append(when)

        packs = []
        for oid in (1, 2):
            database.commit(oid)
        client = serve_it(storage=Packed(database)).connect()
        client.ask("loadBefore", p64(2), maxtid)
        client.ask("pack", 1.0, True)
        assert client.ask("loadBefore", p64(1), maxtid)  # In the view that there was.
        database.commit(2)
        client.ask("ping")
        client.ask("loadBefore", p64(2), maxtid)  # In a new one.
        with pytest.raises(Failed, match="POSKeyError"):
            client.ask("loadBefore", p64(1), maxtid)
