"""The current revisions that clients have asked for: a server's cache of a storage.

Whoever puts commits into the invalidation log tells of them here first, so a client
that was told of a commit never gets what that has made old.  What is told is counted: a
revision may be kept if it was read in a view of the storage that has all that was told
up to a number, and nothing told since has changed the object.

Where a commit is known before it can be read, nothing of what it changes is kept from
then on, and whoever loads that gets what the storage itself says at that moment.
"""

import threading
from collections import OrderedDict, deque
from itertools import islice

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

    def __init__(self, size):
        self._lock = threading.Lock()
        self._most = size
        self._size = 0
        self._kept = OrderedDict()  # oid -> (data, start tid); the last used is last.
        self._changing = ()  # The oids of a commit that may or may not be readable.
        self._recent = deque()  # The oids of what was told last, each a frozenset.
        self._recent_oids = 0  # How many oids these have.
        #: How much was told.  Read without lock.
        self.told = 0

    def reading(self, load_before):
        """Return a function like a storage's method `load_before` that keeps what it
        finds.  Each load is to see all that was told before it."""
        if not self._most:
            return load_before

        def load(oid, tid):
            found = self.get(oid, tid)
            if found is not None:
                return (*found, None)
            told = self.told
            found = load_before(oid, tid)
            if found is not None and found[2] is None and found[0] is not None:
                self.keep(oid, *found[:2], told)
            return found

        return load

    def get(self, oid, tid):
        """Return (data, start tid) if that is current and from before `tid`."""
        with self._lock:
            found = self._kept.get(oid)
            if found is None or found[1] >= tid:
                return None
            self._kept.move_to_end(oid)
            return found

    def keep(self, oid, data, start, told):
        """Keep a revision that is current in a view that has what was `told` before."""
        size = len(data) + OVERHEAD
        with self._lock:
            since = self.told - told
            if since > len(self._recent) or size * 10 > self._most:
                return
            if oid in self._changing:
                return
            if any(oid in oids for oids in islice(reversed(self._recent), since)):
                return
            self._drop(oid)
            self._kept[oid] = data, start
            self._size += size
            while self._size > self._most:
                self._drop(next(iter(self._kept)))

    def changing(self, oids):
        """A commit may be readable from now on, or not.

        One at a time.  `changed` or `forget` follows, and `settled`.  `oids` is a set
        or a dictionary.
        """
        if not self._most:
            return
        with self._lock:
            self._changing = oids
            self._drop_all(oids)

    def settled(self):
        """There is no such commit any more."""
        self._changing = ()

    def changed(self, oids):
        """A commit has changed these objects."""
        if not self._most:
            return
        oids = frozenset(oids)
        with self._lock:
            self._drop_all(oids)
            self.told += 1
            self._recent.append(oids)
            self._recent_oids += len(oids)
            while len(self._recent) > RECENT or self._recent_oids > RECENT_OIDS:
                self._recent_oids -= len(self._recent.popleft())

    def forget(self):
        """Anything may have been changed."""
        with self._lock:
            self._kept.clear()
            self._recent.clear()
            self._size = self._recent_oids = 0
            self.told += 1

    def _drop_all(self, oids):
        # Loads wait for the lock, and there may be a million of them.
        if len(oids) > len(self._kept):
            oids = [oid for oid in self._kept if oid in oids]
        for oid in oids:
            self._drop(oid)

    def _drop(self, oid):
        found = self._kept.pop(oid, None)
        if found is not None:
            self._size -= len(found[0]) + OVERHEAD


def keeps_itself(storage):
    """Whether it is the client of another server, which has a cache, or around one."""
    inner = [getattr(storage, name, None) for name in ("base", "changes")]
    return hasattr(storage, "is_connected") or any(
        keeps_itself(each) for each in inner if each is not None
    )
