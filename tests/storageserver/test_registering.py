"""Registering while others commit: what it returns is one point in the order."""

import pytest
from ZODB.utils import p64

from tests.support.blocking import Gate
from tests.support.waiting import wait_until
from zeolite.clientstorage.storage import ClientStorage


class TestRegistering:
    """The tid that `register` returns is one point in the order."""

    @pytest.mark.parametrize("where", ["before tpc_finish", "after tpc_finish"])
    def test_register_during_a_finish_is_before_it(self, server, where):
        writer = server.connect()
        first = writer.commit(1)
        finishing = server.storage.gate(where)
        writer.begin(2, serial=first)
        writer.ask("vote", 2)
        finish = writer.call("tpc_finish", 2)
        finishing.wait_until_reached()
        reader = server.connect()
        assert reader.tid == first
        finishing.open()
        second = writer.wait_for(finish)
        reader.ask("ping")
        assert reader.invalidations() == [second]

    def test_register_in_the_callback_is_before_it(self, server):
        """The place is taken, the data cannot be read, and nobody may know."""
        writer = server.connect()
        callback = server.storage.gate("callback")
        writer.begin(1)
        writer.ask("vote", 1)
        finish = writer.call("tpc_finish", 1)
        callback.wait_until_reached()
        reader = server.connect(register=False)
        reader.handshake()
        register = reader.call("register", "1", False)
        # MappingStorage holds its lock here, which registering does not need.
        tid_before = reader.wait_for(register)
        callback.open()
        tid = writer.wait_for(finish)
        assert tid_before < tid
        reader.ask("ping")
        assert reader.invalidations() == [tid]

    def test_register_after_publishing_is_after_it(self, server, monkeypatch):
        writer = server.connect()
        published = Gate()
        original = server.served.dispatcher.wake

        def wake(origin=None):
            published.stop_here()
            original(origin)

        monkeypatch.setattr(server.served.dispatcher, "wake", wake)
        writer.begin(1)
        writer.ask("vote", 1)
        finish = writer.call("tpc_finish", 1)
        published.wait_until_reached()
        reader = server.connect()
        published.open()
        assert reader.tid == writer.wait_for(finish)
        reader.ask("ping")
        assert reader.invalidations() == []

    def test_register_while_the_storage_finds_out_what_it_has_missed(self, server):
        """A storage says that it knows nothing before it says as of which commit."""
        tid = server.connect().commit(1)
        server.served.invalidateCache()
        client = server.connect()
        assert client.tid == tid
        assert client.ask("getInvalidations", tid) is None

    def test_who_registers_meanwhile_is_not_told_that_nothing_changed(self, server):
        tid = server.connect().commit(1)
        server.served.invalidateCache()
        client = server.connect()
        assert client.tid == tid  # As if what it has were right.
        later = b"\x7e" + bytes(7)
        server.served.invalidate(later, [])
        assert client.is_closed()
        assert client.invalidations() == []
        assert server.connect().tid == later

    def test_register_while_a_commit_is_overtaken_by_unknown_changes(self, server):
        """It is published when the storage has said already that there is more."""
        writer = server.connect()
        finished = server.storage.gate("after tpc_finish")
        writer.begin(1)
        writer.ask("vote", 1)
        writer.call("tpc_finish", 1)
        finished.wait_until_reached()
        server.served.invalidateCache()
        later = b"\x7e" + bytes(7)
        server.served.invalidate(later, [])
        reader = server.connect()
        finished.open()
        assert writer.is_closed()  # It has missed what is unknown.
        reader.ask("ping")
        assert [reader.tid, *reader.invalidations()] == [later]
        assert server.connect().tid == later

    def test_what_others_commit_while_the_server_begins_to_listen(self, serve):
        """A client that was away is told all of it, or that it is not known."""
        root = serve()
        writer = root.connect()
        before = writer.commit(1, oids=(1, 2))

        class Upstream(ClientStorage):
            def registerDB(self, database):
                self.commit(2, oids=(1,))
                super().registerDB(database)
                self.commit(3, oids=(2,))

            def commit(self, *args, **kwargs):
                tid = writer.commit(*args, serial=before, **kwargs)
                wait_until(lambda: self.lastTransaction() == tid)

        client = serve(Upstream(root.address)).connect()
        assert client.tid > before
        changed = client.ask("getInvalidations", before)
        assert changed is None or sorted(changed[1]) == [p64(1), p64(2)]

    def test_idle_client_of_a_storage_that_knows_nothing_leaves_at_once(self, server):
        """What it has may be wrong, and it would hear of nothing before it asks."""
        client = server.connect(timeout=5)
        wait_until(lambda: server.session(client).delivery.is_idle)
        server.served.invalidateCache()
        assert client.is_closed()

    def test_commit_of_nothing_elsewhere_drives_nobody_away(self, server):
        client = server.connect()
        tid = p64(2**62)
        server.served.invalidate(tid, [])
        assert client.ask("lastTransaction") == tid
        assert client.invalidations() == [tid]

    def test_verification_meets_the_invalidations_without_a_gap(self, server):
        writer = server.connect()
        first = writer.commit(1)
        second = writer.commit(2, oids=(2,))
        reader = server.connect()
        assert reader.tid == second
        third = writer.commit(3, oids=(3,))
        assert reader.ask("getInvalidations", first) == (third, [p64(3), p64(2)])
        assert reader.invalidations() == [third]
        fourth = writer.commit(4, oids=(4,))
        reader.ask("ping")
        assert reader.invalidations() == [third, fourth]


class TestWhoHasJustCome:
    def test_end_of_a_pack_is_not_told_before_the_answer(self, server):
        """A client would take it for the answer, or for nonsense."""
        add = server.served.add

        def add_and_pack(session):
            add(session)
            server.served.packed()

        server.served.add = add_and_pack
        client = server.connect(register=False)
        client.handshake()
        client.ask("register", "1", False)
        assert [message[0] for message in client.seen] == ["reply"]
        client.ask("get_info")
        server.served.packed()
        assert client.read()[0] == "info"

    def test_commits_that_follow_at_once_are_kept_for_it(self, serve):
        server = serve(invalidation_queue_size=1)
        writer, log, tids = server.connect(), server.served.log, []
        join = log.join

        def join_before_commits():
            log.join = join
            found = join()
            tids.extend(writer.commit(n, oids=(n,)) for n in (1, 2, 3))
            return found

        log.join = join_before_commits
        client = server.connect()
        client.ask("ping")
        assert client.invalidations() == tids
        assert client.tid < tids[0]  # None of them was past when it came.
