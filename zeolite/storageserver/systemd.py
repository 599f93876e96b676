"""What systemd and a service tell each other, without its library.

See the manual pages sd_notify(3) and sd_listen_fds(3).
"""

import logging
import os
import socket

from ..errors import ConfigurationError
from ..wire.channel import format_address

logger = logging.getLogger(__name__)

#: The first descriptor that is passed on.
_FIRST = 3

#: Seconds that a message may take.
_PATIENCE = 1


class Notifier:
    """Sends what `NOTIFY_SOCKET` wants to know; does nothing without it."""

    def __init__(self):
        # Processes that this one starts are not to speak for it.
        address = os.environ.pop("NOTIFY_SOCKET", None)
        if address and address.startswith("@"):
            address = "\0" + address[1:]
        self._address = address

    def tell(self, *lines):
        """Send lines (str) such as "READY=1"; what fails is in the log."""
        if not self._address:
            return
        text = "\n".join(line.replace("\n", " ") for line in lines)
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
                sock.settimeout(_PATIENCE)
                sock.sendto(text.encode(errors="replace"), self._address)
        except (OSError, ValueError) as error:
            logger.warning("NOTIFY_SOCKET cannot be told %s: %s", lines[0], error)


def inherited_socket(address):
    """Return the listening socket that systemd has opened for us, or None.

    `address` is a pair of host and port, or a path: what it is to listen at.
    Raises `ConfigurationError` if it is anything else.
    """
    count = os.environ.pop("LISTEN_FDS", None)
    pid = os.environ.pop("LISTEN_PID", None)
    os.environ.pop("LISTEN_FDNAMES", None)
    if not count or pid != str(os.getpid()):
        return None
    if count != "1":
        raise ConfigurationError(
            f"LISTEN_FDS passes on {count} sockets, and one address is served; leave "
            "one ListenStream in the socket unit"
        )
    os.set_inheritable(_FIRST, False)
    try:
        sock = socket.socket(fileno=_FIRST)
    except OSError as error:
        raise ConfigurationError(
            f"LISTEN_FDS passes on no socket: descriptor {_FIRST}: {error.strerror}"
        ) from error
    problem = _problem(sock, address)
    if problem:
        sock.close()
        raise ConfigurationError(
            f"the socket of LISTEN_FDS {problem}, and the address here is "
            f"{format_address(address)}; make ListenStream and address the same"
        )
    return sock


def _problem(sock, address):
    """Return what is wrong with a socket, or None."""
    if sock.type != socket.SOCK_STREAM:
        return "is not for streams"
    if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        return "does not listen"
    name = sock.getsockname()
    if sock.family in (socket.AF_INET, socket.AF_INET6):
        matches = not isinstance(address, str) and _is_same_place(name[:2], address)
        return None if matches else f"listens at {format_address(name[:2])}"
    if sock.family != socket.AF_UNIX:
        return f"is of an unknown family, {sock.family}"
    if isinstance(name, bytes):
        name = os.fsdecode(name)
    matches = isinstance(address, str) and _is_same_file(name, address)
    return None if matches else f"listens at {name!r}"


def _is_same_place(name, address):
    host, port = address
    if port not in (0, name[1]):
        return False
    if not host:
        return name[0] in ("0.0.0.0", "::")
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        return False
    return name[0] in [item[4][0] for item in found]


def _is_same_file(name, path):
    return os.path.realpath(name) == os.path.realpath(path)
