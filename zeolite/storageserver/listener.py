"""Accepting clients: one address, one thread for each client that connects."""

import errno
import logging
import os
import socket
import socketserver
import stat
import threading
import time

from ..wire.channel import PlainChannel
from ..wire.tls import TLSChannel
from .session import Session

logger = logging.getLogger(__name__)

_BACKLOG = 1024


class Listener:
    """Accepts at one address and runs a `Session` for each client.

    `address` is a pair of host and port, or the path of a Unix socket.
    `storages` maps names to `Served`.  The socket is bound when the listener is
    made, which raises `OSError` where that is impossible; accepting begins with
    `start`.  `tls` is the `ssl.SSLContext` of clients that connect from now on, or
    None; any thread may set another one.
    """

    def __init__(self, address, storages, options, tls=None):
        self._storages = storages
        self._options = options
        self.tls = tls
        self._lock = threading.Lock()  # Guards `_sessions` and `_stopped`.
        self._sessions = {}
        self._stopped = False
        if isinstance(address, str):
            _remove_stale(address)
            server_class = _UnixServer
        else:
            server_class = TCPServer
        self._server = server_class(address, self._talk)
        self._thread = threading.Thread(
            target=self._server.serve_forever, name="zeolite-listener", daemon=True
        )

    @property
    def address(self):
        """Where it listens: (host, port), with the real port, or a path."""
        address = self._server.server_address
        return address if isinstance(address, str) else tuple(address[:2])

    def start(self):
        """Begin to accept."""
        self._thread.start()

    def stop(self, patience):
        """Accept no more, let running calls end, and see all clients off.

        A client that has not taken its last reply after `patience` (seconds) is
        cut off.  Returns when all sessions have ended.
        """
        with self._lock:
            self._stopped = True
            sessions = dict(self._sessions)
        if self._thread.ident is None:
            self._server.server_close()
            return
        self._server.stop()
        self._thread.join()
        for session in sessions:
            session.stop()
        deadline = time.monotonic() + patience
        for thread in sessions.values():
            thread.join(max(0, deadline - time.monotonic()))
        for session in sessions:
            session.end("the server stops")
        for thread in sessions.values():
            thread.join()

    def _talk(self, sock, address, server):
        # In the client's own thread.
        channel = self._channel(sock)
        name = f"{address[0]}:{address[1]}" if address else "a local process"
        session = Session(channel, name, self._storages, self._options)
        with self._lock:
            if self._stopped:
                return
            self._sessions[session] = threading.current_thread()
        try:
            session.run()
        finally:
            with self._lock:
                del self._sessions[session]

    def _channel(self, sock):
        settings = sock, self._options.client_timeout, self._options.keep_alive
        if self.tls is None:
            return PlainChannel(*settings)
        return TLSChannel(*settings, self.tls, server_side=True)


class _Server:
    """What the servers for TCP and Unix sockets share."""

    allow_reuse_address = True
    daemon_threads = True
    # `Listener.stop` waits for the sessions; the mix-in's own list would grow.
    block_on_close = False
    request_queue_size = _BACKLOG
    _stopping = False

    def get_request(self):
        try:
            return super().get_request()
        except OSError as error:
            if not self._stopping and error.errno in (errno.EMFILE, errno.ENFILE):
                logger.error("no client can connect: %s", error)
                # The connection stays in the queue: do not spin.
                time.sleep(0.5)
            raise

    def handle_error(self, request, client_address):
        logger.exception("no thread for client %s", client_address)

    def stop(self):
        """End `serve_forever`, now rather than at its next look around."""
        self._stopping = True
        waker = threading.Thread(target=self.shutdown)
        waker.start()
        try:
            self.socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # Not everywhere is that possible for a listening socket.
        waker.join()
        self.server_close()


class TCPServer(_Server, socketserver.ThreadingTCPServer):
    def __init__(self, address, handler):
        host, port = address
        self.address_family = _family(host, port)
        super().__init__((host, port), handler)


class _UnixServer(_Server, socketserver.ThreadingUnixStreamServer):
    _inode = None

    def server_bind(self):
        # Only the owner may connect.
        before = os.umask(0o177)
        try:
            super().server_bind()
            self._inode = os.stat(self.server_address).st_ino
        finally:
            os.umask(before)

    def server_close(self):
        # Before closing, while it can only be ours; and not if it is another's.
        try:
            if os.stat(self.server_address).st_ino == self._inode:
                os.unlink(self.server_address)
        except OSError:
            pass
        super().server_close()


def _family(host, port):
    if not host:
        return socket.AF_INET
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return found[0][0]


def _remove_stale(path):
    """Remove a socket file that a server which is gone has left behind."""
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            raise OSError(errno.EEXIST, f"{path} is a file, and no socket")
    except FileNotFoundError:
        return
    probe = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        probe.connect(path)
    except ConnectionRefusedError:
        os.unlink(path)
    except OSError:
        pass  # No such file, or none of ours: binding will tell.
    finally:
        probe.close()
