"""Over TLS: what the peer has not taken yet, in which order it leaves, and the end.

A `Kernel` between a channel and its socket takes as many bytes as a test says.
"""

import contextlib
import ssl
import threading
from itertools import pairwise

import pytest

from tests.support.blocking import Gate
from tests.support.certificates import client_context, server_context
from tests.support.tlspeer import Peer, as_client, as_server, soon, together
from zeolite.wire.channel import ConnectionLost, PeerSilent
from zeolite.wire.tls import _AHEAD
from zeolite.wire.tlserrors import TLSFailed

DATA = bytes(range(256)) * 4096  # 1 MB

_ALL = 1 << 30


class Kernel:
    """Takes what there is `room` for, in bytes.

    While it takes something for the first time after `meanwhile` was set, that is
    called.
    """

    def __init__(self, channel):
        self.room = _ALL
        self.meanwhile = None
        self._send_now = channel._send_now
        channel._send_now = self._take

    def _take(self, data):
        meanwhile, self.meanwhile = self.meanwhile, None
        left = self._send_now(data[: self.room])
        rest = b"".join([left, data[self.room :]])
        self.room -= len(data) - len(rest)
        if meanwhile is not None:
            meanwhile()
        return rest


@pytest.fixture
def ends(channel_and_peer):
    """A server's channel, its kernel, and the peer."""
    channel, peer = channel_and_peer
    return channel, Kernel(channel), peer


def answer(channel, text=b"an answer"):
    """Have something to be sent that receiving has brought about."""
    with channel._lock:
        channel._ssl.write(text)
        channel._collect()


def pass_on(channel):
    """Do what who receives does about what is to be sent."""
    assert channel._take(b"") is None


class TestRest:
    def test_lasts_until_the_last_byte_is_taken(self, ends):
        channel, kernel, peer = ends
        kernel.room = 5
        channel.offer(b"message")
        assert channel.has_rest and channel.is_stalled
        kernel.room = len(channel._unsent) - 1
        pass_on(channel)
        assert channel.has_rest
        kernel.room = 1
        pass_on(channel)
        assert not channel.has_rest and not channel.is_stalled
        assert peer.read(7) == b"message"

    def test_is_none_of_it_what_receiving_brings_about_later(self, ends):
        channel, kernel, peer = ends
        channel.offer(b"message, ")
        kernel.room = 0
        answer(channel)
        pass_on(channel)
        assert channel._unsent and not channel.has_rest
        kernel.room = _ALL
        channel.send()
        assert peer.read(18) == b"message, an answer"

    def test_behind_an_answer_that_is_not_taken(self, ends):
        """It is not even encrypted, and stays when the answer has left."""
        channel, kernel, peer = ends
        kernel.room = 0
        answer(channel)
        message = bytearray(b", a message")
        channel.offer(message)
        message[:] = b"overwritten"
        kernel.room = _ALL
        pass_on(channel)
        assert not channel._unsent and channel.has_rest
        channel.send(b", and another")
        assert not channel.has_rest
        assert peer.read(33) == b"an answer, a message, and another"
        channel.send(b"!")
        assert peer.read(1) == b"!"

    def test_much_is_encrypted_when_it_can_leave(self, ends):
        channel, kernel, peer = ends
        kernel.room = 100
        channel.offer(DATA)
        assert len(channel._unsent) < 1.1 * _AHEAD
        kernel.room = _ALL
        sender = threading.Thread(target=channel.send, args=(b"the end",))
        sender.start()
        assert peer.read(len(DATA) + 7) == DATA + b"the end"
        sender.join()
        assert not channel.has_rest


class TestOrder:
    """What leaves in another order than it was encrypted in, the peer cannot read."""

    def test_answer_in_the_middle_of_a_message(self, ends):
        channel, kernel, peer = ends
        kernel.room = 100
        wait, full = channel._wait_until_taken, Gate()
        channel._wait_until_taken = lambda: (full.stop_here(), wait())
        sender = threading.Thread(target=channel.send, args=(DATA,))
        sender.start()
        full.wait_until_reached()
        answer(channel)
        pass_on(channel)
        kernel.room = _ALL
        full.open()
        expected = DATA[:_AHEAD] + b"an answer" + DATA[_AHEAD:]
        assert peer.read(len(expected)) == expected
        sender.join()

    @pytest.mark.parametrize("how", ["send", "offer"])
    def test_answer_just_before_a_message_is_encrypted(self, ends, how):
        channel, _, peer = ends
        lock = channel._lock

        class Late:
            """The lock of the OpenSSL objects: somebody else gets it first."""

            def __enter__(self):
                channel._lock = lock
                answer(channel)
                lock.acquire()

            def __exit__(self, *error):
                lock.release()

        channel._lock = Late()
        getattr(channel, how)(b", a message")
        channel.send(b"!")
        assert peer.read(21) == b"an answer, a message!"

    @pytest.mark.parametrize("how", ["send", "offer"])
    @pytest.mark.parametrize("room", [_ALL, 10])
    def test_answer_while_the_kernel_takes_a_message(self, ends, how, room):
        """Nobody but who has sent the message will send the answer."""
        channel, kernel, peer = ends
        kernel.room = room

        def somebody_receives():
            answer(channel)
            pass_on(channel)
            kernel.room = _ALL

        kernel.meanwhile = somebody_receives
        getattr(channel, how)(b"a message, ")
        assert peer.read(20) == b"a message, an answer"
        assert not channel._unsent and not channel.has_rest

    @pytest.mark.parametrize("how", [pass_on, lambda channel: channel.send()])
    @pytest.mark.parametrize("room", [_ALL, 10])
    def test_answer_while_the_kernel_takes_another(self, ends, how, room):
        channel, kernel, peer = ends
        answer(channel, b"one, ")
        kernel.room = room

        def again():
            answer(channel, b"two")
            kernel.room = _ALL

        kernel.meanwhile = again
        how(channel)
        if room != _ALL:
            channel._flush_quietly()  # The kernel was full, and now it is not.
        assert peer.read(8) == b"one, two"

    def test_what_can_be_received_is_although_nothing_can_be_sent(self, ends):
        channel, _, peer = ends

        def gone(data):
            raise ConnectionLost("broken pipe")

        channel._send_now = gone
        answer(channel)
        peer.socket.sendall(peer.records(b"last words"))
        assert channel.receive(soon()) == b"last words"


class TestHalfRecords:
    """One that the peer has begun has to go on, also when it is registered."""

    @pytest.fixture(params=[1, 4, 5, 6, -1])
    def half(self, request):
        """Call it with a peer for a piece of a record."""
        return lambda peer: peer.records(b"hello")[: request.param]

    def test_is_not_waited_for_for_ever(self, channel_and_peer, half):
        channel, peer = channel_and_peer
        channel._stall_timeout = 0.05
        peer.socket.sendall(half(peer))
        with pytest.raises(PeerSilent):
            channel.receive()

    def test_nor_behind_whole_ones(self, channel_and_peer, half):
        channel, peer = channel_and_peer
        channel._stall_timeout = 0.05
        peer.socket.sendall(peer.records(b"one, ", b"two") + half(peer))
        assert channel.receive() == b"one, two"
        with pytest.raises(PeerSilent):
            channel.receive()

    def test_nor_behind_the_handshake(self, sockets):
        near, far = sockets
        channel = as_server(near, stall_timeout=0.05)
        peer = Peer(far, client_context(), server_hostname="localhost")
        flights = iter([b"", b"\x17\x03\x03"])
        peer.send_records = lambda: far.sendall(peer.outgoing.read() + next(flights))
        together(lambda: channel.handshake(soon()), peer.handshake)
        with pytest.raises(PeerSilent):
            channel.receive()

    def test_and_a_peer_between_two_of_them_may_be_silent(self, channel_and_peer):
        channel, peer = channel_and_peer
        channel._wait = lambda event, seconds: []  # It has waited.
        channel._take(b"")
        for cuts in [], [20], [3], [7, 8], [40]:
            records = peer.records(b"one, ", b"two")
            pieces = [records[a:b] for a, b in pairwise([0, *cuts, None])]
            data = [channel._take(piece) for piece in pieces]
            assert b"".join(filter(None, data)) == b"one, two"
            peer.socket.sendall(peer.records(b"three"))
            assert channel.receive() == b"three"


def says_goodbye(peer):
    """Whether the end of what the peer is sent is one that TLS knows of."""
    with contextlib.suppress(ConnectionResetError):
        while data := peer.socket.recv(65536):
            peer.incoming.write(data)
    try:
        while peer.ssl.read(65536):
            pass
    except ssl.SSLWantReadError:
        return False
    return True


class TestGoodbye:
    def test_comes_last(self, ends):
        channel, _, peer = ends
        channel.send(b"last words")
        channel.shutdown()
        assert says_goodbye(peer)

    def test_is_not_said_before_all_is_taken(self, ends):
        channel, kernel, peer = ends
        kernel.room = 10
        channel.offer(b"message")
        kernel.room = _ALL
        channel.shutdown()
        assert not says_goodbye(peer)

    def test_nor_before_all_is_encrypted(self, ends):
        channel, kernel, peer = ends
        kernel.room = 0
        answer(channel)
        channel.offer(b"message")
        kernel.room = _ALL
        pass_on(channel)
        channel.shutdown()
        assert not says_goodbye(peer)

    def test_nor_in_the_middle_of_a_message(self, ends):
        """As in a signal's handler, which whom it has interrupted cannot make wait."""
        channel, kernel, peer = ends
        kernel.meanwhile = channel.shutdown
        sender = threading.Thread(target=channel.send, args=(b"message",), daemon=True)
        sender.start()
        sender.join(20)
        assert not sender.is_alive()
        assert not says_goodbye(peer)

    def test_cannot_be_said_to_who_has_left(self, channel_and_peer):
        channel, peer = channel_and_peer
        peer.socket.close()
        channel.shutdown()

    def test_cannot_be_said_after_a_broken_record(self, channel_and_peer):
        channel, peer = channel_and_peer
        peer.socket.sendall(b"\x17\x03\x03\0\x20" + bytes(32))
        with pytest.raises(TLSFailed):
            channel.receive(soon())
        channel.shutdown()


class TestAlerts:
    def test_who_refuses_a_certificate_says_why(self, sockets):
        near, far = sockets
        channel = as_client(near, trusted="theirs")
        peer = Peer(far, server_context(), server_side=True)
        refused = []

        def shake_hands():
            try:
                peer.handshake()
            except ssl.SSLError as error:
                refused.append(error.reason)

        def refuse():
            with pytest.raises(TLSFailed, match="an authority that is not known"):
                channel.handshake(soon())

        together(refuse, shake_hands)
        assert refused == ["TLSV1_ALERT_UNKNOWN_CA"]

    def test_one_behind_a_message_comes_after_it(self, ends):
        """Fatal ones are told to whoever receives, who gets the message first."""
        channel, _, peer = ends
        records = peer.records(b"last words")
        peer.incoming.write(b"\x17\x03\x03\0\x20" + bytes(32))
        with pytest.raises(ssl.SSLError):
            peer.ssl.read(1)
        peer.socket.sendall(records + peer.outgoing.read())
        assert channel.receive(soon()) == b"last words"
        with pytest.raises(TLSFailed, match="alert bad record mac"):
            channel.receive(soon())
