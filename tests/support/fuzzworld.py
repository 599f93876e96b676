"""A served storage, a client that works, and sessions that are lied to.

Everything is real but the sockets: `Memory` and `Pipe` stand in for the channel, so
that a session runs in the caller's thread, as fast as it can, and returns when the
client has said all.  After each session the world looks for what it must not have
left behind.
"""

import collections
import contextlib
import gc
import itertools
import logging
import os
import queue
import re
import sys
import tempfile
import threading
import traceback
import weakref

import transaction
import ZODB
import ZODB.blob
from ZODB.FileStorage import FileStorage
from ZODB.MappingStorage import MappingStorage
from ZODB.utils import maxtid, p64, z64

from zeolite.storageserver.options import ServerOptions
from zeolite.storageserver.served import Served
from zeolite.storageserver.session import Session, logger
from zeolite.storageserver.sparselog import INTERVAL, SparseLog
from zeolite.wire import messages
from zeolite.wire.channel import ConnectionLost, PeerSilent
from zeolite.wire.frames import FrameReader

from .fuzzcalls import framed
from .waiting import wait_until

#: Where the client that works has its object; nobody else writes there.
_OWN_OID = p64(0x10_0000)

#: Seconds in which the client that works is answered.
_PATIENCE = 60


def every_line():
    """A log for a session that leaves nothing out."""
    return SparseLog(logger, itertools.count(step=2 * INTERVAL).__next__)


class Memory:
    """A channel whose peer has said everything beforehand, in `pieces` (bytes).

    A piece may be an exception, which `receive` raises.  After `takes` bytes the
    peer is gone.  `sent` is what it has got.
    """

    is_encrypted = False
    has_rest = False

    def __init__(self, pieces, takes=1 << 40):
        self._pieces = collections.deque(pieces)
        self._takes = takes
        self._ended = False
        self.bytes_received = self.bytes_sent = 0
        self.is_stalled = False
        self._lock = threading.Lock()  # Guards the two below.
        self.sent = []
        self._size = 0

    def handshake(self, deadline):
        pass

    def receive(self, deadline=None):
        if self._ended or not self._pieces:
            return b""
        piece = self._pieces.popleft()
        if isinstance(piece, Exception):
            raise piece
        return piece

    def send(self, data=b""):
        with self._lock:
            self._size += len(data)
            if self._ended or self._size > self._takes:
                raise ConnectionLost("the peer is gone")
            self.sent.append(bytes(data))

    offer = send

    def stop_receiving(self):
        self._ended = True

    shutdown = close = stop_receiving


class Pipe(Memory):
    """A channel whose peer goes on, in another thread."""

    def __init__(self):
        super().__init__(())
        self.incoming, self.outgoing = queue.SimpleQueue(), queue.SimpleQueue()

    def receive(self, deadline=None):
        return self.incoming.get()

    def send(self, data=b""):
        if data:
            self.outgoing.put(bytes(data))

    offer = send

    def shutdown(self):
        self.incoming.put(b"")

    stop_receiving = shutdown

    def close(self):
        pass


class Counted(FrameReader):
    """Counts the frames that a session takes, and refuses."""

    taken = 0

    def next(self):
        try:
            data = super().next()
        except Exception:
            self.taken += 1
            raise
        self.taken += data is not None
        return data


class WorkingClient:
    """A client that registers, loads and commits, in the usual way.

    `packs` is a list that grows with each pack that begins: it may remove the object,
    to which nothing refers.
    """

    def __init__(self, storages, options, packs):
        self._packs, self._packs_seen = packs, 0
        self._channel = Pipe()
        self.session = Session(
            self._channel, "the good one", storages, options, every_line()
        )
        self._thread = threading.Thread(target=self.session.run)
        self._thread.start()
        self._frames = FrameReader(1 << 30)
        self._id = 0
        self._tid, self._data = z64, None
        assert self._next() == messages.PROTOCOL
        self._channel.incoming.put(framed(messages.PROTOCOL))
        self._reads_only = options.read_only
        self.ask("register", "1", options.read_only)

    def _next(self):
        while (data := self._frames.next()) is None:
            self._frames.feed(self._channel.outgoing.get(timeout=_PATIENCE))
        return data

    def call(self, name, *args):
        self._id += 1
        frame = messages.encode_call(self._id, name, args)
        self._channel.incoming.put(frame)
        return self._id

    def answer(self, message_id):
        """Return the answer to a call: whether it is an error, and what it says."""
        while True:
            found, flag, name, result = messages.decode_reply(self._next())
            if name == messages.REPLY and found == message_id:
                return bool(flag), result

    def result(self, message_id):
        is_error, result = self.answer(message_id)
        assert not is_error, result
        return result

    def ask(self, name, *args):
        return self.result(self.call(name, *args))

    def vote(self):
        """Begin a commit, up to having the commit lock."""
        if self._reads_only:
            return
        begin = messages.encode_one_way("tpc_begin", (1, b"", b"", {}))
        self._data = b"record %d" % self._id
        args = _OWN_OID, self._tid, self._data, 1
        self._channel.incoming.put(begin + messages.encode_one_way("storea", args))
        self.ask("vote", 1)

    def finish(self):
        """Commit what was voted; load it."""
        if self._reads_only:
            assert self.ask("loadBefore", z64, b"\x7f" + b"\xff" * 7)[0]
            return
        self._tid = self.ask("tpc_finish", 1)
        is_error, found = self.answer(self.call("loadBefore", _OWN_OID, maxtid))
        if is_error:
            assert found == ("ZODB.POSException.POSKeyError", (_OWN_OID,))
            assert len(self._packs) > self._packs_seen
            return
        assert found[:2] == (self._data, self._tid)
        self._packs_seen = len(self._packs)

    def close(self):
        self._channel.shutdown()
        self._thread.join()


#: What storages complain about in their own words, and which nobody can know before
#: they are asked: what failed, and the error.
COMPLAINTS = [
    "pack failed: Already packed to a later time",  # A MappingStorage.
    r"pack failed: b'(?:\\x..|.){8}'",  # A FileStorage: a reference to nothing.
    "pack failed: Already packing",
    "pack failed: .* is no time to pack to",
]


class Log(logging.Handler):
    """Keeps what the server logs about sessions, and what it never should."""

    def __init__(self):
        super().__init__(logging.INFO)
        self.closed, self.wrong, self.complaints = [], [], collections.Counter()

    def emit(self, record):
        text = record.getMessage()
        # Whoever keeps the record is not to keep the session with it.
        record.msg, record.args = text, None
        what = text.partition("(the bad one): ")[2] or text.partition("one: ")[2]
        if record.exc_info:
            what = f"{what.partition(':')[0]}: {record.exc_info[1]}"
        if any(re.fullmatch(known, what) for known in COMPLAINTS):
            self.complaints[what] += 1
        elif record.exc_info:
            trace = "".join(traceback.format_exception(*record.exc_info))
            self.wrong.append(f"{what}\n{trace}")
        elif record.levelno > logging.WARNING:
            self.wrong.append(text)
        elif ": closed: " in text:
            assert text.isascii() and text.isprintable(), text
            self.closed.append(text.split(": closed: ")[1])


class World(contextlib.ExitStack):
    """Serves a storage; `kind` is "file" (with blobs) or "mapping".

    `counts` is how many frames of each kind sessions took, `answers` how many
    messages of each kind they sent, and `reasons` why they were closed.
    """

    def __init__(self, kind, counts=None, **options):
        super().__init__()
        self.counts = collections.Counter() if counts is None else counts
        self.answers, self.reasons = collections.Counter(), collections.Counter()
        self.sessions = 0
        self._ended = weakref.WeakSet()
        self._directory = self.enter_context(tempfile.TemporaryDirectory())
        self._options = ServerOptions(**options)
        self._watch()
        self.storage, packs = self._open(kind), []
        pack = self.storage.pack

        def counted_pack(*args, **kwargs):
            packs.append(args)
            return pack(*args, **kwargs)

        self.storage.pack = counted_pack
        self.tids, self.blob = self._fill()
        served = self._served = Served("1", self.storage, self._options)
        served.start()
        self.callback(served.close)
        self._storages = {"1": served}
        self._good = WorkingClient(self._storages, self._options, packs)
        self.callback(self._good.close)
        self._exercise()
        self._before = self._state()

    def _watch(self):
        """Look for exceptions that nobody catches, and for errors in the log."""
        self.log, self._uncaught = Log(), []
        logger = logging.getLogger("zeolite")
        before = logger.propagate, logger.level
        logger.addHandler(self.log)
        logger.propagate = False
        logger.setLevel(logging.INFO)
        # Why it does not resolve a conflict, which is an error to the client anyway.
        zodb = logging.getLogger("ZODB")
        zodb.addHandler(quiet := logging.NullHandler())
        zodb_before, zodb.propagate = zodb.propagate, False

        def end():
            zodb.removeHandler(quiet)
            zodb.propagate = zodb_before
            logger.removeHandler(self.log)
            logger.propagate = before[0]
            logger.setLevel(before[1])

        self.callback(end)
        for module, name in ((threading, "excepthook"), (sys, "unraisablehook")):
            self.callback(setattr, module, name, getattr(module, name))
            setattr(module, name, lambda args: self._uncaught.append(args.exc_value))

    def _open(self, kind):
        if kind == "mapping":
            return MappingStorage()
        path = os.path.join(self._directory, "Data.fs")
        return FileStorage(path, blob_dir=os.path.join(self._directory, "blobs"))

    def _fill(self):
        """Commit some objects and a blob; return (tids, (oid, tid) of the blob)."""
        has_blobs = hasattr(self.storage, "fshelper")
        manager = transaction.TransactionManager()
        db = ZODB.DB(_Unclosed(self.storage))
        connection = db.open(manager)
        root, tids, blob = connection.root(), [], (z64, z64)
        for number in range(4):
            root[number] = connection.root().__class__({"n": number})
            if number == 2 and has_blobs:
                root["blob"] = ZODB.blob.Blob(b"blob" * 40_000)
            manager.commit()
            tids.append(self.storage.lastTransaction())
        if has_blobs:
            blob = root["blob"]._p_oid, root["blob"]._p_serial
        connection.close()
        return tids, blob

    # Sessions.

    def converse(self, frames, pieces=None, rival=False, takes=1 << 40):
        """Run a session with `frames`, a list of (kind, bytes), and look around.

        `pieces` is the bytes as they arrive, if not frame by frame; with `rival`
        another client has the commit lock meanwhile; after `takes` bytes the
        client is gone.
        """
        if pieces is None:
            pieces = [framed(data) for _, data in frames]
        channel = Memory(pieces, takes)
        session = Session(
            channel, "the bad one", self._storages, self._options, every_line()
        )
        session._incoming._frames = reader = Counted()
        if rival:
            self._good.vote()
        name = threading.current_thread().name
        try:
            session.run()
        finally:
            threading.current_thread().name = name
        self.sessions += 1
        for kind, _ in frames[: reader.taken]:
            self.counts[kind] += 1
        if rival:
            self._good.finish()
        self._check(session)
        self._read(channel.sent)
        for reason in self.log.closed:
            self.reasons[reason] += 1
        self.log.closed.clear()
        self._ended.add(session)
        return channel.sent

    def _exercise(self):
        self._good.vote()
        self._good.finish()

    def _check(self, session):
        """Raise unless all is as it was before the session."""
        wait_until(lambda: not self._served.helpers.threads(), patience=_PATIENCE)
        self._exercise()
        assert not self.log.wrong, self.log.wrong
        assert not self._uncaught, self._uncaught
        assert len(self.log.closed) <= 1, self.log.closed
        assert self._served.commit_lock._holder is None
        assert not self._served.commit_lock.waiting
        assert session not in self._served.sessions()
        assert all(t.has_ended for t in session.transactions.values())
        iterators = session.iterators
        assert not iterators or not (iterators._transactions or iterators._records)
        assert not session.windows
        if self._state() == self._before:
            return
        gc.collect()  # An iterator in a cycle closes its file only then.
        with contextlib.suppress(AssertionError):  # A thread may be on its way out.
            wait_until(lambda: self._state() == self._before, patience=5)
        assert self._state() == self._before

    def _state(self):
        helper = getattr(self.storage, "fshelper", None)
        return (
            set(threading.enumerate()),
            len(os.listdir("/proc/self/fd")),
            set(os.listdir(tempfile.gettempdir())),
            set(os.listdir(helper.temp_dir)) if helper else None,
        )

    def _read(self, sent):
        """Read what was sent as a client would."""
        frames = FrameReader(1 << 30)
        for data in sent:
            frames.feed(data)
            while (frame := frames.next()) is not None:
                if frame == messages.PROTOCOL or frame[:1] == b"{":
                    continue
                _, flag, name, _ = messages.decode_reply(frame)
                what = "error" if flag == messages.ERROR_REPLY else name
                self.answers[what] += 1

    def __exit__(self, kind, *args):
        try:
            if kind is None:
                gc.collect()
                kept = [gc.get_referrers(session) for session in self._ended]
                assert not kept, f"sessions are kept in memory by {kept}"
        finally:
            super().__exit__(kind, *args)


class _Unclosed:
    """A storage for a database that is thrown away; the storage is not."""

    def __init__(self, storage):
        self._storage = storage

    def __getattr__(self, name):
        return getattr(self._storage, name)

    def close(self):
        pass


def silence():
    """A piece that stands for a client which says nothing for too long."""
    return PeerSilent("it did not say in time what was expected of it")
