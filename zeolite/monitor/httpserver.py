"""A small HTTP server: one short answer for each connection, GET and HEAD only.

What a peer can use up is bounded: a request has 8 KB and a few seconds, so has
taking the answer, and there are only so many connections at a time.  Beyond those,
the one that has been busy sending its request for longest has to go, so that
silent peers keep nobody out.
"""

import http
import logging
import socket
import threading
import time

from ..storageserver.listener import TCPServer
from ..storageserver.sparselog import SparseLog

logger = logging.getLogger(__name__)

#: Bytes of a request, up to the empty line.
_MOST = 8 * 1024

#: Seconds for a request to arrive, and for the answer to be taken.
_PATIENCE = 5

#: Connections at a time.
_CONNECTIONS = 16

#: Nothing but what is in the answer itself, for nobody else's page.
_HEADERS = {
    "Cache-Control": "no-store",
    "Connection": "close",
    "Content-Security-Policy": "default-src 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class Answer:
    """What a page has to say: `body` is bytes, `headers` override the usual ones."""

    def __init__(self, content_type, body, status=200, headers=None):
        self.status = status
        self.body = body
        self.headers = {**_HEADERS, "Content-Type": content_type, **(headers or {})}


class HTTPServer:
    """Answers at `address`, a pair of host and port (0 for any that is free).

    `pages` maps paths to functions, which return an `Answer`; they are called in
    threads of the server's own.  It is bound when it is made, which raises `OSError`
    where that is impossible; answering begins with `start`.
    """

    def __init__(self, address, pages, connections=_CONNECTIONS, patience=_PATIENCE):
        self._pages = pages
        self._most = connections
        self._patience = patience
        self._lock = threading.Lock()  # Guards the two below.
        # Those that are still to send their request come first, oldest first.
        self._connections = {}  # socket -> [thread, whether it has asked]
        self._closed = False
        self._server = TCPServer(address, self._talk, SparseLog(logger))
        self._thread = threading.Thread(
            target=self._server.serve_forever, name="zeolite-monitor", daemon=True
        )

    @property
    def address(self):
        """Where it listens: (host, real port)."""
        return tuple(self._server.server_address[:2])

    def start(self):
        """Begin to answer."""
        self._thread.start()

    def close(self):
        """End all connections, and the threads."""
        with self._lock:
            self._closed = True
            connections = dict(self._connections)
        if self._thread.ident is None:
            self._server.server_close()
            return
        self._server.stop()
        self._thread.join()
        for sock in connections:
            _cut(sock)
        for thread, _ in connections.values():
            thread.join()

    # The threads of the connections.

    def _talk(self, sock, address, server):
        if not self._enter(sock):
            return
        try:
            sock.settimeout(self._patience)
            request = self._receive(sock)
            with self._lock:
                self._connections[sock][1] = True
            if request is not None:
                sock.sendall(self._answer(request))
        except OSError as error:
            logger.debug("monitor: connection of %s lost: %s", address[0], error)
        finally:
            with self._lock:
                del self._connections[sock]

    def _enter(self, sock):
        with self._lock:
            if self._closed:
                return False
            if len(self._connections) >= self._most:
                silent = [s for s, (_, asked) in self._connections.items() if not asked]
                if not silent:
                    return False
                # It counts until its thread has noticed, so look for the next then.
                self._connections[silent[0]][1] = True
                _cut(silent[0])
            self._connections[sock] = [threading.current_thread(), False]
            return True

    def _receive(self, sock):
        """Return the request up to the empty line; None if none came in time."""
        deadline = time.monotonic() + self._patience
        data = b""
        while b"\r\n\r\n" not in data and b"\n\n" not in data:
            if len(data) > _MOST:
                return data
            left = deadline - time.monotonic()
            if left <= 0:
                return None
            sock.settimeout(left)
            received = sock.recv(_MOST)
            if not received:
                return None
            data += received
        sock.settimeout(self._patience)
        return data

    def _answer(self, request):
        method, answer = self._find(request)
        status = http.HTTPStatus(answer.status)
        lines = [f"HTTP/1.1 {status.value} {status.phrase}"]
        lines += [f"{name}: {value}" for name, value in answer.headers.items()]
        lines += [f"Content-Length: {len(answer.body)}", "", ""]
        head = "\r\n".join(lines).encode("ascii")
        return head if method == "HEAD" else head + answer.body

    def _find(self, request):
        """Return the method, and the answer to a request."""
        if len(request) > _MOST:
            return None, _refusal(431)
        words = request.split(b"\n", 1)[0].decode("latin-1").strip("\r").split(" ")
        if len(words) != 3 or not words[2].startswith("HTTP/1."):
            return None, _refusal(400)
        method, target, _ = words
        if method not in ("GET", "HEAD"):
            return method, _refusal(405, {"Allow": "GET, HEAD"})
        page = self._pages.get(target.partition("?")[0])
        if page is None:
            return method, _refusal(404)
        try:
            return method, page()
        except Exception:
            logger.exception("monitor: %a cannot be told", target[:200])
            return method, _refusal(500)


def _refusal(number, headers=None):
    text = f"{number} {http.HTTPStatus(number).phrase}\n"
    return Answer("text/plain; charset=utf-8", text.encode(), number, headers)


def _cut(sock):
    try:
        sock.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # It has ended already.
