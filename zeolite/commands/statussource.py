"""Asking a server how it is: `ruok`, which needs no storage and no registering.

Servers of Zeolite and of ZEO answer it, with the `server_status` of each storage.
"""

import dataclasses
import json
import queue
import socket
import time

from ..clientstorage.addresses import Resolver
from ..clientstorage.strangers import refusal
from ..errors import ProtocolError
from ..wire import messages
from ..wire.channel import ConnectionLost, PeerSilent, PlainChannel
from ..wire.frames import FrameReader, frame
from ..wire.tls import TLSChannel

#: Bytes that the answer may have.
_LIMIT = 16 * 1024 * 1024

#: What counts up from the start of the server.
COUNTERS = "loads", "stores", "commits", "aborts", "conflicts", "conflicts_resolved"

#: What goes up and down.
LEVELS = "connections", "active_txns", "waiting"


class NoStatus(Exception):
    """A server did not answer.  The message says why, without its address."""


class NotAServer(NoStatus):
    """What answered is not a server, or none that can be understood."""


@dataclasses.dataclass(frozen=True)
class Answer:
    """What a server said.

    `storages` maps names to dictionaries: see `COUNTERS` and `LEVELS`, which are
    ints in each.  `seconds` is how long it took to connect and answer, and `time`
    when that was (`time.monotonic`).
    """

    storages: dict
    seconds: float
    time: float


def ask(address, access):
    """Return the `Answer` of the server at `address`.  Raises `NoStatus`."""
    start = time.monotonic()
    deadline = start + access.timeout
    places = _places(address, deadline)
    for number, place in enumerate(places):
        left = (deadline - time.monotonic()) / (len(places) - number)
        try:
            data = _ask_place(place, address, access, time.monotonic() + left)
            break
        except (OSError, ConnectionLost) as error:
            if number == len(places) - 1:
                raise NoStatus(_why(error, access)) from error
    storages = _storages(data)
    end = time.monotonic()
    return Answer(storages, end - start, end)


def _why(error, access):
    if isinstance(error, PeerSilent | TimeoutError):
        return f"no answer within {access.timeout:g} seconds"
    text = getattr(error, "strerror", None) or str(error)
    return " ".join(text.split())


def _places(address, deadline):
    answers = queue.SimpleQueue()
    Resolver().resolve(address, lambda *found: answers.put(found))
    try:
        places, *errors = answers.get(timeout=max(0, deadline - time.monotonic()))
    except queue.Empty:
        raise NoStatus("its host's address was not found in time") from None
    if errors:
        raise NoStatus(getattr(errors[0], "strerror", None) or str(errors[0]))
    return places


def _ask_place(place, address, access, deadline):
    channel = _channel(place[0], address, access)
    try:
        channel.connect(place[1], deadline)
        channel.handshake(deadline)
        channel.send(frame(messages.MONITOR))
        frames = FrameReader(_LIMIT)
        _next(channel, frames, deadline, is_first=True)
        return _next(channel, frames, deadline)
    except ProtocolError as error:
        raise NotAServer(str(error)) from error
    finally:
        channel.shutdown()
        channel.close()


def _channel(family, address, access):
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        if access.tls is None:
            return PlainChannel(sock, access.timeout)
        host = None if isinstance(address, str) else address[0]
        name = access.hostname or host
        return TLSChannel(sock, access.timeout, 0, access.tls, server_hostname=name)
    except BaseException as error:
        sock.close()
        if isinstance(error, ValueError | OSError):
            raise NoStatus(f"TLS is not possible with this host: {error}") from error
        raise


def _next(channel, frames, deadline, is_first=False):
    while True:
        data = frames.next()
        if data is not None:
            return data
        received = channel.receive(deadline)
        if not received:
            raise ConnectionLost(
                "the server closed the connection; if it wants TLS, use --ssl"
                if not channel.is_encrypted
                else "the server closed the connection"
            )
        if not channel.is_encrypted and received[:2] == b"\x15\x03":
            raise ConnectionLost("the server wants TLS; use --ssl")
        if is_first and received[4:5] not in (b"Z", b"M", b""):
            raise NotAServer(refusal(received))
        frames.feed(received)


def _storages(data):
    try:
        storages = json.loads(data)
        for status in storages.values():
            for key in (*COUNTERS, *LEVELS):
                if not isinstance(status[key], int):
                    raise ValueError(f"{key} is no number")
            if len(bytes.fromhex(status["last-transaction"])) != 8:
                raise ValueError("last-transaction is no tid")
            if not isinstance(status["lock_time"], int | float | None):
                raise ValueError("lock_time is no number")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        text = f"its status makes no sense: {type(error).__name__}: {error}"
        raise NotAServer(text) from error
    return storages
