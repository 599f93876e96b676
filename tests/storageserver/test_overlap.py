"""Commits of one server that overlap, in a database that several servers share.

The database is in memory; a commit stops in it, before or behind the moment from
which on others can see it, until a test lets it go on.
"""

import contextlib
import logging
import threading

import pytest
from ZODB.utils import p64

from tests.support.rawclient import Failed
from tests.support.sharedmemory import ExactChanges, SharedStorage
from tests.support.waiting import wait_until
from zeolite.storageserver import committers

BEFORE, AFTER = "before tpc_finish", "after tpc_finish"


def begin(client, oid, id=1):
    """Send a transaction; return its vote."""
    client.begin(id, oids=(oid,))
    return client.call("vote", id)


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
    return found, False


def told(client):
    """All tids that a client is told of."""
    client.ask("ping")
    return client.invalidations()


@pytest.fixture
def stop(database):
    """Call it to have a client's commit stop; returns its call and the gate.

    Commits that are still stopped at the end go on then.
    """
    with contextlib.ExitStack() as stack:

        def stop(client, oid, where=BEFORE, id=1):
            if oid is not None:  # Else it has voted.
                client.wait_for(begin(client, oid, id))
            gate = database.gate(where)
            finish = client.call("tpc_finish", id)
            gate.wait_until_reached()
            stack.callback(gate.open)
            return finish, gate

        yield stop


class TestOrder:
    def test_later_commit_is_seen_first(self, database, serve_it, stop):
        server = serve_it()
        slow, quick, reader = [server.connect() for _ in range(3)]
        finish, gate = stop(slow, 1)
        first = quick.commit(1, oids=(2,))
        gate.open()
        second = slow.wait_for(finish)
        assert first < second
        assert slow.invalidations() == [first]
        assert told(quick) == [second]
        assert told(reader) == [first, second]

    @pytest.mark.parametrize("answered_first", [0, 1])
    def test_poll_sees_several_of_which_it_does_not_know_whose_they_are(
        self, database, serve_it, stop, answered_first
    ):
        server = serve_it()
        writers, reader = [server.connect() for _ in range(2)], server.connect()
        stopped = [stop(each, oid, AFTER) for oid, each in enumerate(writers, 1)]
        foreign = database.commit(3)
        polled = database.gate("after poll")
        ping = reader.call("ping")
        polled.wait_until_reached()
        polled.open()
        order = [answered_first, 1 - answered_first]
        for number in order:
            stopped[number][1].open()
        own = [each.wait_for(call) for each, (call, _) in zip(writers, stopped)]
        assert own[0] < own[1] < foreign
        reader.wait_for(ping)
        assert reader.invalidations() == [*own, foreign]
        assert writers[1].invalidations()[:1] == own[:1]
        assert told(writers[0]) == [own[1], foreign]
        assert told(writers[1]) == [own[0], foreign]

    def test_poll_does_not_wait_for_what_it_cannot_have_seen(
        self, database, serve_it, stop
    ):
        """Neither for one that is not visible nor for one that has begun since."""
        server = serve_it()
        slow, late, reader = [server.connect() for _ in range(3)]
        seen, gate = stop(slow, 1, AFTER)
        ping = reader.call("ping")
        feed = server.served.feed
        wait_until(lambda: len(feed._condition._waiters) == 2)
        finish, late_gate = stop(late, 2)
        gate.open()
        tid = slow.wait_for(seen)
        reader.wait_for(ping)
        assert reader.invalidations() == [tid]
        reader.ask("ping")
        # It has been under way all the time.
        late_gate.open()
        tids = [tid, late.wait_for(finish)]
        assert told(reader) == tids

    def test_without_a_history_a_poll_waits_for_what_may_be_hidden(
        self, database, serve_it, stop, monkeypatch
    ):
        """A commit whose changes were overwritten is not among what is found."""
        monkeypatch.setattr(ExactChanges, "since", newest_only)
        server = serve_it()
        slow, quick, reader = [server.connect() for _ in range(3)]
        finish, gate = stop(slow, 1, AFTER)
        quick.begin(1, oids=(1,), serial=current(database, 1))
        quick.ask("vote", 1)
        last = quick.call("tpc_finish", 1)
        # For the poll, and the poll for `slow`.
        wait_until(lambda: len(server.served.feed._condition._waiters) == 2)
        gate.open()
        own = [slow.wait_for(finish), quick.wait_for(last)]
        assert told(reader) == own
        assert told(slow) == own[1:]
        assert told(quick) == own[:1]


class TestCommitLock:
    def test_is_given_back_once(self, serve_it, stop):
        """Who has it next does not lose it when the commit before ends."""
        server = serve_it()
        slow, voted, waiting = [server.connect() for _ in range(3)]
        finish, gate = stop(slow, 1)
        voted.wait_for(begin(voted, 2))
        vote = begin(waiting, 3)
        wait_until(lambda: server.served.commit_lock.waiting == 1)
        gate.open()
        slow.wait_for(finish)
        assert server.served.commit_lock.waiting == 1
        voted.ask("tpc_finish", 1)
        waiting.wait_for(vote)

    @pytest.mark.parametrize("is_gone", [False, True])
    def test_commit_that_fails_behind_it(self, serve_it, stop, is_gone):
        server = serve_it()
        slow, voted, reader = [server.connect() for _ in range(3)]
        _, gate = stop(slow, 1)
        voted.wait_for(begin(voted, 2))
        if is_gone:
            slow.close()
        gate.open(RuntimeError("broken"))
        if not is_gone:
            assert slow.is_closed()
        tids = [voted.ask("tpc_finish", 1), voted.commit(2, oids=(1,))]
        assert told(reader) == tids
        wait_until(lambda: not server.served.committers._busy)

    def test_client_that_leaves_has_committed(self, serve_it, stop, database):
        server = serve_it()
        slow, reader = server.connect(), server.connect()
        _, gate = stop(slow, 1)
        slow.close()
        voted = server.connect()
        voted.wait_for(begin(voted, 2))
        gate.open()
        wait_until(lambda: len(database.commits) == 2)
        tids = [database.commits[-1][0], voted.ask("tpc_finish", 1)]
        assert told(reader) == tids

    def test_next_transaction_of_the_same_client(self, serve_it, stop):
        server = serve_it()
        client = server.connect()
        client.wait_for(begin(client, 1))
        vote = begin(client, 2, id=2)
        wait_until(lambda: server.served.commit_lock.waiting == 1)
        finish, gate = stop(client, None)
        assert client.wait_for(vote) == []
        gate.open()
        first = client.wait_for(finish)
        assert client.ask("tpc_finish", 2) > first
        assert client.invalidations() == []

    def test_stays_with_a_commit_when_there_are_as_many_as_may_be(self, serve_it, stop):
        server = serve_it()
        reader = server.connect()
        writers = [server.connect() for _ in range(committers.MOST)]
        stopped = [stop(each, oid) for oid, each in enumerate(writers, 1)]
        late = server.connect()
        vote = begin(late, 99)
        wait_until(lambda: server.served.commit_lock.waiting == 1)
        # One that has given the lock back makes no room for another.
        stopped[0][1].open()
        tids = [writers[0].wait_for(stopped[0][0])]
        assert server.served.commit_lock.waiting == 1
        stopped[-1][1].open()
        tids.append(writers[-1].wait_for(stopped[-1][0]))
        late.wait_for(vote)
        tids.append(late.ask("tpc_finish", 1))
        assert told(reader) == tids

    def test_stays_where_it_is_not_told_which_commit_changed_what(
        self, serve, database, stop
    ):
        server = serve(SharedStorage(database), poll_interval=3600)
        slow, late = server.connect(), server.connect()
        finish, gate = stop(slow, 1)
        vote = begin(late, 2)
        wait_until(lambda: server.served.commit_lock.waiting == 1)
        gate.open()
        slow.wait_for(finish)
        late.wait_for(vote)
        late.ask("tpc_finish", 1)

    def test_timeout_is_of_who_has_it(self, serve_it, stop):
        server = serve_it(transaction_timeout=0.05)
        slow, hanging, reader = [server.connect() for _ in range(3)]
        finish, gate = stop(slow, 1)
        hanging.wait_for(begin(hanging, 2))
        assert hanging.is_closed()
        gate.open()
        tids = [slow.wait_for(finish)]
        assert told(reader) == tids
        reader.commit(1, oids=(2,))

    def test_server_that_stops_lets_the_commit_end(self, database, serve_it, stop):
        server = serve_it()
        slow, voted = server.connect(), server.connect()
        finish, gate = stop(slow, 1)
        voted.wait_for(begin(voted, 2))
        stopping = threading.Thread(target=server.server.stop)
        stopping.start()
        try:
            assert voted.is_closed()
            gate.open()
            tid = slow.wait_for(finish)
        finally:
            gate.open()
            stopping.join()
        assert [t for t, _ in database.commits[1:]] == [tid]
        assert database.instances == 0

    def test_log_tells_how_it_ended(self, serve_it, stop, caplog):
        caplog.set_level(logging.DEBUG, "zeolite")
        server = serve_it()
        slow = server.connect()
        finish, gate = stop(slow, 1)
        gate.open()
        tid = slow.wait_for(finish).hex()
        (line,) = [m for m in caplog.messages if "with the commit lock for" in m]
        assert f"committed {tid} with 1 objects" in line


class TestCommitters:
    def test_are_as_many_as_transactions_at_once(self, database, serve_it, stop):
        server = serve_it()
        clients = [server.connect() for _ in range(3)]
        for client in clients:
            client.commit(1, oids=(7,), serial=current(database, 7))
        assert database.instances == 2  # With the feed's.
        for oid, client in enumerate(clients, 1):
            stop(client, oid, id=2)
        assert database.instances == 4

    def test_are_given_up_when_nobody_needs_them(self, database, serve_it, monkeypatch):
        server = serve_it()
        client = server.connect()
        client.commit(1)
        server.served.committers.rest()
        assert database.instances == 2
        monkeypatch.setattr(committers, "UNUSED", -1)
        client.wait_for(begin(client, 2, id=2))
        server.served.committers.rest()
        assert database.instances == 2  # It is in use.
        client.ask("tpc_finish", 2)
        server.served.committers.rest()
        assert database.instances == 1
        client.commit(3, oids=(3,))

    def test_vote_that_fails_gives_its_own_back(self, database, serve_it):
        client = serve_it().connect()
        tid = client.commit(1)
        for id in range(2, 2 + 2 * committers.MOST):
            with pytest.raises(Failed, match="ConflictError"):
                client.wait_for(begin(client, 1, id))
        client.commit(1, serial=tid)
        assert database.instances == 2

    def test_none_is_lost_for_want_of_memory(self, database, serve_it, monkeypatch):
        class Full(dict):
            def __setitem__(self, key, value):
                raise MemoryError

        server = serve_it()
        client = server.connect()
        client.commit(1)
        monkeypatch.setattr(server.served.committers, "_busy", Full())
        with pytest.raises(Failed, match="MemoryError"):
            client.wait_for(begin(client, 2, id=2))
        monkeypatch.undo()
        client.commit(3, oids=(3,))
        assert database.instances == 2


def current(database, oid):
    """Return the tid of an object's last commit, None if there is none."""
    return max(
        (t for t, changes in database.commits if p64(oid) in changes), default=None
    )
