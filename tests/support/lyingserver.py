"""A server that answers as it likes, and then, once it is `honest`, as it should."""

import collections
import pickle
import random
import socket
import struct
import threading

from BTrees.Length import Length
from ZODB.tests.StorageTestBase import zodb_pickle
from ZODB.utils import maxtid, p64, z64

from . import fuzzpickles
from .bombs import BOMBS
from .fuzzpickles import dumps, spoiled, value

#: What the honest server knows: later than whatever a lie has said.
TID = b"\xff" * 8
RECORD = zodb_pickle(Length())

_INFO = {"length": 1, "size": 2, "name": "liar", "supportsUndo": True}
_ONE_WAY = 1

_CONFLICT = {"oid": p64(1), "serials": (p64(3), p64(2)), "data": RECORD}
_VOTES = [[], [], [p64(1)], None, [_CONFLICT]]

_UNDOABLE = {"id": b"1", "time": 1.5, "user_name": b"", "description": b""}
_TRUTHS = {
    "getInvalidations": (TID, [p64(1)]),
    "history": [{"tid": p64(3), "user_name": b"", "description": b"", "size": 4}],
    "iterator_next": (p64(3), " ", b"user", b"description", b""),
    "iterator_record_next": (p64(1), p64(3), RECORD, None),
    "iterator_record_start": 2,
    "iterator_start": 1,
    "loadSerial": RECORD,
    "new_oids": [p64(7)],
    "record_iternext": (p64(1), p64(3), RECORD, None),
    "server_status": {"loads": 1},
    "undoInfo": [_UNDOABLE],
    "undoLog": [_UNDOABLE],
}

_BOMBS = [data.replace(b"ping", b"info") for data in BOMBS.values()]
_EXCEPTIONS = ["ZODB.POSException.POSKeyError", "ZODB.POSException.ConflictError"]
_EXCEPTIONS += ["builtins.KeyError", "builtins.SystemExit", "os.system", "", ".", 1]
_CALLS = ["invalidateTransaction", "info", "receiveBlobStart", "receiveBlobChunk"]
_CALLS += ["receiveBlobStop", ".reply", "eval", ""]


class LyingServer:
    """Listens at `address`; `counts` is how many frames of each kind it has sent."""

    def __init__(self, seed):
        self._rng = random.Random(seed)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = self._listener.getsockname()
        self.counts = collections.Counter()
        self.honest = False
        self._closed = False
        self._sock = None
        self._thread = threading.Thread(target=self._run, name="liar")
        self._thread.start()

    def become_honest(self):
        self.honest = True
        self._break()

    def close(self):
        self._closed = True
        # Wakes up who accepts.
        socket.create_connection(self.address).close()
        self._break()
        self._thread.join()
        self._listener.close()

    def _break(self):
        try:
            self._sock.shutdown(socket.SHUT_RDWR)
        except (AttributeError, OSError):
            pass

    def _run(self):
        while not self._closed:
            self._sock, _ = self._listener.accept()
            with self._sock, self._sock.makefile("rb") as file:
                try:
                    self._talk(file)
                except (OSError, EOFError, struct.error):
                    pass  # The client has had enough.

    def _talk(self, file):
        self._write(b"Z5" if self._is_true(50) else self._rng.randbytes(4))
        assert self._read(file)
        left = self._rng.choice([3, 10, 40])
        while self.honest or left > 0:
            message_id, flag, name, args = pickle.loads(self._read(file))
            if flag == _ONE_WAY or name == ".reply":
                continue
            left -= 1
            truth = self._true(name, args)
            if self._is_true(60 if name in ("register", "get_info") else 2):
                self._send("true", message_id, 0, ".reply", truth)
            elif not self._lie(message_id, truth):
                return  # It may still wait for its answer.

    def _is_true(self, odds):
        return self.honest or self._rng.randrange(odds) != 0

    def _true(self, name, args):
        """Return an answer of the right kind."""
        if name == "get_info":
            return _INFO | {"zeolite": 1} if self._rng.randrange(2) else _INFO
        if name == "loadBefore":
            return RECORD, p64(1), None
        if name in ("register", "lastTransaction", "tpc_finish", "getTid"):
            return TID
        if name in ("iterator_next", "iterator_record_next") and self._is_true(4):
            return None  # The end.
        if name == "vote":
            return self._rng.choice(_VOTES)
        return _TRUTHS.get(name)

    # Lies.

    def _lie(self, message_id, truth):
        """Send something; return whether it was an answer."""
        rng = self._rng
        kind = rng.randrange(10)
        if kind == 0:
            self._send("wrong result", message_id, 0, ".reply", value(rng))
            return True
        if kind == 1:
            details = value(rng), rng.choice([rng.choice(_EXCEPTIONS), value(rng)])
            self._send("error", message_id, 2, ".reply", details[::-1])
            return True
        if kind == 2:
            call = self._call()
            self._send("call", 0, 1, *call)
            self._send("true", message_id, 0, ".reply", truth)
            return True
        if kind == 9:
            self._send("nearly right", message_id, 0, ".reply", spoiled(rng, truth))
            return True
        if kind == 3:
            self._send("wrong id", value(rng, 1), rng.randrange(3), ".reply", truth)
        elif kind == 4:
            data = dumps((message_id, 0, ".reply", truth))
            self._write(fuzzpickles.damage(rng, data), "damaged")
        elif kind == 5:
            self._write(fuzzpickles.as_message(rng, message_id, 0, ".reply"), "program")
        elif kind == 6:
            self._write(rng.randbytes(rng.randrange(99)), "raw")
        elif kind == 7:
            self._write(rng.choice(_BOMBS), "bomb")
        else:
            size = rng.choice([0, 1000, 2**28, 2**28 + 1, 2**32 - 1])
            self.counts["lying size"] += 1
            self._sock.sendall(struct.pack(">I", size) + rng.randbytes(50))
        return False

    def _call(self):
        rng = self._rng
        name, tid = rng.choice(_CALLS), rng.choice([z64, maxtid, rng.randbytes(8)])
        right = {
            "invalidateTransaction": (tid, [p64(rng.randrange(9))]),
            "info": ({"length": rng.choice([5, -1, 2**70, "x"])},),
        }.get(name, (p64(1), tid, b"chunk"))
        return name, rng.choice([right, right[:2], (value(rng), value(rng))])

    def _send(self, kind, *message):
        self._write(dumps(message), kind)

    def _write(self, data, kind="handshake"):
        self.counts[kind] += 1
        self._sock.sendall(struct.pack(">I", len(data)) + data)

    @staticmethod
    def _read(file):
        (size,) = struct.unpack(">I", file.read(4))
        data = file.read(size)
        if len(data) < size:
            raise EOFError
        return data
