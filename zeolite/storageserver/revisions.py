"""The current revisions that clients have asked for: a server's cache of a storage.

A revision may be kept if it was read in a view of the storage that has all commits
up to a `mark`, and none after the mark has changed the object.  Whoever puts commits
into the invalidation log tells of them here first, so a client that was told of a
commit never gets what that has made old.  Where a commit is known before it can be
read, nothing of what it changes is kept from then on, and whoever loads that gets what
the storage itself says at that moment.
"""

import threading
from collections import OrderedDict, deque

from ZODB.utils import z64

#: How many commits are remembered for those who read while they came.
RECENT = 1000

#: And how many objects these may have changed together.
RECENT_OIDS = 100_000

#: What an entry takes besides its data (bytes), roughly.
OVERHEAD = 300


class Revisions:
    """At most `size` bytes of revisions.  Any thread calls any method.

    The lock guards all of it; nothing is called while it is held.
    """

    def __init__(self, tid, size):
        self._lock = threading.Lock()
        self._most = size
        self._size = 0
        self._kept = OrderedDict()  # oid -> (data, start tid); the last used is last.
        self._recent = deque()  # (tid, oids) of the last commits.
        self._recent_oids = 0  # How many oids these have.
        self._since = tid  # All commits after this tid are among these.
        self._changing = ()  # The oids of a commit that may or may not be readable.
        #: The last commit that was told of, and how often all was forgotten.  Read
        #: without lock.
        self.mark, self.age = tid, 0

    def get(self, oid, tid):
        """Return (data, start tid) if that is current and from before `tid`."""
        with self._lock:
            found = self._kept.get(oid)
            if found is None or found[1] >= tid:
                return None
            self._kept.move_to_end(oid)
            return found

    def keep(self, oid, data, start, mark, age=0):
        """Keep a revision that is current in a view with all commits up to `mark`.

        `mark` and `age` are from before it was read.
        """
        size = len(data) + OVERHEAD
        with self._lock:
            if age != self.age or mark < self._since or size * 10 > self._most:
                return
            if oid in self._changing:
                return
            for tid, oids in reversed(self._recent):
                if tid <= mark:
                    break
                if oid in oids:
                    return
            self._drop(oid)
            self._kept[oid] = data, start
            self._size += size
            while self._size > self._most:
                self._drop(next(iter(self._kept)))

    def reading(self, load_before):
        """Return a function like a storage's method `load_before` that keeps what it
        finds.  Each load is to see all commits that were told of by then."""

        def load(oid, tid):
            found = self.get(oid, tid)
            if found is not None:
                return (*found, None)
            mark, age = self.mark, self.age
            found = load_before(oid, tid)
            if found is not None and found[2] is None:
                self.keep(oid, *found[:2], mark, age)
            return found

        return load

    def changing(self, oids):
        """A commit may be readable from now on, or not.  One at a time; `changed` or
        `forget` follows, and `settled`."""
        with self._lock:
            self._changing = frozenset(oids)
            for oid in oids:
                self._drop(oid)

    def settled(self):
        """There is no such commit any more."""
        self._changing = ()

    def changed(self, tid, oids):
        """A commit has changed these objects."""
        with self._lock:
            for oid in oids:
                self._drop(oid)
            self._recent.append((tid, frozenset(oids)))
            self._recent_oids += len(self._recent[-1][1])
            while len(self._recent) > RECENT or self._recent_oids > RECENT_OIDS:
                self._since, gone = self._recent.popleft()
                self._recent_oids -= len(gone)
            self.mark = max(self.mark, tid)

    def forget(self, tid=z64):
        """Anything may have been changed by now, by commits up to `tid` if there were
        any: what was read so far is not current."""
        with self._lock:
            self._kept.clear()
            self._recent.clear()
            self._size = self._recent_oids = 0
            self.mark = self._since = max(self.mark, tid)
            self.age += 1

    def _drop(self, oid):
        found = self._kept.pop(oid, None)
        if found is not None:
            self._size -= len(found[0]) + OVERHEAD
