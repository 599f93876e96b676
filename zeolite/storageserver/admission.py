"""How many may be connected, and from where.

Connections are counted when they are accepted, before they cost a thread, and until
their thread has ended.
"""

import collections
import ipaddress
import resource
import socket
import threading

#: The part of the process's file descriptors that connections may use.  The rest is
#: for the storages: a commit may need a file.
_SHARE = 7 / 8

#: Open files that the process asks the system for.
_ENOUGH = 65536


class Admission:
    """Counts connections.  Any thread calls any method.

    `most` and `most_per_address` are numbers of connections, 0 for no limit.
    """

    def __init__(self, most, most_per_address):
        self._most = most
        self._most_per_address = most_per_address
        self._lock = threading.Lock()  # Guards both below.
        self._count = 0
        self._per_address = collections.Counter()

    def enter(self, host):
        """Count a connection; return None, or why (str) there may not be one more.

        `host` is the peer's IP address (str), None for a Unix socket.
        """
        origin = _origin(host)
        room = _descriptors()
        with self._lock:
            if self._most and self._count >= self._most:
                return "max-connections are open"
            if room is not None and self._count >= room:
                return (
                    "as many are open as the process may have open files; raise "
                    "that limit (ulimit -n)"
                )
            most = self._most_per_address
            if origin is not None and most and self._per_address[origin] >= most:
                return "max-connections-per-address are open"
            self._count += 1
            if origin is not None:
                self._per_address[origin] += 1
        return None

    def leave(self, host):
        """A connection that had entered is gone."""
        origin = _origin(host)
        with self._lock:
            self._count -= 1
            if origin is not None:
                self._per_address[origin] -= 1
                if not self._per_address[origin]:
                    del self._per_address[origin]


def is_everywhere(host):
    """Whether `host` (str) stands for all interfaces of this machine."""
    try:
        return not host or ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False


def raise_descriptor_limit():
    """Let the process have as many open files as it may allow itself."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _ENOUGH if hard == resource.RLIM_INFINITY else min(hard, _ENOUGH)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        except (OSError, ValueError):
            pass  # Some systems promise more than they give.


def _descriptors():
    """Return how many connections the process's open files allow, None for all."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if soft == resource.RLIM_INFINITY else int(soft * _SHARE)


def _origin(host):
    """Return what stands for everybody who can connect from `host`.

    Whoever has one IPv6 address has a network of them, the first 64 bits.
    """
    if host is None or ":" not in host:
        return host
    packed = socket.inet_pton(socket.AF_INET6, host.partition("%")[0])
    mapped = ipaddress.IPv6Address(packed).ipv4_mapped
    return packed[:8] if mapped is None else str(mapped)
