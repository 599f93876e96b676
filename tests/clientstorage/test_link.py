"""How calls of several threads share one connection."""

import threading
import types

import pytest
from ZODB.utils import maxtid

from tests.support.blocking import PATIENCE, Gate
from zeolite.clientstorage.iteration import drop_iterators
from zeolite.clientstorage.link import Link
from zeolite.errors import ClientDisconnected
from zeolite.wire import messages
from zeolite.wire.channel import ConnectionLost
from zeolite.wire.chunks import Chunk

from .talking import OID


class SlowChannel:
    """Keeps what is sent, and stops the first sender at a gate."""

    def __init__(self):
        self.gate = self._next = Gate()
        self.sent = []

    def send(self, data):
        gate, self._next = self._next, None
        if gate is not None:
            gate.stop_here()
        self.sent.append(data)


def in_thread(function, *args):
    thread = threading.Thread(target=function, args=args)
    thread.start()
    return thread


def encoded(*names):
    return b"".join(
        messages.encode_call(number, name, ()) for number, name in enumerate(names, 2)
    )


def test_calls_made_during_a_send_leave_together_behind_it():
    channel = SlowChannel()
    link = Link(channel, ("127.0.0.1", 1))
    sender = in_thread(link.call, "ping", ())
    channel.gate.wait_until_reached()
    # Neither of these waits for the one who sends.
    link.call("lastTransaction", ())
    link.call("get_info", ())
    assert channel.sent == []
    channel.gate.open()
    sender.join()
    first = messages.encode_call(1, "ping", ())
    assert channel.sent == [first, encoded("lastTransaction", "get_info")]


def test_stores_wait_for_a_server_that_takes_nothing():
    channel = SlowChannel()
    link = Link(channel, ("127.0.0.1", 1))
    sender = in_thread(link.call, "ping", ())
    channel.gate.wait_until_reached()
    data = messages.encode_one_way("storea", (b"8" * 8, None, b"data", 1))
    poster = in_thread(link.post, data)
    poster.join(0.2)
    assert poster.is_alive()
    channel.gate.open()
    for thread in (sender, poster):
        thread.join(PATIENCE)
        assert not thread.is_alive()
    assert b"".join(channel.sent).endswith(data)


class EmptiedMeanwhile(list):
    """A list that another thread empties as soon as somebody has looked at it."""

    def __len__(self):
        size = super().__len__()
        self.clear()
        return size


def test_two_threads_that_drop_the_same_iterators():
    link = types.SimpleNamespace(dropped_iterators=EmptiedMeanwhile([1]))
    assert drop_iterators(link) == b""


def test_calls_on_a_connection_that_was_lost_fail_at_once():
    channel = types.SimpleNamespace(
        shutdown=lambda: None, close=lambda: None, send=lambda data: None
    )
    link = Link(channel, ("127.0.0.1", 1))
    link.lose("the test wants it")
    calls = [
        link.call("ping", ()),
        link.load(OID, maxtid, lambda oid, found: found),
        *link.loads([OID], maxtid, lambda oid, found: found),
        link.send_chunk(Chunk(10), 10, lambda result: result),
    ]
    for call in calls:
        assert call.is_done
        with pytest.raises(ClientDisconnected, match="the test wants it"):
            call.wait()


def test_connection_that_cannot_be_sent_on_is_broken():
    """The reader thread, which fails the calls, might hear nothing of it."""
    broken = []

    def send(data):
        raise ConnectionLost("the test wants it")

    channel = types.SimpleNamespace(send=send, shutdown=lambda: broken.append(True))
    Link(channel, ("127.0.0.1", 1)).call("ping", ())
    assert broken
