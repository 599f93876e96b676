"""A TLS channel whose peer a test plays."""

import contextlib
import socket
import ssl

import pytest

from tests.support.certificates import client_context
from tests.support.tlspeer import Peer, as_server, soon, together


@pytest.fixture
def sockets():
    near, far = socket.socketpair()
    for sock in (near, far):
        sock.settimeout(20)
    with contextlib.closing(near), contextlib.closing(far):
        yield near, far


@pytest.fixture(params=["TLSv1_2", "TLSv1_3"])
def channel_and_peer(sockets, request):
    """A server's channel, and a client that a test plays."""
    near, far = sockets
    channel = as_server(near)
    context = client_context(version=ssl.TLSVersion[request.param])
    peer = Peer(far, context, server_hostname="localhost")
    together(lambda: channel.handshake(soon()), peer.handshake)
    return channel, peer
