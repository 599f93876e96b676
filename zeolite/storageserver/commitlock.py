"""The commit lock of a storage: first come, first served."""

import threading
import time
from collections import OrderedDict

from .measures import COMMIT_BOUNDS, Histogram


class CommitLock:
    """First come, first served.  Any thread calls any method."""

    def __init__(self):
        self._lock = threading.Lock()  # Guards all of the below.
        self._turn = threading.Condition(self._lock)  # For `next`.
        self._alarm = threading.Condition(self._lock)  # For `expired` and `pause`.
        self._holder = None
        self._since = None
        self._handed_over = None
        self._queue = OrderedDict()  # who -> since when (`time.monotonic` seconds)
        self._waits = Histogram(COMMIT_BOUNDS)
        self._holds = Histogram(COMMIT_BOUNDS)
        self._closed = False

    @property
    def since(self):
        """When the holder got it (`time.monotonic` seconds), or None."""
        return self._since

    def is_held_by(self, who):
        """Whether `who` has it at this moment."""
        return self._holder is who

    @property
    def waiting(self):
        """How many wait for it."""
        return len(self._queue)

    def acquire(self, who, now=None):
        """Return True if the lock is now `who`'s, False if it is in the queue.

        Then `next` returns it once the lock is its own.  `now` is the time
        (`time.monotonic` seconds) for callers that know it.
        """
        with self._lock:
            now = time.monotonic() if now is None else now
            if self._holder is None:
                self._hold(who, now, now)
                return True
            self._queue[who] = now
            return False

    def withdraw(self, who):
        """Take `who` out of the queue; return False if it is not in there."""
        with self._lock:
            return self._queue.pop(who, None) is not None

    def release(self, who, now=None):
        """Give the lock to the first in the queue; return for how long it was held.

        `now` as in `acquire`.
        """
        with self._lock:
            assert self._holder is who, "released by somebody who had it not"
            now = time.monotonic() if now is None else now
            held = now - self._since
            self._holds.observe(held)
            self._holder = self._since = None
            if self._queue:
                self._hold(*self._queue.popitem(last=False), now)
                self._handed_over = self._holder
                self._turn.notify()
            return held

    def next(self):
        """Wait for somebody to get the lock out of the queue; return who.

        Returns None when the lock is closed.  One thread calls it.
        """
        with self._lock:
            while self._handed_over is None and not self._closed:
                self._turn.wait()
            who, self._handed_over = self._handed_over, None
            return who

    def expired(self, timeout, known=None):
        """Wait until somebody has had the lock for `timeout` seconds; return who.

        `known` is not returned: it was dealt with.  Returns None when the lock
        is closed.  One thread calls it.
        """
        with self._lock:
            while not self._closed:
                # Nobody wakes this thread when the holder changes.  It looks
                # again when the present holder's time is up, and if there is
                # none, when that of one who comes right now would be.
                left = timeout
                if self._holder is not None and self._holder is not known:
                    left -= time.monotonic() - self._since
                    if left <= 0:
                        return self._holder
                self._alarm.wait(left)
            return None

    def look(self):
        """Return who has it, who waits for it, and how long all had to.

        The first two are pairs of who and since when (`time.monotonic` seconds);
        of the holder or None, and a list.  The others are the `Histogram` of waits
        that got it, those of no time included, and of how long it was held.
        """
        with self._lock:
            holder = self._holder and (self._holder, self._since)
            queue = list(self._queue.items())
            return holder, queue, self._waits.copy(), self._holds.copy()

    def pause(self, seconds):
        """Wait for so long; return False at once when the lock is closed."""
        with self._lock:
            self._alarm.wait_for(lambda: self._closed, seconds)
            return not self._closed

    def close(self):
        """End `next`, `expired` and `pause`."""
        with self._lock:
            self._closed = True
            self._turn.notify()
            self._alarm.notify_all()

    def _hold(self, who, asked, now):
        self._holder = who
        self._since = now
        self._waits.observe(now - asked)
