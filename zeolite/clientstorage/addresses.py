"""Addresses as users write them, and the places that they stand for."""

import os
import socket
import threading
from typing import Any

#: What users may give as the argument `addr`; a list has addresses.
Address = (
    int
    | tuple[str | None, int]
    | tuple[tuple[str | None, int], ...]
    | str
    | os.PathLike[str]
    | list[Any]
)


def parse(addr: Address) -> list[tuple[str, int] | str]:
    """Return a list of addresses: pairs of host and port, or paths (str).

    `addr` is a port (int) on 127.0.0.1, a pair of host and port, the path of a
    Unix socket, or a list of these.  Raises `TypeError` or `ValueError` for
    anything else.
    """
    if isinstance(addr, tuple) and addr and all(type(part) is tuple for part in addr):
        addr = list(addr)  # It could be nothing else, and ZEO takes it.
    if isinstance(addr, list):
        if not addr:
            raise ValueError("no address was given")
        if len(addr) == 2 and _is_host(addr[0]) and type(addr[1]) is int:
            raise ValueError(
                f"{addr!r} would be two addresses; write the pair {tuple(addr)!r}"
            )
        return [address for part in addr for address in parse(part)]
    if isinstance(addr, bool):
        raise TypeError("an address is not a bool")
    if isinstance(addr, int):
        addr = ("127.0.0.1", addr)
    if isinstance(addr, tuple):
        return [_pair(addr)]
    if isinstance(addr, str) and "://" in addr:
        raise ValueError(f"{addr!r} is a URL; write (host, port), or a socket's path")
    if isinstance(addr, str) and not addr:
        raise ValueError("an empty text is no address")
    if isinstance(addr, str) and "/" not in addr and addr.rpartition(":")[2].isdigit():
        raise ValueError(
            f"{addr!r} would be the path of a Unix socket; write (host, port), or "
            "./ in front of a path"
        )
    if isinstance(addr, str | os.PathLike):
        return [os.fspath(addr)]
    raise TypeError(f"not an address: {addr!r}")


def _pair(addr):
    """Return a tuple as a pair of host and port.  Raises as `parse` does."""
    if len(addr) != 2 or not (
        isinstance(addr[0], str | None) and isinstance(addr[1], int)
    ):
        raise TypeError(
            f"an address is a pair of host (str) and port (int), not {addr!r}"
        )
    host, port = addr
    if not 0 < port < 65536:
        raise ValueError(f"{port} is no port")
    if host and "/" in host:
        raise ValueError(f"{host!r} is no host; write its name or IP address")
    if host and host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    return host or "127.0.0.1", port


def _is_host(part):
    # What could be the path of a socket as well, but is next to a port.
    return isinstance(part, str) and "/" not in part


class Resolver:
    """Finds out which places addresses stand for.

    Asking for a host may take long and cannot be cut short, so it is done in a
    thread, of which there is never more than one for a host.  It ends when the
    system's resolver gives up.
    """

    def __init__(self):
        self._lock = threading.Lock()  # Guards `_waiting`.
        self._waiting = {}  # address -> those who want to know

    def resolve(self, address, answer):
        """Have `answer(places)` called, or `answer([], error)`, in any thread.

        A place is a pair of a socket family and what `socket.connect` takes.
        """
        try:
            places = _without_asking(address)
        except Exception as error:
            answer([], error)
            return
        if places:
            answer(places)
            return
        with self._lock:
            waiting = self._waiting.setdefault(address, [])
            waiting.append(answer)
            if len(waiting) > 1:
                return
        try:
            threading.Thread(
                target=self._ask,
                args=(address,),
                name=f"zeolite-resolve-{address[0]}",
                daemon=True,
            ).start()
        except RuntimeError as error:  # There are too many threads.
            self._answer(address, [], error)

    def _ask(self, address):
        try:
            result = (_places(address),)
        except OSError as error:
            result = [], OSError(error.errno, f"unknown host: {error.strerror}")
        except Exception as error:  # A host that cannot be one.
            result = [], OSError(f"unknown host: {error}")
        self._answer(address, *result)

    def _answer(self, address, *result):
        with self._lock:
            waiting = self._waiting.pop(address)
        for answer in waiting:
            answer(*result)


def _without_asking(address):
    """Return the places of a Unix socket or a numeric host, else None."""
    if isinstance(address, str):
        return [(socket.AF_UNIX, address)]
    try:
        return _places(address, socket.AI_NUMERICHOST)
    except (socket.gaierror, UnicodeError):
        return None


def _places(address, flags=0):
    found = socket.getaddrinfo(*address, type=socket.SOCK_STREAM, flags=flags)
    return [(family, place) for family, *_, place in found]
