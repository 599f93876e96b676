"""A connected socket that frames travel through.

One thread receives.  Sending is for one thread at a time, which callers see to
with a lock of their own; it may happen while another thread receives.  `shutdown`
may be called by any thread, at any time, and ends whatever the others wait for;
`close` only by the thread that receives, when nobody else uses the channel any
more, because a closed descriptor's number may already belong to somebody else.

`PlainChannel` and a channel for TLS have the same methods.
"""

import select
import socket
import threading
import time

RECEIVE_SIZE = 64 * 1024


class ConnectionLost(Exception):
    """The peer is gone, or as good as gone.  The message says how it went."""


class PeerSilent(ConnectionLost):
    """The peer took nothing, or said nothing, for as long as it may."""


class PlainChannel:
    """A stream socket without encryption, TCP or Unix.

    `sock` is connected; `stall_timeout` (seconds) is how long a send may wait
    while the peer takes nothing.
    """

    def __init__(self, sock, stall_timeout):
        self._socket = sock
        self._stall_timeout = stall_timeout
        self._rest = b""
        # Keeps `shutdown` off a descriptor whose number is somebody else's by now.
        self._closing = threading.Lock()
        self._closed = False
        sock.setblocking(True)
        if sock.family != getattr(socket, "AF_UNIX", None):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            # Sooner or later a peer is noticed whose machine has vanished.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)

    def receive(self, deadline=None):
        """Return the next bytes, b"" at the end of the stream.

        Waits as long as it takes, or until `deadline` (`time.monotonic`
        seconds), when it raises `PeerSilent`.  Raises `ConnectionLost` for a
        broken connection.
        """
        if deadline is not None:
            left = deadline - time.monotonic()
            if left <= 0 or not self._wait(select.POLLIN, left):
                raise PeerSilent("it did not say in time what was expected of it")
        try:
            return self._socket.recv(RECEIVE_SIZE)
        except OSError as error:
            raise ConnectionLost(str(error)) from error

    def send(self, data=b""):
        """Send the rest of what was offered, then `data` (bytes), whole.

        Raises `PeerSilent` once the peer took nothing for `stall_timeout`
        seconds, and `ConnectionLost` for a broken connection.
        """
        if self._rest:
            data, self._rest = self._rest + data, b""
        data = self._send_now(data)
        while data:
            if not self._wait(select.POLLOUT, self._stall_timeout):
                # Half a message is out: nothing may follow it.
                self.shutdown()
                seconds = f"{self._stall_timeout:g} seconds"
                raise PeerSilent(f"it took nothing for {seconds}")
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

    def stop_receiving(self):
        """Let `receive` find the end of the stream; sending goes on."""
        self._shutdown(socket.SHUT_RD)

    def shutdown(self):
        """End the stream in both directions; whoever waits in it wakes up."""
        self._shutdown(socket.SHUT_RDWR)

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
            except BlockingIOError:
                break
            except OSError as error:
                raise ConnectionLost(str(error)) from error
            if sent == len(data):
                return b""
            data = memoryview(data)[sent:]
        return data

    def _wait(self, event, seconds):
        poll = select.poll()
        poll.register(self._socket, event)
        return poll.poll(max(0, seconds) * 1000)


def format_address(address):
    """Return an address, a path or (host, port), as a configuration would have it."""
    if isinstance(address, str):
        return address
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
