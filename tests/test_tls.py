"""Encryption from end to end: what works, and what each side says if it does not."""

import contextlib
import logging
import re
import shutil
import socket
import ssl
import subprocess
import threading

import pytest
import ZODB.config
from ZODB.MappingStorage import MappingStorage
from ZODB.tests.MinPO import MinPO
from ZODB.utils import maxtid, p64

import zeolite
from tests.support.certificates import (
    Files,
    SelfSigned,
    authority,
    client_context,
    issue,
    server_context,
)
from tests.support.fakeserver import FIRST_TID, Script
from tests.support.waiting import wait_until
from zeolite.clientstorage import handshake
from zeolite.errors import ClientDisconnected, ConfigurationError
from zeolite.storageserver.options import ServerOptions
from zeolite.storageserver.server import StorageServer

VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]

#: Seconds; long enough to fail the test that waits for it.
FOR_EVER = 1000


@pytest.fixture
def stack():
    with contextlib.ExitStack() as stack:
        yield stack


@pytest.fixture
def serve(stack):
    """Call it with a server's context, or None, to get an address."""

    def serve(context, **kwargs):
        address, stop = zeolite.server(ssl=context, **kwargs)
        stack.callback(stop)
        return address

    return serve


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


def refused(address, context=None, **kwargs):
    """Return why a client is told that it cannot connect, without waiting."""
    with pytest.raises(ClientDisconnected) as error:
        zeolite.client(address, ssl=context, wait_timeout=FOR_EVER, **kwargs)
    place = address if isinstance(address, str) else "{}:{}".format(*address)
    assert str(error.value).startswith(f"{place}: ")
    return str(error.value).removeprefix(f"{place}: ")


class TestUse:
    @pytest.mark.parametrize("version", VERSIONS)
    def test_encrypted(self, serve, version):
        address = serve(server_context(version=version))
        use(address, client_context())

    @pytest.mark.parametrize("version", VERSIONS)
    def test_clients_with_certificates(self, serve, version):
        address = serve(server_context(wanted="clients", version=version))
        use(address, client_context(issue("client", by="clients")))

    def test_unix_socket(self, serve, tmp_path):
        address = serve(server_context(), port=str(tmp_path / "socket"))
        use(address, client_context(), ssl_server_hostname="localhost")

    def test_other_host_name(self, serve):
        address = serve(server_context(issue("db.example.com")))
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
        address = serve(server_context(issue(certified)))
        use(address, client_context(), ssl_server_hostname=name)

    def test_authority_of_an_authority(self, stack, files):
        """The server sends what is in between; the clients know the first one."""
        child = authority("root").create_child_ca().issue_cert("127.0.0.1")
        chain = files.both(child)
        assert chain.read_text().count("BEGIN CERTIFICATE") == 2
        address, stop = zeolite.server(zeo_conf=section(certificate=chain))
        stack.callback(stop)
        open_client(address, authenticate=files.authority("root")).close()

    def test_directory_with_names_of_openssls(self, stack, files, tmp_path):
        hashed = tmp_path / "hashed"
        hashed.mkdir()
        if not shutil.which("openssl"):
            pytest.skip("no openssl command")
        trusted = files.authority("clients")
        name = subprocess.check_output(
            ["openssl", "x509", "-noout", "-hash", "-in", trusted], text=True
        )
        trusted.rename(hashed / f"{name.strip()}.0")
        keys = {"certificate": files.both(issue()), "authenticate": hashed}
        address, stop = zeolite.server(zeo_conf=section(**keys))
        stack.callback(stop)
        use(address, client_context(issue("client", by="clients")))
        refused(address, client_context(issue("client", by="strangers")))

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
        address = serve(server_context())
        use(address, client_context())
        said("connections are encrypted, but clients are not authenticated")
        assert caplog.text.count("not authenticated") == 1

    def test_a_server_with_authentication_does_not_say_so(self, serve, caplog):
        serve(server_context(wanted="clients"))
        assert "not authenticated" not in caplog.text

    def test_loads_by_many_threads(self, serve):
        address = serve(server_context())
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
        address = serve(server_context())
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
        address = serve(None)
        assert refused(address, client_context()) == (
            "the server does not speak TLS; connect without ssl, or configure the "
            "server with an ssl section"
        )
        said("closed: it speaks TLS, and this server does not")

    @pytest.mark.parametrize("version", VERSIONS)
    def test_server_of_unknown_authority(self, serve, said, version):
        address = serve(server_context(version=version))
        why = refused(address, client_context(trusted="theirs"))
        assert why.startswith(
            "the server's certificate is signed by an authority that is not known"
        )
        said("closed: it does not know this server's certificate")

    @pytest.mark.parametrize("version", VERSIONS)
    def test_wrong_host_name(self, serve, said, version):
        address = serve(server_context(issue("db.example.com"), version=version))
        why = refused(address, client_context())
        assert "'127.0.0.1'" in why and "set server-hostname" in why
        said("closed: it does not accept this server's certificate; .* host")

    @pytest.mark.parametrize("version", VERSIONS)
    def test_expired_server(self, serve, said, version):
        address = serve(server_context(issue(age=1), version=version))
        why = refused(address, client_context())
        assert why == "the server's certificate has expired; renew it"
        said("closed: this server's certificate has expired; renew it")

    def test_self_signed_server(self, serve, said):
        address = serve(server_context(SelfSigned()))
        why = refused(address, client_context())
        assert why == (
            "the server's certificate is self-signed and not among those in "
            "authenticate"
        )
        said("closed: it does not know this server's certificate")

    @pytest.mark.parametrize("version", VERSIONS)
    def test_missing_client_certificate(self, serve, said, version):
        address = serve(server_context(wanted="clients", version=version))
        why = refused(address, client_context())
        assert "wants a certificate from this client" in why
        said("closed: it has no certificate, but authenticate is set here")

    @pytest.mark.parametrize("version", VERSIONS)
    def test_client_of_unknown_authority(self, serve, said, version):
        address = serve(server_context(wanted="clients", version=version))
        why = refused(address, client_context(issue("client", by="strangers")))
        assert why.startswith("the server does not know this client's certificate")
        said("closed: the client's certificate is signed by an authority that is not")

    @pytest.mark.parametrize("version", VERSIONS)
    def test_expired_client(self, serve, said, version):
        address = serve(server_context(wanted="clients", version=version))
        expired = issue("client", by="clients", age=1)
        why = refused(address, client_context(expired))
        assert why == "this client's certificate has expired; renew it"
        said("closed: the client's certificate has expired")

    def test_no_version_in_common(self, serve, said):
        address = serve(server_context(version=VERSIONS[1]))
        why = refused(address, client_context(version=VERSIONS[0]))
        assert why == "the server has no version of TLS in common with us"
        said("closed: it has no version of TLS in common with us")

    def test_one_refusal_does_not_keep_a_client_from_another_server(self, serve):
        wrong, right = serve(None), serve(server_context())
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


class TestArguments:
    def test_not_a_context(self):
        with pytest.raises(TypeError, match=r"ssl is an ssl\.SSLContext, not True"):
            zeolite.client(1, ssl=True)
        with pytest.raises(TypeError, match=r"ssl is an ssl\.SSLContext, not True"):
            zeolite.server(ssl=True)

    def test_the_other_sides_context(self):
        with pytest.raises(ValueError, match="a server's SSLContext"):
            zeolite.client(1, ssl=server_context())
        with pytest.raises(ValueError, match="a client's SSLContext"):
            zeolite.server(ssl=client_context())

    def test_host_name_without_tls(self):
        with pytest.raises(ValueError, match="ssl_server_hostname is for connections"):
            zeolite.client(1, ssl_server_hostname="x")

    def test_unix_socket_without_host_name(self, tmp_path):
        with pytest.raises(ValueError, match="give ssl_server_hostname"):
            zeolite.client(str(tmp_path / "socket"), ssl=client_context())

    def test_host_name_that_is_none(self, serve):
        why = refused(
            serve(server_context()), client_context(), ssl_server_hostname=".x"
        )
        assert why.startswith("TLS is not possible with this ssl or host")

    @pytest.mark.parametrize("name", [".", "a\0b", f"{'a' * 64}.example"])
    def test_more_host_names_that_are_none(self, serve, caplog, name):
        address = serve(server_context())
        why = refused(address, client_context(), ssl_server_hostname=name)
        assert why.startswith("TLS is not possible with this ssl or host")
        assert "Traceback" not in caplog.text

    def test_two_ways_for_a_server(self, files):
        section = f"<ssl>\ncertificate {files.both(issue())}\n</ssl>"
        with pytest.raises(ConfigurationError, match="an ssl section, and the arg"):
            zeolite.server(zeo_conf=section, ssl=server_context())


PASSWORD = "secret"


def password():
    return PASSWORD


def wrong_password():
    return "wrong"


def failing_password():
    raise LookupError("no password today")


def no_password():
    return None


def section(**keys):
    lines = [f"{key.replace('_', '-')} {value}\n" for key, value in keys.items()]
    return f"<ssl>\n{''.join(lines)}</ssl>\n"


def open_client(address, **keys):
    """Open the storage of a `<clientstorage>` section with an `<ssl>` section."""
    server = address if isinstance(address, str) else "{}:{}".format(*address)
    return ZODB.config.storageFromString(
        f"%import zeolite\n<clientstorage>\nserver {server}\n"
        f"wait-timeout {FOR_EVER}\n{section(**keys)}</clientstorage>\n"
    )


class TestSections:
    def test_all_keys(self, stack, files):
        ours, theirs = issue("db.example.com"), issue("client", by="clients")
        address, stop = zeolite.server(
            zeo_conf=section(
                certificate=files.certificate(ours),
                key=files.key(ours, PASSWORD),
                password_function=f"{__name__}.password",
                authenticate=files.authority("clients"),
            )
        )
        stack.callback(stop)
        client = open_client(
            address,
            certificate=files.certificate(theirs, "client.pem"),
            key=files.key(theirs, PASSWORD, "client-key.pem"),
            password_function=f"{__name__}.password",
            authenticate=files.authority(),
            check_hostname="true",
            server_hostname="db.example.com",
        )
        assert client.lastTransaction()
        client.close()

    def serve(self, stack, files, **keys):
        address, stop = zeolite.server(
            zeo_conf=section(certificate=files.both(issue()), **keys)
        )
        stack.callback(stop)
        return address

    def test_certificate_alone(self, stack, files):
        address = self.serve(stack, files)
        open_client(address, authenticate=files.authority()).close()

    def test_host_name_is_checked(self, stack, files):
        address = self.serve(stack, files)
        keys = {"authenticate": files.authority(), "server_hostname": "x.example"}
        with pytest.raises(ClientDisconnected, match=r"'x\.example'"):
            open_client(address, **keys)
        with pytest.raises(ClientDisconnected, match=r"'x\.example'"):
            open_client(address, **keys, check_hostname="false")

    def test_host_name_is_not_checked(self, stack, files):
        ours = files.both(issue("db.example.com"), "other.pem")
        address, stop = zeolite.server(zeo_conf=section(certificate=ours))
        stack.callback(stop)
        keys = {"authenticate": files.authority()}
        with pytest.raises(ClientDisconnected, match="server-hostname"):
            open_client(address, **keys)
        open_client(address, **keys, check_hostname="false").close()

    def test_system_authorities_are_the_default(self, stack, files, monkeypatch):
        address = self.serve(stack, files)
        with pytest.raises(ClientDisconnected, match="is not known here"):
            open_client(address, check_hostname="true")
        monkeypatch.setenv("SSL_CERT_FILE", str(files.authority()))
        open_client(address, check_hostname="true").close()

    def test_system_authorities_do_not_vouch_for_clients(
        self, stack, files, monkeypatch
    ):
        monkeypatch.setenv("SSL_CERT_FILE", str(files.authority("system")))
        address = self.serve(stack, files, authenticate=files.authority("clients"))
        with pytest.raises(ClientDisconnected, match="does not know this client's"):
            open_client(
                address,
                certificate=files.both(issue("client", by="system"), "client.pem"),
                authenticate=files.authority(),
            )

    def test_the_certificate_itself_is_trusted(self, stack, files):
        """Not its authority, so that no other one of that will do."""
        friend, stranger = issue("friend", by="all"), issue("stranger", by="all")
        address = self.serve(
            stack, files, authenticate=files.certificate(friend, "friend.pem")
        )
        keys = {"authenticate": files.authority()}
        open_client(address, certificate=files.both(friend, "f.pem"), **keys).close()
        with pytest.raises(ClientDisconnected, match="does not know this client's"):
            open_client(address, certificate=files.both(stranger, "s.pem"), **keys)

    def test_directory(self, stack, files, tmp_path):
        (tmp_path / "trusted").mkdir()
        trusted = Files(tmp_path / "trusted")
        friends = [issue(f"friend{number}", by=f"{number}") for number in range(2)]
        for number, friend in enumerate(friends):
            trusted.certificate(friend, f"{number}.pem")
        address = self.serve(stack, files, authenticate=tmp_path / "trusted")
        for friend in friends:
            open_client(
                address,
                certificate=files.both(friend, "friend.pem"),
                authenticate=files.authority(),
            ).close()
        with pytest.raises(ClientDisconnected, match="does not know this client's"):
            open_client(
                address,
                certificate=files.both(issue("client"), "client.pem"),
                authenticate=files.authority(),
            )

    def test_least_version(self, stack, files):
        address = self.serve(stack, files)
        old = client_context()
        with pytest.warns(DeprecationWarning):
            old.minimum_version = ssl.TLSVersion.TLSv1_1
            old.maximum_version = ssl.TLSVersion.TLSv1_1
        old.set_ciphers("ALL:@SECLEVEL=0")
        assert "no version of TLS in common" in refused(address, old)


def mistakes(files):
    """Yield names, keys of a section and what is said about them."""
    good, other = issue(), issue("other")
    certificate, key = files.certificate(good), files.key(good)
    locked = files.key(good, PASSWORD, "locked.pem")
    nonsense = files._directory / "nonsense.pem"
    nonsense.write_text("nonsense")
    empty = files._directory / "empty"
    empty.mkdir()
    both = {"certificate": certificate, "key": key}
    protected = {"certificate": certificate, "key": locked}
    function = "password_function"
    yield {**both, "certificate": "none.pem"}, "none.pem cannot be read: No such"
    yield {**both, "key": "none.pem"}, "none.pem cannot be read: No such"
    yield {"certificate": empty}, "cannot be read: Is a directory"
    yield {"certificate": certificate}, "are not a certificate and its key"
    yield {"certificate": nonsense}, "are not a certificate and its key"
    yield (
        {**both, "key": files.key(other, name="other.pem")},
        r"the key \S+other.pem does not belong to \S+certificate.pem",
    )
    yield protected, "locked.pem needs a password; set password-function"
    for name, said in [
        ("tests.test_tls.wrong_password", "does not open the key .*locked.pem"),
        ("tests.test_tls.failing_password", "LookupError: no password today"),
        ("tests.test_tls.no_password", "is to return a str, not a NoneType"),
        ("tests.test_tls.missing", "AttributeError: .*missing"),
        ("no.such.module", "ModuleNotFoundError"),
        ("password", "ValueError: Empty module name"),
    ]:
        yield {**protected, function: name}, f"{name}.* {said}"
    yield {**both, "authenticate": "none.pem"}, "none.pem cannot be read: No such"
    yield {**both, "authenticate": nonsense}, "nonsense.pem has no certificates in PEM"
    yield {**both, "authenticate": empty}, "there are no certificates in"


class TestMistakes:
    def test_server(self, files):
        for keys, said in mistakes(files):
            with pytest.raises(ConfigurationError, match=said) as error:
                zeolite.server(zeo_conf=section(**keys))
            assert "\n" not in str(error.value)

    def test_client(self, files):
        for keys, said in mistakes(files):
            with pytest.raises(ConfigurationError, match=said) as error:
                open_client(("127.0.0.1", 1), **keys)
            assert "\n" not in str(error.value)

    def test_expired_server(self, files):
        for age, number in ((1, 1), (400, 2)):
            expired = files.both(issue(age=age), f"{number}.pem")
            with pytest.raises(ConfigurationError, match=f"{number}.pem has expired"):
                zeolite.server(zeo_conf=section(certificate=expired))

    def test_certificate_only_of_an_authority_of_its_own(self, stack, files):
        """Whether anybody trusts it is not the server's business."""
        _, stop = zeolite.server(
            zeo_conf=section(certificate=files.both(issue(by="nobody")))
        )
        stop()

    def test_key_without_certificate(self, files):
        with pytest.raises(ConfigurationError, match="a key but no certificate"):
            open_client(("127.0.0.1", 1), key=files.key(issue()))

    def test_server_without_certificate(self):
        with pytest.raises(ConfigurationError, match="certificate"):
            zeolite.server(zeo_conf="<ssl>\n</ssl>")
