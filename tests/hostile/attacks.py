"""What can be done to a server: crowds of connections, and pickles that hurt.

Each attack takes an address (host, port), waits up to `patience` seconds for the
server to get rid of it, and returns a report, whose `lines` say what happened.
"""

import collections
import dataclasses
import ipaddress
import selectors
import socket
import struct
import time

from tests.support.bombs import BOMBS
from tests.support.rawclient import Closed, RawClient

_Z5 = struct.pack(">I", 2) + b"Z5"

#: Seconds that a server has to react to one bomb.
_BOMB_PATIENCE = 10


def loopback(text):
    """Return "HOST:PORT" as (address, port).

    Raises `ValueError` unless the host is this machine, by its loopback interface.
    """
    host, _, port = text.rpartition(":")
    if not port.isdigit():
        raise ValueError(f"{text!r} is not HOST:PORT")
    try:
        found = socket.getaddrinfo(host.strip("[]"), int(port), socket.AF_INET)
    except OSError as error:
        raise ValueError(f"{host}: {error}") from None
    for *_, (place, _) in found:
        if not ipaddress.ip_address(place).is_loopback:
            raise ValueError(f"{host} is {place}, which is not this machine alone")
    return found[0][4]


@dataclasses.dataclass
class Crowd:
    """What became of connections.  Times are in seconds."""

    wanted: int
    connected: int = 0
    refused: int = 0
    closed: int = 0
    sent: int = 0
    first_closed: float = 0.0
    last_closed: float = 0.0

    @property
    def still_open(self):
        return self.connected - self.closed

    def lines(self):
        yield f"{self.connected} of {self.wanted} connected, {self.refused} refused"
        yield f"{self.sent:,} bytes sent"
        if self.closed:
            yield (
                f"{self.closed} closed by the server, after "
                f"{self.first_closed:.1f} to {self.last_closed:.1f} seconds"
            )
        yield f"{self.still_open} still open"


def silent(address, patience=60, count=1000):
    """Connections that say nothing."""
    return _crowd(address, count, patience, b"", b"")


def slow(address, patience=60, count=1000):
    """Connections that send one byte a second."""
    frame = struct.pack(">I", 60_000) + b"x" * 60_000
    return _crowd(address, count, patience, b"", _Z5 + frame)


def half(address, patience=60, count=100):
    """Half of the largest frame that a stranger may send, and no more."""
    start = _Z5 + struct.pack(">I", 64 * 1024) + b"x" * (32 * 1024)
    return _crowd(address, count, patience, start, b"")


def large(address, patience=60, count=100):
    """Half of a frame of 8 MB, from strangers."""
    start = _Z5 + struct.pack(">I", 8 * 2**20) + b"x" * (4 * 2**20)
    return _crowd(address, count, patience, start, b"")


def _crowd(address, count, patience, start, trickle):
    """Connect, send `start` and then a byte of `trickle` a second; wait."""
    crowd = Crowd(count)
    selector = selectors.DefaultSelector()
    try:
        begin = time.monotonic()
        for _ in range(count):
            try:
                sock = socket.create_connection(address, 10)
            except OSError:
                crowd.refused += 1
                continue
            crowd.connected += 1
            sock.setblocking(False)
            events = selectors.EVENT_READ | (selectors.EVENT_WRITE if start else 0)
            selector.register(sock, events, memoryview(start))
        _watch(crowd, selector, begin, patience, trickle)
    finally:
        for key in list(selector.get_map().values()):
            key.fileobj.close()
        selector.close()
    return crowd


def _watch(crowd, selector, begin, patience, trickle):
    deadline, next_byte, at = begin + patience, time.monotonic(), 0
    while selector.get_map() and time.monotonic() < deadline:
        for key, events in selector.select(0.1):
            alive = _take(key.fileobj) if events & selectors.EVENT_READ else True
            if alive and events & selectors.EVENT_WRITE:
                alive = _send_more(crowd, selector, key)
            if not alive:
                _gone(crowd, selector, key.fileobj, begin)
        if trickle and time.monotonic() >= next_byte:
            byte, at, next_byte = trickle[at : at + 1], at + 1, next_byte + 1
            for key in list(selector.get_map().values()):
                try:
                    crowd.sent += key.fileobj.send(byte)
                except BlockingIOError:
                    pass
                except OSError:
                    _gone(crowd, selector, key.fileobj, begin)


def _take(sock):
    """Read what there is; return False if the server has closed."""
    try:
        return sock.recv(65536) != b""
    except BlockingIOError:
        return True
    except OSError:
        return False


def _send_more(crowd, selector, key):
    try:
        sent = key.fileobj.send(key.data[: 256 * 1024])
    except BlockingIOError:
        return True
    except OSError:
        return False
    crowd.sent += sent
    rest = key.data[sent:]
    events = selectors.EVENT_READ | (selectors.EVENT_WRITE if rest else 0)
    selector.modify(key.fileobj, events, rest)
    return True


def _gone(crowd, selector, sock, begin):
    selector.unregister(sock)
    sock.close()
    crowd.closed += 1
    crowd.last_closed = time.monotonic() - begin
    crowd.first_closed = crowd.first_closed or crowd.last_closed


@dataclasses.dataclass
class Bombs:
    """What a server did about each bomb: pairs of what was sent, and the outcome."""

    outcomes: list

    def lines(self):
        for what, outcome in self.outcomes:
            yield f"{what}: {outcome}"
        counts = collections.Counter(outcome for _, outcome in self.outcomes)
        for outcome, count in counts.most_common():
            yield f"{count} {outcome}"


def bombs(address, patience=_BOMB_PATIENCE, count=None):
    """Pickles that are made to hurt, before and after registering."""
    outcomes = []
    for name, data in list(BOMBS.items())[:count]:
        for register in (False, True):
            when = "registered" if register else "stranger"
            outcome = throw(address, data, register, min(patience, _BOMB_PATIENCE))
            outcomes.append((f"{name} ({when})", outcome))
    return Bombs(outcomes)


def throw(address, data, register, patience=_BOMB_PATIENCE):
    """Send one frame; return "closed", "answered", an error, or "no answer"."""
    client = RawClient(address, register=False, timeout=patience)
    try:
        client.handshake()
        if register:
            client.ask("register", "1", False)
        client.send_frame(data)
        message = client.read()
        return f"error: {message[2][0]}" if message[0] == "error" else "answered"
    except (Closed, ConnectionError):
        return "closed"
    except TimeoutError:
        return "no answer"
    finally:
        client.close()


ATTACKS = {
    "silent": silent,
    "slow": slow,
    "half": half,
    "large": large,
    "bombs": bombs,
}
