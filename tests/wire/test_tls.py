"""What TLS brings with it: records that nobody sent, broken bytes, new keys."""

import contextlib
import queue
import shutil
import socket
import ssl
import subprocess
import threading
import time

import pytest

from tests.support.blocking import Gate
from tests.support.certificates import client_context, server_context
from tests.support.tlspeer import Peer, as_client, as_server, soon, together
from tests.support.waiting import wait_until
from zeolite.wire.channel import PeerSilent
from zeolite.wire.tls import _AT_ONCE, TLSChannel
from zeolite.wire.tlserrors import TLSFailed

DATA = bytes(range(256)) * 16384  # 4 MB


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
        # OpenSSL's words for it depend on its version.
        with pytest.raises(TLSFailed, match=r"bad|record layer failure"):
            channel.receive(soon())


class TestReceivingInto:
    """A buffer for a part of a message; it holds encrypted bytes for a while."""

    def arrives_whole(self, channel, peer, records, data):
        sender = threading.Thread(target=peer.socket.sendall, args=(records,))
        sender.start()
        room = bytearray(len(data))
        assert channel.receive_into(memoryview(room), 20) == len(data)
        assert room == data
        sender.join()

    def test_behind_what_came_with_the_handshake(self, channel_and_peer):
        channel, peer = channel_and_peer
        peer.socket.sendall(peer.records(b"one"))
        assert channel._has_more
        room = bytearray(3)
        assert channel.receive_into(memoryview(room), 20) == 3
        assert room == b"one"

    def test_what_follows_in_the_same_record(self, channel_and_peer):
        channel, peer = channel_and_peer
        peer.socket.sendall(peer.records(b"one, two, ", b"three"))
        room = bytearray(5)
        assert channel.receive_into(memoryview(room), 20) == 5
        assert channel.receive_into(memoryview(room), 20) == 5
        assert room == b"two, "
        assert channel.receive(soon()) == b"three"
        peer.socket.sendall(peer.records(b"more"))
        assert channel.receive(soon()) == b"more"

    @pytest.mark.parametrize("size", [1, 100, 16384])
    def test_records_of_any_size(self, channel_and_peer, size):
        """Small ones are more bytes in all, with all that is around them."""
        channel, peer = channel_and_peer
        pieces = [DATA[at : at + size] for at in range(0, 300 * size, size)]
        data = b"".join(pieces)
        records = [peer.records(piece) for piece in pieces]
        self.arrives_whole(channel, peer, b"".join(records), data)

    def test_no_more_is_waited_for_than_there_must_be(self, channel_and_peer):
        """The beginning of its first record has been received before."""
        channel, peer = channel_and_peer
        data = DATA[: _AT_ONCE + 16384 + 100]
        records = peer.records(
            *[data[a : a + 16384] for a in range(0, len(data), 16384)]
        )
        assert channel._take(records[:16000]) is None
        self.arrives_whole(channel, peer, records[16000:], data)

    def test_failure_comes_after_what_there_is_before_it(self, channel_and_peer):
        channel, peer = channel_and_peer
        records = peer.records(b"half")
        peer.socket.sendall(records + b"\x17\x03\x03\0\x20" + bytes(32))
        room = bytearray(100)
        assert channel.receive_into(memoryview(room), 20) == 4
        for _ in range(2):
            with pytest.raises(TLSFailed):
                channel.receive_into(memoryview(room), 20)

    def test_goodbye_is_the_end(self, channel_and_peer):
        channel, peer = channel_and_peer
        records = peer.records(b"half")
        with contextlib.suppress(ssl.SSLWantReadError):
            peer.ssl.unwrap()
        peer.socket.sendall(records + peer.outgoing.read())
        room = bytearray(100)
        assert channel.receive_into(memoryview(room), 20) == 4
        assert channel.receive_into(memoryview(room), 20) == 0
        assert channel.receive(soon()) == b""

    def test_half_a_record_is_remembered(self, channel_and_peer):
        """So that it is not waited for for ever by who receives next."""
        channel, peer = channel_and_peer
        channel._stall_timeout = 0.05
        peer.socket.sendall(peer.records(b"one", b"two")[:-1])
        room = bytearray(3)
        assert channel.receive_into(memoryview(room), 20) == 3
        with pytest.raises(PeerSilent):
            channel.receive()


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

    def test_a_message_has_left_although_receiving_gives_its_end_to_the_kernel(
        self, channel_and_peer
    ):
        """Between two looks of its sender, when the kernel takes nothing more."""
        channel, peer = channel_and_peer
        send_now, gate = channel._send_now, Gate()
        sends = iter([lambda data: (send_now(data[:10]), data[10:])[1]])

        def full(data):
            take = next(sends, None)
            if take is not None:
                return take(data)
            if threading.current_thread() is receiver:
                gate.stop_here()
                return data
            return send_now(data)

        def let_receive():
            receiver.start()
            gate.wait_until_reached()

        receiver = threading.Thread(target=lambda: channel._take(b""))
        channel._send_now = full
        channel._sending = LockWithHook(let_receive)
        sender = threading.Thread(target=lambda: channel.send(b"message"))
        # Both ways to go on are noticed: it waits, or it has returned.
        wait, waits = channel._wait_until_taken, threading.Event()
        channel._wait_until_taken = lambda: (waits.set(), wait())
        sender.start()
        wait_until(lambda: waits.is_set() or not sender.is_alive())
        gate.open()
        sender.join()
        receiver.join()
        assert not channel._unsent
        assert peer.read(7) == b"message"


class LockWithHook:
    """A lock that calls a function when it was released for the first time."""

    def __init__(self, hook):
        self._lock, self._hook = threading.Lock(), hook

    def acquire(self, blocking=True):
        return self._lock.acquire(blocking)

    def release(self):
        self._lock.release()
        hook, self._hook = self._hook, lambda: None
        hook()

    def __enter__(self):
        self.acquire()

    def __exit__(self, *args):
        self.release()
