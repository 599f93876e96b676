"""Servers of no use: each kind of address that a client may find dead."""

import contextlib
import socket
import threading

from .processes import free_port


@contextlib.contextmanager
def refused():
    """Nobody listens there."""
    yield "127.0.0.1", free_port()


@contextlib.contextmanager
def black_hole():
    """Never answers who wants to connect: its queue is full, and stays so."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        listener.listen(0)
        for _ in range(4):
            sock = stack.enter_context(socket.socket())
            sock.setblocking(False)
            sock.connect_ex(listener.getsockname())
        yield listener.getsockname()


@contextlib.contextmanager
def silent():
    """Accepts, and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()


@contextlib.contextmanager
def greeting(data):
    """Sends the same to everybody who connects, and waits for them to leave."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threads = []

        def greet(sock):
            with sock, contextlib.suppress(OSError):
                sock.sendall(data)
                while sock.recv(4096):
                    pass

        def accept():
            with contextlib.suppress(OSError):
                while True:
                    sock, _ = listener.accept()
                    threads.append(threading.Thread(target=greet, args=(sock,)))
                    threads[-1].start()

        accepting = threading.Thread(target=accept)
        accepting.start()
        try:
            yield listener.getsockname()
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            accepting.join()
            for thread in threads:
                thread.join()


#: name -> context manager that gives an address
KINDS = {
    "refused": refused,
    "black hole": black_hole,
    "silent": silent,
    "SSH": lambda: greeting(b"SSH-2.0-OpenSSH_9.2\r\n"),
    "garbage": lambda: greeting(bytes(range(256)) * 100),
    "does not register": lambda: greeting(b"\0\0\0\2Z5"),
    "closes": lambda: greeting(b""),
}
