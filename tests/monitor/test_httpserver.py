"""The monitor's HTTP, with peers that behave and peers that do not."""

import select
import socket
import threading

import pytest

from tests.support.blocking import Gate
from zeolite.monitor.httpserver import Answer, HTTPServer

LOCAL = "127.0.0.1", 0


@pytest.fixture
def serve():
    servers = []

    def serve(pages=None, **options):
        pages = pages or {"/": lambda: Answer("text/plain", b"hello")}
        servers.append(HTTPServer(LOCAL, pages, **options))
        servers[-1].start()
        return servers[-1]

    yield serve
    for server in servers:
        server.close()


@pytest.fixture
def connect():
    sockets = []

    def connect(server, data=b""):
        sock = socket.create_connection(server.address, timeout=20)
        sockets.append(sock)
        sock.sendall(data)
        return sock

    yield connect
    for sock in sockets:
        sock.close()


def read(sock):
    """Return all that comes until the connection ends."""
    data = b""
    try:
        while received := sock.recv(65536):
            data += received
    except ConnectionResetError:
        pass
    return data


def ask(connect, server, request):
    head, _, body = read(connect(server, request)).partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    return lines[0], lines[1:], body


def test_get_and_head(serve, connect):
    server = serve()
    status, headers, body = ask(connect, server, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert status == "HTTP/1.1 200 OK"
    assert body == b"hello"
    assert "Content-Length: 5" in headers
    assert ask(connect, server, b"HEAD / HTTP/1.0\r\n\r\n") == (status, headers, b"")


@pytest.mark.parametrize(
    "target, found",
    [
        ("/", 200),
        ("/?x=../..", 200),
        ("//", 404),
        ("/..", 404),
        ("/../../etc/passwd", 404),
        ("/%2e%2e/page.html", 404),
        ("/page.html", 404),
        ("/\0", 404),
        ("http://127.0.0.1/", 404),
        ("*", 404),
        ("", 404),
    ],
)
def test_only_what_is_listed_can_be_asked_for(serve, connect, target, found):
    request = f"GET {target} HTTP/1.1\r\n\r\n".encode()
    assert ask(connect, serve(), request)[0].split()[1] == str(found)


@pytest.mark.parametrize(
    "request_, found",
    [
        (b"POST / HTTP/1.1\r\nContent-Length: 0\r\n\r\n", b"405"),
        (b"get / HTTP/1.1\r\n\r\n", b"405"),
        (b"\r\n\r\n", b"400"),
        (b"GET /\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1 x\r\n\r\n", b"400"),
        (b"\x16\x03\x01\x02\x00\xff\n\n", b"400"),
        (b"GET / SPDY/9\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\n" + b"x: y\r\n" * 1365, b"431"),
        (b"GET /" + b"x" * 8192, b"431"),
    ],
)
def test_everything_else_is_refused(serve, connect, request_, found):
    assert read(connect(serve(), request_)).split()[1] == found


def test_host_header_does_not_matter(serve, connect):
    for host in (b"evil.example.com", b"\xff", b"a b"):
        request = b"GET / HTTP/1.1\r\nHost: " + host + b"\r\n\r\n"
        assert ask(connect, serve(), request)[2] == b"hello"


def test_request_in_pieces(serve, connect):
    sock = connect(serve())
    for byte in b"GET / HTTP/1.1\r\n\r\n":
        sock.sendall(bytes([byte]))
    assert read(sock).endswith(b"hello")


def test_silent_and_slow_peers_are_let_go(serve, connect):
    server = serve(patience=0.2)
    silent = connect(server)
    slow = connect(server, b"GET / HT")
    stop = threading.Event()

    def drip():
        try:
            while not stop.wait(0.02):
                slow.sendall(b"x")
        except OSError:
            pass

    thread = threading.Thread(target=drip)
    thread.start()
    assert read(silent) == read(slow) == b""
    stop.set()
    thread.join()


def test_silent_peers_keep_nobody_out(serve, connect):
    server = serve(connections=4, patience=1000)
    silent = {connect(server, b"GET") for _ in range(20)}
    for _ in range(10):
        assert read(connect(server, b"GET / HTTP/1.1\r\n\r\n")).endswith(b"hello")
    # Their threads need not come to it in the order in which they have connected.
    while len(silent) > 4:
        ended = select.select(silent, [], [], 20)[0]
        assert ended and all(read(sock) == b"" for sock in ended)
        silent.difference_update(ended)


def test_no_more_at_once_than_is_set(serve, connect):
    gates = [Gate() for _ in range(3)]
    waiting = iter(gates)

    def page():
        next(waiting).stop_here()
        return Answer("text/plain", b"late")

    server = serve({"/": page}, connections=2)
    request = b"GET / HTTP/1.1\r\n\r\n"
    first, second = connect(server, request), connect(server, request)
    for gate in gates[:2]:
        gate.wait_until_reached()
    assert read(connect(server)) == b""
    for gate in gates:
        gate.open()
    assert read(first).endswith(b"late") and read(second).endswith(b"late")
    assert read(connect(server, request)).endswith(b"late")


def test_peer_that_does_not_take_the_answer(serve, connect):
    server = serve({"/": lambda: Answer("text/plain", b"x" * (50 << 20))}, patience=0.2)
    sock = connect(server, b"GET / HTTP/1.1\r\n\r\n")
    until_gone = threading.Event()
    while server._connections or not until_gone.is_set():
        until_gone.set()  # At least one look.
    assert len(read(sock)) < 50 << 20


def test_error_in_a_page_is_told_and_logged(serve, connect, caplog):
    server = serve({"/": lambda: 1 / 0})
    status, _, body = ask(connect, server, b"GET / HTTP/1.1\r\n\r\n")
    assert status.split()[1] == "500"
    assert b"division" not in body
    assert "division by zero" in caplog.text


def test_close_ends_connections_and_threads(serve, connect):
    before = set(threading.enumerate())
    server = serve(patience=1000)
    silent = connect(server)
    while not server._connections:
        pass
    server.close()
    assert read(silent) == b""
    assert not [t for t in threading.enumerate() if t not in before and t.is_alive()]
    with pytest.raises(OSError):
        connect(server)


def test_close_without_start():
    server = HTTPServer(LOCAL, {})
    with pytest.raises(OSError):
        HTTPServer(server.address, {})
    server.close()
    HTTPServer(server.address, {}).close()
