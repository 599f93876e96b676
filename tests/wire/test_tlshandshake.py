"""Handshakes that are half, or none."""

import io
import socket
import ssl
import threading
import time

import pytest

from tests.support.certificates import client_context
from tests.support.tlspeer import Peer, as_client, as_server, soon, together
from zeolite.wire.channel import ConnectionLost, PeerSilent
from zeolite.wire.tlserrors import TLSFailed


class Scripted:
    """A socket that receives what a test says, and is otherwise as another one."""

    def __init__(self, sock, received):
        self._sock = sock
        self._received = received

    def recv(self, size):
        return next(self._received)

    def __getattr__(self, name):
        return getattr(self._sock, name)


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

    @pytest.mark.parametrize("first", [9, 6, 1, 8])
    @pytest.mark.parametrize("pieces", [[4], [1, 1, 1, 1], [2, 2], [3, 1]])
    def test_hello_that_claims_to_be_large(self, sockets, first, pieces):
        """OpenSSL would reserve so much for each stranger, for nine bytes."""
        near, far = sockets
        channel = as_server(near)
        hello, records = io.BytesIO(b"\x01\x01\xff\xff"), b""
        for size in pieces:
            records += b"\x16\x03\x01\0" + bytes([size]) + hello.read(size)
        received = iter([records[:first], records[first:]])
        channel._socket = Scripted(near, received)
        far.sendall(b"x")  # There is something to receive.
        with pytest.raises(TLSFailed, match=r"its first message has \d+ bytes, where"):
            channel.handshake(soon())

    def test_alerts_have_no_such_size(self, sockets):
        near, far = sockets
        channel = as_client(near)
        far.sendall(b"\x15\x03\x03\0\2\2\x46\x15\x03\x03\0\2\1\0")
        with pytest.raises(TLSFailed, match="no version of TLS in common"):
            channel.handshake(soon())

    def test_hello_that_is_large(self, sockets):
        """Of a client with many names for the server's certificate, for instance."""
        near, far = sockets
        channel = as_server(near)
        context = client_context()
        context.set_alpn_protocols([f"{number:0200}" for number in range(60)])
        peer = Peer(far, context, server_hostname="localhost")
        together(lambda: channel.handshake(soon()), peer.handshake)
        far.sendall(peer.records(b"hello"))
        assert channel.receive(soon()) == b"hello"

    @pytest.mark.parametrize("size", [1, 100, 20_000])
    def test_garbage_that_looks_like_tls(self, sockets, size):
        near, far = sockets
        far.sendall(b"\x16\x03\x01\x00\x50" + b"\xff" * size)
        far.shutdown(socket.SHUT_WR)
        with pytest.raises(TLSFailed):
            as_server(near).handshake(soon())
