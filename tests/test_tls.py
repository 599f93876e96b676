"""Encryption from end to end: what works, and what each side says if it does not."""

import logging
import re
import socket
import ssl
import threading

import pytest
from ZODB.MappingStorage import MappingStorage
from ZODB.tests.MinPO import MinPO
from ZODB.utils import maxtid, p64

import zeolite
from tests.support.certificates import (
    Files,
    SelfSigned,
    client_context,
    issue,
    server_context,
)
from tests.support.fakeserver import FIRST_TID, Script
from tests.support.waiting import wait_until
from zeolite.clientstorage import handshake
from zeolite.storageserver.options import ServerOptions
from zeolite.storageserver.server import StorageServer

from .support.refusals import refused

VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]


@pytest.fixture
def said(caplog):
    """Call it to wait for a line in the log that matches."""
    caplog.set_level(logging.INFO)

    def said(pattern):
        return wait_until(lambda: re.search(pattern, caplog.text))

    return said


@pytest.fixture
def files(tmp_path):
    return Files(tmp_path)


def use(address, context, **kwargs):
    """Write something and read it back."""
    for write in (True, False):
        db = zeolite.DB(address, ssl=context, **kwargs)
        try:
            with db.transaction() as connection:
                if write:
                    connection.root()["x"] = MinPO(b"x" * 300_000)
                assert connection.root()["x"].value == b"x" * 300_000
        finally:
            db.close()


class TestUse:
    @pytest.mark.parametrize("version", VERSIONS)
    def test_encrypted(self, serve, version):
        address = serve(ssl=server_context(version=version))
        use(address, client_context())

    @pytest.mark.parametrize("version", VERSIONS)
    def test_clients_with_certificates(self, serve, version):
        address = serve(ssl=server_context(wanted="clients", version=version))
        use(address, client_context(issue("client", by="clients")))

    def test_unix_socket(self, serve, tmp_path):
        address = serve(ssl=server_context(), port=str(tmp_path / "socket"))
        use(address, client_context(), ssl_server_hostname="localhost")

    def test_other_host_name(self, serve):
        address = serve(ssl=server_context(issue("db.example.com")))
        use(address, client_context(), ssl_server_hostname="db.example.com")

    @pytest.mark.parametrize(
        ("certified", "name"),
        [
            ("db.example.com", "db.example.com."),
            ("db.example.com", "DB.Example.COM"),
            ("*.example.com", "db.example.com"),
            ("xn--bcher-kva.example", "b\xfccher.example"),
            ("::1", "::1"),
            ("fe80::1", "fe80::1%eth0"),
        ],
    )
    def test_other_ways_to_write_a_name(self, serve, certified, name):
        address = serve(ssl=server_context(issue(certified)))
        use(address, client_context(), ssl_server_hostname=name)

    def test_half_a_record_is_not_waited_for_for_ever(self, stack, said):
        server = StorageServer(
            ("127.0.0.1", 0),
            {"1": MappingStorage()},
            ServerOptions(client_timeout=0.1),
            server_context(),
        )
        server.start()
        stack.callback(server.stop)
        client = zeolite.client(server.address, ssl=client_context())
        stack.callback(client.close)
        assert client.ping() is None
        client._connection._link._channel._socket.send(b"\x17\x03\x03")
        said("closed: it did not say in time what was expected of it")

    def test_a_server_without_authentication_says_so_once(self, serve, said, caplog):
        address = serve(ssl=server_context())
        use(address, client_context())
        said("connections are encrypted, but clients are not authenticated")
        assert caplog.text.count("not authenticated") == 1

    def test_a_server_with_authentication_does_not_say_so(self, serve, caplog):
        serve(ssl=server_context(wanted="clients"))
        assert "not authenticated" not in caplog.text

    def test_loads_by_many_threads(self, serve):
        address = serve(ssl=server_context())
        use(address, client_context())
        storage = zeolite.client(address, ssl=client_context(), cache_size=1)
        failed = []

        def load():
            try:
                for _ in range(50):
                    storage.prefetch([p64(0), p64(1)], maxtid)
                    assert len(storage.loadBefore(p64(1), maxtid)[0]) > 300_000
            except BaseException as error:
                failed.append(error)

        threads = [threading.Thread(target=load) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        storage.close()
        assert not failed


class TestRefusals:
    """One line on each side that can mend it, and the client's at once."""

    def test_plain_client_on_tls_port(self, serve, said):
        address = serve(ssl=server_context())
        assert refused(address) == (
            "a server that wants TLS answers there; connect with ssl (a command with --ssl), or look at the "
            "port"
        )
        said(r"client .*: closed: it does not speak TLS, which is wanted here, .*Z5")

    def test_silent_client_on_tls_port(self, stack, said):
        options = ServerOptions(handshake_timeout=0.1)
        server = StorageServer(
            ("127.0.0.1", 0), {"1": MappingStorage()}, options, server_context()
        )
        server.start()
        stack.callback(server.stop)
        with socket.create_connection(server.address) as client:
            client.settimeout(20)
            assert client.recv(100) == b""
        said("closed: it said nothing in time to agree on TLS; .* without TLS")

    def test_tls_client_on_plain_port(self, serve, said):
        address = serve(ssl=None)
        assert refused(address, client_context()) == (
            "the server does not speak TLS; connect without ssl, or configure the "
            "server with an ssl section"
        )
        said("closed: it speaks TLS, and this server does not")

    @pytest.mark.parametrize("version", VERSIONS)
    def test_server_of_unknown_authority(self, serve, said, version):
        address = serve(ssl=server_context(version=version))
        why = refused(address, client_context(trusted="theirs"))
        assert why.startswith(
            "the server's certificate is signed by an authority that is not known"
        )
        said("closed: it does not know this server's certificate")

    @pytest.mark.parametrize("version", VERSIONS)
    def test_wrong_host_name(self, serve, said, version):
        address = serve(ssl=server_context(issue("db.example.com"), version=version))
        why = refused(address, client_context())
        assert "'127.0.0.1'" in why and "set server-hostname" in why
        said("closed: it does not accept this server's certificate; .* host")

    @pytest.mark.parametrize("version", VERSIONS)
    def test_expired_server(self, serve, said, version):
        address = serve(ssl=server_context(issue(age=1), version=version))
        why = refused(address, client_context())
        assert why == "the server's certificate has expired; renew it"
        said("closed: this server's certificate has expired; renew it")

    def test_self_signed_server(self, serve, said):
        address = serve(ssl=server_context(SelfSigned()))
        why = refused(address, client_context())
        assert why == (
            "the server's certificate is self-signed and not among those in "
            "authenticate"
        )
        said("closed: it does not know this server's certificate")

    @pytest.mark.parametrize("version", VERSIONS)
    def test_missing_client_certificate(self, serve, said, version):
        address = serve(ssl=server_context(wanted="clients", version=version))
        why = refused(address, client_context())
        assert "wants a certificate from this client" in why
        said("closed: it has no certificate, but authenticate is set here")

    @pytest.mark.parametrize("version", VERSIONS)
    def test_client_of_unknown_authority(self, serve, said, version):
        address = serve(ssl=server_context(wanted="clients", version=version))
        why = refused(address, client_context(issue("client", by="strangers")))
        assert why.startswith("the server does not know this client's certificate")
        said("closed: the client's certificate is signed by an authority that is not")

    @pytest.mark.parametrize("version", VERSIONS)
    def test_expired_client(self, serve, said, version):
        address = serve(ssl=server_context(wanted="clients", version=version))
        expired = issue("client", by="clients", age=1)
        why = refused(address, client_context(expired))
        assert why == "this client's certificate has expired; renew it"
        said("closed: the client's certificate has expired")

    def test_no_version_in_common(self, serve, said):
        address = serve(ssl=server_context(version=VERSIONS[1]))
        why = refused(address, client_context(version=VERSIONS[0]))
        assert why == "the server has no version of TLS in common with us"
        said("closed: it has no version of TLS in common with us")

    def test_one_refusal_does_not_keep_a_client_from_another_server(self, serve):
        wrong, right = serve(ssl=None), serve(ssl=server_context())
        use([wrong, right], client_context())


def test_server_that_speaks_late_finds_the_answer(stack, monkeypatch):
    """A client that waits for the first word answers early, in case of TLS."""
    monkeypatch.setattr(handshake, "_FIRST_WORD", 0)
    listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
    clients = []
    opening = threading.Thread(
        target=lambda: clients.append(
            zeolite.client(listener.getsockname(), wait_timeout=20)
        )
    )
    opening.start()
    sock, _ = listener.accept()
    assert sock.recv(6, socket.MSG_WAITALL) == b"\0\0\0\2Z5"
    script = Script(sock)
    stack.callback(script.close)
    script._greeted = True  # Its answer came first.
    script.send_frame(b"Z5")
    script.answer("register", FIRST_TID)
    script.answer("get_info", {"length": 1, "size": 2, "name": "fake"})
    opening.join()
    assert clients[0].lastTransaction() == FIRST_TID
    clients[0].close()
