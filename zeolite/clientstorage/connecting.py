"""Finding a server that takes us, among several addresses.

Each place that an address stands for gets an attempt, a short-lived thread that
connects, shakes hands and registers.  The attempts begin one after the other, in
quick succession and without waiting for each other, so that a dead server does not
delay a live one.  An address that failed is tried again after a while, by itself.

What attempts find out is handled in the thread that searches.  Nothing that a
server says after it has registered a client is read here.
"""

import dataclasses
import queue
import random
import socket
import ssl
import threading
import time
from collections import deque

from ZODB.POSException import ReadOnlyError

from ..errors import ProtocolError
from ..wire.channel import ConnectionLost, PlainChannel, format_address
from ..wire.packed import is_id
from ..wire.tls import TLSChannel
from ..wire.tlserrors import TLSFailed
from . import forking
from .handshake import deadline_in
from .link import Link

#: Seconds that a server may take nothing of what is sent to it.
STALL_TIMEOUT = 60

#: Seconds that an address gets to accept a connection.
CONNECT_TIMEOUT = 10

#: Seconds that a server has to say which protocol it speaks.
HANDSHAKE_TIMEOUT = 10

#: Seconds that a server has to answer each call until the client is ready.
GREETING_TIMEOUT = 60

#: Seconds between the beginnings of two attempts, unless one fails earlier; and
#: the most for all of them.
STAGGER, ALL_BEGUN = 0.25, 0.75

#: Seconds that a read-only server waits for a writable one to answer.
PREFERENCE = 1


class Refused(Exception):
    """The server will not have this client, now and later."""


@dataclasses.dataclass(frozen=True)
class Request:
    """What is asked of a server.

    `fallback` says whether a server that allows no writing will do for a client
    that is not `read_only`; `keep_alive` is in seconds, 0 for never.  With `tls`
    the connection is encrypted, and `tls_hostname` takes the place of the host in
    the address.
    """

    storage: str
    read_only: bool
    fallback: bool = False
    keep_alive: float = 0
    tls: ssl.SSLContext | None = None
    tls_hostname: str | None = None


class Search:
    """Tries addresses again and again, until a server takes us.

    `failed(address, error)` is told what is wrong with an address each time, and
    `refused(error)` that all of them refuse the client.  `poll` is the delay in
    seconds between attempts at one address, about; the first are made at once, or
    with `later` only after it.

    `cancel` is for any thread, all else for the one that searches.
    """

    def __init__(self, addrs, request, poll, resolver, failed, refused, later=False):
        self._request = request
        self._poll = poll
        self._resolver = resolver
        self._failed = failed
        self._refused = refused
        # Functions to be called in the searching thread, with their arguments.
        self._events = queue.SimpleQueue()
        self._cancelled = False
        start = time.monotonic() + (self._delay() if later else 0)
        self._targets = {address: _Target(address, start) for address in addrs}
        self._waiting = deque()  # Attempts that have not begun.
        self._attempts = set()  # Attempts that have, and have not failed.
        self._most = 1  # How many attempts there were at once.
        self._next_start = 0
        self._ready = deque()
        self._spare = None  # A server that is read-only, until ...
        self._spare_until = 0

    def cancel(self):
        """Have `next` return None, now and later."""
        self._cancelled = True
        self._events.put((lambda: None,))

    def next(self):
        """Wait for a server; return a `Link` that is registered, or None."""
        while not self._cancelled:
            self._begin_rounds()
            self._begin_attempts()
            attempt = self._best()
            if attempt is not None:
                self._attempts.discard(attempt)
                return attempt.link
            try:
                handle, *args = self._events.get(timeout=self._pause())
            except queue.Empty:
                continue
            handle(*args)
        return None

    def reject(self, link, error):
        """A server that was found has turned out not to do.  It is closed already."""
        self._end_part(self._targets[link.address], error)

    def close(self):
        """End all attempts.  Returns when their threads are gone."""
        self._cancelled = True
        for attempt in self._attempts:
            attempt.cancel()
        for attempt in self._attempts:
            attempt.join()
            attempt.drop("another server was faster")

    # Rounds: all that is tried for one address before the next delay.

    def _begin_rounds(self):
        now = time.monotonic()
        for target in self._targets.values():
            if target.due is not None and target.due <= now:
                target.due, target.error = None, None
                self._resolver.resolve(
                    target.address,
                    lambda *found, target=target: self._events.put(
                        (self._resolved, target, *found)
                    ),
                )

    def _resolved(self, target, places, error=None):
        target.open = max(1, len(places))
        if error is not None:
            self._end_part(target, error)
        for place in places:
            self._waiting.append(_Attempt(self._events, self, target, place))

    def _end_part(self, target, error):
        """One of a target's places failed, or all."""
        target.note(error)
        target.open -= 1
        if target.open > 0:
            return
        target.due = time.monotonic() + self._delay()
        target.refusal = target.error if _is_refusal(target.error) else None
        target.has_answered = True
        self._failed(target.address, target.error)
        if all(target.refusal for target in self._targets.values()):
            self._refused(target.refusal)

    def _delay(self):
        return self._poll * random.uniform(0.75, 1.25)

    # Attempts.

    def _begin_attempts(self):
        now = time.monotonic()
        while self._waiting and self._next_start <= now:
            attempt = self._waiting.popleft()
            self._attempts.add(attempt)
            places = len(self._waiting) + len(self._attempts)
            self._most = max(self._most, places)
            self._next_start = now + min(STAGGER, ALL_BEGUN / self._most)
            try:
                attempt.begin(self._request)
            except RuntimeError as error:  # There are too many threads.
                self.attempt_failed(attempt, error)

    def attempt_failed(self, attempt, error):
        self._attempts.discard(attempt)
        self._next_start = 0
        self._end_part(attempt.target, error)

    def attempt_succeeded(self, attempt):
        if not attempt.link.is_read_only:
            self._ready.append(attempt)
        elif self._spare is None:
            self._spare = attempt
            self._spare_until = deadline_in(PREFERENCE)
            attempt.target.has_answered = True
        else:
            attempt.drop("another server was faster")
            self.attempt_failed(attempt, ReadOnlyError("one such server is enough"))

    def _best(self):
        if self._ready:
            return self._ready.popleft()
        spare = self._spare
        if spare is not None and (
            time.monotonic() >= self._spare_until
            or all(target.has_answered for target in self._targets.values())
        ):
            self._spare = None
            return spare
        return None

    def _pause(self):
        """Return for how many seconds there is nothing to do but to wait."""
        times = [t.due for t in self._targets.values() if t.due is not None]
        if self._waiting:
            times.append(self._next_start)
        if self._spare is not None:
            times.append(self._spare_until)
        return max(0, min(times) - time.monotonic()) if times else None


class _Target:
    """An address, and what has become of it so far."""

    def __init__(self, address, due):
        self.address = address
        #: When it is tried next, None while it is being tried.
        self.due = due
        #: How many of its places have not failed yet.
        self.open = 0
        self.error = None
        #: How the last round ended, if it was a refusal.
        self.refusal = None
        #: Whether it is known by now if it is any good.
        self.has_answered = False

    def note(self, error):
        """Keep the error that says most."""
        if not _is_refusal(self.error):
            self.error = error


def _is_refusal(error):
    return isinstance(error, Refused | ProtocolError | TLSFailed)


class _Attempt:
    """Connects to one place, shakes hands and registers, in a thread of its own."""

    def __init__(self, events, search, target, place):
        self._events = events
        self._search = search
        self.target = target
        self._place = place
        self._is_cancelled = False
        self._channel = None
        self._thread = None
        #: The result.
        self.link = None
        forking.watch(self)

    # The searching thread.

    def begin(self, request):
        name = f"zeolite-connect-{format_address(self.target.address)}"
        self._thread = threading.Thread(
            target=self._run, args=(request,), name=name, daemon=True
        )
        self._thread.start()

    def cancel(self):
        self._is_cancelled = True
        if self._channel is not None:
            self._channel.shutdown()

    def join(self):
        self._thread.join()

    def drop(self, reason):
        """Close what was found; the thread has ended."""
        if self.link is not None:
            self.link.lose(reason)

    def after_fork(self):
        if self._channel is not None:
            self._channel.after_fork()

    # Its own thread.

    def _run(self, request):
        try:
            self.link = self._open(request)
        except Exception as error:
            self._events.put((self._search.attempt_failed, self, error))
        else:
            self._events.put((self._search.attempt_succeeded, self))

    def _open(self, request):
        family, place = self._place
        channel = self._channel = _channel(family, self.target.address, request)
        try:
            if self._is_cancelled:
                raise ConnectionLost("it is not wanted any more")
            channel.connect(place, deadline_in(CONNECT_TIMEOUT))
        except FileNotFoundError as error:
            channel.close()
            reason = "there is no such Unix socket"
            raise FileNotFoundError(error.errno, reason) from error
        except BaseException:
            channel.close()
            raise
        link = Link(channel, self.target.address)
        try:
            link.handshake(deadline_in(HANDSHAKE_TIMEOUT))
            _register(link, request)
            if request.keep_alive:
                link.notice_silence(request.keep_alive)
        except BaseException:
            link.lose("it did not come about")
            raise
        return link


def _channel(family, address, request):
    """Return a channel that is to be connected to `address`."""
    sock = socket.socket(family, socket.SOCK_STREAM)
    settings = sock, STALL_TIMEOUT, request.keep_alive
    if request.tls is None:
        return PlainChannel(*settings)
    host = None if isinstance(address, str) else address[0]
    try:
        return TLSChannel(
            *settings, request.tls, server_hostname=request.tls_hostname or host
        )
    except (ValueError, ssl.SSLError) as error:
        sock.close()
        raise Refused(f"TLS is not possible with this ssl or host: {error}") from error


def _register(link, request):
    """Have the server accept this client.  Raises `Refused` if it does not."""

    def register(read_only):
        deadline = deadline_in(GREETING_TIMEOUT)
        return link.ask("register", request.storage, read_only, deadline=deadline)

    try:
        link.tid = _register_as_wanted(link, request, register)
    except ReadOnlyError as error:
        reason = str(error) or f"storage {request.storage!r} is read-only there"
        raise Refused(
            f"{reason}; open it with read_only or read_only_fallback"
        ) from error
    except ValueError as error:
        raise Refused(str(error)) from error
    if not is_id(link.tid):
        raise ProtocolError("the server does not tell its last transaction")


def _register_as_wanted(link, request, register):
    if request.fallback:
        try:
            return register(False)
        except ReadOnlyError:
            link.is_read_only = True
            return register(True)
    return register(request.read_only)
