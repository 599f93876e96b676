"""Arguments and sections for encryption, and what is said about those that cannot work."""

import shutil
import ssl
import subprocess

import pytest
import ZODB.config

import zeolite
from tests.support.certificates import (
    Files,
    authority,
    client_context,
    issue,
    server_context,
)
from zeolite.errors import ClientDisconnected, ConfigurationError

from .support.refusals import FOR_EVER, refused


@pytest.fixture
def files(tmp_path):
    return Files(tmp_path)


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
            serve(ssl=server_context()), client_context(), ssl_server_hostname=".x"
        )
        assert why.startswith("TLS is not possible with this ssl or host")

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
        zeolite.client(
            address, ssl=client_context(issue("client", by="clients"))
        ).close()
        refused(address, client_context(issue("client", by="strangers")))

    @pytest.mark.parametrize("name", [".", "a\0b", f"{'a' * 64}.example"])
    def test_more_host_names_that_are_none(self, serve, caplog, name):
        address = serve(ssl=server_context())
        why = refused(address, client_context(), ssl_server_hostname=name)
        assert why.startswith("TLS is not possible with this ssl or host")
        assert "Traceback" not in caplog.text

    def test_two_ways_for_a_server(self, files):
        section = f"<ssl>\ncertificate {files.both(issue())}\n</ssl>"
        with pytest.raises(ConfigurationError, match="an ssl section, and the arg"):
            zeolite.server(zeo_conf=section, ssl=server_context())


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
        (
            "tests.test_tls_settings.wrong_password",
            "does not open the key .*locked.pem",
        ),
        ("tests.test_tls_settings.failing_password", "LookupError: no password today"),
        ("tests.test_tls_settings.no_password", "is to return a str, not a NoneType"),
        ("tests.test_tls_settings.missing", "AttributeError: .*missing"),
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
