"""Looking for a client's next message before going to sleep for it.

What pays is found out with a clock that only the test moves.
"""

import random
import threading

import pytest
from ZODB.utils import maxtid, p64

from tests.support.waiting import wait_until
from zeolite.storageserver import busypolling
from zeolite.storageserver.busypolling import BusyPolling, Receiver, Trials
from zeolite.wire.channel import PlainChannel

MICRO = 1e-6

#: Seconds from a message to its receiver, where that one sleeps.
WAKING = 80 * MICRO


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


class Client:
    """In the place of a channel whose peer says something `gap` after the last time.

    Where it `needs_processor`, it is not before nobody looks any more.
    """

    def __init__(self, clock, gap, needs_processor=False):
        self.clock = clock
        self.gap = gap
        self.needs_processor = needs_processor
        self.looks = self.looked = self.vain = 0
        self._next = clock.now + gap
        self._is_looked_for = False

    def has_come(self):
        self.looks += 1
        self._is_looked_for = True
        self.clock.now += MICRO
        return not self.needs_processor and self.clock.now >= self._next

    def receive(self, deadline=None):
        if self._is_looked_for:
            self.looked += 1
            self._is_looked_for = False
            if self.needs_processor:
                self._next = self.clock.now + self.gap
        if self.clock.now < self._next:
            self.vain += self.looks > 0
            self.clock.now = self._next + WAKING
        self.looks = 0
        self._next = self.clock.now + self.gap
        return b"message"


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(busypolling, "perf_counter", clock)
    return clock


@pytest.fixture
def polling():
    return BusyPolling(True)


def talk(receiver, count):
    """Receive `count` messages; return how many of them were looked for."""
    client = receiver._channel
    before = client.looked
    for _ in range(count):
        assert receiver.receive() == b"message"
    return client.looked - before


class TestWhoIsLookedFor:
    def test_quick_client_that_is_alone(self, clock, polling):
        client = Client(clock, 25 * MICRO)
        receiver = Receiver(client, polling)
        talk(receiver, 200)
        # But for the trials that follow each term.
        assert talk(receiver, 10_000) >= 9_800
        assert client.vain == 0

    def test_every_second_gap_may_be_longer(self, clock, polling):
        """As the gaps of a client that commits."""
        client = Client(clock, 40 * MICRO)
        receiver = Receiver(client, polling)
        looked = 0
        for number in range(5_000):
            client.gap = (40 * MICRO, 90 * MICRO)[number % 2]
            looked += talk(receiver, 1)
        assert looked >= 4_500

    @pytest.mark.parametrize("gap", [400 * MICRO, 5e-3, 2.0])
    def test_slow_client_is_not(self, gap, clock, polling):
        assert talk(Receiver(Client(clock, gap), polling), 10_000) == 0

    def test_client_that_turns_slow_is_not_for_long(self, clock, polling):
        client = Client(clock, 25 * MICRO)
        receiver = Receiver(client, polling)
        talk(receiver, 1_000)
        client.gap = 5e-3
        assert talk(receiver, 1_000) <= 8
        client.gap = 25 * MICRO
        assert talk(receiver, 1_000) >= 900

    def test_clients_that_take_turns_are_not(self, clock, polling):
        clients = [Client(clock, 25 * MICRO) for _ in range(2)]
        receivers = [Receiver(client, polling) for client in clients]
        for _ in range(5_000):
            for receiver in receivers:
                assert talk(receiver, 1) == 0

    def test_another_one_now_and_then_is_nothing(self, clock, polling):
        client = Client(clock, 25 * MICRO)
        receiver = Receiver(client, polling)
        others = Receiver(Client(clock, 1e-3), polling)
        talk(receiver, 200)
        looked = 0
        for _ in range(50):
            talk(others, 1)
            looked += talk(receiver, 100)
        assert looked >= 50 * 85

    def test_another_one_so_often_that_it_is_hardly_worth_it(self, clock, polling):
        client = Client(clock, 25 * MICRO)
        receiver = Receiver(client, polling)
        others = Receiver(Client(clock, 1e-3), polling)
        looked = 0
        for _ in range(5_000):
            talk(others, 1)
            looked += talk(receiver, 7)
        assert 4_000 <= looked <= 5_000

    def test_who_looks_stops_when_another_one_is_heard(self, clock, polling):
        client = Client(clock, 25 * MICRO)
        receiver = Receiver(client, polling)
        other = Receiver(Client(clock, MICRO), polling)
        talk(receiver, 200)
        look, looks = client.has_come, []

        def has_come():
            looks.append(look())
            other.receive()
            return False

        client.has_come = has_come
        assert receiver.receive() == b"message"
        assert len(looks) == 1
        del client.has_come
        assert talk(receiver, 4) == 0

    def test_nobody_where_it_is_not_wanted(self, clock):
        assert talk(Receiver(Client(clock, 25 * MICRO), BusyPolling(False)), 5_000) == 0

    def test_nobody_with_a_deadline(self, clock, polling):
        client = Client(clock, 25 * MICRO)
        receiver = Receiver(client, polling)
        talk(receiver, 200)
        before = client.looked
        assert receiver.receive(clock.now + 5) == b"message"
        assert client.looked == before


class TestTrials:
    def test_it_is_given_up_where_somebody_else_needs_the_processor(
        self, clock, polling
    ):
        client = Client(clock, 25 * MICRO, needs_processor=True)
        receiver = Receiver(client, polling)
        looked = [talk(receiver, 10_000) for _ in range(10)]
        assert 0 < looked[0] <= 7 * Trials.SIZE
        # It is tried ever more rarely.
        assert looked[-1] <= Trials.SIZE

    def test_it_follows_what_happens_to_the_machine(self, clock, polling):
        client = Client(clock, 25 * MICRO)
        receiver = Receiver(client, polling)
        for _ in range(3):
            client.needs_processor = False
            talk(receiver, 4 * sum(Trials.BREAKS))
            assert talk(receiver, 10_000) >= 9_500
            client.needs_processor = True
            talk(receiver, 2 * Trials.TERM + 4 * Trials.SIZE)
            assert talk(receiver, 10_000) <= 500
        talk(receiver, 300_000)
        client.needs_processor = False
        talk(receiver, 4 * sum(Trials.BREAKS))
        assert talk(receiver, 10_000) >= 9_500

    def test_it_soon_gets_another_chance_after_a_trial_that_went_wrong(
        self, clock, polling
    ):
        client = Client(clock, 25 * MICRO, needs_processor=True)
        receiver = Receiver(client, polling)
        talk(receiver, 2 * Trials.SIZE + 20)
        client.needs_processor = False
        assert talk(receiver, 1_000) >= 600
        # Also if it was better before, and not before that.
        client.needs_processor = True
        talk(receiver, 100_000)
        client.needs_processor = False
        while talk(receiver, 500) < 500:
            pass
        client.needs_processor = True
        while talk(receiver, 100):
            pass
        client.needs_processor = False
        assert talk(receiver, 1_000) >= 600

    def test_little_less_is_not_worth_it(self):
        trials = Trials()
        for number in range(100_000):
            trials.add((0.9 if trials.looks else 1) * 50 * MICRO)
            if number == 3 * Trials.SIZE:
                assert not trials.looks

    def test_pauses_of_the_client_say_nothing(self, clock, polling):
        client = Client(clock, 25 * MICRO)
        receiver = Receiver(client, polling)
        chance, looked = random.Random(1), 0
        for number in range(20_000):
            client.gap = 20e-3 if number % 50 == 0 else 25 * MICRO
            client.gap *= chance.uniform(0.8, 1.2)
            looked += talk(receiver, 1)
        assert looked >= 19_000


@pytest.fixture(params=[False, True], ids=["plain", "TLS"])
def server(request, serve, monkeypatch):
    """A server that looks until something happens, as if it paid."""
    monkeypatch.setattr(busypolling, "MOMENT", 3600.0)
    monkeypatch.setattr(busypolling, "_PAUSE", 0.0)
    monkeypatch.setattr(busypolling, "_QUICK_ASLEEP", 3600.0)
    always = property(lambda self: True, lambda self, value: None)
    monkeypatch.setattr(Trials, "looks", always, raising=False)
    return serve(tls=request.param)


@pytest.fixture
def looks(monkeypatch):
    """Notes the threads that look."""
    looks, has_come = set(), PlainChannel.has_come

    def look(channel):
        looks.add(threading.current_thread().name)
        return has_come(channel)

    monkeypatch.setattr(PlainChannel, "has_come", look)
    return looks


def say(client):
    assert client.ask("ping") is None


def looked_for(server, looks):
    """Return a client that the server looks for, and goes on to."""
    client = server.connect()
    for _ in range(10):
        say(client)
    name = "zeolite-client-" + server.session(client).address
    wait_until(lambda: name in looks)
    return client


class TestServer:
    def test_client_that_is_looked_for_is_answered(self, server, looks):
        client = looked_for(server, looks)
        for number in range(1, 20):
            tid = client.commit(number, oids=(number,))
            assert client.ask("loadBefore", p64(number), maxtid)[1] == tid

    def test_client_that_is_looked_for_may_leave(self, server, looks):
        client = looked_for(server, looks)
        client.close()
        wait_until(lambda: not server.served.sessions())

    def test_server_that_looks_may_stop(self, server, looks):
        client = looked_for(server, looks)
        server.server.stop()
        assert client.is_closed()

    def test_client_that_is_looked_for_hears_of_commits(self, server, looks):
        client, other = looked_for(server, looks), server.connect()
        client.ask("get_info")
        tid = other.commit(1, oids=(5,))
        assert client.read() == ("invalidateTransaction", tid, [p64(5)])

    def test_it_sleeps_when_another_one_is_heard(self, server, looks):
        client, other = looked_for(server, looks), server.connect()
        wait_until(lambda: [looks.clear(), say(other), not looks][-1])
        say(client)

    def test_not_where_the_configuration_says_so(self, serve, server, looks):
        client = serve(busy_polling=False).connect()
        for _ in range(100):
            say(client)
        assert not looks
