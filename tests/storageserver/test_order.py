"""The order of what one client is told: each rule, with its dangerous interleaving.

The rules are those of the protocol's section on order.  No test waits for luck:
the storage stops in the middle of a call until the test lets it go on, and where
the dispatcher matters, the test plays its part by itself.
"""

import contextlib
import threading

import pytest
from ZODB.POSException import StorageError
from ZODB.utils import maxtid, p64

from tests.support.blocking import Gate
from tests.support.rawclient import Failed
from tests.support.waiting import wait_until
from zeolite.clientstorage.storage import ClientStorage


def invalidation(tid, *oids):
    return "invalidateTransaction", tid, [p64(oid) for oid in oids]


def without_infos(client):
    return [message for message in client.seen if message[0] != "info"]


@pytest.mark.usefixtures("loads")
class TestLoadsAndInvalidations:
    """A load's reply leaves before the invalidation of what it did not see."""

    def test_commit_during_load_is_told_behind_the_reply(self, server):
        writer, reader = server.connect(), server.connect()
        first = writer.commit(1, data=b"old")
        reader.ask("ping")
        reader.seen.clear()
        loaded = server.storage.gate("after loadBefore")
        load = reader.load(1)
        loaded.wait_until_reached()
        second = writer.commit(2, serial=first, data=b"new")
        # What the dispatcher does, as often and as early as it could.
        server.session(reader).delivery.nudge()
        loaded.open()
        reader.wait_for(load)
        reader.ask("ping")
        assert reader.seen[:2] == [
            ("reply", load, (b"old", first, None)),
            invalidation(second, 1),
        ]

    def test_pipelined_loads_keep_the_order(self, server):
        writer, reader = server.connect(), server.connect()
        first = writer.commit(1, data=b"old")
        reader.ask("ping")
        reader.seen.clear()
        loaded = server.storage.gate("after loadBefore")
        loads = [reader.load(1) for _ in range(3)]
        loaded.wait_until_reached()
        second = writer.commit(2, serial=first, data=b"new")
        loaded.open()
        for load in loads:
            reader.wait_for(load)
        assert reader.seen == [
            ("reply", loads[0], (b"old", first, None)),
            invalidation(second, 1),
            ("reply", loads[1], (b"new", second, None)),
            ("reply", loads[2], (b"new", second, None)),
        ]

    def test_load_that_saw_a_commit_may_be_answered_before_it_is_told(self, server):
        """Readable is not yet published; the invalidation must still come."""
        writer, reader = server.connect(), server.connect()
        finished = server.storage.gate("after tpc_finish")
        writer.begin(1, data=b"new")
        writer.ask("vote", 1)
        finish = writer.call("tpc_finish", 1)
        finished.wait_until_reached()
        data, tid, _ = reader.ask("loadBefore", p64(1), b"\x7f" + b"\xff" * 7)
        assert data == b"new"
        finished.open()
        assert writer.wait_for(finish) == tid
        reader.ask("ping")
        assert reader.invalidations() == [tid]

    def test_load_after_a_commit_hears_of_it_first(self, server, monkeypatch):
        writer, reader = server.connect(), server.connect()
        monkeypatch.setattr(server.served.dispatcher, "wake", lambda origin=None: None)
        tid = writer.commit(1, data=b"new")
        reader.seen.clear()
        load = reader.load(1)
        reader.wait_for(load)
        assert reader.seen == [
            invalidation(tid, 1),
            ("reply", load, (b"new", tid, None)),
        ]


class TestCausality:
    """An invalidation leaves before the reply to a call that may know of it."""

    def test_ping_after_a_commit_hears_of_it_first(self, server, monkeypatch):
        writer, reader = server.connect(), server.connect()
        # Without the dispatcher only the reader's own thread can tell it.
        monkeypatch.setattr(server.served.dispatcher, "wake", lambda origin=None: None)
        tid = writer.commit(1)
        ping = reader.call("ping")
        reader.wait_for(ping)
        assert without_infos(reader)[1:] == [
            invalidation(tid, 1),
            ("reply", ping, None),
        ]

    def test_idle_client_hears_of_a_commit_without_asking(self, server):
        writer, reader = server.connect(), server.connect()
        tid = writer.commit(1)
        assert reader.read() == invalidation(tid, 1)

    @pytest.mark.parametrize("method", ["lastTransaction", "get_info", "server_status"])
    def test_whatever_call(self, server, method, monkeypatch):
        writer, reader = server.connect(), server.connect()
        monkeypatch.setattr(server.served.dispatcher, "wake", lambda origin=None: None)
        tid = writer.commit(1)
        reader.ask(method)
        assert reader.seen[1] == invalidation(tid, 1)

    def test_last_transaction_is_never_ahead_of_the_invalidations(self, server):
        writer, reader = server.connect(), server.connect()
        first = writer.commit(1)
        reader.ask("ping")
        # A commit that cannot be told yet is not the last one either.
        finished = server.storage.gate("after tpc_finish")
        writer.begin(2, oids=(2,))
        writer.ask("vote", 2)
        finish = writer.call("tpc_finish", 2)
        finished.wait_until_reached()
        assert reader.ask("lastTransaction") == first
        finished.open()
        second = writer.wait_for(finish)
        assert reader.ask("lastTransaction") == second


class TestOrderOfInvalidations:
    """In tid order, none missing, none twice, whoever comes and goes."""

    def test_unpublished_commit_holds_back_later_ones(self, server):
        writer, reader = server.connect(), server.connect()
        finished = server.storage.gate("after tpc_finish")
        writer.begin(1)
        writer.ask("vote", 1)
        finish = writer.call("tpc_finish", 1)
        finished.wait_until_reached()
        later = b"\x7e" + b"\0" * 7
        server.served.invalidate(later, [p64(2)])  # As an upstream storage does.
        reader.ask("ping")
        assert reader.invalidations() == []
        finished.open()
        tid = writer.wait_for(finish)
        reader.ask("ping")
        assert reader.invalidations() == [tid, later]

    def test_failed_finish_leaves_no_trace(self, server):
        writer, reader = server.connect(), server.connect()
        before = reader.tid
        # It fails when its place in the log is taken.
        server.storage.fail("callback", OSError("disk full"))
        writer.begin(1)
        writer.ask("vote", 1)
        with pytest.raises(Failed, match="disk full"):
            writer.ask("tpc_finish", 1)
        assert len(server.served.log) == 0
        assert reader.ask("lastTransaction") == before
        tid = writer.commit(2)
        reader.ask("ping")
        assert reader.invalidations() == [tid]

    def test_failed_finish_does_not_hold_back_later_ones(self, server):
        writer, reader = server.connect(), server.connect()
        callback = server.storage.gate("callback")
        writer.begin(1)
        writer.ask("vote", 1)
        finish = writer.call("tpc_finish", 1)
        callback.wait_until_reached()
        later = b"\x7e" + b"\0" * 7
        server.served.invalidate(later, [p64(2)])
        callback.open(OSError("disk full"))
        with pytest.raises(Failed, match="disk full"):
            writer.wait_for(finish)
        reader.ask("ping")
        assert reader.invalidations() == [later]

    def test_third_client_leaves_while_a_commit_is_told(self, server, monkeypatch):
        writer = server.connect()
        readers = [server.connect() for _ in range(3)]
        dispatcher = server.served.dispatcher
        told = Gate()
        original = type(server.session(writer).delivery).nudge
        first = threading.Lock()

        def nudge(delivery):
            if first.acquire(blocking=False):
                told.stop_here()
            original(delivery)

        for reader in readers:
            delivery = server.session(reader).delivery
            monkeypatch.setattr(delivery, "nudge", lambda d=delivery: nudge(d))
        tids = [writer.commit(1)]
        told.wait_until_reached()  # The dispatcher is in the middle of its list.
        gone = server.session(readers[1])
        readers[1].close()
        while gone in server.served.sessions():
            pass
        newcomer = server.connect()
        told.open()
        tids.append(writer.commit(2, serial=tids[0]))
        for reader in (readers[0], readers[2]):
            reader.ask("ping")
            assert reader.invalidations() == tids
        newcomer.ask("ping")
        assert [newcomer.tid, *newcomer.invalidations()] == tids
        assert dispatcher._thread.is_alive()


class TestCommitter:
    """No invalidation of its own commit; earlier ones before its reply."""

    def test_it_is_not_told_of_its_own(self, server):
        writer = server.connect()
        for id in range(3):
            writer.commit(id, oids=(id,))
        writer.ask("ping")
        assert writer.invalidations() == []

    def test_earlier_ones_come_before_the_reply_and_later_ones_after(self, server):
        writer = server.connect()
        writer.begin(1)
        writer.ask("vote", 1)
        finishing = server.storage.gate("before tpc_finish")
        callback = server.storage.gate("callback")
        finish = writer.call("tpc_finish", 1)
        finishing.wait_until_reached()
        earlier, later = b"\x02" + b"\0" * 7, b"\x7e" + b"\0" * 7
        server.served.invalidate(earlier, [p64(2)])
        finishing.open()
        callback.wait_until_reached()
        server.served.invalidate(later, [p64(3)])
        callback.open()
        tid = writer.wait_for(finish)
        writer.ask("ping")
        assert without_infos(writer)[2:-1] == [
            invalidation(earlier, 2),
            ("reply", finish, tid),
            invalidation(later, 3),
        ]

    def test_info_comes_before_the_reply(self, server):
        writer = server.connect()
        writer.commit(1, oids=(1, 2))
        info, reply = writer.seen[-2:]
        assert info[0] == "info"
        assert info[1]["length"] == 2
        assert reply[0] == "reply"


def test_commit_without_objects_is_told_by_a_server_of_a_client(serve):
    """Who knows of it from elsewhere would be refused."""
    root = serve()
    server = serve(ClientStorage(root.address))
    client = server.connect()
    tid = root.connect().commit(1, oids=())
    wait_until(lambda: server.storage.lastTransaction() == tid)
    client.ask("ping")
    assert client.invalidations() == [tid]
    assert server.connect().tid == tid


def test_revision_ends_as_soon_as_it_may_have_at_a_client_of_a_client(serve):
    """What its server has missed is told at once, and was not changed at once."""
    root = serve()
    writer = root.connect()
    first = writer.commit(1, data=b"old")
    server = serve(ClientStorage(root.address))
    with contextlib.closing(ClientStorage(server.address)) as client:
        client.loadBefore(p64(1), maxtid)
        finding, connection = Gate(), server.storage._connection
        find = connection._find
        connection._find = lambda: finding.stop_here() or find()
        connection.link().end()
        finding.wait_until_reached()
        second = writer.commit(2, serial=first, data=b"new")
        third = writer.commit(3, oids=(2,))
        finding.open()
        wait_until(lambda: client.lastTransaction() == third)
        assert client.loadBefore(p64(1), second) == (b"old", first, second)
        assert client.loadBefore(p64(1), third) == (b"new", second, None)


def test_change_that_waited_for_a_commit_which_failed(server):
    """It is told although nobody says anything any more."""
    writer, reader = server.connect(), server.connect(timeout=5)
    writer.begin(1)
    writer.ask("vote", 1)
    reader.ask("ping")
    gate = server.storage.gate("callback")
    finish = writer.call("tpc_finish", 1)
    gate.wait_until_reached()
    tid = p64(2**62)
    server.served.invalidate(tid, [p64(5)])
    dispatcher = server.served.dispatcher
    wait_until(lambda: not dispatcher._due)
    gate.open(StorageError("no"))
    with pytest.raises(Failed):
        writer.wait_for(finish)
    assert reader.read() == invalidation(tid, 5)


def test_what_a_failed_commit_left_is_forgotten_before_the_next_has_the_lock(
    server, monkeypatch
):
    writer, other = server.connect(), server.connect()
    writer.begin(1)
    writer.ask("vote", 1)
    forgetting, forget = Gate(), server.served.revisions.forget
    monkeypatch.setattr(
        server.served.revisions, "forget", lambda: (forgetting.stop_here(), forget())
    )
    server.storage.fail("before tpc_finish", StorageError("no"))
    finish = writer.call("tpc_finish", 1)
    forgetting.wait_until_reached()
    other.begin(2, oids=(2,))
    vote = other.call("vote", 2)
    wait_until(lambda: server.served.commit_lock.waiting == 1)
    forgetting.open()
    with pytest.raises(Failed):
        writer.wait_for(finish)
    other.wait_for(vote)
    other.ask("tpc_finish", 2)
