"""The current revisions that clients have asked for: a server's cache of a database.

A revision may be kept if it was read in a view of the database that has all commits
up to a `mark`, and none after the mark has changed the object.  Whoever puts commits
into the invalidation log tells of them here first, so a client that was told of a
commit never gets what that has made old.
"""

import threading
from collections import OrderedDict, deque

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
        #: The last commit that was told of.  Read without lock.
        self.mark = tid

    def get(self, oid, tid):
        """Return (data, start tid) if that is current and from before `tid`."""
        with self._lock:
            found = self._kept.get(oid)
            if found is None or found[1] >= tid:
                return None
            self._kept.move_to_end(oid)
            return found

    def keep(self, oid, data, start, mark):
        """Keep a revision that is current in a view with all commits up to `mark`."""
        size = len(data) + OVERHEAD
        with self._lock:
            if mark < self._since or size * 10 > self._most:
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

    def forget(self, tid):
        """Anything may have been changed up to `tid`."""
        with self._lock:
            self._kept.clear()
            self._recent.clear()
            self._size = self._recent_oids = 0
            self.mark = self._since = max(self.mark, tid)

    def _drop(self, oid):
        found = self._kept.pop(oid, None)
        if found is not None:
            self._size -= len(found[0]) + OVERHEAD
