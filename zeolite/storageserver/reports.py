"""What the log is told about the commit lock and about slow calls.

Who waits, who has the lock, for how long, and what took longer than it should.
Nothing here is called while a lock is held.
"""

import logging
import threading
import time

logger = logging.getLogger(__name__)

#: Seconds between two lines about the number of those that wait, for each level.
_PAUSE = 1


class LockReports:
    """Reports about one storage's commit lock.

    `name` is the storage's, `lock` its `CommitLock`, `options` the server's.
    `watch` is for a thread of its own, the others for any thread.
    """

    def __init__(self, name, lock, options):
        self._name = name
        self._commit_lock = lock
        self._options = options
        self._lock = threading.Lock()  # Guards what is below.
        self._next = {}

    def queued(self, transaction):
        """Somebody begins to wait; how many do decides on the level."""
        level = self._level(self._commit_lock.waiting)
        if level > logging.DEBUG and not self._is_due(level):
            level = logging.DEBUG
        if logger.isEnabledFor(level):
            self._report(level, transaction, "waits")

    def got(self, transaction, waited):
        """Somebody has got the lock after `waited` seconds, and has voted."""
        if logger.isEnabledFor(logging.DEBUG):
            logger.debug(
                "storage %s: %s got the commit lock after %.3f s",
                self._name,
                transaction,
                waited,
            )

    def released(self, transaction, held):
        """Somebody has given the lock back after `held` seconds."""
        slow = self._options.slow_call
        level = logging.WARNING if slow and held >= slow else logging.DEBUG
        if logger.isEnabledFor(level):
            logger.log(
                level,
                "storage %s: %s %s, with the commit lock for %.3f s",
                self._name,
                transaction,
                transaction.outcome,
                held,
            )

    def watch(self):
        """Report, while it lasts, that somebody waits for long.

        At most one line in `slow_call` seconds.  Returns when the lock is closed.
        """
        patience = pause = self._options.slow_call
        while self._commit_lock.pause(pause):
            pause = patience
            _, queue, _, _ = self._commit_lock.look()
            if not queue:
                continue
            first, since = queue[0]
            waited = time.monotonic() - since
            if waited < patience:
                pause = patience - waited
            else:
                level = max(logging.WARNING, self._level(len(queue)))
                self._report(level, first, f"has been waiting for {waited:.3f} s")

    def _report(self, level, transaction, what):
        held, queue, _, _ = self._commit_lock.look()
        if transaction not in dict(queue):
            return  # That was quick.
        who = ""
        if held is not None:
            holder, since = held
            seconds = time.monotonic() - since
            who = f"; {holder} has had it for {seconds:.3f} s and is {holder.state}"
        logger.log(
            level,
            "storage %s: %s %s for the commit lock, transactions waiting: %d%s",
            self._name,
            transaction,
            what,
            len(queue),
            who,
        )

    def _level(self, waiting):
        options = self._options
        if options.waiting_critical and waiting >= options.waiting_critical:
            return logging.CRITICAL
        if options.waiting_warning and waiting >= options.waiting_warning:
            return logging.WARNING
        return logging.DEBUG

    def _is_due(self, level):
        now = time.monotonic()
        with self._lock:
            if now < self._next.get(level, 0):
                return False
            self._next[level] = now + _PAUSE
            return True


def report_slow_call(who, name, args, seconds):
    """A call of method `name` by client `who` has taken `seconds`."""
    sizes = ", ".join(map(_size, args)) or "none"
    logger.warning(
        "client %s: slow call: %s took %.3f s; arguments: %s", who, name, seconds, sizes
    )


def _size(value):
    """An argument as the log shows it: an oid or a tid, a number, or its size."""
    if isinstance(value, bytes) and len(value) == 8:
        return value.hex()
    if isinstance(value, int) and value.bit_length() > 64:
        return f"a number of {value.bit_length()} bits"
    if value is None or isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, (bytes, str)):
        return f"{len(value)} {'bytes' if isinstance(value, bytes) else 'characters'}"
    return f"{type(value).__name__} of {len(value)}"
