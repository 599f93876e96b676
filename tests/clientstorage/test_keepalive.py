"""A peer that gives no sign of life is left."""

import pickle
import queue
import socket
import threading

import pytest
from ZODB.utils import maxtid, p64

from tests.support.blocking import Gate
from tests.support.rawclient import RawClient
from zeolite.clientstorage.link import SLOW_CALLS, Link
from zeolite.errors import ClientDisconnected
from zeolite.wire.channel import PeerSilent, PlainChannel

from .talking import Background, settle

OID = p64(7)
KEEP_ALIVE = (-1, 0, ".reply", None)


class TestSilentServer:
    def test_is_left(self, fake, connect):
        storage, script = connect(keep_alive=0.05)
        load = Background(storage.loadBefore, OID, maxtid)
        script.expect("loadBefore")
        assert script.read() == KEEP_ALIVE
        script.expect("ping")
        with pytest.raises(ClientDisconnected, match=r"no.* sign of life any more"):
            load.result()
        assert script.is_closed()
        settle(storage, fake.accept())

    def test_is_kept_if_it_answers(self, connect):
        storage, script = connect(keep_alive=0.05)
        for _ in range(5):
            assert script.read() == KEEP_ALIVE
            script.answer("ping", None)
        assert storage.is_connected()

    def test_is_left_by_a_client_that_waits_for_nothing(self, fake, connect):
        _, script = connect(keep_alive=0.05)
        script.read()
        script.expect("ping")
        assert script.is_closed()
        fake.accept()

    def test_never_if_so_configured(self, connect):
        storage, script = connect(keep_alive=0)
        script._socket.settimeout(0.3)
        with pytest.raises(TimeoutError):
            script._socket.recv(1)
        script._socket.settimeout(20)
        settle(storage, script)


class StubChannel:
    """Takes everything."""

    def __init__(self):
        self.sent = queue.SimpleQueue()
        self.send = self.sent.put


class TestProbes:
    """After each silence, without a clock."""

    @pytest.fixture
    def link(self):
        return Link(StubChannel(), ("127.0.0.1", 1))

    def probe(self, link):
        """Have one sent; return its message id."""
        link.probe()
        sent = link._channel.sent.get(timeout=20)
        # The thread that has sent it may still have the lock.
        with link._send_lock:
            return pickle.loads(sent[sent.rindex(b"\x80\x03") :])[0]

    def test_one_that_is_missing_is_enough(self, link):
        link.load(OID, maxtid, lambda *args: None)
        link._channel.sent.get()
        self.probe(link)
        with pytest.raises(PeerSilent):
            link.probe()

    def test_answered_ones(self, link):
        for _ in range(5):
            link.reply(self.probe(link), 0, None)

    @pytest.mark.parametrize("slow", ["a call", "an upload", "a blocked send"])
    def test_what_may_take_long_has_longer(self, link, stack, slow):
        if slow == "a call":
            link.call("tpc_finish", (1,))
            link._channel.sent.get()
        self.probe(link)
        if slow == "an upload":
            link.post(b"much")
        elif slow == "a blocked send":
            gate = Gate()
            stack.callback(gate.open)
            link._channel.send = lambda data: gate.stop_here()
            Background(link._send, b"much")
            gate.wait_until_reached()
        for _ in range(SLOW_CALLS - 1):
            link.probe()
        with pytest.raises(PeerSilent):
            link.probe()

    def test_reader_does_not_wait_for_who_is_sending(self, link):
        with link._send_lock:
            link.probe()
            assert link._channel.sent.empty()
        link.post(b"")
        link._channel.sent.get(timeout=20)

    def test_too_many_threads(self, link, monkeypatch):
        def start(self):
            raise RuntimeError("can't start new thread")

        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", start)
            link.probe()
            link.probe()
        self.probe(link)
        with pytest.raises(PeerSilent):
            link.probe()  # Those that were not sent are no calls that may take long.


NUMBERS = {
    "TCP_KEEPIDLE": 6,
    "TCP_KEEPINTVL": 2,
    "TCP_KEEPCNT": 3,
    "TCP_USER_TIMEOUT": 12_000,
}


def check_numbers(sock):
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
    for name, value in NUMBERS.items():
        if hasattr(socket, name):
            option = getattr(socket, name)
            assert sock.getsockopt(socket.IPPROTO_TCP, option) == value, name


class TestSystem:
    """The system's own keep-alive, which notices a machine that has vanished."""

    def test_of_the_client(self, connect):
        storage, _ = connect(keep_alive=6)
        check_numbers(storage._connection.link()._channel._socket)

    def test_of_the_server(self, serve):
        server = serve(keep_alive=6)
        client = server.connect()
        check_numbers(server.session(client)._channel._socket)

    def test_is_on_without_numbers(self):
        with socket.create_server(("127.0.0.1", 0)) as listener:
            sock = socket.create_connection(listener.getsockname())
            channel = PlainChannel(sock, 1)
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            channel.close()

    def test_unix_socket_has_none(self):
        left, right = socket.socketpair()
        PlainChannel(left, 1, keep_alive=6).close()
        right.close()


def test_server_ignores_the_protocols_frame(server):
    client = RawClient(server.address)
    client.send_frame(pickle.dumps(KEEP_ALIVE, 3))
    assert client.ask("ping") is None
    assert [message[0] for message in client.seen] == ["reply", "reply"]
    client.close()
