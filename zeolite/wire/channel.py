"""A connected socket that frames travel through.

One thread receives.  Sending is for one thread at a time, which callers see to
with a lock of their own; it may happen while another thread receives.  `shutdown`
may be called by any thread, at any time, and ends whatever the others wait for;
`close` only by the thread that receives, when nobody else uses the channel any
more, because a closed descriptor's number may already belong to somebody else.

`PlainChannel` and the `TLSChannel` of `tls.py` have the same methods.
"""

import errno
import os
import select
import socket
import struct
import threading
import time

RECEIVE_SIZE = 64 * 1024

#: Seconds; more of them Linux does not take for a `keep_alive`.
MOST_KEEP_ALIVE = 10_000

#: Seconds between two looks at whether connecting is still wanted, where the
#: system does not wake up who waits for it.
_LOOK = 0.2


class ConnectionLost(Exception):
    """The peer is gone, or as good as gone.  The message says how it went."""


class PeerSilent(ConnectionLost):
    """The peer took nothing, or said nothing, for as long as it may."""


class PlainChannel:
    """A stream socket without encryption, TCP or Unix.

    `sock` is connected, or will be by `connect`; `stall_timeout` (seconds) is how
    long a send may wait while the peer takes nothing.  With `keep_alive` (seconds)
    the system asks a silent TCP peer for a sign of life after that time, and takes
    it for dead after twice the time.
    """

    #: Whether nobody in between can read along.
    is_encrypted = False

    def __init__(self, sock, stall_timeout, keep_alive=0):
        self._socket = sock
        self._stall_timeout = stall_timeout
        self._arrivals = None
        self._rest = b""
        self._is_waiting = False
        #: What the kernel has given and taken in all.
        self.bytes_received = self.bytes_sent = 0
        # Keeps `shutdown` off a descriptor whose number is somebody else's by now.
        self._closing = threading.Lock()
        self._closed = False
        self._ended = False  # It was shut down by this side.
        sock.setblocking(True)
        if sock.family != getattr(socket, "AF_UNIX", None):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            _keep_alive(sock, keep_alive)

    def connect(self, place, deadline):
        """Connect to `place`, until `deadline` (`time.monotonic` seconds).

        Raises `OSError`, and `ConnectionLost` after a `shutdown`.
        """
        self._socket.setblocking(False)
        try:
            self._socket.connect(place)
        except BlockingIOError as error:
            if error.errno != errno.EINPROGRESS:  # A Unix socket.
                raise OSError(error.errno, "too many wait to be accepted") from error
            self._wait_until_connected(deadline)
        self._socket.setblocking(True)

    def _wait_until_connected(self, deadline):
        while not self._wait(select.POLLOUT, _LOOK) and not self._ended:
            if time.monotonic() > deadline:
                raise TimeoutError("it does not answer")
        code = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if self._ended:
            raise ConnectionLost("it is not wanted any more")
        if code:
            raise OSError(code, os.strerror(code))
        # Without a listener, TCP may choose this very port for our own end.
        if self._socket.getsockname() == self._socket.getpeername():
            raise OSError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))

    def handshake(self, deadline):
        """Agree with the peer on encryption, before anything else is done.

        Raises `ConnectionLost`, and `PeerSilent` after `deadline`
        (`time.monotonic` seconds).  Here there is nothing to agree on.
        """

    def notice_silence(self, seconds):
        """Have `receive` raise `PeerSilent` whenever nothing came for so long."""
        if not os.get_blocking(self._socket.fileno()):
            # Not the system waits but the socket, such as one of gevent's.
            return self._socket.settimeout(seconds or None)
        value = struct.pack("ll", int(seconds), int(seconds % 1 * 1e6))
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, value)

    def receive(self, deadline=None):
        """Return the next bytes, b"" at the end of the stream.

        Waits as long as it takes, see `notice_silence`; or until `deadline`
        (`time.monotonic` seconds), when it raises `PeerSilent`.  Raises
        `ConnectionLost` for a broken connection.
        """
        if deadline is not None:
            left = deadline - time.monotonic()
            if left <= 0 or not self._wait(select.POLLIN, left):
                raise PeerSilent("it did not say in time what was expected of it")
        try:
            received = self._socket.recv(RECEIVE_SIZE)
        except OSError as error:
            if _has_waited(error):
                raise PeerSilent("it has said nothing for a while") from None
            raise ConnectionLost(error.strerror or str(error)) from error
        self.bytes_received += len(received)
        return received

    def has_come(self):
        """Whether there is something to `receive`, or its end, without waiting for it.

        For the thread that receives.
        """
        if self._arrivals is None:
            self._arrivals = select.poll()
            self._arrivals.register(self._socket, select.POLLIN)
        return bool(self._arrivals.poll(0))

    def receive_into(self, room, silence):
        """Fill `room` (memoryview) with the next bytes; return how many these are.

        They are fewer at the end of the stream, where there may be none, and where
        the peer pauses for `silence` seconds.  Raises `PeerSilent` where it has said
        nothing for so long, and `ConnectionLost` for a broken connection.
        """
        self.notice_silence(silence)
        try:
            return self._fill(room)
        finally:
            self.notice_silence(0)

    def _fill(self, room):
        try:
            # The kernel wakes this thread once, and not for each packet.
            count = self._socket.recv_into(room, 0, socket.MSG_WAITALL)
        except OSError as error:
            if _has_waited(error):
                raise PeerSilent("it has said nothing for a while") from None
            raise ConnectionLost(error.strerror or str(error)) from error
        self.bytes_received += count
        return count

    def send(self, data=b""):
        """Send the rest of what was offered, then `data` (bytes), whole.

        Raises `PeerSilent` once the peer took nothing for `stall_timeout`
        seconds, and `ConnectionLost` for a broken connection.
        """
        if self._rest:
            data, self._rest = self._rest + data, b""
        data = self._send_now(data)
        while data:
            self._wait_until_taken()
            data = self._send_now(data)

    def offer(self, data):
        """Send what the peer takes at once and keep the rest.

        Not to be called while there is a rest.  Raises `ConnectionLost` for a
        broken connection.
        """
        assert not self._rest
        self._rest = bytes(self._send_now(data))

    @property
    def has_rest(self):
        """Whether something offered is still to be sent, by `send`."""
        return bool(self._rest)

    @property
    def is_stalled(self):
        """Whether the peer has not taken yet what it was sent.  Any thread."""
        return self._is_waiting or self.has_rest

    def stop_receiving(self):
        """Let `receive` find the end of the stream; sending goes on."""
        self._shutdown(socket.SHUT_RD)

    def shutdown(self):
        """End the stream in both directions; whoever waits in it wakes up."""
        self._ended = True
        self._shutdown(socket.SHUT_RDWR)

    def after_fork(self):
        """Give the child's copy of the descriptor back; the peer notices nothing."""
        self._socket.close()

    def close(self):
        """Give the descriptor back.  Nobody is sending or receiving any more."""
        with self._closing:
            self._closed = True
            self._socket.close()

    def _shutdown(self, how):
        with self._closing:
            if self._closed:
                return
            try:
                self._socket.shutdown(how)
            except OSError:
                pass  # It has ended already.

    def _send_now(self, data):
        while data:
            try:
                sent = self._socket.send(data, socket.MSG_DONTWAIT)
            except OSError as error:
                if _has_waited(error):
                    break
                raise ConnectionLost(error.strerror or str(error)) from error
            self.bytes_sent += sent
            if sent == len(data):
                return b""
            data = memoryview(data)[sent:]
        return data

    def _wait_until_taken(self):
        """Wait until the peer takes more.  For a message that is half sent."""
        self._is_waiting = True
        try:
            is_taken = self._wait(select.POLLOUT, self._stall_timeout)
        finally:
            self._is_waiting = False
        if not is_taken:
            self.shutdown()  # Nothing may follow that half.
            seconds = f"{self._stall_timeout:g} seconds"
            raise PeerSilent(f"it took nothing for {seconds}")

    def _wait(self, event, seconds):
        poll = select.poll()
        poll.register(self._socket, event)
        return poll.poll(max(0, seconds) * 1000)


def _has_waited(error):
    """Whether an `OSError` says that a socket has waited as long as it was to."""
    is_own = isinstance(error, TimeoutError) and error.errno is None  # gevent's.
    return is_own or isinstance(error, BlockingIOError)


def _keep_alive(sock, seconds):
    """Have the system find out when a TCP peer's machine has vanished."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if not seconds:
        return
    idle, interval = max(1, round(seconds)), max(1, round(seconds / 3))
    for option, value in (
        ("TCP_KEEPIDLE", idle),
        ("TCP_KEEPALIVE", idle),  # What macOS calls it.
        ("TCP_KEEPINTVL", interval),
        ("TCP_KEEPCNT", 3),
        # For what was sent and is not acknowledged; milliseconds.
        ("TCP_USER_TIMEOUT", int(seconds * 2000)),
    ):
        if hasattr(socket, option):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)


def format_address(address):
    """Return an address, a path or (host, port), as a configuration would have it."""
    if isinstance(address, str):
        return address
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
