"""What TLS brings with it: records that nobody sent, half handshakes, broken bytes."""

import contextlib
import queue
import shutil
import socket
import ssl
import subprocess
import threading
import time

import pytest

from tests.support.certificates import client_context, server_context
from zeolite.wire.channel import ConnectionLost, PeerSilent
from zeolite.wire.tls import _MOST_UNSENT, TLSChannel
from zeolite.wire.tlserrors import TLSFailed

DATA = bytes(range(256)) * 16384  # 4 MB


def soon():
    return time.monotonic() + 20


class Peer:
    """A TLS end of its own, so that a test sees and makes each record."""

    def __init__(self, sock, context, **kwargs):
        self.socket = sock
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.ssl = context.wrap_bio(self.incoming, self.outgoing, **kwargs)

    def handshake(self):
        while True:
            try:
                self.ssl.do_handshake()
                break
            except ssl.SSLWantReadError:
                self.send_records()
                self.incoming.write(self.socket.recv(65536))
        self.send_records()

    def send_records(self):
        self.socket.sendall(self.outgoing.read())

    def records(self, *data):
        """Return the records of some messages."""
        for piece in data:
            self.ssl.write(piece)
        return self.outgoing.read()

    def read(self, size):
        data = b""
        while len(data) < size:
            try:
                data += self.ssl.read(size - len(data))
            except ssl.SSLWantReadError:
                self.incoming.write(self.socket.recv(65536))
        return data


@pytest.fixture
def sockets():
    near, far = socket.socketpair()
    for sock in (near, far):
        sock.settimeout(20)
    with contextlib.closing(near), contextlib.closing(far):
        yield near, far


def as_client(sock, stall_timeout=20, **kwargs):
    context = client_context(**kwargs)
    return TLSChannel(sock, stall_timeout, 0, context, server_hostname="localhost")


def as_server(sock, stall_timeout=20, **kwargs):
    context = server_context(**kwargs)
    return TLSChannel(sock, stall_timeout, 0, context, server_side=True)


def together(*functions):
    threads = [threading.Thread(target=function) for function in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@pytest.fixture(params=["TLSv1_2", "TLSv1_3"])
def channel_and_peer(sockets, request):
    """A server's channel, and a client that a test plays."""
    near, far = sockets
    channel = as_server(near)
    context = client_context(version=ssl.TLSVersion[request.param])
    peer = Peer(far, context, server_hostname="localhost")
    together(lambda: channel.handshake(soon()), peer.handshake)
    return channel, peer


class TestRecords:
    def test_many_in_one_piece(self, channel_and_peer):
        channel, peer = channel_and_peer
        peer.socket.sendall(peer.records(b"one", b"two", b"three"))
        assert channel.receive(soon()) == b"onetwothree"

    def test_one_in_many_pieces(self, channel_and_peer):
        channel, peer = channel_and_peer
        record = peer.records(b"hello")

        def trickle():
            for number in range(len(record)):
                peer.socket.sendall(record[number : number + 1])

        sender = threading.Thread(target=trickle)
        sender.start()
        assert channel.receive(soon()) == b"hello"
        sender.join()

    def test_half_a_record_is_waited_for_until_the_deadline(self, channel_and_peer):
        channel, peer = channel_and_peer
        peer.socket.sendall(peer.records(b"hello")[:-1])
        with pytest.raises(PeerSilent):
            channel.receive(time.monotonic() + 0.05)

    def test_what_arrives_with_the_end_of_the_handshake(self, sockets):
        near, far = sockets
        channel = as_server(near)
        peer = Peer(far, client_context(), server_hostname="localhost")

        def early():
            with contextlib.suppress(ssl.SSLWantReadError):
                peer.ssl.do_handshake()
            peer.send_records()
            while True:
                peer.incoming.write(far.recv(65536))
                try:
                    peer.ssl.do_handshake()
                    break
                except ssl.SSLWantReadError:
                    pass
            # The last of the handshake and the first message in one piece.
            peer.ssl.write(b"early")
            peer.send_records()

        together(lambda: channel.handshake(soon()), early)
        assert channel.receive(soon()) == b"early"

    def test_goodbye_is_the_end_of_the_stream(self, channel_and_peer):
        channel, peer = channel_and_peer
        records = peer.records(b"last words")
        with contextlib.suppress(ssl.SSLWantReadError):
            peer.ssl.unwrap()
        peer.socket.sendall(records + peer.outgoing.read())
        assert channel.receive(soon()) == b"last words"
        assert channel.receive(soon()) == b""
        assert channel.receive(soon()) == b""

    def test_goodbye_is_said(self, channel_and_peer):
        channel, peer = channel_and_peer
        channel.shutdown()
        while data := peer.socket.recv(65536):
            peer.incoming.write(data)
        assert peer.ssl.read(1) == b""  # It would raise without a goodbye.

    def test_garbage_after_a_message(self, channel_and_peer):
        channel, peer = channel_and_peer
        peer.socket.sendall(peer.records(b"good") + b"\x17\x03\x03\0\x20" + b"\0" * 32)
        assert channel.receive(soon()) == b"good"
        for _ in range(2):
            with pytest.raises(TLSFailed):
                channel.receive(soon())

    def test_wrong_byte(self, channel_and_peer):
        channel, peer = channel_and_peer
        record = bytearray(peer.records(b"hello"))
        record[-1] ^= 1
        peer.socket.sendall(record)
        with pytest.raises(TLSFailed, match="bad"):
            channel.receive(soon())


class OpenSSLClient:
    """`openssl s_client`, which does what one types."""

    def __init__(self, address):
        self._process = subprocess.Popen(
            ["openssl", "s_client", "-tls1_3", "-connect", "{}:{}".format(*address)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self._seen = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def ask_for_new_keys(self):
        self.say("K")
        while b"KEYUPDATE" not in (line := self._process.stderr.readline()):
            assert line

    def say(self, text):
        self._process.stdin.write(text.encode() + b"\n")
        self._process.stdin.flush()

    def wait_until_seen(self, text):
        tail = b""
        while text not in tail:
            data = self._seen.get(timeout=20)
            assert data
            tail = tail[-100:] + data

    def _read(self):
        while data := self._process.stdout.read1(65536):
            self._seen.put(data)
        self._seen.put(b"")

    def close(self):
        self._process.kill()
        self._process.wait()
        self._reader.join()
        for file in ("stdin", "stdout", "stderr"):
            getattr(self._process, file).close()


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
                with channel._lock:
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


@contextlib.contextmanager
def new_keys_on_demand():
    """An `OpenSSLClient`, and the channel that it is connected to."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = OpenSSLClient(listener.getsockname())
        sock, _ = listener.accept()
        channel = as_server(sock)
        try:
            channel.handshake(soon())
            yield client, channel
        finally:
            channel.shutdown()
            channel.close()
            client.close()


class TestBothDirections:
    @pytest.mark.parametrize("tickets", [0, 2])
    def test_megabytes_while_the_other_side_sends_as_well(self, sockets, tickets):
        """With records in between that only TLS knows of, such as tickets."""
        context = server_context()
        context.num_tickets = tickets
        near, far = sockets
        client = as_client(near)
        server = TLSChannel(far, 20, 0, context, server_side=True)
        together(
            lambda: client.handshake(soon()),
            lambda: server.handshake(soon()),
        )
        got = {}

        def read(channel):
            data = bytearray()
            while len(data) < len(DATA):
                data += channel.receive(soon())
            got[channel] = bytes(data)

        together(
            *[lambda c=c: c.send(DATA) for c in (client, server)],
            *[lambda c=c: read(c) for c in (client, server)],
        )
        assert got == {client: DATA, server: DATA}

    @pytest.mark.skipif(not shutil.which("openssl"), reason="no openssl command")
    def test_new_keys_in_the_middle_of_what_is_sent(self):
        """OpenSSL's own client asks for new keys while we send without a pause.

        The answer comes out of what one thread receives, in between what another
        one sends.  In the wrong place it would make all that follows unreadable.
        """
        with new_keys_on_demand() as (client, channel):
            stop = threading.Event()

            def send():
                while not stop.is_set():
                    channel.send(DATA)
                channel.send(b"the end")

            sender = threading.Thread(target=send)
            sender.start()
            try:
                for number in range(20):
                    client.ask_for_new_keys()
                    client.say(f"{number}")
                    assert channel.receive(soon()) == f"{number}\n".encode()
            finally:
                stop.set()
                sender.join()
            client.wait_until_seen(b"the end")

    def test_offer_goes_on_although_receiving_has_left_a_rest(self, channel_and_peer):
        """A rest that nobody offered is nobody's to finish, and no obstacle."""
        channel, peer = channel_and_peer
        with channel._lock:
            channel._ssl.write(b"first ")
            channel._collect()
        assert channel._unsent and not channel.has_rest
        channel.offer(b"second")
        assert not channel.has_rest
        assert peer.read(12) == b"first second"


class TestHandshake:
    @pytest.mark.parametrize("said", [b"", b"\x16\x03\x01"])
    def test_has_a_deadline(self, sockets, said):
        near, far = sockets
        far.sendall(said)
        for channel in (as_server(near), as_client(near)):
            with pytest.raises(PeerSilent, match="in time to agree on TLS"):
                channel.handshake(time.monotonic() + 0.05)

    def test_dripping_does_not_put_the_deadline_off(self, sockets):
        near, far = sockets
        channel = as_server(near)
        stop = threading.Event()

        def drip():
            far.sendall(b"\x16\x03\x01\x40\x00")
            while not stop.wait(0.005):
                far.sendall(b"\0")

        dripping = threading.Thread(target=drip)
        dripping.start()
        try:
            with pytest.raises(ConnectionLost):
                channel.handshake(time.monotonic() + 0.1)
        finally:
            stop.set()
            dripping.join()

    def test_shutdown_ends_it(self, sockets):
        near, _ = sockets
        channel = as_server(near)
        began = threading.Event()
        ended = []

        def shake_hands():
            began.set()
            try:
                channel.handshake(time.monotonic() + 1000)
            except ConnectionLost as error:
                ended.append(error)

        thread = threading.Thread(target=shake_hands)
        thread.start()
        began.wait()
        channel.shutdown()
        thread.join()
        assert len(ended) == 1

    def test_somebody_who_looks_in_and_leaves_is_not_worth_a_line(self, sockets):
        near, far = sockets
        channel = as_server(near)
        far.shutdown(socket.SHUT_RDWR)
        with pytest.raises(ConnectionLost) as error:
            channel.handshake(soon())
        assert not isinstance(error.value, TLSFailed)

    def test_client_that_leaves_after_it_saw_the_certificate(self, sockets):
        near, far = sockets
        channel = as_server(near)
        peer = Peer(far, client_context(), server_hostname="localhost")
        with pytest.raises(ssl.SSLWantReadError):
            peer.ssl.do_handshake()
        peer.send_records()
        far.shutdown(socket.SHUT_WR)
        with pytest.raises(TLSFailed, match="perhaps it does not accept this server's"):
            channel.handshake(soon())

    @pytest.mark.parametrize("said", [b"GET / HTTP/1.1\r\n\r\n", b"\0\0\0\2Z5", b"\0"])
    def test_no_tls_at_all(self, sockets, said):
        near, far = sockets
        far.sendall(said)
        with pytest.raises(TLSFailed, match=r"it does not speak TLS, .*but said '"):
            as_server(near).handshake(soon())
        assert far.recv(100)[:2] == b"\x15\x03"  # Who knows TLS understands.

    @pytest.mark.parametrize("size", [1, 100, 20_000])
    def test_garbage_that_looks_like_tls(self, sockets, size):
        near, far = sockets
        far.sendall(b"\x16\x03\x01\x00\x50" + b"\xff" * size)
        far.shutdown(socket.SHUT_WR)
        with pytest.raises(TLSFailed):
            as_server(near).handshake(soon())
