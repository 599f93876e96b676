"""Finding a server among several addresses, some of them dead."""

import contextlib
import socket
import threading

import pytest
from ZODB.utils import p64

from tests.support import deadservers
from tests.support.blocking import Gate
from tests.support.fakeserver import FakeServer
from tests.support.processes import free_port
from tests.support.waiting import wait_until
from zeolite.clientstorage import addresses, connecting, connection
from zeolite.clientstorage.storage import ClientStorage
from zeolite.errors import ClientDisconnected, ProtocolError

from .talking import Background, accept_read_only, open_in_background, settle

OID = p64(7)
READ_ONLY = "ZODB.POSException.ReadOnlyError"


class TestDeadServers:
    @pytest.mark.parametrize("kind", deadservers.KINDS)
    def test_does_not_delay_a_live_one(self, patience, stack, fake, kind):
        dead = stack.enter_context(deadservers.KINDS[kind]())
        opening = open_in_background(stack, [dead, fake.address])
        fake.accept()
        assert opening.result().is_connected()

    def test_all_kinds_do_not_delay_a_live_one(self, patience, stack, fake):
        dead = [
            stack.enter_context(deadservers.KINDS[kind]())
            for kind in sorted(deadservers.KINDS) * 2
        ]
        opening = open_in_background(stack, [*dead, fake.address])
        fake.accept()
        assert opening.result().is_connected()

    @pytest.mark.parametrize("kind", deadservers.KINDS)
    def test_does_not_delay_one_that_comes_back(self, patience, stack, kind):
        """An address that was refused is tried again while another still hangs."""
        dead = stack.enter_context(deadservers.KINDS[kind]())
        port = free_port()
        storage = ClientStorage([dead, port], wait=False, disconnect_poll=0.01)
        stack.callback(storage.close)
        wait_until(lambda: f"{port}: Connection refused" in why(storage))
        fake = FakeServer(port=port)
        stack.callback(fake.close)
        ping = Background(storage.ping)
        script = fake.accept()
        script.answer("ping", None)
        ping.result()

    @pytest.mark.parametrize("kind", deadservers.KINDS)
    def test_closing_does_not_wait_for_it(self, patience, stack, kind):
        dead = stack.enter_context(deadservers.KINDS[kind]())
        with pytest.raises((ClientDisconnected, ProtocolError)):
            ClientStorage(dead, wait_timeout=0.2)
        assert not [t for t in threading.enumerate() if t.name.startswith("zeolite-")]

    def test_dead_place_of_a_host_with_a_live_one(
        self, patience, stack, fake, monkeypatch
    ):
        """One host, two places; the first accepts and says nothing."""
        silent = stack.enter_context(deadservers.silent())
        resolve_as(monkeypatch, silent, fake.address)
        opening = open_in_background(stack, ("two.example", 1))
        fake.accept()
        assert opening.result().is_connected()

    def test_slow_name_server_delays_nobody(self, stack, fake, monkeypatch):
        gate = Gate()
        resolve_as(monkeypatch, fake.address, gate=gate)
        opening = open_in_background(stack, [("slow.example", 1), fake.address])
        gate.wait_until_reached()
        fake.accept()
        assert opening.result().is_connected()
        gate.open()

    def test_connection_to_oneself_is_none(self):
        """TCP connects a port to itself if it is chosen for the other end."""
        from zeolite.wire.channel import PlainChannel

        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            channel = PlainChannel(sock, 1)
            with pytest.raises(ConnectionRefusedError):
                channel.connect(sock.getsockname(), connecting.deadline_in(20))

    def test_threads_run_out(self, stack, fake, monkeypatch):
        fails = [True]

        def begin(self, request):
            if fails:
                fails.clear()
                raise RuntimeError("can't start new thread")
            real(self, request)

        real = connecting._Attempt.begin
        monkeypatch.setattr(connecting._Attempt, "begin", begin)
        opening = open_in_background(stack, fake.address)
        fake.accept()
        assert opening.result().is_connected()


def resolve_as(monkeypatch, *places, gate=None):
    """Have all names stand for some places."""
    real = socket.getaddrinfo

    def getaddrinfo(host, port, type=0, flags=0):
        if not host.endswith(".example"):
            return real(host, port, type=type, flags=flags)
        if flags & socket.AI_NUMERICHOST:
            raise socket.gaierror
        if gate is not None:
            gate.stop_here()
        return [(socket.AF_INET, type, 0, "", place) for place in places]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


def unconnected(stack, address):
    """A client whose calls wait for almost nothing."""
    storage = ClientStorage(address, wait=False, wait_timeout=0.01)
    stack.callback(storage.close)
    return storage


def why(storage):
    """What its errors will say."""
    return storage._connection._why()


def test_what_a_server_says_is_one_line(stack, fake, caplog):
    storage = ClientStorage(fake.address, wait=False, disconnect_poll=0.01)
    stack.callback(storage.close)
    script = fake.accept(register=False)
    message_id, _ = script.expect("register")
    script.fail(message_id, "builtins.ValueError", ("no\r\nFAKE \x1b[2J",))
    wait_until(lambda: r"no\r\nFAKE \x1b[2J" in why(storage))
    assert all(record.getMessage().isprintable() for record in caplog.records)


@contextlib.contextmanager
def greeting_and_leaving():
    """A server that shuts its door as soon as somebody is there."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept():
            with contextlib.suppress(OSError):
                while True:
                    sock, _ = listener.accept()
                    sock.close()

        accepting = threading.Thread(target=accept)
        accepting.start()
        yield listener.getsockname()
        listener.shutdown(socket.SHUT_RDWR)
        accepting.join()


class TestDelays:
    def test_vary_so_that_not_all_clients_come_at_once(self):
        search = connecting.Search([1], None, 100, None, None, None)
        delays = [search._delay() for _ in range(100)]
        assert 75 <= min(delays) < 90 and 110 < max(delays) <= 125

    def test_lost_connection_is_not_waited_for(self, stack, fake, monkeypatch):
        """The next one is tried at once, however long the delays are."""
        monkeypatch.setattr(connection, "SHORT", 0)
        opening = open_in_background(stack, fake.address, disconnect_poll=1000)
        script = fake.accept()
        storage = opening.result()
        script.close()
        settle(storage, fake.accept())

    def test_server_that_closes_at_once_is_not_tried_at_once(
        self, stack, fake, monkeypatch
    ):
        monkeypatch.setattr(connection, "SHORT", 1000)
        opening = open_in_background(stack, fake.address, disconnect_poll=1000)
        script = fake.accept()
        storage = opening.result()
        script.close()
        wait_until(lambda: not storage.is_connected())
        assert storage._connection._search is None


def test_attempts_that_failed_are_forgotten():
    """A client may search for days."""
    failures = []

    def failed(address, error):
        failures.append(error)
        if len(failures) == 20:
            search.cancel()

    search = connecting.Search(
        [("127.0.0.1", free_port())],
        connecting.Request("1", False),
        0.001,
        addresses.Resolver(),
        failed,
        None,
    )
    assert search.next() is None
    assert not search._attempts
    search.close()


class TestReasons:
    """What `ClientDisconnected` says of each address."""

    @pytest.mark.parametrize("kind", ["black hole", "silent", "does not register"])
    def test_while_an_attempt_lasts(self, stack, kind):
        address = stack.enter_context(deadservers.KINDS[kind]())
        with pytest.raises(ClientDisconnected) as error:
            ClientStorage(address, wait_timeout=0.3)
        text = "no answer within 0.3 seconds"
        assert str(error.value) == "{}:{}: {}".format(*address, text)

    @pytest.mark.parametrize(
        "kind, text",
        [
            ("refused", "Connection refused"),
            ("black hole", "it does not answer"),
            ("silent", "it accepts connections but does not say what it speaks"),
            ("does not register", "it did not answer 'register' in time"),
            ("closes", "the server closed the connection"),
            ("SSH", "an SSH server answers there, not a ZEO or Zeolite server"),
        ],
    )
    def test_after_an_attempt(self, stack, monkeypatch, kind, text):
        for name in ("CONNECT_TIMEOUT", "HANDSHAKE_TIMEOUT", "GREETING_TIMEOUT"):
            patience = 1000 if kind in ("closes", "SSH") else 0.1
            monkeypatch.setattr(connecting, name, patience)
        context = greeting_and_leaving if kind == "closes" else deadservers.KINDS[kind]
        address = stack.enter_context(context())
        storage = unconnected(stack, address)
        wait_until(lambda: text in why(storage))
        with pytest.raises(ClientDisconnected) as error:
            storage.ping()
        assert str(error.value).startswith("{}:{}: {}".format(*address, text))

    @pytest.mark.parametrize(
        "greeting, text",
        [
            (b"SSH-2.0-OpenSSH_9.2\r\n", "an SSH server answers there"),
            (b"HTTP/1.1 400 Bad Request\r\n\r\n", r"a web server \(HTTP\) answers"),
            (b"220 mail.example ESMTP\r\n", "it says '220 mail.example ESMTP"),
            (b"\0\0\0\2M5", "switch msgpack off on the server"),
            (b"\0\0\0\5Z3101", "the server speaks Z3101, another version"),
            (bytes(range(200, 256)), "no ZEO or Zeolite server answers there"),
        ],
    )
    def test_another_protocol_at_once(self, stack, greeting, text):
        address = stack.enter_context(deadservers.greeting(greeting))
        with pytest.raises(ProtocolError, match=text):
            ClientStorage(address, wait_timeout=1000)

    def test_unknown_host(self, stack):
        storage = unconnected(stack, ("no-such-host.invalid", 8100))
        wait_until(lambda: "no-such-host.invalid:8100: unknown host: " in why(storage))

    def test_each_address_has_its_own(self, stack, tmp_path):
        ssh = stack.enter_context(deadservers.KINDS["SSH"]())
        refused = stack.enter_context(deadservers.refused())
        path = str(tmp_path / "none")
        storage = unconnected(stack, [ssh, refused, path])
        wait_until(lambda: "no answer" not in why(storage))
        with pytest.raises(ClientDisconnected) as error:
            storage.ping()
        parts = str(error.value).split("; ")
        assert "an SSH server" in parts[0]
        assert parts[2:] == [
            f"127.0.0.1:{refused[1]}: Connection refused",
            f"{path}: there is no such Unix socket",
        ]

    @pytest.mark.parametrize("wrong", ["x", "1 "])
    def test_wrong_storage_at_once(self, server, wrong):
        with pytest.raises(ClientDisconnected) as error:
            ClientStorage(server.address, storage=wrong, wait_timeout=1000)
        host, port = server.address
        assert str(error.value) == (
            f"{host}:{port}: unknown storage {wrong!r}; this server has '1'"
        )

    def test_wrong_storage_of_a_host_with_several_places(self, server, monkeypatch):
        """As "localhost" often is: the server listens at one of them."""
        resolve_as(monkeypatch, ("127.0.0.1", free_port()), server.address)
        with pytest.raises(ClientDisconnected, match="unknown storage 'x'"):
            ClientStorage(("two.example", 1), storage="x", wait_timeout=1000)

    def test_wrong_storage_at_several_servers(self, serve):
        addresses = [serve().address, serve().address]
        with pytest.raises(ClientDisconnected, match=r"storage 'x'.*; .*storage 'x'"):
            ClientStorage(addresses, storage="x", wait_timeout=1000)

    def test_read_only_server_at_once(self, serve):
        server = serve(read_only=True)
        with pytest.raises(ClientDisconnected) as error:
            ClientStorage(server.address, wait_timeout=1000)
        assert "read-only on this server; open it with read_only or" in str(error.value)


class TestNewAddresses:
    def test_are_tried_at_once(self, stack, fake):
        storage = ClientStorage(free_port(), wait=False, disconnect_poll=1000)
        stack.callback(storage.close)
        wait_until(lambda: "refused" in why(storage))
        storage.new_addr(fake.address)
        settle(storage, fake.accept())

    def test_working_connection_is_kept(self, connect, another):
        storage, script = connect()
        other = another()
        storage.new_addr(other.address)
        settle(storage, script)
        script.close()
        settle(storage, other.accept())

    def test_during_the_search_for_a_writable_server(self, stack, fake, another):
        writable = another()
        opening = open_in_background(stack, fake.address, read_only_fallback=True)
        script = accept_read_only(fake)
        script.answer("get_info", {})
        storage = opening.result()
        storage.new_addr([writable.address])
        settle(storage, writable.accept())
        assert not storage.isReadOnly()

    def test_nonsense_changes_nothing(self, connect):
        storage, script = connect()
        with pytest.raises(ValueError):
            storage.new_addr("localhost:8100")
        settle(storage, script)
