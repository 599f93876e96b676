"""The instances of a storage that several servers share: how many there are, who has
one and for how long, and what clients notice when the database cannot be reached.

The database is in memory, and fails when a test says so.
"""

import pytest
from ZODB.utils import maxtid, p64

from tests.support.blocking import Gate
from tests.support.rawclient import Failed
from tests.support.sharedmemory import OperationalError, SharedStorage
from tests.support.waiting import wait_until
from zeolite.storageserver import instances, polling


class TestInstances:
    def test_idle_clients_have_none(self, database, serve_it):
        server = serve_it()
        clients = [server.connect() for _ in range(50)]
        database.commit(1)
        for client in clients:
            client.ask("ping")
            client.ask("loadBefore", p64(1), maxtid)
        assert server.served.instances.count == 1
        assert database.most_instances <= 3  # With the feed's and the committer's.

    def test_calls_wait_their_turn(self, database, serve_it):
        server = serve_it(storage_instances=2)
        clients = [server.connect() for _ in range(4)]
        tid = database.commit(1)
        clients[0].ask("ping")
        gates, loads = [], []
        for client in clients[:2]:
            gates.append(database.gate("after loadBefore"))
            loads.append(client.load(1))
            gates[-1].wait_until_reached()
        for client in clients[2:]:
            loads.append(client.load(1))
        wait_until(lambda: server.served.instances.waiting == 2)
        # What needs no instance goes on, commits too.
        own = server.connect().commit(1, oids=(3,))
        assert own > tid
        for gate in gates:
            gate.open()
        for client, load in zip(clients, loads):
            assert client.wait_for(load)[0] == b"foreign"
        assert server.served.instances.count == 2

    @pytest.fixture
    def rested(self, monkeypatch):
        """The instances that were told to let go of their view, in their order."""
        rested = []
        monkeypatch.setattr(
            SharedStorage,
            "afterCompletion",
            lambda instance: rested.append(instance),
            raising=False,
        )
        return rested

    def use(self, database, server, count):
        """Have `count` instances; return the storage of the last one that was used."""
        database.commit(1)
        clients = [server.connect() for _ in range(count)]
        clients[0].ask("ping")
        gates, loads = [], []
        for client in clients:
            gates.append(database.gate("after loadBefore"))
            loads.append(client.load(1))
            gates[-1].wait_until_reached()
        for gate in gates:
            gate.open()
        for client, load in zip(clients, loads):
            client.wait_for(load)
        idle = server.served.instances._idle
        wait_until(lambda: len(idle) == count)
        return idle[-1].storage

    def test_unused_ones_let_go_of_their_view(self, database, serve_it, rested):
        server = serve_it()
        used = self.use(database, server, 1)
        server.served.instances.rest()  # It was used just now.
        assert used not in rested
        server.served.instances.rest()
        assert used in rested
        # It is there once, for one call at a time.
        self.use(database, server, 2)

    def test_old_view_is_let_go_of_however_often_it_is_used(
        self, database, serve_it, rested, monkeypatch
    ):
        """The database could not clear up behind it."""
        server = serve_it()
        used = self.use(database, server, 1)
        monkeypatch.setattr(instances, "OLDEST_VIEW", -1)
        server.served.instances.rest()
        assert used in rested

    def test_the_feed_has_them_rest(self, database, serve_it, rested):
        """Its own as well."""
        server = serve_it(poll_interval=0.01)
        self.use(database, server, 1)
        wait_until(lambda: len(set(rested)) == 2)

    def test_those_nobody_uses_are_given_up(self, database, serve_it, monkeypatch):
        server = serve_it()
        self.use(database, server, 2)
        others = database.instances - 2
        monkeypatch.setattr(instances, "UNUSED", -1)
        server.served.instances.rest()
        assert server.served.instances.count == 0
        assert database.instances == others
        # What was given up is not used any more.
        self.use(database, server, 1)
        assert database.instances == others + 1

    def test_one_that_cannot_be_made_leaves_room(self, database, serve_it, monkeypatch):
        server = serve_it(storage_instances=1)
        client = server.connect()
        tid = database.commit(1)
        client.ask("ping")

        def fail(root):
            raise RuntimeError("no connection can be had")

        with monkeypatch.context() as patch:
            patch.setattr(SharedStorage, "new_instance", fail)
            with pytest.raises(Failed, match="no connection can be had"):
                client.ask("loadBefore", p64(1), maxtid)
        assert client.ask("loadBefore", p64(1), maxtid) == (b"foreign", tid, None)

    def test_one_that_failed_is_not_used_again(self, database, serve_it):
        server = serve_it()
        client = server.connect()
        database.commit(1)
        client.ask("ping")
        database.fail("before loadBefore", RuntimeError("broken"))
        with pytest.raises(Failed, match="broken"):
            client.ask("loadBefore", p64(1), maxtid)
        assert server.served.instances.count == 0

    def test_all_are_released_at_the_end(self, database, serve_it):
        server = serve_it()
        client = server.connect()
        client.commit(1)
        client.ask("loadBefore", p64(1), maxtid)
        assert database.instances
        server.server.stop()
        assert database.instances == 0
        assert server.storage.is_closed


class TestTrouble:
    def test_lost_connections_are_replaced_and_nobody_notices(self, database, serve_it):
        """All that lie idle, when one of them turns out to be lost."""
        server = serve_it()
        TestInstances().use(database, server, 3)
        client = server.connect()
        tid = database.commit(2)
        database.fail("poll", OperationalError("the connection was lost"))
        client.ask("ping")
        database.fail("before loadBefore", OperationalError("the connection was lost"))
        assert client.ask("loadBefore", p64(2), maxtid) == (b"foreign", tid, None)
        assert server.served.instances.count == 1

    def test_calls_fail_for_now_and_work_again(self, database, serve_it):
        client = serve_it().connect()
        tid = database.commit(1)
        client.ask("ping")
        database.is_down = True
        for name, args in [
            ("loadBefore", (p64(1), maxtid)),
            ("ping", ()),
            ("lastTransaction", ()),
        ]:
            with pytest.raises(Failed, match="ReadConflictError") as failed:
                client.ask(name, *args)
            assert "the database is down" in str(failed.value)
        client.begin(1, oids=(3,))
        with pytest.raises(Failed, match="ConflictError"):
            client.ask("vote", 1)
        database.is_down = False
        # The one that failed is not used again, nor are those that lay beside it.
        assert database.instances == 0
        assert client.ask("loadBefore", p64(1), maxtid) == (b"foreign", tid, None)
        client.commit(2, oids=(3,))

    @pytest.mark.parametrize(
        ("text", "reason"),
        [
            ("Failed to close", OperationalError("the database is down")),
            ("Failed to close: OperationalError('the database is down", None),
        ],
        ids=["with its reason", "with its reason as text"],
    )
    def test_storage_that_cannot_clear_up_behind_it(
        self, database, serve_it, text, reason
    ):
        """RelStorage raises a bare `Exception` then."""
        client = serve_it().connect()
        client.begin(1, oids=(3,))
        error = Exception(text)
        error.__context__ = reason
        database.fail("vote", error)
        with pytest.raises(Failed, match="ConflictError") as failed:
            client.ask("vote", 1)
        assert "the database is down; try again" in str(failed.value)
        client.commit(2, oids=(3,))

    def test_register_is_refused_meanwhile(self, database, serve_it):
        server = serve_it()
        database.is_down = True
        client = server.connect(register=False)
        client.handshake()
        with pytest.raises(Failed, match="ClientDisconnected"):
            client.ask("register", "1", False)
        database.is_down = False
        assert client.ask("register", "1", False) == server.storage.lastTransaction()

    @pytest.mark.parametrize("where", ["before tpc_finish", "after tpc_finish"])
    def test_commit_that_breaks_off_ends_the_connection(
        self, database, serve_it, where, caplog
    ):
        """Only the client can find out what became of it, by looking."""
        server = serve_it()
        writer, reader = server.connect(), server.connect()
        writer.begin(1, oids=(3,))
        writer.ask("vote", 1)
        database.fail(where, RuntimeError("broken"))
        writer.call("tpc_finish", 1)
        assert writer.is_closed()
        reader.ask("ping")
        assert "an error in the server" not in caplog.text
        committed = where == "after tpc_finish"
        assert len(reader.invalidations()) == committed
        # The commit lock is free.
        reader.commit(1, oids=(4,))

    def test_others_go_on_while_a_commit_that_broke_off_is_aborted(
        self, database, serve_it, monkeypatch
    ):
        monkeypatch.setattr(polling, "PATIENCE", 1)
        aborting = Gate()
        monkeypatch.setattr(SharedStorage, "tpc_abort", lambda *a: aborting.stop_here())
        server = serve_it()
        writer, other = server.connect(), server.connect()
        database.fail("before tpc_finish", OperationalError("gone"))
        writer.begin(1)
        writer.ask("vote", 1)
        writer.call("tpc_finish", 1)
        aborting.wait_until_reached()
        tid = database.commit(5)
        other.ask("ping")
        assert other.invalidations() == [tid]
        aborting.open()

    def test_commit_is_answered_when_its_poll_has_worked(self, database, serve_it):
        server = serve_it(poll_interval=0.01)
        writer = server.connect()
        foreign = database.commit(1)
        writer.begin(1, oids=(3,))
        writer.ask("vote", 1)
        finished = database.gate("after tpc_finish")
        finish = writer.call("tpc_finish", 1)
        finished.wait_until_reached()
        database.is_down = True
        finished.open()
        wait_until(lambda: server.served.status()["database-error"] is not None)
        database.is_down = False
        assert writer.wait_for(finish) > foreign
        assert foreign in writer.invalidations()
