"""Addresses as users write them, and connecting to the first that answers."""

import os
import selectors
import socket
import time

#: Seconds that an address gets to accept a connection.
CONNECT_TIMEOUT = 10

#: Seconds between two looks at whether connecting is still wanted.
_LOOK = 0.2


def parse(addr):
    """Return a list of addresses: pairs of host and port, or paths (str).

    `addr` is a port (int) on 127.0.0.1, a pair of host and port, the path of a
    Unix socket, or a list of these.  Raises `TypeError` or `ValueError` for
    anything else.
    """
    if isinstance(addr, list):
        if not addr:
            raise ValueError("no address was given")
        return [address for part in addr for address in parse(part)]
    if isinstance(addr, bool):
        raise TypeError("an address is not a bool")
    if isinstance(addr, int):
        addr = ("127.0.0.1", addr)
    if isinstance(addr, tuple):
        if len(addr) != 2 or not (
            isinstance(addr[0], str | None) and isinstance(addr[1], int)
        ):
            raise TypeError(f"an address is a pair of host and port, not {addr!r}")
        if not 0 < addr[1] < 65536:
            raise ValueError(f"{addr[1]} is no port")
        return [(addr[0] or "127.0.0.1", addr[1])]
    if isinstance(addr, str) and "/" not in addr and addr.rpartition(":")[2].isdigit():
        raise ValueError(
            f"{addr!r} would be the path of a Unix socket; write (host, port), or "
            "./ in front of a path"
        )
    if isinstance(addr, str | os.PathLike):
        if not hasattr(socket, "AF_UNIX"):
            raise ValueError("there are no Unix sockets on this system")
        return [os.fspath(addr)]
    raise TypeError(f"not an address: {addr!r}")


def connect(addresses, wanted, failed):
    """Yield (address, connected socket) for each address that accepts, in time.

    All are tried at once, so that a dead one does not delay another.  `wanted`
    is asked now and then whether to go on; `failed` is told the address and the
    `OSError` of each that does not work.  Sockets that were not handed out are
    closed.
    """
    pending = {}
    try:
        for address in addresses:
            try:
                _start(address, pending)
            except (OSError, ValueError) as error:
                failed(address, error)
        deadline = time.monotonic() + CONNECT_TIMEOUT
        while pending and wanted():
            if time.monotonic() > deadline:
                for address in set(pending.values()):
                    failed(address, TimeoutError("it does not answer"))
                return
            for sock in _connected(pending):
                address = pending.pop(sock)
                code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                if code:
                    sock.close()
                    if address not in pending.values():
                        failed(address, OSError(code, os.strerror(code)))
                else:
                    yield address, sock
    finally:
        for sock in pending:
            sock.close()


def _start(address, pending):
    """Begin to connect to every place that `address` stands for."""
    if isinstance(address, str):
        found = [(socket.AF_UNIX, address)]
    else:
        found = [
            (family, place)
            for family, *_, place in socket.getaddrinfo(
                *address, type=socket.SOCK_STREAM
            )
        ]
    for family, place in found:
        sock = socket.socket(family, socket.SOCK_STREAM)
        sock.setblocking(False)
        try:
            sock.connect(place)
        except BlockingIOError:
            pass
        except OSError:
            sock.close()
            if place is found[-1][1] and address not in pending.values():
                raise
            continue
        pending[sock] = address


def _connected(pending):
    with selectors.DefaultSelector() as selector:
        for sock in pending:
            selector.register(sock, selectors.EVENT_WRITE)
        return [key.fileobj for key, _ in selector.select(_LOOK)]
