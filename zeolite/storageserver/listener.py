"""Accepting clients: one address, one thread for each client that connects."""

import errno
import os
import socket
import socketserver
import stat
import threading
import time

from ..wire.channel import PlainChannel
from ..wire.tls import TLSChannel
from .admission import Admission
from .busypolling import BusyPolling
from .session import Session
from .unfinished import Unfinished

_BACKLOG = 1024

#: The mode of a Unix socket's file, unless it is set.
OWNER_ONLY = 0o600


class Listener:
    """Accepts at one address and runs a `Session` for each client.

    `address` is a pair of host and port, or the path of a Unix socket.
    `storages` maps names to `Served`, and `log` is a `SparseLog`.  The socket is
    bound when the listener is made, which raises `OSError` where that is impossible;
    accepting begins with `start`.  `tls` is the `ssl.SSLContext` of clients that
    connect from now on, or None; any thread may set another one.  `sock` is a socket that listens there
    already, and may go on to do so after `stop`.
    """

    def __init__(self, address, storages, options, log, tls=None, sock=None):
        self._storages = storages
        self._options = options
        self._log = log
        self._unfinished = Unfinished(options.max_unfinished_size)
        self._polling = BusyPolling(options.busy_polling)
        self.tls = tls
        self._lock = threading.Lock()  # Guards `_sessions` and `_stopped`.
        self._sessions = {}
        self._stopped = False
        admission = Admission(
            options.max_connections, options.max_connections_per_address
        )
        arguments = address, self._talk, log, admission, sock
        if isinstance(address, str):
            if sock is None:
                _remove_stale(address)
            self._server = _UnixServer(*arguments, mode=options.unix_socket_mode)
        else:
            self._server = TCPServer(*arguments)
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

    def stop(self, patience, deadline=None):
        """Accept no more, let running calls end, and see all clients off.

        A client that has not taken its last reply after `patience` (seconds) is
        cut off.  Returns when all sessions have ended, at the latest at `deadline`
        (`time.monotonic` seconds).
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
        cut_off = time.monotonic() + patience
        for thread in sessions.values():
            thread.join(max(0, cut_off - time.monotonic()))
        for session in sessions:
            session.end("the server stops")
        for thread in sessions.values():
            thread.join(deadline and max(0, deadline - time.monotonic()))

    def _talk(self, sock, address, server):
        # In the client's own thread.
        channel = self._channel(sock)
        is_local = _host(address) is None
        name = "a local process" if is_local else f"{address[0]}:{address[1]}"
        session = Session(
            channel,
            name,
            self._storages,
            self._options,
            self._log,
            self._unfinished,
            self._polling,
        )
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
    """What the servers for TCP and Unix sockets share.

    `handler(socket, address, server)` is called in a thread of each client's own;
    `log` is a `SparseLog`; `admission` says who may connect, None for anybody; `sock`
    is a socket that listens already.
    """

    allow_reuse_address = True
    daemon_threads = True
    # `Listener.stop` waits for the sessions; the mix-in's own list would grow.
    block_on_close = False
    request_queue_size = _BACKLOG
    _stopping = False
    # Whether the listening socket is another process's as well.
    _is_shared = False

    def __init__(self, address, handler, log, admission=None, sock=None):
        self._log = log
        self._admission = admission or Admission(0, 0)
        super().__init__(address, handler, bind_and_activate=sock is None)
        if sock is not None:
            self._adopt(sock)

    def _adopt(self, sock):
        """Accept at a socket that listens already."""
        self.socket.close()
        sock.setblocking(True)
        self.socket = sock
        self.server_address = sock.getsockname()
        self._is_shared = True

    def get_request(self):
        try:
            return super().get_request()
        except OSError as error:
            if not self._stopping and error.errno in (errno.EMFILE, errno.ENFILE):
                self._log.error(
                    "accepting",
                    "no client can connect: %s; raise the limit (ulimit -n, or systemd's "
                    "LimitNOFILE)",
                    error.strerror,
                )
                # The connection stays in the queue: do not spin.
                time.sleep(0.5)
            raise

    def verify_request(self, request, client_address):
        """Whether a client that has connected may stay."""
        reason = self._admission.enter(_host(client_address))
        if reason is not None:
            self._log.warning(
                reason,
                "client %s: turned away: %s",
                _host(client_address) or "a local process",
                reason,
            )
        return reason is None

    def process_request(self, request, client_address):
        try:
            super().process_request(request, client_address)
        except BaseException:  # There are too many threads.
            self._admission.leave(_host(client_address))
            raise

    def process_request_thread(self, request, client_address):
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._admission.leave(_host(client_address))

    def handle_error(self, request, client_address):
        self._log.error(
            "serving a client",
            "client %s: it cannot be served",
            _host(client_address) or "a local process",
            exc_info=True,
        )

    def stop(self):
        """End `serve_forever`, now rather than at its next look around."""
        self._stopping = True
        try:
            if not self._is_shared:
                # It tries in vain to accept until it is told to end.
                self.socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # Not everywhere is that possible for a listening socket.
        self.shutdown()
        self.server_close()


class TCPServer(_Server, socketserver.ThreadingTCPServer):
    """Listens at a pair of host and port; other arguments as in `_Server`.

    Without a host it is all interfaces, for IPv4 and, where the system has it, IPv6.
    """

    _is_dual = False

    def __init__(self, address, handler, log, admission=None, sock=None):
        if sock is None:
            self._is_dual = not address[0] and socket.has_dualstack_ipv6()
            family = socket.AF_INET6 if self._is_dual else _family(*address)
            self.address_family = family
        super().__init__(address, handler, log, admission, sock)

    def server_bind(self):
        if self._is_dual:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()
        if self._is_dual:
            # Others are to connect to it, also where there is no [::1].
            self.server_address = "0.0.0.0", self.server_address[1]

    def get_request(self):
        sock, address = super().get_request()
        host, *rest = address
        # IPv4 at a socket for IPv6.
        return sock, (host.removeprefix("::ffff:"), *rest)


class _UnixServer(_Server, socketserver.ThreadingUnixStreamServer):
    _inode = None

    def __init__(self, address, handler, log, admission, sock, mode=None):
        self._mode = OWNER_ONLY if mode is None else mode
        super().__init__(address, handler, log, admission, sock)

    def server_bind(self):
        # Until it has its mode, only the owner may connect.
        before = os.umask(0o777 & ~OWNER_ONLY)
        try:
            super().server_bind()
            self._inode = os.stat(self.server_address).st_ino
        finally:
            os.umask(before)
        if self._mode != OWNER_ONLY:
            os.chmod(self.server_address, self._mode)

    def server_close(self):
        # Before closing, while it can only be ours; and not if it is another's.
        try:
            if os.stat(self.server_address).st_ino == self._inode:
                os.unlink(self.server_address)
        except OSError:
            pass
        super().server_close()


def _host(client_address):
    """Return the IP address of a client, None for a Unix socket's."""
    return client_address[0] if isinstance(client_address, tuple) else None


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
