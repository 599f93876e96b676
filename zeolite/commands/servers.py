"""Servers that a command is to connect to: addresses, TLS and patience.

Addresses are written as everywhere, HOST:PORT, PORT on 127.0.0.1, [IPV6]:PORT, or the
path of a Unix socket with a slash in it.  `unix:PATH` needs no slash.  Where it makes
sense, the name of a storage may follow after a colon.
"""

import argparse
import math
import re

from .. import config
from ..clientstorage.storage import ClientStorage
from ..errors import ConfigurationError
from ..wire.channel import format_address
from ..wire.tlssettings import TLSSettings

#: Seconds that a server has to answer, if nothing else is said.
TIMEOUT = 10

# HOST:PORT:NAME, [IPV6]:PORT:NAME, and PORT:NAME unless the name is a number.
_NAMED = re.compile(r"((?:\[[^]]*\]|[^:]*):\d+|\d+(?=:.*[^\d])):(.+)")

#: The most of these, about eleven days; more than a little more no system can wait.
_MOST_SECONDS = 1_000_000


def address(text):
    """The address of a server: a pair of host and port, or a path.  For argparse."""
    if text.startswith("unix:"):
        return _path(text)
    try:
        return config.client_address(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def storage_address(text):
    """An address, and the name of a storage or None.  For argparse."""
    path, colon, name = text.rpartition(":")
    if text.startswith("unix:") or "/" in text:
        if colon and "/" not in name and path not in ("", "unix"):
            return address(path), name or None
        return address(text), None
    match = _NAMED.fullmatch(text)
    if match:
        return address(match[1]), match[2]
    return address(text), None


def _path(text):
    path = text.removeprefix("unix:")
    if not path:
        raise argparse.ArgumentTypeError("unix: is followed by the path of a socket")
    return path if "/" in path else f"./{path}"


def seconds(text):
    """A number of seconds, greater than zero.  For argparse."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number <= _MOST_SECONDS:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds above 0")
    return number


def add_arguments(parser):
    """Add the options of a command that connects."""
    group = parser.add_argument_group("connecting")
    group.add_argument(
        "--timeout",
        type=seconds,
        default=TIMEOUT,
        metavar="SECONDS",
        help="how long a server may take to accept and answer (default: %(default)s)",
    )
    group.add_argument("--ssl", action="store_true", help="use TLS; the rest imply it")
    group.add_argument(
        "--ssl-authenticate",
        metavar="FILE",
        help="certificates (PEM file, or a directory) of servers or authorities to "
        "trust; by default the authorities that the system trusts",
    )
    group.add_argument(
        "--ssl-certificate", metavar="FILE", help="the client's certificate (PEM)"
    )
    group.add_argument(
        "--ssl-key", metavar="FILE", help="its key, if that is another file"
    )
    group.add_argument(
        "--ssl-password-function",
        metavar="NAME",
        help="dotted name of a function that returns the key's password",
    )
    group.add_argument(
        "--ssl-server-hostname",
        metavar="HOST",
        help="the host that the server's certificate is to be for, if not the address's",
    )
    group.add_argument(
        "--ssl-no-check-hostname",
        action="store_true",
        help="let the server's certificate be for any host",
    )


class Access:
    """How to get at servers: what the options of `add_arguments` say.

    Raises `ConfigurationError` for files that cannot be used.
    """

    def __init__(self, arguments):
        self.timeout = arguments.timeout
        #: An `ssl.SSLContext`, or None for no encryption.
        self.tls = _context(arguments)
        self.hostname = arguments.ssl_server_hostname

    def open(self, address, storage, **kwargs):
        """Return a `ClientStorage` that is connected.

        Raises `ClientDisconnected` and other errors of it.
        """
        self.check(address)
        return ClientStorage(
            address,
            storage=storage,
            wait_timeout=self.timeout,
            ssl=self.tls,
            ssl_server_hostname=self.hostname,
            **kwargs,
        )

    def check(self, address):
        """Raise `ConfigurationError` for an address that cannot be had with TLS."""
        if self.tls is not None and isinstance(address, str) and not self.hostname:
            if self.tls.check_hostname:
                raise ConfigurationError(
                    f"{address}: a Unix socket has no host that a certificate could be "
                    "for; give --ssl-server-hostname, or --ssl-no-check-hostname"
                )


def _context(arguments):
    if arguments.ssl_key and not arguments.ssl_certificate:
        raise ConfigurationError("--ssl-key is of no use without --ssl-certificate")
    settings = TLSSettings(
        certificate=arguments.ssl_certificate,
        key=arguments.ssl_key,
        password_function=arguments.ssl_password_function,
        authenticate=arguments.ssl_authenticate,
        check_hostname=not arguments.ssl_no_check_hostname,
        server_hostname=arguments.ssl_server_hostname,
    )
    if settings == TLSSettings() and not arguments.ssl:
        return None
    return settings.client_context()


def reason(error):
    """Return what is wrong, in one line, with the kind of error where that says more."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    if isinstance(error, OSError | KeyError | TypeError | AttributeError):
        text = f"{type(error).__name__}: {text}"
    return " ".join(text.split())


def described(address, error):
    """Return what is wrong with a server, in one line that begins with its address."""
    where = format_address(address)
    text = reason(error)
    return text if text.startswith(f"{where}: ") else f"{where}: {text}"
