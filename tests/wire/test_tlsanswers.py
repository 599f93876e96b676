"""What OpenSSL says by itself while it is read from."""

import threading

import pytest

from tests.support.tlspeer import soon
from zeolite.wire.channel import PeerSilent
from zeolite.wire.tls import _MOST_UNSENT

DATA = bytes(range(256)) * 16384  # 4 MB


class Answering:
    """OpenSSL's end of a connection, which has something to answer to each record."""

    ANSWER = b"x" * 30_000

    def __init__(self, ssl_object, outgoing):
        self._ssl_object = ssl_object
        self._outgoing = outgoing

    def read(self, size):
        self._outgoing.write(self.ANSWER)
        return self._ssl_object.read(size)

    def __getattr__(self, name):
        return getattr(self._ssl_object, name)


class TestAnswers:
    """What OpenSSL says by itself, such as that it does not renegotiate."""

    def test_peer_that_takes_none_is_given_up(self, channel_and_peer):
        channel, peer = channel_and_peer
        channel._ssl = Answering(channel._ssl, channel._outgoing)
        most = 0
        with pytest.raises(PeerSilent, match="takes no answers"):
            for _ in range(1000):
                peer.socket.sendall(peer.records(b"again"))
                assert channel.receive(soon()) == b"again"
                most = max(most, len(channel._unsent))
        assert 0 < most <= _MOST_UNSENT

    def test_peer_that_takes_them_is_not(self, channel_and_peer):
        channel, peer = channel_and_peer
        channel._ssl = Answering(channel._ssl, channel._outgoing)
        for _ in range(100):
            peer.socket.sendall(peer.records(b"again"))
            assert channel.receive(soon()) == b"again"
            taken = 0
            while channel._unsent or taken < len(Answering.ANSWER):
                taken += len(peer.socket.recv(65536))
                channel._flush_quietly()
                if taken >= len(Answering.ANSWER):
                    break

    def test_message_that_is_being_sent_is_no_such_answer(self, channel_and_peer):
        """Half of it is encrypted, and the peer asks for something meanwhile."""
        channel, peer = channel_and_peer
        sender = threading.Thread(target=channel.send, args=(DATA,))
        sender.start()
        while not channel._unsent:
            pass
        peer.socket.sendall(peer.records(b"a question"))
        assert channel.receive(soon()) == b"a question"
        assert peer.read(len(DATA)) == DATA
        sender.join()


class Replying(Answering):
    """One that answers with a record, as it does when the peer wants new keys."""

    def read(self, size):
        data = self._ssl_object.read(size)
        self._ssl_object.write(b"an answer")
        return data


class TestOrder:
    def test_who_receives_leaves_answers_to_who_is_sending(self, channel_and_peer):
        """And does not wait for that one, whose bytes the kernel is given first."""
        channel, peer = channel_and_peer
        channel._ssl = Replying(channel._ssl, channel._outgoing)
        is_sending, may_go_on = threading.Event(), threading.Event()
        send_now = channel._send_now

        def slowly(data):
            is_sending.set()
            assert may_go_on.wait(20)
            return send_now(data)

        channel._send_now = slowly
        sender = threading.Thread(target=channel.send, args=(b"a message, ",))
        sender.start()
        assert is_sending.wait(20)
        peer.socket.sendall(peer.records(b"a question"))
        assert channel.receive(soon()) == b"a question"
        may_go_on.set()
        sender.join()
        assert peer.read(20) == b"a message, an answer"
