"""No memory, where much of it is wanted at once: for what a commit has changed.

Whoever cannot be told of a commit is disconnected, and finds out when it comes back.
Nobody goes on without having heard of it, and what is committed is not said to have
failed.
"""

import pytest
from ZODB.utils import p64

from tests.support.rawclient import Closed, Failed
from tests.support.waiting import wait_until
from zeolite.storageserver.invalidation import Entry


@pytest.fixture
def fail_once(monkeypatch):
    """Call it with a class or an object: its method fails when it is called next."""

    def fail_once(owner, name):
        original = getattr(owner, name)

        def fail(*args):
            monkeypatch.setattr(owner, name, original)
            raise MemoryError

        monkeypatch.setattr(owner, name, fail)

    return fail_once


def knows(client, tid):
    """Whether a client has heard of a commit; if not, its connection has ended."""
    try:
        client.ask("ping")
    except Closed:
        return False
    assert client.invalidations() == [tid]
    return True


def test_idle_client_that_cannot_be_told(server, fail_once):
    """The others are."""
    readers = [server.connect() for _ in range(3)]
    writer = server.connect()
    for reader in readers:
        wait_until(lambda reader=reader: server.session(reader).delivery.is_idle)
    fail_once(Entry, "frame")
    tid = writer.commit(1)
    assert sorted(knows(reader, tid) for reader in readers) == [False, True, True]


def test_client_that_cannot_be_told_before_an_answer(server, fail_once, monkeypatch):
    client, tid = server.connect(), p64(2**62)

    def poll():
        monkeypatch.undo()
        fail_once(Entry, "frame")
        server.served.invalidate(tid, [p64(1)])

    monkeypatch.setattr(server.served, "poll", poll)
    with pytest.raises(Failed, match="MemoryError"):
        client.ask("ping")
    assert knows(client, tid)


def test_committer_that_cannot_be_told_of_what_was_committed_before(server, fail_once):
    client, other = server.connect(), server.connect()
    client.begin(1)
    client.ask("vote", 1)
    finishing = server.storage.gate("before tpc_finish")
    finish = client.call("tpc_finish", 1)
    finishing.wait_until_reached()
    server.session(other).end("not to be told")
    wait_until(lambda: len(server.served.sessions()) == 1)
    server.served.invalidate(p64(1), [p64(2)])
    fail_once(Entry, "frame")
    finishing.open()
    with pytest.raises(Closed):
        client.wait_for(finish)
    assert server.connect().tid == server.storage.lastTransaction()


def test_commit_that_the_memory_of_revisions_has_no_room_for(server, fail_once):
    """It, and what comes after it, is told."""
    client, other = server.connect(), server.connect()
    client.begin(1)
    client.ask("vote", 1)
    fail_once(server.served.revisions, "changed")
    with pytest.raises(Closed):
        client.ask("tpc_finish", 1)
    first = server.storage.lastTransaction()
    assert knows(other, first)
    second = server.connect().commit(2, oids=[2])
    other.ask("ping")
    assert other.invalidations() == [first, second]


class TestReplies:
    def test_vote_that_cannot_be_answered_gives_the_lock_back(self, server, fail_once):
        holder, waiting = server.connect(), server.connect()
        holder.begin(1)
        holder.ask("vote", 1)
        waiting.begin(1)
        waiting.call("vote", 1)
        wait_until(lambda: server.served.commit_lock.waiting == 1)
        fail_once(server.session(waiting)._channel, "offer")
        holder.ask("tpc_abort", 1)
        assert waiting.is_closed()
        assert holder.commit(2)

    def test_rest_of_one_that_cannot_be_sent(self, server, fail_once):
        client = server.connect()
        session = server.session(client)
        fail_once(session._channel, "send")
        session.delivery._finish_later(b"reply")
        assert client.is_closed()

    def test_own_one_that_is_half_sent(self, server, fail_once, monkeypatch):
        """Nothing follows it, whatever becomes of the call."""
        client = server.connect()
        session = server.session(client)

        def poll():
            monkeypatch.undo()
            fail_once(session._channel, "send")
            session.delivery.gather(b"half a message")
            session.delivery.flush()

        monkeypatch.setattr(server.served, "poll", poll)
        client.call("ping")
        assert client.is_closed()
