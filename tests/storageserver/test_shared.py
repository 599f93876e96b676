"""The rules of order where others commit to the same database, one by one.

Two servers share a database in memory.  Their polling happens only when something
asks for it, so that each test decides what a server knows.
"""

import threading

import pytest
from persistent.TimeStamp import TimeStamp
from ZODB.utils import maxtid, p64, u64

from tests.support.rawclient import Failed
from tests.support.sharedmemory import (
    ExactChanges,
    OperationalError,
    SharedStorage,
)
from tests.support.waiting import wait_until
from zeolite.errors import ConfigurationError


def messages(client):
    """What a client has seen since it was cleared, without sizes."""
    return [message for message in client.seen if message[0] != "info"]


def invalidation(tid, *oids):
    return "invalidateTransaction", tid, [p64(oid) for oid in oids]


def newest_only(changes, storage, tid):
    """What a database says that keeps no history: `ExactChanges.since`."""
    storage.poll_invalidations()
    newest = {}
    for committed, changed in storage.database.commits[: storage.view]:
        newest.update(dict.fromkeys(changed, committed))
    found = {}
    for oid, committed in newest.items():
        if committed > tid:
            found.setdefault(committed, []).append(oid)
    return found, True


class TestForeignCommits:
    def test_ping_is_answered_behind_a_foreign_commit(self, database, serve_it):
        client = serve_it().connect()
        tid = database.commit(1)
        client.seen.clear()
        ping = client.call("ping")
        client.wait_for(ping)
        assert messages(client) == [invalidation(tid, 1), ("reply", ping, None)]

    def test_ping_waits_for_a_poll_that_began_behind_it(self, database, serve_it):
        """The one that is under way may have seen less than the client knows of."""
        server = serve_it()
        first, second = server.connect(), server.connect()
        polled = database.gate("after poll")
        early = first.call("ping")
        polled.wait_until_reached()
        tid = database.commit(1)
        second.seen.clear()
        late = second.call("ping")
        wait_until(lambda: server.served.feed._wanted > server.served.feed._started)
        polled.open()
        first.wait_for(early)
        second.wait_for(late)
        assert messages(second) == [invalidation(tid, 1), ("reply", late, None)]

    def test_foreign_commit_while_a_client_registers_is_on_one_side(
        self, database, serve_it
    ):
        server = serve_it()
        client = server.connect(register=False)
        client.handshake()
        before = database.commit(1)
        polled = database.gate("after poll")
        register = client.call("register", "1", False)
        polled.wait_until_reached()
        after = database.commit(2)
        polled.open()
        assert client.wait_for(register) == before
        client.ask("ping")
        assert client.invalidations() == [after]

    def test_foreign_commit_told_between_the_poll_and_the_log_of_a_registering_client(
        self, database, serve_it, monkeypatch
    ):
        """Another client's poll has put it into the log: it is not told twice."""
        server = serve_it()
        other, client = server.connect(), server.connect(register=False)
        client.handshake()
        made, committed = server.served.instance, []

        def make(delivery):
            committed.append(database.commit(1))
            other.ask("ping")
            return made(delivery)

        monkeypatch.setattr(server.served, "instance", make)
        assert client.ask("register", "1", False) == committed[0]
        client.ask("ping")
        assert client.invalidations() == []
        assert other.invalidations() == committed

    def test_last_transaction_is_the_database_s(self, database, serve_it):
        client = serve_it().connect()
        tid = database.commit(1)
        assert client.ask("lastTransaction") == tid

    def test_register_is_behind_all_that_was_committed(self, database, serve_it):
        server = serve_it()
        tid = database.commit(1)
        client = server.connect()
        assert client.tid == tid
        client.ask("ping")
        assert client.invalidations() == []

    def test_commit_of_another_server_is_told_by_interval(self, serve_it):
        writer, reader = (
            serve_it(poll_interval=0.01).connect(),
            serve_it(poll_interval=0.01).connect(),
        )
        tid = writer.commit(1)
        assert reader.read() == invalidation(tid, 1)

    def test_load_sees_what_its_client_was_told(self, database, serve_it):
        """The instance that served it before saw less."""
        client = serve_it().connect()
        first = database.commit(1, b"old")
        client.ask("ping")
        assert client.ask("loadBefore", p64(1), maxtid) == (b"old", first, None)
        second = database.commit(1, b"new")
        # Nobody knows yet: the load may miss it, because its invalidation follows.
        assert client.ask("loadBefore", p64(1), maxtid) == (b"old", first, None)
        client.ask("ping")
        assert client.invalidations() == [first, second]
        assert client.ask("loadBefore", p64(1), maxtid) == (b"new", second, None)

    def test_foreign_commit_during_a_load_is_told_behind_the_reply(
        self, database, serve_it
    ):
        server = serve_it()
        other, client = server.connect(), server.connect()
        first = database.commit(1, b"old")
        client.ask("ping")
        loaded = database.gate("after loadBefore")
        client.seen.clear()
        load = client.load(1)
        loaded.wait_until_reached()
        second = database.commit(1, b"new")
        other.ask("ping")
        server.session(client).delivery.nudge()
        loaded.open()
        client.wait_for(load)
        client.ask("ping")
        assert messages(client)[:2] == [
            ("reply", load, (b"old", first, None)),
            invalidation(second, 1),
        ]

    def test_revision_before_the_one_there_is(self, database, serve_it):
        client = serve_it().connect()
        first, second = database.commit(1, b"old"), database.commit(1, b"new")
        assert client.ask("loadBefore", p64(1), second) == (b"old", first, second)


class TestOwnCommits:
    def test_earlier_foreign_commits_come_before_the_reply(self, database, serve_it):
        server = serve_it()
        writer, reader = server.connect(), server.connect()
        foreign = [database.commit(1), database.commit(2)]
        writer.seen.clear()
        own = writer.commit(1, oids=(3,))
        assert own > foreign[-1]
        assert writer.invalidations() == foreign
        reader.ask("ping")
        assert reader.invalidations() == [*foreign, own]

    @pytest.mark.parametrize("is_last", [False, True])
    def test_commit_that_a_poll_sees_first_is_told_once(
        self, database, serve_it, is_last
    ):
        """It is visible, its server does not know its tid, and others may follow it."""
        server = serve_it()
        writer, reader = server.connect(), server.connect()
        finished = database.gate("after tpc_finish")
        writer.begin(1, oids=(3,))
        writer.ask("vote", 1)
        writer.seen.clear()
        finish = writer.call("tpc_finish", 1)
        finished.wait_until_reached()
        after = [] if is_last else [database.commit(4)]
        polled = database.gate("after poll")
        ping = reader.call("ping")
        polled.wait_until_reached()
        polled.open()
        finished.open()
        own = writer.wait_for(finish)
        writer.ask("ping")
        assert messages(writer)[0] == ("reply", finish, own)
        assert writer.invalidations() == after
        reader.wait_for(ping)
        assert reader.invalidations() == [own, *after]

    def test_commit_that_was_overwritten_at_once_keeps_its_tid(
        self, database, serve_it, monkeypatch
    ):
        """In a database without history nothing shows it any more."""
        server = serve_it()
        monkeypatch.setattr(ExactChanges, "since", newest_only)
        writer, reader = server.connect(), server.connect()
        finished = database.gate("after tpc_finish")
        writer.begin(1, oids=(3,))
        writer.ask("vote", 1)
        finish = writer.call("tpc_finish", 1)
        finished.wait_until_reached()
        own, after = database.commits[-1][0], database.commit(3)
        finished.open()
        assert writer.wait_for(finish) == own
        reader.ask("ping")
        assert reader.invalidations() == [own, after]

    @pytest.mark.parametrize("is_traced", [False, True])
    def test_commit_of_nothing(
        self, database, serve_it, monkeypatch, is_traced, caplog
    ):
        """It has the tid that other servers know, which may be of the one before."""
        server = serve_it(slow_call=1e-9)
        if not is_traced:
            monkeypatch.setattr(ExactChanges, "since", newest_only)
        writer, reader = server.connect(), server.connect()
        before = database.commit(1)
        tid = writer.commit(1, oids=())
        assert tid == (database.commits[-1][0] if is_traced else before)
        reader.ask("ping")
        assert reader.invalidations() == ([before, tid] if is_traced else [before])
        assert reader.ask("lastTransaction") == tid
        assert writer.commit(2, oids=(3,)) == database.commits[-1][0]
        assert f"committed {tid.hex()} with 0 objects" in caplog.text
        assert "did not commit" not in caplog.text

    def test_commit_behind_a_poll_waits_for_the_next(self, database, serve_it):
        """A poll that began before it has not seen what came between."""
        server = serve_it()
        writer, reader = server.connect(), server.connect()
        polled = database.gate("after poll")
        ping = reader.call("ping")
        polled.wait_until_reached()
        between = database.commit(4)
        writer.begin(1, oids=(3,))
        writer.ask("vote", 1)
        finish = writer.call("tpc_finish", 1)
        wait_until(lambda: server.served.feed._own)
        polled.open()
        own = writer.wait_for(finish)
        assert between < own
        reader.wait_for(ping)
        reader.ask("ping")
        assert reader.invalidations() == [between, own]
        assert writer.invalidations() == [between]

    def test_foreign_commit_between_vote_and_finish_comes_first(
        self, database, serve_it
    ):
        server = serve_it()
        writer, reader = server.connect(), server.connect()
        writer.begin(1, oids=(3,))
        writer.ask("vote", 1)
        foreign = database.commit(1)
        writer.seen.clear()
        finish = writer.call("tpc_finish", 1)
        own = writer.wait_for(finish)
        assert messages(writer) == [invalidation(foreign, 1), ("reply", finish, own)]
        reader.ask("ping")
        assert reader.invalidations() == [foreign, own]

    def test_foreign_commit_behind_an_own_one_that_failed(self, database, serve_it):
        server = serve_it()
        writer, reader = server.connect(), server.connect()
        writer.begin(1, oids=(3,))
        writer.ask("vote", 1)
        database.fail("before tpc_finish", RuntimeError("broken"))
        writer.call("tpc_finish", 1)
        assert writer.is_closed()
        foreign = database.commit(3)
        reader.ask("ping")
        assert reader.invalidations() == [foreign]

    def test_poll_that_waits_for_a_commit_goes_on_when_that_fails(
        self, database, serve_it
    ):
        server = serve_it()
        writer, reader = server.connect(), server.connect()
        writer.begin(1, oids=(3,))
        writer.ask("vote", 1)
        finishing = database.gate("before tpc_finish")
        writer.call("tpc_finish", 1)
        finishing.wait_until_reached()
        tid = database.commit(1)
        ping = reader.call("ping")
        # The reader's thread for the poll, and the poll for the commit.
        condition = server.served.feed._condition
        wait_until(lambda: len(condition._waiters) == 2)
        finishing.open(RuntimeError("broken"))
        reader.wait_for(ping)
        assert reader.invalidations() == [tid]

    @pytest.mark.parametrize("is_own", [False, True])
    def test_one_that_a_poll_has_no_memory_for_is_told_by_the_next(
        self, database, serve_it, monkeypatch, is_own
    ):
        server = serve_it()
        writer, reader = server.connect(), server.connect()
        feed = server.served.feed

        def fail(oids):
            monkeypatch.undo()
            raise MemoryError

        if is_own:
            writer.begin(1)
            writer.ask("vote", 1)
        monkeypatch.setattr(server.served.revisions, "changed", fail)
        writer.seen.clear()
        if is_own:
            call = writer.call("tpc_finish", 1)
            wait_until(lambda: feed.error is not None)
            reader.ask("ping")
            tid = writer.wait_for(call)
            assert messages(writer) == [("reply", call, tid)]
        else:
            tid = database.commit(1)
            with pytest.raises(Failed, match="MemoryError"):
                reader.ask("ping")
            reader.ask("ping")
        assert reader.invalidations() == [tid]
        assert feed.error is None

    @pytest.mark.parametrize("servers", [1, 3])
    def test_many_committers(self, database, serve_it, servers):
        """Each hears of all that others did, once and in order, whatever happens."""
        serving = [serve_it(poll_interval=0.001) for _ in range(servers)]
        clients = [serving[n % servers].connect() for n in range(6)]
        own = {client: [] for client in clients}

        def commit(client, oid):
            for number in range(25):
                serial = own[client][-1] if number else None
                own[client].append(client.commit(number, (oid,), serial))

        threads = [
            threading.Thread(target=commit, args=(client, oid))
            for oid, client in enumerate(clients, 1)
        ]
        for thread in threads:
            thread.start()
        for _ in range(50):
            database.commit(99)
        for thread in threads:
            thread.join()
        tids = [tid for tid, _ in database.commits[1:]]
        assert len(tids) == 6 * 25 + 50
        for client in clients:
            client.ask("ping")
            assert client.invalidations() == [t for t in tids if t not in own[client]]


class TestWithoutExactTids:
    def test_revision_ends_as_soon_as_it_may_have(self, database, serve):
        """`poll_invalidations` does not tell which commit it was."""
        server = serve(SharedStorage(database), poll_interval=3600)
        client = server.connect()
        client.ask("ping")
        known = client.tid
        first, second = database.commit(1), database.commit(2)
        client.ask("ping")
        early = p64(u64(known) + 1)
        assert early < first
        assert [m for m in client.seen if m[0] == "invalidateTransaction"] == [
            invalidation(early, 1, 2),
            invalidation(second, 1, 2),
        ]

    def test_foreign_changes_before_an_own_commit_are_told(self, database, serve):
        server = serve(SharedStorage(database), poll_interval=3600)
        writer = server.connect()
        writer.ask("ping")
        database.commit(1)
        writer.seen.clear()
        writer.commit(1, oids=(3,))
        told = [m for m in writer.seen if m[0] == "invalidateTransaction"]
        # Others may have changed before what it has changed itself.
        assert {oid for _, _, oids in told for oid in oids} == {p64(1), p64(3)}
        assert all(tid < database.commits[-1][0] for _, tid, _ in told)

    def test_nobody_stands_between_foreign_commits(self, database, serve):
        """Neither behind an own one with what a commit before it may have changed."""
        server = serve(SharedStorage(database), poll_interval=3600)
        writer, reader = server.connect(), server.connect()
        writer.ask("ping")
        known = database.commits[-1][0]
        for oid in (1, 2):
            database.commit(oid)
        own = writer.commit(1, oids=(3,))
        reader.ask("ping")
        told = [m[1:] for m in reader.seen if m[0] == "invalidateTransaction"]
        changed = [p64(1), p64(2), p64(3)]
        assert told == [
            (p64(u64(known) + 1), changed),
            (p64(u64(own) - 1), changed),
            (own, [p64(3)]),
        ]

    def test_own_commit_may_have_changed_what_others_did(self, database, serve):
        """Its tid hides theirs; who stands between has nothing of any of them."""
        server = serve(SharedStorage(database), poll_interval=3600)
        writer, reader = server.connect(), server.connect()
        writer.ask("ping")
        first, _ = database.commit(1), database.commit(2)
        own = writer.commit(1, oids=(1,), serial=first)
        reader.ask("ping")
        told = [m[1:] for m in reader.seen if m[0] == "invalidateTransaction"]
        assert told[-1] == (own, [p64(1)])
        assert told[:-1]
        for _, oids in told[:-1]:
            assert sorted(oids) == [p64(1), p64(2)]

    def test_own_commit_is_overtaken_by_unknown_changes(self, database, serve):
        """A poll that cannot tell what happened sees both it and a later one."""
        server = serve(SharedStorage(database), poll_interval=3600)
        writer = server.connect()
        writer.ask("ping")
        finished = database.gate("after tpc_finish")
        writer.begin(1, oids=(3,))
        writer.ask("vote", 1)
        writer.call("tpc_finish", 1)
        finished.wait_until_reached()
        later = database.commit(4)
        # The feed goes on with another instance, which does not know since when.
        database.fail("poll", OperationalError("the connection was lost long ago"))
        reader = server.connect(register=False)
        reader.handshake()
        register = reader.call("register", "1", False)
        feed = server.served.feed
        wait_until(lambda: feed._started > feed._done and not database.gates)
        finished.open()
        assert writer.is_closed()  # It has missed what is unknown.
        assert reader.wait_for(register) == later
        reader.ask("ping")
        assert reader.invalidations() == []
        assert server.connect().tid == later


def test_client_conflict_resolution_is_refused(database, serve_it):
    with pytest.raises(ConfigurationError, match="client-conflict-resolution"):
        serve_it(client_conflict_resolution=True)


def test_time_of_a_recovered_transaction_is_checked_without_the_committers_instance(
    serve_it,
):
    """That belongs to who has the commit lock."""
    server = serve_it()
    voter, client = server.connect(), server.connect()
    voter.begin(1, oids=(1,))
    voter.ask("vote", 1)
    polls = []
    (committer,) = server.served.committers._busy.values()
    instance = committer._instance.storage
    instance.poll_invalidations = lambda: polls.append(1)
    late = TimeStamp(2100, 1, 1, 0, 0, 0.0).raw()
    client.post("tpc_begin", 1, b"", b"", {}, late, " ")
    client.post("tpc_begin", 2, b"", b"", {}, None, " ")
    client.post("restorea", p64(2), late, b"data", None, 2)
    client.ask("ping")
    assert polls == []
    del instance.poll_invalidations
    voter.ask("tpc_finish", 1)
    with pytest.raises(Failed, match="more than a day ahead"):
        client.ask("vote", 1)
