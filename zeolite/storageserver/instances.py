"""The instances of a storage that wants one for each thread that uses it.

Such a storage (`IMVCCStorage`) sees the database as of its last poll, and holds a
connection to it.  Calls borrow an instance each and give it back when they are
done, so that there are as many as calls at once, not as clients, and never more
than is set: when all are out, calls wait their turn, first come, first served.

An instance that failed is not given back but thrown away, and the next call makes
another.  What lies unused lets go of its view of the database, so that this can
clear up behind itself, and after a while of its connection.
"""

import contextlib
import logging
import threading
import time
from collections import deque

from ZODB.POSException import POSError

from .storageerrors import comes_of_trouble, translated

logger = logging.getLogger(__name__)

#: Seconds for which a view of the database is kept by an instance in use.
OLDEST_VIEW = 30

#: Seconds after which an instance is given up that nobody uses.
UNUSED = 60


class Instance:
    """One instance.  Whoever has borrowed it has it for himself."""

    def __init__(self, storage):
        self.storage = storage
        #: The last commit that it is certain to see, None before its first poll, and
        #: how much `Revisions` had been told before that.
        self.seen, self.told = None, 0
        self._viewing_since = None
        self.used = time.monotonic()

    def see(self, log, revisions):
        """Have it see what `log` tells at this moment, and maybe more."""
        tid, told = log.last_tid, revisions.told
        self.storage.poll_invalidations()
        self.seen, self.told = tid, told
        if self._viewing_since is None:
            self._viewing_since = time.monotonic()

    def rest(self):
        """Let go of the view of the database; the next use gets a later one."""
        self._viewing_since = None
        after_completion = getattr(self.storage, "afterCompletion", None)
        if after_completion is not None:
            after_completion()

    def is_stale(self, now, since):
        """Whether to rest: unused from `since` to `now`, or with an old view."""
        viewing = self._viewing_since
        return viewing is not None and (
            self.used < since or viewing < now - OLDEST_VIEW
        )

    def release(self):
        """Give it up, with its connection."""
        try:
            self.storage.release()
        except Exception as error:
            logger.debug("an instance was not released: %r", error)


class Instances:
    """At most `maximum` instances of `root`.  Any thread calls any method.

    The lock guards the lists and the count; nothing is called while it is held.
    """

    def __init__(self, root, log, revisions, maximum):
        self._root = root
        self._log = log
        self._revisions = revisions
        self._maximum = maximum
        self._lock = threading.Lock()
        self._idle = []  # The last used is last.
        self._count = 0
        self._waiting = deque()  # A `_Turn` for each call that waits.
        self._closed = False
        self._last_rest = time.monotonic()

    @property
    def count(self):
        """How many there are."""
        return self._count

    @property
    def waiting(self):
        """How many calls wait for one."""
        return len(self._waiting)

    def use(self, tid, function, *args):
        """Return `function(storage, *args)`, where the storage sees the commit `tid`.

        Raises what clients understand.
        """

        def run(instance):
            return function(instance.storage, *args)

        return self.borrow(tid, run)

    def borrow(self, tid, function):
        """Like `use`, with the `Instance`.

        Tried again once, because a connection may have been lost long ago.
        """
        try:
            try:
                with self._borrowed(tid) as instance:
                    return function(instance)
            except Exception as error:
                if not comes_of_trouble(error):
                    raise
            with self._borrowed(tid) as instance:
                return function(instance)
        except Exception as error:
            raise translated(error, is_reading=True) from error

    @contextlib.contextmanager
    def _borrowed(self, tid):
        instance = self._take()
        try:
            if instance.seen is None or instance.seen < tid:
                instance.see(self._log, self._revisions)
            elif instance._viewing_since is None:
                # The storage polls by itself now.
                instance._viewing_since = time.monotonic()
            yield instance
        except BaseException as error:
            self._return(instance, is_good=keeps(error))
            if comes_of_trouble(error):
                # Those that lie here will have lost their connections, too.
                self._drop_idle()
            raise
        self._return(instance, is_good=True)

    def _take(self):
        with self._lock:
            if self._closed:
                raise RuntimeError("the storage is closed")
            if self._idle:
                return self._idle.pop()
            if self._count < self._maximum:
                self._count += 1
                turn = None
            else:
                turn = _Turn()
                self._waiting.append(turn)
        instance = turn.wait() if turn is not None else None
        if instance is not None:
            return instance
        # There is room for a new one.
        try:
            return Instance(self._root.new_instance())
        except BaseException:
            self._return(None, is_good=False)
            raise

    def _return(self, instance, is_good):
        if instance is not None:
            instance.used = time.monotonic()
        with self._lock:
            is_good = is_good and not self._closed
            if self._waiting:
                # The next one takes the instance, or the room for a new one.
                self._waiting.popleft().give(instance if is_good else None)
            elif is_good:
                self._idle.append(instance)
            else:
                self._count -= 1
        if instance is not None and not is_good:
            instance.release()

    def _drop_idle(self):
        with self._lock:
            idle, self._idle = self._idle, []
            self._count -= len(idle)
        for instance in idle:
            instance.release()

    def rest(self):
        """Have those rest that are not in use.  For one thread, now and then."""
        now = time.monotonic()
        since, self._last_rest = self._last_rest, now
        with self._lock:
            unused = [i for i in self._idle if i.used < now - UNUSED]
            stale = [i for i in self._idle if i.is_stale(now, since)]
            stale = [i for i in stale if i not in unused]
            self._idle = [i for i in self._idle if i not in unused and i not in stale]
            self._count -= len(unused)
        for instance in unused:
            instance.release()
        for instance in stale:
            try:
                instance.rest()
            except Exception as error:
                logger.debug("an instance did not rest: %r", error)
                self._return(instance, is_good=False)
            else:
                self._return(instance, is_good=True)

    def close(self):
        """Release all.  Nobody has borrowed one any more."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for instance in idle:
            instance.release()


class _Turn:
    """A call's place in the queue."""

    def __init__(self):
        self._given = threading.Event()
        self._instance = None

    def give(self, instance):
        self._instance = instance
        self._given.set()

    def wait(self):
        self._given.wait()
        return self._instance


def keeps(error):
    """Whether an instance is still good after an exception that it has raised.

    What ZODB defines for all storages, and what is derived from that, is part of
    normal life.
    """
    return isinstance(error, POSError)
