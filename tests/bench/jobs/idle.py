"""Clients that are connected and only take what the server sends.

They are bare sockets: hundreds of client storages in one process would measure
that process.  The frames are those of the Z5 protocol.
"""

import pickle
import selectors
import socket
import struct
import sys

_LENGTH = struct.Struct(">I")
_PROTOCOL = b"Z5"
_REGISTER = pickle.dumps((1, 0, "register", ("1", False)), protocol=3)


def idle(target, count):
    """Register `count` clients, and read until there is no more input."""
    connections = [_register(target["port"]) for _ in range(count)]
    selector = selectors.DefaultSelector()
    selector.register(sys.stdin, selectors.EVENT_READ)
    for connection in connections:
        selector.register(connection, selectors.EVENT_READ)

    def measure():
        while True:
            for key, _ in selector.select():
                if key.fileobj is sys.stdin:
                    return
                if not key.fileobj.recv(65536):
                    raise RuntimeError("the server has closed an idle connection")

    return measure


def _register(port):
    connection = socket.create_connection(("127.0.0.1", port))
    _receive_frame(connection)
    connection.sendall(_frame(_PROTOCOL) + _frame(_REGISTER))
    _receive_frame(connection)
    return connection


def _frame(data):
    return _LENGTH.pack(len(data)) + data


def _receive_frame(connection):
    (size,) = _LENGTH.unpack(_receive(connection, _LENGTH.size))
    return _receive(connection, size)


def _receive(connection, size):
    data = b""
    while len(data) < size:
        received = connection.recv(size - len(data))
        if not received:
            raise RuntimeError("the server has closed a connection")
        data += received
    return data
