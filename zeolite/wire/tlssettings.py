"""The keys of an `<ssl>` section, and the `ssl.SSLContext` that they stand for.

What cannot work is a `ConfigurationError` in one line.  OpenSSL hardly tells files
apart, so they are looked at one by one.
"""

import contextlib
import dataclasses
import importlib
import os
import re
import ssl

from ..errors import ConfigurationError

#: How OpenSSL names certificates in a directory where it is to find them.
_HASHED = re.compile(r"[0-9a-f]{8}\.[0-9]+")

_ENDINGS = ".pem", ".crt", ".cer"

# X509_V_ERR_CERT_NOT_YET_VALID and _HAS_EXPIRED.
_DATES = {9: "is not valid yet; look at the clock", 10: "has expired; renew it"}


@dataclasses.dataclass(frozen=True)
class TLSSettings:
    """What an `<ssl>` section says.

    `certificate` and `key` are paths of PEM files (str), the second one of None if
    the first has both; `password_function` is the dotted name of a function that
    returns the key's password; `authenticate` is the path of a file or a directory
    of certificates to trust.  The last two are the client's.
    """

    certificate: str | None = None
    key: str | None = None
    password_function: str | None = None
    authenticate: str | None = None
    check_hostname: bool = True
    server_hostname: str | None = None

    def server_context(self):
        """Read the files and return a server's context.

        Raises `ConfigurationError`, for a certificate that has expired, too.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.num_tickets = 0  # Sessions are not resumed.
        self._prepare(context)
        _check_dates(context, self.certificate)
        if self.authenticate:
            context.verify_mode = ssl.CERT_REQUIRED
        return context

    def client_context(self):
        """Read the files and return a client's context.

        Without `authenticate` it trusts the authorities that the system trusts.
        Raises `ConfigurationError`.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = self.check_hostname or bool(self.server_hostname)
        if not self.authenticate:
            context.load_default_certs()
        self._prepare(context)
        return context

    def _prepare(self, context):
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.options |= ssl.OP_NO_RENEGOTIATION
        # A certificate that is trusted needs no trusted authority as well.
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        if self.certificate:
            self._load_certificate(context)
        elif self.key or self.password_function:
            raise ConfigurationError("the ssl section has a key but no certificate")
        if self.authenticate:
            _load_trusted(context, self.authenticate)

    def _load_certificate(self, context):
        for path in filter(None, (self.certificate, self.key)):
            _read(path)
        key = self.key or self.certificate
        password = _Password(self.password_function, key)
        try:
            context.load_cert_chain(self.certificate, self.key, password)
        except ConfigurationError:
            raise
        except (OSError, ValueError, TypeError) as error:
            if password.was_asked:
                text = (
                    f"the password of {self.password_function} does not open the key "
                    f"{key}"
                )
            elif getattr(error, "reason", None) == "KEY_VALUES_MISMATCH":
                text = f"the key {key} does not belong to {self.certificate}"
            else:
                text = (
                    f"{self.certificate} and {key} are not a certificate and its key "
                    f"in PEM format: {error}"
                )
            raise ConfigurationError(text) from error


class _Password:
    """What OpenSSL calls when it needs a key's password."""

    def __init__(self, function, key):
        self._function = function
        self._key = key
        self.was_asked = False

    def __call__(self):
        if not self._function:
            # Otherwise OpenSSL asks at the terminal.
            raise ConfigurationError(
                f"the key {self._key} needs a password; set password-function"
            )
        try:
            module, _, name = self._function.rpartition(".")
            password = getattr(importlib.import_module(module), name)()
        except Exception as error:
            raise ConfigurationError(
                f"password-function {self._function} failed: "
                f"{type(error).__name__}: {error}"
            ) from error
        if not isinstance(password, str | bytes):
            raise ConfigurationError(
                f"password-function {self._function} is to return a str, not a "
                f"{type(password).__name__}"
            )
        self.was_asked = True
        return password


def _read(path):
    try:
        with open(path, "rb") as file:
            file.read(1)
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}") from error


def _load_trusted(context, path):
    """Have a context trust the certificates in a file or a directory."""
    if not os.path.isdir(path):
        _load_file(context, path)
        return
    try:
        names = sorted(os.listdir(path))
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}") from error
    files = [name for name in names if name.endswith(_ENDINGS)]
    if not files and not any(map(_HASHED.fullmatch, names)):
        raise ConfigurationError(
            f"there are no certificates in {path}; their names end in "
            f"{', '.join(_ENDINGS)}"
        )
    context.load_verify_locations(capath=path)
    for name in files:
        _load_file(context, os.path.join(path, name))


def _load_file(context, path):
    _read(path)
    try:
        context.load_verify_locations(cafile=path)
    except (OSError, ValueError) as error:
        raise ConfigurationError(
            f"{path} has no certificates in PEM format: {error}"
        ) from error


def _check_dates(context, path):
    """Raise if nobody would accept a server's certificate today.

    OpenSSL tells only those whom it is shown to, so it is shown to a client here.
    """
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    client.load_verify_locations(cafile=path)
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = client.wrap_bio(back, there), context.wrap_bio(there, back, True)
    for end in (*ends, ends[0]):
        try:
            with contextlib.suppress(ssl.SSLWantReadError):
                end.do_handshake()
        except ssl.SSLCertVerificationError as error:
            if error.verify_code in _DATES:
                raise ConfigurationError(
                    f"the certificate {path} {_DATES[error.verify_code]}"
                ) from error
        except ssl.SSLError:
            return  # Whatever it is, it is not the date.
