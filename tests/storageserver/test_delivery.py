"""Who sends, what happens to slow clients, and that no wake-up is lost."""

import itertools
import random
import socket
import sys
import threading
import time
from functools import partial
from types import SimpleNamespace

import pytest
from ZODB.utils import p64

from tests.support.rawclient import RawClient
from tests.support.waiting import wait_until
from zeolite.storageserver.delivery import GATHER, MOST_PAUSE, Delivery, Dispatcher
from zeolite.storageserver.invalidation import InvalidationLog
from zeolite.wire import messages
from zeolite.wire.channel import ConnectionLost
from zeolite.wire.frames import FrameReader


class FakeChannel:
    """Keeps what is sent; takes only `room` bytes of what is offered."""

    def __init__(self, room=None):
        self.room = room
        self.sent = b""
        self.rest = b""
        self.blocked = threading.Event()
        self.blocked.set()
        self.ended = False

    def send(self, data=b""):
        if self.rest:
            assert self.blocked.wait(20)
        if self.ended:
            raise ConnectionLost("ended")
        self.sent += self.rest + data
        self.rest = b""

    def offer(self, data):
        assert not self.rest
        size = len(data) if self.room is None else self.room
        self.sent += data[:size]
        self.rest = data[size:]

    @property
    def has_rest(self):
        return bool(self.rest)

    def shutdown(self):
        self.ended = True
        self.blocked.set()

    def tids(self):
        reader, tids = FrameReader(2**20), []
        reader.feed(self.sent)
        while (frame := reader.next()) is not None:
            tids.append(messages.decode_call(frame)[3][0])
        return tids


@pytest.fixture
def log():
    return InvalidationLog(p64(0))


def attached(log, channel):
    failures = []
    delivery = Delivery(channel, failures.append)
    delivery.attach(log)
    delivery.failures = failures
    return delivery


def add(log, *numbers):
    for number in numbers:
        log.add(p64(number), [p64(number)])


class TestWhoSends:
    def test_nobody_else_sends_while_a_call_is_executed(self, log):
        channel = FakeChannel()
        delivery = attached(log, channel)
        add(log, 1)
        delivery.nudge()
        assert channel.sent == b""
        delivery.rest()
        assert channel.tids() == [p64(1)]

    def test_anybody_sends_while_it_is_idle(self, log):
        channel = FakeChannel()
        delivery = attached(log, channel)
        delivery.rest()
        add(log, 1, 2)
        delivery.nudge()
        assert channel.tids() == [p64(1), p64(2)]
        delivery.nudge()
        assert channel.tids() == [p64(1), p64(2)]

    @pytest.mark.parametrize("how", ["send", "stream"])
    def test_who_had_the_lock_looks_at_the_log(self, log, how):
        """A nudge that finds the lock held is made good by its holder."""
        channel = FakeChannel()
        delivery = attached(log, channel)
        delivery.rest()
        name = "offer" if how == "send" else "send"
        original = getattr(channel, name)

        def send(data):
            # In the helper's send: a commit, and a dispatcher that passes over.
            setattr(channel, name, original)
            add(log, 1)
            delivery.nudge()
            original(data)

        setattr(channel, name, send)
        getattr(delivery, how)(b"")
        assert channel.tids() == [p64(1)]

    def test_who_turns_idle_looks_at_the_log(self, log):
        channel = FakeChannel()
        delivery = attached(log, channel)
        original = channel.send

        def send(data=b""):
            # Behind the last catch-up, before the connection is idle.
            add(log, 1)
            delivery.nudge()
            original(data)

        channel.send = send
        delivery.rest()
        assert channel.tids() == [p64(1)]

    def test_nothing_after_close(self, log):
        channel = FakeChannel()
        delivery = attached(log, channel)
        delivery.rest()
        delivery.close()
        add(log, 1)
        delivery.nudge()
        delivery.send(b"late")
        assert channel.sent == b""


class TestSlowClients:
    def test_nudge_does_not_wait_and_a_thread_sees_to_the_rest(self, log):
        channel = FakeChannel(room=10)
        channel.blocked.clear()
        delivery = attached(log, channel)
        delivery.rest()
        add(log, 1)
        delivery.nudge()
        assert len(channel.sent) == 10
        add(log, 2, 3)
        delivery.nudge()  # Must not wait, nor take more into memory.
        assert delivery.cursor == 1
        channel.room = None
        channel.blocked.set()
        wait_until(lambda: delivery.cursor == 3)
        wait_until(lambda: channel.tids() == [p64(1), p64(2), p64(3)])

    def test_other_threads_never_wait_either(self, log):
        """Such as the one that runs votes for all clients."""
        channel = FakeChannel(room=0)
        channel.blocked.clear()
        delivery = attached(log, channel)
        for _ in range(3):
            delivery.send(b"reply")
        channel.room = None
        channel.blocked.set()
        wait_until(lambda: channel.sent == b"reply" * 3)

    def test_nothing_overtakes_a_rest(self, log, monkeypatch):
        """Nobody has the lock, and the thread that sees to the rest is late."""
        late = []
        channel = FakeChannel(room=10)
        delivery = attached(log, channel)
        delivery.rest()
        add(log, 1)
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", lambda self: late.append(self))
            delivery.nudge()
        add(log, 2)
        delivery.nudge()
        delivery.send(b"reply")
        assert len(channel.sent) == 10
        channel.room = None
        for thread in late:
            thread.start()
        first, second = (entry.frame() for entry in log.read(0))
        wait_until(lambda: channel.sent == first + b"reply" + second)

    def test_a_thread_sees_to_the_rest_of_what_others_send(self, log):
        channel = FakeChannel(room=2)
        delivery = attached(log, channel)
        delivery.send(b"reply")
        wait_until(lambda: channel.sent == b"reply")

    def test_what_is_gathered_is_bounded(self, log):
        """Who sends calls and calls does not fill the memory with its replies."""
        channel = FakeChannel()
        delivery = attached(log, channel)
        delivery.gather(b"x" * GATHER)
        assert channel.sent == b""
        delivery.gather(b"y")
        assert len(channel.sent) == GATHER + 1

    def test_stream_that_breaks_ends_the_connection(self, log):
        channel = FakeChannel()
        delivery = attached(log, channel)
        channel.shutdown()
        with pytest.raises(ConnectionLost):
            delivery.stream(b"chunk")
        assert delivery.failures

    def test_offers_are_bounded(self, log):
        channel = FakeChannel(room=0)
        channel.blocked.clear()
        delivery = attached(log, channel)
        delivery.rest()
        oids = [p64(number) for number in range(2000)]
        for number in range(1, 100):
            log.add(p64(number), oids)
        delivery.nudge()
        assert len(channel.rest) < GATHER + len(log.read(0)[0].frame()) + 1
        channel.shutdown()
        wait_until(lambda: delivery.failures)

    def test_who_fell_behind_is_ended(self):
        log = InvalidationLog(p64(0), keep=1, maximum=10)
        channel = FakeChannel()
        delivery = attached(log, channel)
        delivery.rest()
        add(log, *range(1, 20))
        delivery.nudge()
        (failure,) = delivery.failures
        assert "behind" in str(failure)
        delivery.nudge()
        assert len(delivery.failures) == 1

    @pytest.mark.parametrize("tls", [False, True])
    def test_stalled_client_delays_nobody(self, serve, tls):
        """It reads nothing while others commit more than the kernel holds for it."""
        server = serve(tls=tls)
        stalled = server.connect(receive_buffer=4096)
        writer, reader = server.connect(), server.connect()
        session = server.session(stalled)
        # The kernel would have room for all of it.
        session._channel._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        oids = range(50)
        tids = [writer.commit(0, oids=oids)]
        held = []
        for id in range(1, 301):
            tids.append(writer.commit(id, oids=oids, serial=tids[-1]))
            held.append(len(session._channel._rest))
        reader.ask("ping")
        assert reader.invalidations() == tids
        frame = len(server.served.log.read(server.served.log.end - 1)[0].frame())
        wait_until(lambda: session.is_stalled)
        assert 300 * frame > 2 * GATHER
        assert max(held) <= GATHER + frame
        assert len(server.served.log) <= 301
        # It wakes up, and nothing is missing.
        stalled.ask("ping")
        assert stalled.invalidations() == tids

    @pytest.mark.parametrize("tls", [False, True])
    def test_stalled_client_is_given_up(self, serve, tls):
        server = serve(client_timeout=0.2, tls=tls)
        stalled = server.connect(receive_buffer=4096)
        writer = server.connect()
        session = server.session(stalled)
        oids = [p64(number) for number in range(20_000)]
        for number in range(1, 1000):
            server.served.invalidate(p64(number), oids)
            if session not in server.served.sessions():
                break
            writer.ask("ping")
        wait_until(lambda: session not in server.served.sessions())
        assert "took nothing" in session._reason
        assert writer.commit(1)


class TestDispatcher:
    def test_only_the_committer_is_connected(self, log):
        dispatcher = Dispatcher(log, "test")
        delivery = attached(log, FakeChannel())
        dispatcher.add(delivery)
        add(log, 1)
        dispatcher.wake(delivery)
        assert not dispatcher._due
        dispatcher.wake(None)
        assert dispatcher._due

    def test_trims_the_log(self):
        log = InvalidationLog(p64(0), keep=2)
        dispatcher = Dispatcher(log, "test")
        dispatcher.start()
        slow, fast = attached(log, FakeChannel()), attached(log, FakeChannel())
        for delivery in (slow, fast):
            dispatcher.add(delivery)
        fast.rest()
        add(log, *range(1, 11))
        dispatcher.wake()
        wait_until(lambda: fast.cursor == 10)
        assert len(log) == 10
        slow.rest()
        dispatcher.wake()
        wait_until(lambda: len(log) == 2)
        dispatcher.close()

    @pytest.mark.parametrize("is_alone", [False, True])
    def test_who_joins_before_the_log_is_trimmed_gets_what_comes_then(
        self, monkeypatch, is_alone
    ):
        """Whether the dispatcher's thread trims, or who wakes it."""
        log = InvalidationLog(p64(0), keep=0)
        dispatcher = Dispatcher(log, "test")
        newcomer, channel = Delivery(FakeChannel(), None), FakeChannel()

        class Condition:
            """Somebody joins, and something is committed, when it is let go."""

            def __init__(self, condition):
                self._condition = condition
                self.wait = condition.wait
                self.notify = condition.notify

            def __enter__(self):
                self._condition.__enter__()

            def __exit__(self, *error):
                due = dispatcher._due
                self._condition.__exit__(*error)
                if newcomer.tid is None and not due and log.end:
                    newcomer.attach(log)
                    add(log, 2)

        if not is_alone:
            delivery = attached(log, channel)
            delivery.rest()
            dispatcher.add(delivery)
        add(log, 1)
        dispatcher._condition = Condition(dispatcher._condition)
        dispatcher.start()
        dispatcher.wake()
        wait_until(lambda: newcomer.tid)
        dispatcher._condition = dispatcher._condition._condition
        dispatcher.close()
        assert [entry.tid for entry in log.read(newcomer.cursor)] == [p64(2)]

    def test_what_is_committed_after_a_long_round_is_told_in_one_piece(
        self, log, monkeypatch
    ):
        monkeypatch.setattr("zeolite.storageserver.delivery.LEAST_PAUSE", -1)
        dispatcher = Dispatcher(log, "test")
        pausing, go_on = threading.Semaphore(0), threading.Semaphore(0)

        def wait(seconds):
            assert 0 <= seconds <= MOST_PAUSE
            pausing.release()
            go_on.acquire(timeout=10)

        monkeypatch.setattr(dispatcher._closed, "wait", wait)
        channel = FakeChannel()
        delivery = attached(log, channel)
        dispatcher.add(delivery)
        delivery.rest()
        dispatcher.start()
        for number in (1, 2, 3):
            add(log, number)
            dispatcher.wake()
            if number == 1:
                assert pausing.acquire(timeout=10)
        assert channel.tids() == [p64(1)]
        go_on.release()
        assert pausing.acquire(timeout=10)
        assert channel.tids() == [p64(1), p64(2), p64(3)]
        go_on.release()
        dispatcher.close()

    def test_end_does_not_wait_for_a_pause(self, log, monkeypatch):
        monkeypatch.setattr("zeolite.storageserver.delivery.MOST_PAUSE", 1000)
        clock = SimpleNamespace(monotonic=partial(next, itertools.count(step=1000)))
        monkeypatch.setattr("zeolite.storageserver.delivery.time", clock)
        dispatcher = Dispatcher(log, "test")
        told = threading.Event()
        monkeypatch.setattr(dispatcher, "_tell", lambda *args: told.set())
        dispatcher.add(attached(log, FakeChannel()))
        dispatcher.start()
        dispatcher.wake()
        assert told.wait(10)
        dispatcher.close()


@pytest.mark.parametrize("seed", range(3))
def test_no_wake_up_is_lost(serve, seed):
    """Clients that come, go, load and stall all see the same order."""
    server = serve()
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    done = threading.Event()
    problems = []
    committed = []

    def follow(seed):
        rng = random.Random(seed)
        try:
            while not done.is_set():
                client = RawClient(server.address)
                for _ in range(rng.randrange(20)):
                    client.ask(rng.choice(["ping", "lastTransaction"]))
                    if rng.random() < 0.2:
                        time.sleep(rng.random() / 100)
                tid = client.ask("lastTransaction")
                seen = [client.tid, *client.invalidations()]
                if seen != sorted(set(seen)) or seen[-1] != tid:
                    problems.append(("order", seen, tid))
                checks.append(seen)
                client.close()
        except Exception as error:
            problems.append(error)

    checks = []
    threads = [threading.Thread(target=follow, args=(seed * 10 + n,)) for n in range(4)]
    try:
        writer = server.connect()
        committed.append(writer.tid)
        for thread in threads:
            thread.start()
        # The writer may be much faster than those who follow.
        while len(committed) <= 60 or (sum(map(len, checks)) <= 60 and not problems):
            id = len(committed)
            committed.append(writer.commit(id, oids=(id,)))
    finally:
        done.set()
        for thread in threads:
            thread.join()
        sys.setswitchinterval(interval)
    assert not problems
    for seen in checks:
        start = committed.index(seen[0])
        assert seen == committed[start : start + len(seen)]
    assert sum(map(len, checks)) > 60
