"""Ends of TLS connections, and one that a test plays record by record."""

import ssl
import threading
import time

from tests.support.certificates import client_context, server_context
from zeolite.wire.tls import TLSChannel


def soon():
    return time.monotonic() + 20


class Peer:
    """A TLS end of its own, so that a test sees and makes each record."""

    def __init__(self, sock, context, **kwargs):
        self.socket = sock
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.ssl = context.wrap_bio(self.incoming, self.outgoing, **kwargs)

    def handshake(self):
        while True:
            try:
                self.ssl.do_handshake()
                break
            except ssl.SSLWantReadError:
                self.send_records()
                self.incoming.write(self.socket.recv(65536))
        self.send_records()

    def send_records(self):
        self.socket.sendall(self.outgoing.read())

    def records(self, *data):
        """Return the records of some messages."""
        for piece in data:
            self.ssl.write(piece)
        return self.outgoing.read()

    def read(self, size):
        data = b""
        while len(data) < size:
            try:
                data += self.ssl.read(size - len(data))
            except ssl.SSLWantReadError:
                self.incoming.write(self.socket.recv(65536))
        return data


def as_client(sock, stall_timeout=20, **kwargs):
    context = client_context(**kwargs)
    return TLSChannel(sock, stall_timeout, 0, context, server_hostname="localhost")


def as_server(sock, stall_timeout=20, **kwargs):
    context = server_context(**kwargs)
    return TLSChannel(sock, stall_timeout, 0, context, server_side=True)


def together(*functions):
    threads = [threading.Thread(target=function) for function in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
