"""What a client that means harm, or is broken, sends to a server: frame by frame.

`conversation` returns a whole one, from the handshake on, as pairs of kind and
bytes.  The kinds are what the counts of the long test are by.
"""

import struct

from ZODB.utils import maxtid, p64, z64

from . import fuzzpickles
from .bombs import BOMBS
from .fuzzpickles import dumps, scalar, value

#: A transaction is one of few, so that the calls of one meet.
_TRANSACTIONS = (1, 2, 3)

_LABELS = ["me", "", "x\nCRITICAL", "\x1b[31m", "\ud800", "x" * 5000]


class Arguments:
    """Arguments of the right types for each method.

    `tids` is a list of tids that mean something; `blob` is (oid, tid) of a blob
    that exists, or of nothing.
    """

    def __init__(self, rng, tids, blob):
        self._rng = rng
        self._tids = tids
        self._blob = blob

    def of(self, name):
        """Return a tuple of arguments for the method `name`."""
        return getattr(self, f"_{name}")()

    # What arguments are made of.

    def oid(self):
        rng = self._rng
        return p64(rng.randrange(6)) if rng.randrange(8) else rng.randbytes(8)

    def tid(self):
        rng = self._rng
        if rng.randrange(3):
            return rng.choice([z64, maxtid, *self._tids])
        return rng.choice([rng.randbytes(8), b"\xff" * 8, p64(1)])

    def serial(self):
        return self._rng.choice([None, z64, "\0" * 8, self.tid()])

    def data(self):
        rng = self._rng
        size = rng.choice([0, 1, 10, 100, 300]) if rng.randrange(60) else 300_000
        # The end of a pickle comes first: storages load records to resolve conflicts.
        return b"." + rng.randbytes(min(size, 300)) + b"x" * (size - 300)

    def id(self):
        rng = self._rng
        return rng.choice(_TRANSACTIONS) if rng.randrange(30) else 2**70

    def number(self):
        return self._rng.choice([-(2**70), -20, -1, 0, 1, 2, 10, 100, 2**31, 2**70])

    def extension(self):
        rng = self._rng
        return rng.choice(
            [{}, b"", dumps({}), {"a": 1}, value(rng), fuzzpickles.program(rng)]
        )

    # The connection.

    def _register(self):
        rng = self._rng
        return rng.choice(["1", "1", "1", "", "2", "\0"]), rng.choice([0, 1, False])

    def _ping(self):
        return ()

    _get_info = _lastTransaction = _server_status = _storeBlobStart = _ping

    def _set_client_label(self):
        return (self._rng.choice(_LABELS),)

    # Reading.

    def _getInvalidations(self):
        return (self.tid(),)

    def _loadBefore(self):
        return self.oid(), self.tid()

    _loadSerial = _loadBefore

    def _getTid(self):
        return (self.oid(),)

    def _history(self):
        return self.oid(), self.number()

    def _a_blob(self):
        return self._blob if self._rng.randrange(3) else self._loadBefore()

    def _sendBlob(self):
        rng = self._rng
        return (*self._a_blob(), *rng.choice([(), (1,), (self.number(),)]))

    def _blobReceived(self):
        return (*self._a_blob(), self.number())

    def _record_iternext(self):
        return self._rng.choice([(), (None,), (self.oid(),)])

    def _undoLog(self):
        return self.number(), self.number()

    def _undoInfo(self):
        rng = self._rng
        specification = rng.choice([None, {}, {"user_name": b""}, {value(rng, 0): 1}])
        return (*self._undoLog(), *rng.choice([(), (specification,)]))

    def _pack(self):
        rng = self._rng
        when = rng.choice([0, 1.5, -1, 1e9, 1e300, -1e300, 2**70, float("nan"), 1e12])
        return (when, *rng.choice([(True,), (0,), (True, False), (False, True)]))

    # Iterating.

    def _iterator_start(self):
        rng = self._rng
        ends = rng.choice([None, self.tid()]), rng.choice([None, self.tid()])
        return (*ends, *rng.choice([(), (True,), (0,)]))

    def _iterator(self):
        rng = self._rng
        return rng.randrange(1, 8) if rng.randrange(20) else self.number()

    def _iterator_next(self):
        return (self._iterator(),)

    _iterator_record_next = _iterator_next

    def _iterator_record_start(self):
        return self._iterator(), self.tid()

    def _iterator_gc(self):
        return ([self._iterator() for _ in range(self._rng.randrange(4))],)

    # Writing.

    def _new_oids(self):
        return self._rng.choice([(), (self.number(),)])

    def _tpc_begin(self):
        rng = self._rng
        texts = rng.choice([b"", "", b"\xff\n", "\ud800", "x" * 70_000]), b"about"
        rest = rng.choice([(), (), (None,), (self.tid(),), (None, " ")])
        if rng.randrange(10) == 0:
            rest = self.tid(), rng.choice([" ", "p", b"u", "x", "", "\0" * 9])
        return (self.id(), *texts, self.extension() or {}, *rest)

    def _storea(self):
        return self.oid(), self.serial(), self.data(), self.id()

    def _restorea(self):
        rng = self._rng
        data, previous = rng.choice([self.data(), None]), rng.choice([None, self.tid()])
        return self.oid(), self.tid(), data, previous, self.id()

    def _storeBlobChunk(self):
        return (self.data(),)

    def _storeBlobEnd(self):
        return self._storea()

    def _file(self):
        return self._rng.choice(
            ["a.tmp", "../a.tmp", "/etc/passwd", "..", ".layout", "\0.tmp", "x" * 300]
        )

    def _storeBlobShared(self):
        *store, id = self._storea()
        return (*store, self._file(), id)

    def _restoreBlob(self):
        oid, tid, data, previous, id = self._restorea()
        name = self._rng.choice([None, self._file()])
        return oid, tid, data or b"", name, previous, id

    def _deleteObject(self):
        return self.oid(), self.tid(), self.id()

    _checkCurrentSerialInTransaction = _deleteObject

    def _undoa(self):
        rng = self._rng
        return rng.choice(
            [self.tid(), rng.randbytes(5), b"", b"AAAAAAAAAAA="]
        ), self.id()

    def _vote(self):
        return (self.id(),)

    _tpc_finish = _tpc_abort = _vote


#: Methods by what they are about.
READING = """ping get_info lastTransaction server_status set_client_label
    getInvalidations loadBefore loadSerial getTid history record_iternext undoLog
    undoInfo pack new_oids""".split()
TRANSACTIONS = """tpc_begin tpc_begin storea storea storea restorea deleteObject
    checkCurrentSerialInTransaction undoa vote vote vote tpc_finish tpc_finish
    tpc_finish tpc_abort""".split()
BLOBS = """storeBlobStart storeBlobStart storeBlobChunk storeBlobChunk storeBlobEnd
    storeBlobEnd storeBlobShared restoreBlob sendBlob sendBlob blobReceived tpc_begin
    vote tpc_finish tpc_abort""".split()
ITERATORS = """iterator_start iterator_start iterator_next iterator_next
    iterator_record_start iterator_record_next iterator_gc""".split()
EVERYTHING = [*READING, *TRANSACTIONS, *BLOBS, *ITERATORS, "register"]

#: Calls that clients make without wanting a reply.
_ONE_WAY = frozenset(
    """set_client_label tpc_begin storea restorea deleteObject storeBlobStart
    storeBlobChunk storeBlobEnd storeBlobShared restoreBlob blobReceived undoa
    checkCurrentSerialInTransaction iterator_gc""".split()
)

_JUNK_NAMES = ["", "fly", "__init__", "_leave", "run", ".reply", "Register", "a" * 999]


class Conversation:
    """Makes one.  See `conversation`."""

    def __init__(self, rng, tids, blob):
        self._rng = rng
        self._arguments = Arguments(rng, tids, blob)
        self._id = 0

    def make(self):
        rng = self._rng
        yield self._handshake()
        if rng.randrange(12):
            yield "register", dumps((1, 0, "register", ("1", rng.randrange(4) == 0)))
        theme = rng.choice([EVERYTHING, EVERYTHING, TRANSACTIONS, BLOBS, ITERATORS])
        # Most of what is wrong ends a session, so it must not come too soon.
        rarity = rng.choice([1, 3, 10, 60])
        for _ in range(rng.choice([1, 5, 20, 60])):
            if theme is BLOBS and rng.randrange(12) == 0:
                yield from self._upload()
            elif rng.randrange(rarity):
                yield self._valid(rng.choice(theme))
            else:
                yield self._bad()

    def _handshake(self):
        rng = self._rng
        if rng.randrange(30):
            return "handshake", b"Z5"
        return "handshake", rng.choice([b"ruok", b"M5", b"", b"Z", rng.randbytes(9)])

    def _upload(self):
        rng = self._rng
        id = rng.choice(_TRANSACTIONS)
        yield self._call("blob", "tpc_begin", (id, b"", b"", {}))
        yield self._call("blob", "storeBlobStart", ())
        yield self._call("blob", "storeBlobChunk", (b"chunk" * rng.randrange(999),))
        serial = rng.choice([None, z64])
        args = self._arguments.oid(), serial, b"record", id
        yield self._call("blob", "storeBlobEnd", args)

    def _valid(self, name):
        kind = "valid call"
        for methods, about in (
            (ITERATORS, "iterator"),
            (("register",), "second register"),
            (TRANSACTIONS, "transaction"),
            (BLOBS, "blob"),
        ):
            if name in methods:
                kind = about
                break
        return self._call(kind, name, self._arguments.of(name))

    def _call(self, kind, name, args):
        return kind, dumps(self._message(name, args))

    def _message(self, name, args):
        rng = self._rng
        one_way = (name in _ONE_WAY) != (rng.randrange(30) == 0)
        if one_way:
            return 0, 1, name, args
        self._id += 1
        message_id = self._id
        if rng.randrange(20) == 0:
            message_id = rng.choice([0, -1, 1, 2**31, 2**70, "id", b"id", (b"a", (1,))])
        return message_id, 0, name, args

    def _bad(self):
        rng = self._rng
        kinds = (
            self._wrong_arguments,
            self._wrong_arguments,
            self._wrong_shape,
            self._damaged,
            self._damaged,
            self._damaged,
            self._program,
            self._program,
            self._raw,
            self._bomb,
            self._lying_size,
        )
        return rng.choice(kinds)()

    def _wrong_arguments(self):
        rng = self._rng
        name = rng.choice(EVERYTHING)
        args = list(self._arguments.of(name))
        how = rng.randrange(4)
        if how == 0 or not args:
            args.append(value(rng))
        elif how == 1:
            args.pop(rng.randrange(len(args)))
        else:
            args[rng.randrange(len(args))] = value(rng)
        return self._call("wrong arguments", name, tuple(args))

    def _wrong_shape(self):
        rng = self._rng
        message = list(self._message(rng.choice(EVERYTHING), ()))
        how = rng.randrange(4)
        if how == 0:
            message[rng.randrange(4)] = value(rng)
        elif how == 1:
            message[2] = rng.choice(_JUNK_NAMES)
        elif how == 2:
            message = [value(rng, 1) for _ in range(rng.randrange(6))]
        else:
            message = -1, 0, ".reply", scalar(rng)
        return "wrong shape", dumps(tuple(message))

    def _damaged(self):
        rng = self._rng
        name = rng.choice(EVERYTHING)
        data = dumps(self._message(name, self._arguments.of(name)))
        return "damaged", fuzzpickles.damage(rng, data)

    def _program(self):
        rng = self._rng
        if rng.randrange(3) == 0:
            return "program", b"\x80\x03" + fuzzpickles.program(rng) + b"."
        message = self._message(rng.choice(EVERYTHING), ())[:3]
        return "program", fuzzpickles.as_message(rng, *message)

    def _raw(self):
        rng = self._rng
        start = rng.choice([b"", b"\x80\x03", b"\x80\x04", b"\x80\x03("])
        return "raw", start + rng.randbytes(rng.choice([0, 1, 8, 60, 300]))

    def _bomb(self):
        return "bomb", self._rng.choice(_SMALL_BOMBS)

    def _lying_size(self):
        size = self._rng.choice([0, 1, 65_536, 65_537, 2**28, 2**31, 2**32 - 1])
        data = self._rng.randbytes(self._rng.randrange(40))
        return "lying size", Lying(struct.pack(">I", size) + data)


class Lying(bytes):
    """A frame with its size, which is wrong, in front of it already."""


_SMALL_BOMBS = [data for data in BOMBS.values() if len(data) < 70_000]


#: What comes first in any conversation that is to get somewhere.
GREETING = [
    ("handshake", b"Z5"),
    ("register", dumps((1, 0, "register", ("1", False)))),
]


def conversation(rng, tids=(), blob=(z64, z64)):
    """Return a list of (kind, bytes): frames from the handshake on.

    `tids` is a list of tids of the storage, `blob` the (oid, tid) of a blob.
    """
    return list(Conversation(rng, list(tids), blob).make())


def framed(data):
    """Return the bytes to send for one of them."""
    return data if isinstance(data, Lying) else struct.pack(">I", len(data)) + data
