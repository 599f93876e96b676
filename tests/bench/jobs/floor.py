"""The floor: a round trip over the loopback with nothing done at the other end.

Sizes are those of a load: the request, and the reply with a record of 400 bytes.

The kernel may put both processes on one CPU, or each on its own, where each has to
be woken from its sleep; in a virtual machine the second takes several times as
long.  A number is only worth something where it is known which it was.
"""

import socket
import sys
import threading
import time

from ..systems import stay_on

REQUEST = 59
REPLY = 450


def answer(port, cpu):
    """Answer requests until there is no more input, a thread for each connection."""
    stay_on(cpu)
    listening = socket.create_server(("127.0.0.1", port))

    def serve():
        while True:
            connection, _ = listening.accept()
            threading.Thread(target=_answer, args=(connection,), daemon=True).start()

    def measure():
        threading.Thread(target=serve, daemon=True).start()
        sys.stdin.read()

    return measure


def ask(target, count):
    """Make round trips one after the other; the result is start and end."""
    stay_on(target["cpu"])
    connection = socket.create_connection(("127.0.0.1", target["port"]))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    _ask(connection, count // 10)

    def measure():
        start = time.monotonic()
        _ask(connection, count)
        return start, time.monotonic()

    return measure


def _ask(connection, count):
    request = b"?" * REQUEST
    for _ in range(count):
        connection.sendall(request)
        _receive(connection, REPLY)


def _answer(connection):
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    reply = b"!" * REPLY
    while _receive(connection, REQUEST):
        connection.sendall(reply)


def _receive(connection, size):
    while size:
        received = connection.recv(size)
        if not received:
            return False
        size -= len(received)
    return True
