"""A server that says only what a test tells it to."""

import pickle
import socket
import struct
import threading

from ZODB.utils import p64

FIRST_TID = p64(1)


class FakeServer:
    """Listens at `address`; each connection is a `Script` from `accept`."""

    def __init__(self, protocol=b"Z5", port=0):
        self._protocol = protocol
        self.address = "127.0.0.1", port
        self.open_listener()
        self._scripts = []
        #: What it says to `get_info`.
        self.info = {"length": 1, "size": 2, "name": "fake"}

    def open_listener(self):
        """Listen, at the same port as before."""
        self._listener = socket.create_server(self.address)
        self._listener.settimeout(20)
        self.address = self._listener.getsockname()

    def close_listener(self):
        """Refuse whoever wants to connect."""
        self._listener.close()

    def accept(self, tid=FIRST_TID, register=True):
        """Take a client through the handshake, and registering."""
        sock, _ = self._listener.accept()
        script = Script(sock)
        self._scripts.append(script)
        script.send_frame(self._protocol)
        if register:
            script.answer("register", tid)
            script.answer("get_info", self.info)
        return script

    def accept_in_background(self, tid=FIRST_TID):
        """For a client that waits in its constructor; `join` gives the script."""
        accepting = Accepting(lambda: self.accept(tid))
        accepting.start()
        return accepting

    def close(self):
        self._listener.close()
        for script in self._scripts:
            script.close()


class Accepting(threading.Thread):
    def __init__(self, accept):
        super().__init__()
        self._accept = accept
        self.script = None

    def run(self):
        self.script = self._accept()


class Script:
    """The server's end of a connection."""

    def __init__(self, sock):
        sock.settimeout(20)
        self._socket = sock
        self._file = sock.makefile("rb")
        self._greeted = False

    def send_frame(self, data):
        self._socket.sendall(struct.pack(">I", len(data)) + data)

    def read_frame(self):
        (size,) = struct.unpack(">I", self._file.read(4))
        return self._file.read(size)

    def read(self):
        """Return the next call: (message id, flag, name, args)."""
        if not self._greeted:
            assert self.read_frame() == b"Z5"
            self._greeted = True
        return pickle.loads(self.read_frame())

    def expect(self, name):
        """Read the next call, which is to be `name`; return (id, args)."""
        message_id, _, found, args = self.read()
        assert found == name
        return message_id, args

    def answer(self, name, result):
        """Expect a call and reply to it; return its arguments."""
        message_id, args = self.expect(name)
        self.reply(message_id, result)
        return args

    def expect_all(self, *names):
        """Read as many calls as there are names, in any order."""
        assert sorted(self.read()[2] for _ in names) == sorted(names)

    def answer_all(self, **results):
        """Answer a call of each name, in the order in which they come."""
        for _ in results:
            message_id, _, name, _ = self.read()
            self.reply(message_id, results[name])

    def is_closed(self):
        """Whether the client has closed the connection; waits for it."""
        return self._file.read(1) == b""

    def reply(self, message_id, result):
        self.send(message_id, 0, ".reply", result)

    def fail(self, message_id, name, details):
        self.send(message_id, 2, ".reply", (name, details))

    def call(self, name, *args):
        self.send(0, 1, name, args)

    def send(self, *message):
        self.send_frame(pickle.dumps(message, 3))

    def send_together(self, *messages):
        """Have them arrive in one piece."""
        frames = [pickle.dumps(message, 3) for message in messages]
        sized = [struct.pack(">I", len(frame)) + frame for frame in frames]
        self._socket.sendall(b"".join(sized))

    def close(self):
        self._file.close()
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self._socket.close()
