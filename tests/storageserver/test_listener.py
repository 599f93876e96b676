"""Who may connect: how many, from where, and through which file."""

import logging
import os
import re
import socket
import stat
import threading

import pytest
from ZODB.MappingStorage import MappingStorage

from tests.support.certificates import server_context
from tests.support.rawclient import RawClient
from tests.support.waiting import wait_until
from zeolite.errors import ConfigurationError
from zeolite.storageserver import admission, listener
from zeolite.storageserver.admission import Admission, is_everywhere
from zeolite.storageserver.options import ServerOptions
from zeolite.storageserver.server import StorageServer


class TestNumbers:
    def test_more_than_all_are_turned_away(self, serve, caplog):
        server = serve(max_connections=3, max_connections_per_address=0)
        clients = [server.connect() for _ in range(3)]
        threads = threading.active_count()
        for _ in range(20):
            assert server.connect(register=False).is_closed()
        assert threading.active_count() == threads
        for client in clients:
            client.ask("ping")
        (line,) = [r for r in caplog.records if "turned away" in r.getMessage()]
        expected = "client 127.0.0.1: turned away: max-connections are open"
        assert line.getMessage() == expected
        clients[0].close()
        self.connect_when_possible(server)

    def connect_when_possible(self, server):
        """The server notices a little later that a client is gone."""

        def connect():
            client = server.connect(register=False)
            try:
                client.handshake()
            except Exception:
                return False
            return bool(client.ask("register", "1", False))

        wait_until(connect)

    def test_more_than_an_address_may_have(self, serve, caplog):
        server = serve(max_connections_per_address=2)
        clients = [server.connect() for _ in range(2)]
        assert server.connect(register=False).is_closed()
        assert "max-connections-per-address are open" in caplog.text
        # Loopback is a network: another address of it.
        with socket.create_connection(
            server.address, source_address=("127.0.0.9", 0)
        ) as sock:
            sock.settimeout(20)
            assert sock.recv(6) == b"\0\0\0\x02Z5"
        clients[0].close()
        self.connect_when_possible(server)

    def test_clients_that_say_nothing_count(self, serve):
        server = serve(max_connections=1, handshake_timeout=0.1)
        silent = server.connect(register=False)
        silent.read_frame()
        assert server.connect(register=False).is_closed()
        assert silent.is_closed()
        self.connect_when_possible(server)

    def test_thousands_in_a_row_leave_nothing_counted(self, serve):
        server = serve()
        for _ in range(300):
            server.connect(register=False).close()
        counted = server.server._listener._server._admission
        wait_until(lambda: counted._count == 0)
        assert not counted._per_address

    def test_threads_that_cannot_start_are_not_counted(
        self, serve, caplog, monkeypatch
    ):
        server = serve(max_connections=2)
        other = server.connect()

        class NoThread(threading.Thread):
            def start(self):
                raise RuntimeError("can't start new thread")

        with monkeypatch.context() as patched:
            patched.setattr(listener.socketserver.threading, "Thread", NoThread)
            for _ in range(10):
                assert server.connect(register=False).is_closed()
        assert server.connect().ask("ping") is None
        assert other.ask("ping") is None
        lines = [r for r in caplog.records if "it cannot be served" in r.getMessage()]
        assert len(lines) == 1

    def test_stop_needs_no_thread(self, server, storage, monkeypatch):
        """There may be too many: that may be why it is stopped."""

        def fail(thread):
            raise RuntimeError("can't start new thread")

        client = server.connect()
        with monkeypatch.context() as patched:
            patched.setattr(threading.Thread, "start", fail)
            server.server.stop()
        assert client.is_closed()
        assert not storage.opened()
        with pytest.raises(ConnectionRefusedError):
            server.connect()

    def test_unix_sockets_have_no_address(self, tmp_path):
        server = StorageServer(
            str(tmp_path / "socket"),
            {"1": MappingStorage()},
            ServerOptions(max_connections=3, max_connections_per_address=1),
        )
        server.start()
        clients = [RawClient(server.address) for _ in range(3)]
        assert RawClient(server.address, register=False).is_closed()
        for client in clients:
            client.ask("ping")
            client.close()
        server.stop()

    def test_some_open_files_are_left_to_the_storages(self, monkeypatch):
        monkeypatch.setattr(admission, "_descriptors", lambda: 2)
        counted = Admission(100, 100)
        assert counted.enter("a") is counted.enter("b") is None
        assert "ulimit" in counted.enter("c")
        counted.leave("a")
        assert counted.enter("c") is None

    @pytest.mark.parametrize(
        "one, other, same",
        [
            ("10.0.0.1", "10.0.0.1", True),
            ("10.0.0.1", "10.0.0.2", False),
            ("2001:db8::1", "2001:db8::ffff", True),
            ("2001:db8::1", "2001:db8:0:1::1", False),
            ("fe80::1%lo", "fe80::2", True),
            ("::ffff:10.0.0.1", "::ffff:10.0.0.2", False),
            ("::ffff:10.0.0.1", "10.0.0.1", True),
        ],
    )
    def test_what_one_address_is(self, one, other, same):
        counted = Admission(0, 1)
        assert counted.enter(one) is None
        assert (counted.enter(other) is not None) is same

    def test_no_limit(self):
        counted = Admission(0, 0)
        for _ in range(5000):
            assert counted.enter("10.0.0.1") is None


class TestUnixSocket:
    @pytest.fixture
    def start(self, tmp_path):
        servers = []

        def start(**options):
            server = StorageServer(
                str(tmp_path / "socket"),
                {"1": MappingStorage()},
                ServerOptions(**options),
            )
            servers.append(server)
            server.start()
            return server

        yield start
        for server in servers:
            server.stop()

    def mode(self, path):
        return stat.S_IMODE(os.stat(path).st_mode)

    def test_only_the_owner_by_default(self, start):
        assert self.mode(start().address) == 0o600

    @pytest.mark.parametrize("mode", [0o660, 0o666, 0o770, 0o600, 0o200])
    @pytest.mark.parametrize("umask", [0o022, 0o077, 0])
    def test_as_it_is_set_whatever_the_umask(self, start, mode, umask):
        before = os.umask(umask)
        try:
            server = start(unix_socket_mode=mode)
            assert self.mode(server.address) == mode
            assert os.umask(umask) == umask  # It is as it was.
        finally:
            os.umask(before)

    def test_it_is_never_more_open(self, start, monkeypatch, tmp_path):
        """At each step between being made and accepting."""
        seen = []
        path = str(tmp_path / "socket")

        def looking(function):
            def wrapper(*args, **kwargs):
                if os.path.exists(path):
                    seen.append(self.mode(path))
                result = function(*args, **kwargs)
                if os.path.exists(path):
                    seen.append(self.mode(path))
                return result

            return wrapper

        for name in ("chmod", "umask"):
            monkeypatch.setattr(listener.os, name, looking(getattr(os, name)))
        bind = listener.socketserver.UnixStreamServer.server_bind
        server_class = listener.socketserver.UnixStreamServer
        monkeypatch.setattr(server_class, "server_bind", looking(bind))
        before = os.umask(0)
        try:
            start(unix_socket_mode=0o640)
        finally:
            os.umask(before)
        assert set(seen) == {0o600, 0o640}

    def test_mode_of_an_address_that_is_none(self):
        storage = MappingStorage()
        with pytest.raises(ConfigurationError, match="unix-socket-mode is for"):
            StorageServer(
                ("127.0.0.1", 0), {"1": storage}, ServerOptions(unix_socket_mode=0o660)
            )
        storage.lastTransaction()  # It is open.

    def test_one_storage_with_two_names(self):
        """Clients would not hear of what is committed by the other name."""
        storage = MappingStorage()
        with pytest.raises(ConfigurationError, match="'a' and 'b' are one and the sam"):
            StorageServer(("127.0.0.1", 0), {"a": storage, "b": storage})
        storage.lastTransaction()  # It is open.


class TestAllInterfaces:
    @pytest.mark.parametrize(
        "host, tls, warns",
        [
            ("", False, True),
            ("0.0.0.0", False, True),
            ("127.0.0.1", False, False),
            ("localhost", False, False),
            ("", True, False),
        ],
    )
    def test_without_tls_there_is_a_warning(self, caplog, host, tls, warns):
        context = server_context() if tls else None
        server = StorageServer((host, 0), {"1": MappingStorage()}, tls=context)
        server.start()
        server.stop()
        words = f"set address to 127.0.0.1:{server.address[1]}, or add an ssl section"
        lines = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
        assert len([line for line in lines if words in line]) == warns

    @pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="needs IPv6")
    def test_without_a_host_both_kinds_of_addresses_reach_it(self, caplog):
        caplog.set_level(logging.INFO)
        server = StorageServer(("", 0), {"1": MappingStorage()})
        server.start()
        try:
            for host in ("127.0.0.1", "::1"):
                client = RawClient((host, server.address[1]))
                client.ask("ping")
                client.close()
        finally:
            server.stop()
        assert server.address[0] == "0.0.0.0"
        assert re.search(r"client 127\.0\.0\.1:\d+: registered", caplog.text)
        assert re.search(r"client ::1:\d+: registered", caplog.text)

    def test_where_there_is_no_ipv6_it_goes_without(self, monkeypatch):
        monkeypatch.setattr(socket, "has_dualstack_ipv6", lambda: False)
        server = StorageServer(("", 0), {"1": MappingStorage()})
        server.start()
        try:
            RawClient(server.address).close()
        finally:
            server.stop()

    @pytest.mark.parametrize(
        "host, expected",
        [
            ("", True),
            ("0.0.0.0", True),
            ("::", True),
            ("::0", True),
            ("::1", False),
            ("10.0.0.1", False),
            ("db.example.com", False),
        ],
    )
    def test_which_they_are(self, host, expected):
        assert is_everywhere(host) is expected
