"""A channel that encrypts.

The socket stays ours: bytes from the kernel go into OpenSSL through one buffer in
memory, and what it wants to have sent comes out of another.  So one thread can wait
for the peer while another sends, which an OpenSSL connection itself does not allow.

Both are done under one lock, and bytes are given to the kernel under another, so
that who decrypts does not wait for the kernel; neither is held while anybody waits.
Whatever comes out of OpenSSL leaves in the order in which it was made, be it a
message or something that receiving brought about (a new key, an alert): who receives
leaves that in `_unsent`, to be sent at once or, if somebody is sending, by that one.
"""

import contextlib
import select
import ssl
import threading
import time

from .channel import RECEIVE_SIZE, ConnectionLost, PeerSilent, PlainChannel
from .tlserrors import TLSFailed, explain
from .tlsrecords import (
    BEGINNING,
    NOT_TLS,
    RecordEnds,
    check_hello,
    is_tls,
    name_in_certificates,
)

#: The most bytes that TLS puts into one record.
RECORD_SIZE = 16 * 1024

#: Bytes that are encrypted before the kernel has taken the ones before.
_AHEAD = 64 * 1024

#: Bytes of a large message that are received before they are decrypted.
_AT_ONCE = 128 * 1024

#: Encrypted bytes that may wait for a peer that takes nothing while it is received
#: from: what may be encrypted ahead, and answers that OpenSSL gives by itself.
_MOST_UNSENT = 256 * 1024


class TLSChannel(PlainChannel):
    """A stream socket with TLS.

    `context` is an `ssl.SSLContext`.  The client's side may have a
    `server_hostname`, which the server's certificate is to be for if the context
    says so; the server's side is `server_side`.  All else as in `PlainChannel`.

    `handshake` comes first, and while it runs nothing else does but `shutdown`.
    Raises `ValueError` or `ssl.SSLError` for a context or a host name that cannot
    work.
    """

    is_encrypted = True

    def __init__(
        self,
        sock,
        stall_timeout,
        keep_alive,
        context,
        *,
        server_side=False,
        server_hostname=None,
    ):
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        if server_hostname is not None:
            server_hostname = name_in_certificates(server_hostname)
        self._ssl = context.wrap_bio(
            self._incoming, self._outgoing, server_side, server_hostname
        )
        self._peer = "client" if server_side else "server"
        # Whoever gives encrypted bytes to the kernel has it, and what it guards is
        # `_sent`: how many the kernel has taken.  Always taken before the other.
        self._sending = threading.Lock()
        self._sent = 0
        # Guards the OpenSSL objects and all below but `_has_more` and `_made_for_offers`.
        self._lock = threading.Lock()
        self._is_ready = False  # The handshake is done.
        self._is_over = False  # Nothing more can be read.
        self._failure = None  # Why, if it is not the peer's goodbye.
        self._unsent = b""  # Encrypted, and not taken by the kernel yet.
        self._made = 0  # How many encrypted bytes there were.
        # How many there were when the last of what was offered had been encrypted.
        self._made_for_offers = 0
        # Whether there may be something to return before anything is received: what
        # came with the end of the handshake, and the end.  The receiving thread's.
        self._has_more = True
        self._ends = RecordEnds()  # The receiving thread's.
        super().__init__(sock, stall_timeout, keep_alive)

    # The handshake.

    def handshake(self, deadline):
        """Agree on keys and check certificates, as the contexts demand.

        Raises `TLSFailed` where that is impossible, `ConnectionLost` if the peer
        is gone, and `PeerSilent` after `deadline` (`time.monotonic` seconds).
        """
        beginning = b""
        while not self._step():
            self._finish_handshaking(deadline)
            try:
                received = super().receive(deadline)
            except PeerSilent:
                said = "not enough" if beginning else "nothing"
                raise PeerSilent(
                    f"it said {said} in time to agree on TLS; is the {self._peer} "
                    "one without TLS?"
                ) from None
            if not received:
                raise self._gone(is_first=not beginning)
            if len(beginning) < BEGINNING:
                beginning += received
                self._check_beginning(beginning)
            with self._lock:
                self._incoming.write(received)
            self._ends.feed(received)
        self._finish_handshaking(deadline)

    def _gone(self, is_first):
        """Return the error for a peer that has left instead of going on."""
        if is_first or self._peer == "server":
            return ConnectionLost("the connection was closed while agreeing on TLS")
        return TLSFailed(
            "it left while agreeing on TLS; perhaps it does not accept this server's "
            "certificate"
        )

    def _step(self):
        """Go on with the handshake; return whether it is done."""
        try:
            with self._lock:
                try:
                    self._ssl.do_handshake()
                finally:
                    self._collect()
                self._is_ready = True
        except ssl.SSLWantReadError:
            return False
        except ssl.SSLError as error:
            self._flush_quietly()  # The peer is to know why.
            raise self._failed(error) from error
        return True

    def _finish_handshaking(self, deadline):
        while True:
            with self._sending:
                if self._flush():
                    return
            if not self._wait(select.POLLOUT, deadline - time.monotonic()):
                raise PeerSilent("it did not take in time what is needed for TLS")

    def _check_beginning(self, received):
        """Raise `TLSFailed` if the peer's first bytes are no TLS, or the first of much."""
        if is_tls(received):
            check_hello(received)
            return
        if self._peer == "server":
            raise TLSFailed(
                "the server does not speak TLS; connect without ssl, or configure "
                "the server with an ssl section"
            )
        with contextlib.suppress(ConnectionLost):
            self._send_now(NOT_TLS)
        said = ascii(received[:12])[1:]
        raise TLSFailed(
            f"it does not speak TLS, which is wanted here, but said {said}; configure "
            "the client with ssl"
        )

    # Receiving.

    def receive(self, deadline=None):
        """As in `PlainChannel`; raises `TLSFailed` for what is no proper TLS.

        A record that has begun is waited for as long as a send may wait, and not for
        ever: then it raises `PeerSilent`.
        """
        data = self._take(b"") if self._has_more else None
        while data is None:
            until = deadline
            if until is None and self._ends.is_inside:
                until = time.monotonic() + self._stall_timeout
            received = super().receive(until)
            # OpenSSL is not told of the end, so that sending may go on.
            data = self._take(received) if received else b""
        return data

    def has_come(self):
        """As in `PlainChannel`; what has come may be less than a record."""
        return self._has_more or super().has_come()

    def receive_into(self, room, silence):
        """As in `PlainChannel`; raises `TLSFailed` for what is no proper TLS."""
        done = 0
        self.notice_silence(silence)
        try:
            while done < len(room):
                left, has_more = room[done:], self._has_more
                received = b"" if has_more else self._receive_for(left)
                count = self._take(received, left) if received or has_more else 0
                done += count or 0
                if count == 0 or self._is_over:
                    break
        except PeerSilent:
            if not done:
                raise
        finally:
            self.notice_silence(0)
        return done

    def _receive_for(self, room):
        """Return the next bytes of those that end up in `room` (memoryview)."""
        # There will be as many at least, but for those of a record that has begun.
        size = min(len(room) - RECORD_SIZE, _AT_ONCE)
        if size <= RECEIVE_SIZE:
            return super().receive()
        return room[: self._fill(room[:size])]

    def _take(self, received, room=None):
        """Return what `received` contains, b"" at the end, None if more is needed.

        With `room` (memoryview), where it may be itself, return how many bytes are
        there now.
        """
        with self._lock:
            self._incoming.write(received)
            if self._is_over:
                data = b""
            elif room is None:
                data = self._decrypt(received)
            else:
                data = self._decrypt_into(room, received)
            if self._outgoing.pending:
                self._collect()
        if self._unsent:
            self._flush_quietly()
            if len(self._unsent) > _MOST_UNSENT:
                raise PeerSilent("it has TLS answered and takes no answers")
        self._has_more = self._is_over or (room is not None and data == len(room))
        if data:
            return data
        if self._failure is not None:
            raise self._failure
        return data if self._is_over else None

    def _decrypt(self, received):
        """Return what the records contain that `received` is the end of."""
        pieces = []
        try:
            while True:
                # All of a record, so that OpenSSL keeps nothing that is decrypted.
                piece = self._ssl.read(RECORD_SIZE)
                if not piece:
                    raise ssl.SSLZeroReturnError
                if not (pieces or self._incoming.pending):
                    # What is usual: it is one record, whole.
                    if self._ends.is_inside:
                        self._ends.end()
                    return piece
                pieces.append(piece)
                if not self._incoming.pending:
                    break
        except ssl.SSLError as error:
            self._note_end(error)
        self._ends.feed(received)
        return b"".join(pieces)

    def _decrypt_into(self, room, received):
        """Like `_decrypt`; return how many bytes are in `room` now, until it is full."""
        self._ends.feed(received)
        done = 0
        try:
            while done < len(room):
                count = self._ssl.read(len(room) - done, room[done:])
                if not count:
                    raise ssl.SSLZeroReturnError
                done += count
        except ssl.SSLError as error:
            self._note_end(error)
        return done

    def _note_end(self, error):
        """There is nothing more to be decrypted, or never will be."""
        if isinstance(error, ssl.SSLWantReadError):
            return
        # For the next time, if there is something before it.
        self._is_over = True
        if not isinstance(error, ssl.SSLZeroReturnError):
            self._failure = self._failed(error)

    def _flush_quietly(self):
        """Send what receiving brought about, unless somebody is sending and will."""
        while self._unsent and self._sending.acquire(blocking=False):
            try:
                if not self._flush():
                    return
            except ConnectionLost:
                return  # There may be something to receive nevertheless.
            finally:
                self._sending.release()

    # Sending.

    def send(self, data=b""):
        """As in `PlainChannel`."""
        if self._rest:
            data, self._rest = self._rest + data, b""
        while True:
            with self._sending:
                data = self._encrypt_and_send(data)
            # Looked at afterwards, because of what receiving brought about meanwhile.
            if not data and not self._unsent:
                return
            self._wait_until_taken()

    def offer(self, data):
        """As in `PlainChannel`."""
        assert not self.has_rest
        with self._sending:
            self._rest = bytes(self._encrypt_and_send(data))
            self._made_for_offers = self._made
        self._flush_quietly()

    @property
    def has_rest(self):
        """As in `PlainChannel`; what receiving has brought about does not count."""
        return bool(self._rest) or self._sent < self._made_for_offers

    def _encrypt_and_send(self, data):
        """Send what the kernel takes; return what is not encrypted yet."""
        if self._unsent and not self._flush():
            return data
        while data:
            with self._lock:
                piece = data if len(data) <= _AHEAD else memoryview(data)[:_AHEAD]
                try:
                    done = self._ssl.write(piece)
                except ssl.SSLError as error:
                    self._collect()
                    raise self._failed(error) from error
                made = self._outgoing.read()
                self._made += len(made)
                if self._unsent:
                    made, self._unsent = self._unsent + made, b""
            data = memoryview(data)[done:] if done < len(data) else b""
            if not self._give(made):
                break
        return data

    def _collect(self):
        """Take what OpenSSL wants to have sent."""
        made = self._outgoing.read()
        self._made += len(made)
        self._unsent = self._unsent + made if self._unsent else made

    def _flush(self):
        """Give the kernel what it takes of `_unsent`; return whether that is all."""
        with self._lock:
            unsent = self._unsent
        rest = self._send_now(unsent)
        taken = len(unsent) - len(rest)
        self._sent += taken
        # Not before: who sends looks there for what is still to be waited for.
        with self._lock:
            self._unsent = self._unsent[taken:]
        return not rest

    def _give(self, made):
        """Like `_flush`, for bytes that come before those in `_unsent`."""
        rest = self._send_now(made)
        self._sent += len(made) - len(rest)
        if not rest:
            return True
        with self._lock:
            self._unsent = bytes(rest) + self._unsent
        return False

    # The end.

    def shutdown(self):
        """As in `PlainChannel`; the peer is told that nothing is missing."""
        # Who is sending may be whom a signal's handler, which calls this, has
        # interrupted.  It is not waited for, and has something to say that is missing.
        if self._sending.acquire(blocking=False):
            try:
                if self._is_ready and not (self._ended or self._unsent or self._rest):
                    with contextlib.suppress(ssl.SSLError, ConnectionLost):
                        self._say_goodbye()
            finally:
                self._sending.release()
        super().shutdown()

    def _say_goodbye(self):
        with self._lock:
            try:
                self._ssl.unwrap()
            except ssl.SSLWantReadError:
                pass  # The peer's goodbye is not waited for.
            finally:
                self._collect()
        self._flush()

    def after_fork(self):
        """As in `PlainChannel`."""
        # Whoever has them may be the parent's.
        self._sending, self._lock = threading.Lock(), threading.Lock()
        super().after_fork()

    def _failed(self, error):
        return TLSFailed(explain(error, self._peer))
