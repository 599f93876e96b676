"""A client that speaks the protocol frame by frame, and shows the order of all."""

import pickle
import socket
import struct

from ZODB.utils import maxtid, p64

from zeolite.wire import messages


class Closed(Exception):
    """The server has closed the connection."""


class RawClient:
    """A blocking connection to a server.  Used by one thread at a time.

    Every message that arrives is kept in `seen`, in its order, as a tuple:
    ("reply", message id, result), ("error", message id, (class, details)) or
    (method, *args).  `tls` is an `ssl.SSLContext`, or None for no encryption.
    """

    #: Whether its loads are the bytes that Zeolite's clients send.  Those of stock
    #: clients are others, and so the server has two ways to take them.
    packs_loads = False

    def __init__(
        self, address, register=True, receive_buffer=None, timeout=20, tls=None
    ):
        if isinstance(address, str):
            family = socket.AF_UNIX
        else:
            family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self.socket = socket.socket(family)
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(timeout)
        self.socket.connect(address)
        if family != socket.AF_UNIX:
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if tls is not None:
            self.socket = tls.wrap_socket(self.socket, server_hostname="localhost")
        self._buffer = b""
        self._next_id = 0
        self.seen = []
        if register:
            self.handshake()
            self.tid = self.ask("register", "1", False)

    def handshake(self):
        assert self.read_frame() == b"Z5"
        self.send_frame(b"Z5")

    # Sending.

    def send_frame(self, data):
        self.socket.sendall(struct.pack(">I", len(data)) + data)

    def call(self, name, *args):
        """Send a call that wants a reply; return its message id."""
        self._next_id += 1
        if name == "loadBefore" and self.packs_loads:
            self.socket.sendall(messages.encode_load(self._next_id, *args))
        else:
            self.send_frame(pickle.dumps((self._next_id, 0, name, args), 3))
        return self._next_id

    def post(self, name, *args):
        """Send a call that wants none."""
        self.send_frame(pickle.dumps((0, 1, name, args), 3))

    # Receiving.

    def read_frame(self):
        (size,) = struct.unpack(">I", self._read(4))
        return self._read(size)

    def read(self):
        """Return the next message, as it is kept in `seen`."""
        message_id, flag, name, args = pickle.loads(self.read_frame())
        if name != ".reply":
            message = (name, *args)
        else:
            message = ("error" if flag else "reply", message_id, args)
        self.seen.append(message)
        return message

    def wait_for(self, message_id):
        """Read until the reply to a call; return its result."""
        while True:
            message = self.read()
            if message[:2] == ("reply", message_id):
                return message[2]
            if message[:2] == ("error", message_id):
                raise Failed(*message[2])

    def ask(self, name, *args):
        """Call and wait for the result."""
        return self.wait_for(self.call(name, *args))

    def is_closed(self):
        """Whether the server has closed the connection; waits for it."""
        try:
            while True:
                self.read_frame()
        except Closed:
            return True
        except TimeoutError:
            return False

    def _read(self, size):
        while len(self._buffer) < size:
            try:
                data = self.socket.recv(65536)
            except ConnectionResetError:
                data = b""
            if not data:
                raise Closed
            self._buffer += data
        data, self._buffer = self._buffer[:size], self._buffer[size:]
        return data

    def close(self):
        self.socket.close()

    # Transactions.

    def begin(self, id, oids=(1,), serial=None, data=b"data"):
        """Send a transaction up to its vote."""
        self.post("tpc_begin", id, b"", b"", {}, None, " ")
        for oid in oids:
            self.post("storea", p64(oid), serial, data, id)

    def commit(self, id, *args, **kwargs):
        """Commit; return the tid."""
        self.begin(id, *args, **kwargs)
        self.ask("vote", id)
        return self.ask("tpc_finish", id)

    def load(self, oid):
        return self.call("loadBefore", p64(oid), maxtid)

    def invalidations(self):
        """The tids of the invalidations seen, in their order."""
        return [m[1] for m in self.seen if m[0] == "invalidateTransaction"]


class Failed(Exception):
    """An error reply: class name and details."""
