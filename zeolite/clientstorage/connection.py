"""Staying connected: the reader thread.

    connect -> handshake -> register -> verify -> tell the database
            -> read until the connection is lost -> again

The reader thread owns the order: whatever the server says takes effect in it, in
the order in which it arrived.  Callers write their own requests and wait.
"""

import contextlib
import logging
import random
import threading

from ZODB.POSException import ReadOnlyError

from ..errors import ClientDisconnected, ProtocolError
from ..wire import messages
from ..wire.channel import (
    ConnectionLost,
    PeerSilent,
    PlainChannel,
    format_address,
)
from . import addresses
from .link import Link, deadline_in

logger = logging.getLogger(__name__)

#: Seconds that a server may take nothing of what is sent to it.
STALL_TIMEOUT = 60

#: Seconds that a server has to say which protocol it speaks.
HANDSHAKE_TIMEOUT = 10


#: Seconds that a server has to answer each call until the client is ready.
GREETING_TIMEOUT = 60


class Refused(Exception):
    """The server will not have this client, now and later."""


#: Why a connection may be lost or not come about.
_EXPECTED = (Refused, ConnectionLost, ProtocolError, ClientDisconnected, OSError)


def _reason(error):
    try:
        return getattr(error, "strerror", None) or str(error) or repr(error)
    except Exception:  # The server has made it, and of strange parts.
        return type(error).__name__


def _is_invalidation(args):
    return (
        len(args) == 2
        and _is_id(args[0])
        and type(args[1]) in (list, tuple)
        and all(map(_is_id, args[1]))
    )


#: What servers call when they send a blob, and how many arguments it has.
_BLOB_CALLS = {"receiveBlobStart": 2, "receiveBlobChunk": 3, "receiveBlobStop": 2}


def _is_blob_call(name, args):
    return len(args) == _BLOB_CALLS.get(name) and all(
        type(arg) is bytes for arg in args
    )


def _is_id(value):
    return type(value) is bytes and len(value) == 8


class Connection:
    """Keeps one link to one of several addresses.

    `owner` is told what happens, in the reader thread:

    - `owner.verify(ask, tid)` when registered with the server, whose last commit
      is `tid`; `ask(name, *args)` makes a call;
    - `owner.connected(info)`, `owner.disconnected()`;
    - `owner.invalidated(tid, oids)` and `owner.informed(info)`.

    `register` has the arguments for the server; `poll` is the delay in seconds
    between attempts, `wait_timeout` how long callers wait for a connection.
    """

    def __init__(self, owner, addrs, register, wait_timeout, poll, label=None):
        self._owner = owner
        self._addresses = addrs
        self._register = register
        self._wait_timeout = wait_timeout
        self._poll = poll
        self._label = label
        self._condition = threading.Condition()  # Guards all of the below.
        self._closed = False
        self._connecting = None
        self._link = None
        self._reasons = {}
        self._refusal = None
        self._thread = threading.Thread(
            target=self._run, name=f"zeolite-reader-{register[0]}", daemon=True
        )

    # Any thread.

    def start(self):
        """Begin to connect."""
        self._thread.start()

    def close(self):
        """Disconnect for good and end the thread."""
        with self._condition:
            self._closed = True
            self._condition.notify_all()
            for link in (self._link, self._connecting):
                if link is not None:
                    link.end()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    @property
    def is_connected(self):
        return self._link is not None

    def link(self):
        """Return the link, waiting for one up to `wait_timeout` seconds.

        Raises `ClientDisconnected` with the reasons why there is none.
        """
        return self._link or self._wait_for_link(stop_if_refused=False)

    def first_link(self):
        """Like `link`, but do not wait for servers that have refused."""
        return self._wait_for_link(stop_if_refused=True)

    def _wait_for_link(self, stop_if_refused):
        if threading.current_thread() is self._thread:
            raise ClientDisconnected("the reader thread cannot wait for itself")
        with self._condition:
            self._condition.wait_for(
                lambda: (
                    self._link or self._closed or (stop_if_refused and self._refusal)
                ),
                self._wait_timeout,
            )
            if self._link is not None:
                return self._link
            if self._closed:
                raise ClientDisconnected("the storage is closed")
            if stop_if_refused and isinstance(self._refusal, ProtocolError):
                raise ProtocolError(self._why())
            raise ClientDisconnected(self._why())

    def _why(self):
        if not self._reasons:
            names = ", ".join(map(format_address, self._addresses))
            return f"{names}: no answer within {self._wait_timeout:g} seconds"
        return "; ".join(
            f"{format_address(address)}: {reason}"
            for address, reason in self._reasons.items()
        )

    # The reader thread.

    def _run(self):
        while not self._closed:
            link = None
            try:
                link = self._connect()
                if link is not None:
                    self._read(link)
            except Exception as error:
                address = self._addresses[0] if link is None else link.address
                self._failed(address, error)
            finally:
                self._lose(link)
            with self._condition:
                if not self._closed:
                    self._condition.wait(self._poll * random.uniform(0.75, 1.25))

    def _connect(self):
        """Return a link that is ready, or None."""
        refusals = []
        attempts = addresses.connect(
            self._addresses, lambda: not self._closed, self._failed
        )
        with contextlib.closing(attempts):
            for address, sock in attempts:
                link = Link(PlainChannel(sock, STALL_TIMEOUT), address)
                try:
                    self._greet(link)
                    return link
                except Exception as error:
                    if isinstance(error, Refused | ProtocolError):
                        refusals.append(error)
                    self._failed(address, error)
                    self._lose(link)
        with self._condition:
            if len(refusals) == len(self._addresses):
                self._refusal = refusals[0]
                self._condition.notify_all()
        return None

    def _greet(self, link):
        """Register with the server and bring the owner up to date."""
        with self._condition:
            self._connecting = link
            if self._closed:
                link.end()
        try:
            link.handshake(deadline_in(HANDSHAKE_TIMEOUT))
        except PeerSilent:
            raise ConnectionLost("the server does not say what it speaks") from None
        early = []

        def ask(name, *args):
            call = link.call(name, args)
            deadline = deadline_in(GREETING_TIMEOUT)
            while not call.is_done:
                self._take(link, link.receive(deadline), early)
            return call.wait()

        try:
            tid = ask("register", *self._register)
        except (ReadOnlyError, ValueError) as error:
            reason = str(error) or "the storage is read-only there"
            raise Refused(reason) from error
        if self._label:
            link.post(messages.encode_one_way("set_client_label", (self._label,)))
        info = ask("get_info")
        if info.get("zeolite"):
            link.is_zeolite = True
            link.transaction_lock = None
        tid = self._owner.verify(ask, tid)
        # What was committed while the owner was verified.
        for args in early:
            if args[0] > tid:
                self._owner.invalidated(*args)
        self._owner.connected(info)
        with self._condition:
            self._connecting = None
            self._link = link
            self._reasons.clear()
            self._condition.notify_all()
        logger.info("%s: connected to storage %s", link.name, self._register[0])

    def _read(self, link):
        while True:
            self._take(link, link.receive())

    def _take(self, link, message, early=None):
        message_id, flag, name, args = message
        if name == messages.REPLY:
            link.reply(message_id, flag, args)
        elif name == "invalidateTransaction" and _is_invalidation(args):
            if early is None:
                self._owner.invalidated(*args)
            else:
                early.append(args)
        elif name == "info" and len(args) == 1 and type(args[0]) is dict:
            if early is None:
                self._owner.informed(*args)
        elif _is_blob_call(name, args):
            # One that nobody waits for any more is ignored.
            download = link.downloads.get(args[:2])
            if download is not None:
                download.receive(name, args[-1])
        else:
            raise ProtocolError(f"the server's call of {name[:50]!r} makes no sense")

    def _failed(self, address, error):
        if not isinstance(error, _EXPECTED):
            logger.error("%s: an error in the client", self._name(), exc_info=error)
        reason = _reason(error)
        with self._condition:
            if self._closed:
                return
            news = self._reasons.get(address) != reason
            self._reasons[address] = reason
        level = logging.WARNING if news else logging.DEBUG
        logger.log(level, "%s: %s", format_address(address), reason)

    def _lose(self, link):
        if link is None:
            return
        with self._condition:
            was_connected = self._link is link
            self._link = self._connecting = None
            reason = self._reasons.get(link.address, "the storage is closed")
        link.lose(reason)
        if was_connected:
            self._owner.disconnected()

    def _name(self):
        return f"storage {self._register[0]}"
