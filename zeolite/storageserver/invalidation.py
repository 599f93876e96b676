"""The invalidation log: what each commit changed, in the order of the commits.

One log a storage.  A commit *reserves* its place inside `storage.tpc_finish`'s
callback, the one moment whose order the storage vouches for, and *publishes* it
when `tpc_finish` has returned.  Readers stop at the first place that is not
published, so nobody hears of a commit before it can be read, nor of a later one
before an earlier one.

A client's connection holds a cursor, the number of the next entry it is to be
told of.  However many clients there are, a commit costs one entry.

The log's lock is a leaf: nothing is called while it is held.
"""

import threading
from collections import deque

from ZODB.utils import p64, u64

from ..wire import messages

#: How many entries connected clients may be behind before they are given up.
MAXIMUM = 10_000

#: How many oids the entries for these clients may have together.
MAXIMUM_OIDS = 2_000_000


class FellBehind(Exception):
    """The log no longer has what a cursor points at."""


class Entry:
    """One commit's place in the log."""

    __slots__ = ("_frame", "is_overtaken", "oids", "origin", "published", "tid")

    def __init__(self, tid, oids, origin):
        self.tid = tid
        self.oids = oids
        #: The connection that made the commit; it is not told of it.
        self.origin = origin
        self.published = False
        #: Whether the log has begun again behind it: who listens has it already.
        self.is_overtaken = False
        self._frame = None

    @property
    def void(self):
        """Whether nobody is to be told: it failed, or it is overtaken."""
        return self.oids is None or self.is_overtaken

    def frame(self):
        """Return the message for clients (bytes), made once for all of them."""
        if self._frame is None:
            self._frame = messages.encode_one_way(
                "invalidateTransaction", (self.tid, self.oids)
            )
        return self._frame


class InvalidationLog:
    """What was committed, for clients that are to hear of it.

    Any thread calls any method.  `keep` entries stay for clients that reconnect;
    more stay while a connected client needs them, at most `maximum`.
    """

    def __init__(self, tid, keep=100, maximum=MAXIMUM):
        self._lock = threading.Lock()  # Guards all of the below.
        self._keep = keep
        self._maximum = max(maximum, keep)
        self._entries = deque()
        self._oids = 0  # How many oids the entries have.
        self._first = 0  # The number of the first entry.
        self._base = tid  # All commits after this tid are in the log.
        self._begun = b""  # Where it has begun again; no reader is told of less.
        #: The number behind the last entry that readers see.  Read without lock.
        self.end = 0
        #: The tid of the last entry that readers see.
        self.last_tid = tid

    def __len__(self):
        return len(self._entries)

    def seed(self, history):
        """Fill an empty log with what was committed before, oldest first.

        `history` has pairs of tid and list of oids, complete from its first tid.
        """
        with self._lock:
            if self._entries:
                return
            self._begun = b""
            for tid, oids in history:
                if self._entries or tid >= self._base:
                    self._publish(self._append(tid, list(oids), None))
                else:
                    self._base = tid

    # What commits do.

    def reserve(self, tid, oids, origin=None):
        """Take the next place for a commit that is about to be readable.

        `origin` is whatever `read`'s caller compares with.  Returns the entry.
        """
        with self._lock:
            return self._append(tid, oids, origin)

    def publish(self, entry):
        """Let readers see a reserved entry, as soon as they see all before it."""
        with self._lock:
            self._publish(entry)

    def cancel(self, entry):
        """Give a place back: its commit failed."""
        with self._lock:
            if not entry.void:
                self._oids -= len(entry.oids)
            if self._entries[-1] is entry:
                self._entries.pop()
            else:
                entry.oids = None
                self._publish(entry)

    def add(self, tid, oids):
        """Reserve and publish at once, for a commit that can be read already."""
        with self._lock:
            self._publish(self._append(tid, oids, None))

    def put(self, entries):
        """Reserve and publish what is made already, oldest first, in one step."""
        with self._lock:
            for entry in entries:
                self._place(entry)
                self._publish(entry)

    def restart(self, tid, is_known=True):
        """Forget what readers see: what happened up to `tid` cannot be told.

        Every cursor has fallen behind then.  Places that are reserved stay, but who
        joins from now on is not told of a commit up to `tid`.
        Unless `is_known` there was more than `tid`, of which nothing is known:
        what a client has as of `tid` is of no use to it.
        """
        with self._lock:
            for _ in range(self.end - self._first):
                self._count_out(self._entries.popleft())
            # One number is skipped, so that no cursor is in the right place.
            self._first = self.end = self.end + 1
            self._base = self.last_tid = max(tid, self.last_tid)
            if not is_known:
                self._base = p64(u64(self._base) + 1)
            self._begun = self.last_tid
            for entry in self._entries:
                self._count_out(entry)
                self._count_in(entry)

    def _append(self, tid, oids, origin):
        return self._place(Entry(tid, oids, origin))

    def _place(self, entry):
        self._entries.append(entry)
        self._count_in(entry)
        while self._is_too_long() and self._first < self.end:
            self._drop()
        return entry

    def _is_too_long(self):
        if len(self._entries) > self._maximum:
            return True
        return len(self._entries) > self._keep and self._oids > MAXIMUM_OIDS

    def _publish(self, entry):
        entry.published = True
        while self.end - self._first < len(self._entries):
            entry = self._entries[self.end - self._first]
            if not entry.published:
                break
            if not entry.void:
                self.last_tid = entry.tid
            self.end += 1

    # What connections do.

    def join(self):
        """Return (tid, cursor): all up to the tid is past, all after is to come."""
        with self._lock:
            return self.last_tid, self.end

    def read(self, cursor, limit=100):
        """Return the next entries for `cursor`, oldest first, at most `limit`.

        Raises `FellBehind` if some of them are gone.
        """
        with self._lock:
            if cursor < self._first or cursor > self.end:
                raise FellBehind(f"{self.end - cursor} commits behind")
            start = cursor - self._first
            stop = min(self.end - self._first, start + limit)
            return [self._entries[i] for i in range(start, stop)]

    def since(self, tid, cursor):
        """Return what was committed after `tid` up to `cursor`.

        The result is (tid of the last commit before the cursor, list of oids
        without repetition), or None if the log does not reach back so far.
        """
        with self._lock:
            if tid < self._base or not self._first <= cursor <= self.end:
                return None
            last, oids = tid, {}
            for i in range(cursor - self._first - 1, -1, -1):
                entry = self._entries[i]
                if entry.void:
                    continue
                if entry.tid <= tid:
                    break
                last = max(last, entry.tid)
                oids.update(dict.fromkeys(entry.oids))
            return last, list(oids)

    def trim(self, needed):
        """Drop entries before the number `needed`, but keep as many as is set."""
        with self._lock:
            while len(self._entries) > self._keep and self._first < min(
                needed, self.end
            ):
                self._drop()

    def _drop(self):
        entry = self._entries.popleft()
        self._count_out(entry)
        self._first += 1
        if not entry.void:
            self._base = entry.tid

    def _count_in(self, entry):
        entry.is_overtaken = entry.tid <= self._begun
        if not entry.void:
            self._oids += len(entry.oids)

    def _count_out(self, entry):
        if not entry.void:
            self._oids -= len(entry.oids)
