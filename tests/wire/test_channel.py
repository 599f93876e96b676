"""Channels: receive, send and offer, on TCP over IPv4 and IPv6 and on Unix sockets.

All of it without encryption and with TLS, in both versions.
"""

import errno
import os
import socket
import ssl
import threading
import time

import pytest

from tests.support import certificates
from tests.support.waiting import wait_until
from zeolite.wire.channel import ConnectionLost, PeerSilent, PlainChannel
from zeolite.wire.tls import TLSChannel

KINDS = {
    "tcp": (socket.AF_INET, ("127.0.0.1", 0)),
    "tcp6": (socket.AF_INET6, ("::1", 0)),
    "unix": (socket.AF_UNIX, "socket"),
}

VERSIONS = {
    "plain": None,
    "TLS 1.2": ssl.TLSVersion.TLSv1_2,
    "TLS 1.3": ssl.TLSVersion.TLSv1_3,
}


def connected(kind):
    """Two connected sockets, with small buffers."""
    family, address = KINDS[kind]
    listener = socket.socket(family)
    try:
        listener.bind(address)
    except OSError:
        listener.close()
        pytest.skip(f"no {kind} here")
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    listener.listen()
    near = socket.socket(family)
    near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    near.connect(listener.getsockname())
    far, _ = listener.accept()
    listener.close()
    return near, far


def client_side(sock, version, stall_timeout=0.1):
    if VERSIONS[version] is None:
        return PlainChannel(sock, stall_timeout)
    context = certificates.client_context(version=VERSIONS[version])
    return TLSChannel(sock, stall_timeout, 0, context, server_hostname="localhost")


def server_side(sock, version):
    if VERSIONS[version] is None:
        return PlainChannel(sock, 0.1)
    context = certificates.server_context(version=VERSIONS[version])
    return TLSChannel(sock, 0.1, 0, context, server_side=True)


def shake_hands(*channels):
    deadline = time.monotonic() + 20
    threads = [
        threading.Thread(target=channel.handshake, args=(deadline,))
        for channel in channels
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@pytest.fixture(params=[(kind, version) for version in VERSIONS for kind in KINDS])
def pair(request, tmp_path, monkeypatch):
    """Two connected channels, with small buffers."""
    monkeypatch.chdir(tmp_path)
    kind, version = request.param
    near, far = connected(kind)
    channels = client_side(near, version), server_side(far, version)
    shake_hands(*channels)
    yield channels
    for channel in channels:
        channel.close()


def receive(channel, size):
    data = b""
    while len(data) < size:
        piece = channel.receive(time.monotonic() + 20)
        assert piece
        data += piece
    return data


DATA = bytes(range(256)) * 4096


def test_send_and_receive(pair):
    near, far = pair
    near.send(b"hello")
    assert far.receive() == b"hello"
    far.send(b"hi")
    assert near.receive() == b"hi"


def test_what_has_come_can_be_received_without_waiting(pair):
    near, far = pair
    near.send(b"hello")
    wait_until(far.has_come)
    assert far.receive() == b"hello"
    assert not far.has_come()
    sender = threading.Thread(target=near.send, args=(DATA,))
    sender.start()
    size = 0
    while size < len(DATA):
        wait_until(far.has_come)
        size += len(far.receive())
    sender.join()
    assert not far.has_come()


def test_the_rest_of_what_was_received_in_part_has_come(pair):
    near, far = pair
    near.send(b"x" * 100)
    assert far.receive_into(memoryview(bytearray(40)), 20) == 40
    assert far.has_come()
    assert far.receive() == b"x" * 60


@pytest.mark.parametrize("who", ["itself", "peer"])
def test_an_end_has_come(pair, who):
    near, far = pair
    {"itself": far, "peer": near}[who].shutdown()
    wait_until(far.has_come)
    assert far.receive() == b""


def test_large_data_in_both_directions_at_once(pair):
    threads = [threading.Thread(target=channel.send, args=(DATA,)) for channel in pair]
    for thread in threads:
        thread.start()
    got = {}

    def read(channel):
        got[channel] = receive(channel, len(DATA))

    readers = [threading.Thread(target=read, args=(channel,)) for channel in pair]
    for thread in readers:
        thread.start()
    for thread in threads + readers:
        thread.join()
    assert list(got.values()) == [DATA, DATA]


def test_offer_keeps_what_the_peer_does_not_take(pair):
    near, far = pair
    near.offer(DATA)
    assert near.has_rest
    sender = threading.Thread(target=near.send, args=(b"end",))
    sender.start()
    assert receive(far, len(DATA) + 3) == DATA + b"end"
    sender.join()
    assert not near.has_rest


def test_send_goes_on_when_who_receives_has_sent_all_that_was_encrypted(pair):
    """With TLS, receiving sends too: what it has left is not what there was to say."""
    near, far = pair
    if not near.is_encrypted:
        pytest.skip("nobody else sends then")
    sending = near._sending

    class FlushedMeanwhile:
        acquire, release = sending.acquire, sending.release

        def __enter__(self):
            sending.acquire()

        def __exit__(self, *error):
            sending.release()
            while near._unsent:
                near._flush_quietly()

    near._sending = FlushedMeanwhile()
    sender = threading.Thread(target=near.send, args=(DATA,))
    sender.start()
    assert receive(far, len(DATA)) == DATA
    sender.join()
    near._sending = sending


def test_small_offer_leaves_no_rest(pair):
    near, far = pair
    near.offer(b"x")
    assert not near.has_rest
    assert far.receive() == b"x"


def test_send_gives_up_when_the_peer_takes_nothing(pair):
    near, _ = pair
    with pytest.raises(PeerSilent, match="took nothing for 0"):
        near.send(DATA)
    # Nothing may follow a message that is half sent.
    with pytest.raises(ConnectionLost):
        near.send(b"another")


def test_slow_peer_is_not_given_up(pair):
    near, far = pair
    sender = threading.Thread(target=near.send, args=(DATA,))
    sender.start()
    assert receive(far, len(DATA)) == DATA
    sender.join()


def test_receive_with_a_deadline(pair):
    near, _ = pair
    with pytest.raises(PeerSilent):
        near.receive(time.monotonic())


class Cooperative(socket.socket):
    """Waits by itself, as gevent's sockets do: the system never does."""

    def setblocking(self, blocking):
        self.settimeout(20 if blocking else 0)


@pytest.fixture
def cooperative():
    near, far = socket.socketpair()
    channel = PlainChannel(Cooperative(fileno=near.detach()), 0.1)
    with far:
        yield channel
    channel.close()


def test_socket_that_waits_by_itself_notices_silence(cooperative):
    cooperative.notice_silence(0.05)
    with pytest.raises(PeerSilent, match="has said nothing"):
        cooperative.receive()
    with pytest.raises(PeerSilent, match=r"took nothing for 0\.1 s"):
        cooperative.send(b"x" * 10_000_000)


def test_peer_that_the_system_has_given_up_is_lost(cooperative, monkeypatch):
    """What the system calls a timeout is the end of the connection."""

    def give_up(*_):
        raise TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))

    monkeypatch.setattr(Cooperative, "recv", give_up)
    with pytest.raises(ConnectionLost) as caught:
        cooperative.receive()
    assert caught.type is ConnectionLost


class TestReceivingInto:
    """A part of a message for which there is a buffer."""

    @pytest.mark.parametrize("size", [1, 1000, 100_000, len(DATA)])
    def test_fills_it_and_leaves_what_follows(self, pair, size):
        near, far = pair
        far._stall_timeout = 20
        sender = threading.Thread(target=far.send, args=(DATA + b"what follows",))
        sender.start()
        room = bytearray(size)
        assert near.receive_into(memoryview(room), 20) == size
        assert room == DATA[:size]
        assert receive(near, len(DATA) + 12 - size) == DATA[size:] + b"what follows"
        sender.join()

    def test_end_of_stream(self, pair):
        near, far = pair
        far.send(b"half")
        far.shutdown()
        room = bytearray(100_000)
        assert near.receive_into(memoryview(room), 20) == 4
        assert room[:4] == b"half"
        assert near.receive_into(memoryview(room), 20) == 0
        assert near.receive() == b""

    def test_pause(self, pair):
        near, far = pair
        far.send(b"half")
        room = bytearray(200_000)
        assert near.receive_into(memoryview(room), 0.05) == 4
        with pytest.raises(PeerSilent):
            near.receive_into(memoryview(room), 0.05)
        far.send(b"more")
        assert near.receive() == b"more"  # Without a limit.


def test_end_of_stream(pair):
    near, far = pair
    near.shutdown()
    assert far.receive() == b""
    with pytest.raises(ConnectionLost):
        for _ in range(10):
            far.send(DATA)


def test_shutdown_wakes_who_receives_and_who_sends(pair):
    near, _ = pair
    ended = []

    def wait(function, *args):
        try:
            ended.append(function(*args))
        except ConnectionLost as error:
            ended.append(error)

    near._stall_timeout = 1000
    threads = [
        threading.Thread(target=wait, args=(near.send, DATA)),
        threading.Thread(target=wait, args=(near.receive,)),
    ]
    for thread in threads:
        thread.start()
    near.shutdown()
    for thread in threads:
        thread.join()
    assert len(ended) == 2


def test_stop_receiving_leaves_sending(pair):
    near, far = pair
    near.stop_receiving()
    assert near.receive() == b""
    near.send(b"last words")
    assert far.receive() == b"last words"


def test_shutdown_after_close_is_harmless(pair):
    near, _ = pair
    near.close()
    near.shutdown()
    near.stop_receiving()
    near.close()
