"""Certificates for tests, made anew for each run."""

import datetime
import functools
import ssl

import trustme
from cryptography.hazmat.primitives import serialization

#: The hosts and addresses that a server's certificate is for.
HOSTS = "localhost", "127.0.0.1", "::1"


@functools.cache
def authority(name="ours"):
    """Return a `trustme.CA`; the same one for the same name."""
    return trustme.CA()


@functools.cache
def issue(*hosts, by="ours", age=None):
    """Return a `trustme.LeafCert`; with `age` it expired so many days ago."""
    expired = age and datetime.datetime.now(datetime.timezone.utc)
    return authority(by).issue_cert(
        *(hosts or HOSTS),
        not_before=expired and expired - datetime.timedelta(days=age + 1),
        not_after=expired and expired - datetime.timedelta(days=age),
    )


class SelfSigned:
    """A certificate that is its own authority, as `trustme.LeafCert`."""

    def configure_cert(self, context):
        own = authority("self")
        pem = trustme.Blob(own.private_key_pem.bytes() + own.cert_pem.bytes())
        with pem.tempfile() as path:
            context.load_cert_chain(path)


def server_context(certificate=None, wanted=None, version=None):
    """Return a server's `ssl.SSLContext`.

    With `wanted`, the name of an authority, clients need certificates of it;
    `version` (`ssl.TLSVersion`) is the only version of TLS.
    """
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    (certificate or issue()).configure_cert(context)
    if wanted:
        context.verify_mode = ssl.CERT_REQUIRED
        authority(wanted).configure_trust(context)
    return _of_version(context, version)


def client_context(certificate=None, trusted="ours", version=None):
    """Return a client's `ssl.SSLContext` that trusts an authority."""
    context = ssl.create_default_context()
    if trusted:
        authority(trusted).configure_trust(context)
    if certificate is not None:
        certificate.configure_cert(context)
    return _of_version(context, version)


def _of_version(context, version):
    if version is not None:
        context.minimum_version = context.maximum_version = version
    return context


class Files:
    """Writes certificates into a directory (`pathlib.Path`)."""

    def __init__(self, directory):
        self._directory = directory

    def authority(self, name="ours"):
        """Return the path of an authority's certificate."""
        path = self._directory / f"authority-{name}.pem"
        authority(name).cert_pem.write_to_path(path)
        return path

    def both(self, certificate, name="both.pem"):
        """Return the path of a file with a certificate and its key."""
        path = self._directory / name
        certificate.private_key_and_cert_chain_pem.write_to_path(path)
        return path

    def certificate(self, certificate, name="certificate.pem"):
        """Return the path of a file with a certificate."""
        path = self._directory / name
        certificate.cert_chain_pems[0].write_to_path(path)
        return path

    def key(self, certificate, password=None, name="key.pem"):
        """Return the path of a file with a key, which may need a password."""
        path = self._directory / name
        pem = certificate.private_key_pem.bytes()
        if password is not None:
            pem = serialization.load_pem_private_key(pem, None).private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.BestAvailableEncryption(password.encode()),
            )
        path.write_bytes(pem)
        return path
