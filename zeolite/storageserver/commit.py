"""The commit lock, transactions, and the timeout that guards the lock.

One transaction at a time may be between its vote and its end.  The commit lock
is first come, first served.  A vote that finds it free runs in the client's
thread; one that must wait is put in the queue, and the *vote runner*, one thread
a storage, runs it when its turn comes, so that the client's other calls go on
meanwhile.

A transaction's end may be wanted by several threads at once: the client that
finishes or aborts, its disconnect, the timeout, a shutdown.  The state under the
transaction's lock lets exactly one of them win:

    STAGING  -> WAITING -> VOTING -> VOTED -> FINISHING -> ENDED
       |           |          |        |
       +-----------+----------+--------+-----------------> ENDED   (aborted)

With client-side conflict resolution a vote may end RESOLVING instead of VOTED:
the commit lock is kept, the client stores what it has resolved, and votes again.

Whoever wants to abort while VOTING leaves a mark, and the thread that votes
aborts when the storage is done.  A transaction that is FINISHING is never aborted.
"""

import enum
import logging
import threading
import time
from collections import deque

from ZODB.POSException import ConflictError, StorageError, StorageTransactionError
from ZODB.utils import maxtid

from .staging import Staging

logger = logging.getLogger(__name__)

#: What `Transaction.vote` returns if the answer comes later.
DELAYED = object()


class CommitLock:
    """First come, first served.  Any thread calls any method."""

    def __init__(self):
        self._lock = threading.Lock()  # Guards all of the below.
        self._turn = threading.Condition(self._lock)  # For `next`.
        self._alarm = threading.Condition(self._lock)  # For `expired`.
        self._holder = None
        self._since = None
        self._handed_over = None
        self._queue = deque()
        self._closed = False

    @property
    def since(self):
        """When the holder got it (`time.monotonic` seconds), or None."""
        return self._since

    @property
    def waiting(self):
        """How many wait for it."""
        return len(self._queue)

    def acquire(self, who):
        """Return True if the lock is now `who`'s, False if it is in the queue.

        Then `next` returns it once the lock is its own.
        """
        with self._lock:
            if self._holder is None:
                self._hold(who)
                return True
            self._queue.append(who)
            return False

    def withdraw(self, who):
        """Take `who` out of the queue; return False if it is not in there."""
        with self._lock:
            try:
                self._queue.remove(who)
            except ValueError:
                return False
            return True

    def release(self, who):
        """Give the lock to the first in the queue."""
        with self._lock:
            assert self._holder is who, "released by somebody who had it not"
            self._holder = self._since = None
            if self._queue:
                self._hold(self._queue.popleft())
                self._handed_over = self._holder
                self._turn.notify()

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

    def close(self):
        """End `next` and `expired`."""
        with self._lock:
            self._closed = True
            self._turn.notify()
            self._alarm.notify()

    def _hold(self, who):
        self._holder = who
        self._since = time.monotonic()


class State(enum.Enum):
    STAGING = "not voted"
    WAITING = "waiting for the commit lock"
    VOTING = "voting"
    RESOLVING = "waiting for its conflicts to be resolved"
    VOTED = "voted"
    FINISHING = "finishing"
    ENDED = "ended"


class Transaction:
    """One transaction of one client.

    `stage`, `vote` and `finish` are for the session's own thread, `run_vote` for
    the vote runner, `abort` and `expire` for any thread.  `session` is the
    client's; `metadata` is ZODB's transaction metadata, `tid` and `status` are
    those of a recovered transaction.
    """

    def __init__(self, session, metadata, tid=None, status=" "):
        self._session = session
        self._served = session.served
        self._storage = session.storage
        self._metadata = metadata
        self._begin_args = _begin_args(metadata, tid, status)
        self._staging = Staging()
        self._leaves_conflicts = session.served.options.client_conflict_resolution
        self._conflicts = []
        self._oids = {}
        # What the client does not know that it changes: conflicts that the
        # storage resolved, and what was undone.
        self._changed = {}
        self._error = None
        self._respond = None
        self._entry = None
        self._lock = threading.Lock()  # Guards the two below.
        self._state = State.STAGING
        self._doom = None

    @property
    def has_ended(self):
        return self._state is State.ENDED

    # The session's own thread.

    def stage(self, method, *args):
        """Keep an operation for the vote.

        The call that asked for it has no reply: an error is kept as well, and
        raised by `vote`.
        """
        try:
            if self._error is None:
                self._expect(State.STAGING, State.RESOLVING)
                self._staging.add(method, *args)
        except Exception as error:
            self.fail(error)

    def stage_blob(self, method, *args):
        """Like `stage`; the last argument is the path of the blob's file.

        The file is removed unless the storage takes it over.
        """
        path = args[-1]
        try:
            self._staging.own(path)
        except Exception as error:
            self.fail(error)
        else:
            self.stage(method, *args)

    def fail(self, error):
        """Let `vote` raise `error`, if it is the first."""
        if self._error is None:
            self._error = error

    def vote(self, respond):
        """Let the storage prepare the commit; return its result or `DELAYED`.

        If the commit lock is taken the answer comes later: `respond` is called
        by the vote runner with the result, or with an exception.
        """
        with self._lock:
            again = self._expect(State.STAGING, State.RESOLVING) is State.RESOLVING
            if self._error is None:
                self._state = State.WAITING
        if self._error is not None:
            error = self._error
            self.abort("its vote failed")
            raise error
        self._respond = respond
        if not again and not self._served.commit_lock.acquire(self):
            return DELAYED
        return self._vote()

    def finish(self):
        """Commit; return (tid, entry in the invalidation log)."""
        with self._lock:
            self._expect(State.VOTED)
            self._state = State.FINISHING
        journal = self._served.journal
        try:
            tid = self._storage.tpc_finish(self._metadata, self._reserve)
            if self._entry is None:
                # A storage that forgot to call back.
                self._reserve(tid or self._storage.lastTransaction())
        except BaseException:
            if self._entry is not None:
                journal.cancel(self._entry)
            self._abort_in_storage()
            self._end()
            raise
        try:
            journal.publish(self._entry)
        finally:
            self._end()
        self._served.dispatcher.wake(self._session.delivery)
        return self._entry.tid, self._entry

    # The vote runner.

    def run_vote(self):
        """Vote now, having got the commit lock, and respond."""
        try:
            answer = self._vote()
        except Exception as error:
            answer = error
        self._respond(answer)

    # Any thread.

    def abort(self, why):
        """End it without a commit; return False if it is too late for that.

        `why` is for the one who may still wait for its vote.
        """
        error = StorageTransactionError(f"the transaction was aborted: {why}")
        with self._lock:
            before = self._state
            if before in (State.FINISHING, State.ENDED):
                return False
            if before is State.VOTING or (
                before is State.WAITING and not self._served.commit_lock.withdraw(self)
            ):
                self._doom = error
                return True
            self._state = State.ENDED
        if before in (State.VOTED, State.RESOLVING):
            self._abort_in_storage()
            self._served.commit_lock.release(self)
        elif before is State.WAITING:
            self._respond(error)
        self._staging.close()
        return True

    def expire(self, seconds):
        """End it, and the client's connection, because it took too long."""
        why = f"it was not finished within {seconds:g} seconds of getting the lock"
        if self.abort(why):
            self._session.end(f"its transaction was aborted: {why}")

    # Whoever holds the commit lock.

    def _vote(self):
        with self._lock:
            self._expect(State.WAITING)
            self._state = State.VOTING
            doom = self._doom
        try:
            if doom is not None:
                raise doom
            changed = self._vote_in_storage()
        except BaseException:
            self._abort_in_storage()
            self._end()
            raise
        with self._lock:
            doom = self._doom
            if doom is None:
                self._state = State.RESOLVING if self._conflicts else State.VOTED
                return changed
        self._abort_in_storage()
        self._end()
        raise doom

    def _vote_in_storage(self):
        """Return the oids that were changed, and conflicts for the client."""
        storage, metadata = self._storage, self._metadata
        if self._begin_args is not None:
            _check_tid(storage, *self._begin_args[1:2])
            storage.tpc_begin(*self._begin_args)
            self._begin_args = None
        self._conflicts = []
        for method, args in self._staging:
            try:
                found = _OPERATIONS[method](storage, metadata, self._oids, *args)
            except ConflictError as error:
                if method != "store" or not self._leaves_conflicts:
                    raise
                oid, _, data = args
                conflict = {"oid": oid, "serials": error.serials, "data": data}
                self._conflicts.append(conflict)
            else:
                self._changed.update(dict.fromkeys(found or ()))
                if method in _TAKE_FILES:
                    self._staging.disown(args[-1])
        self._staging.close()
        if self._conflicts:
            return [*self._changed, *self._conflicts]
        self._changed.update(dict.fromkeys(storage.tpc_vote(metadata) or ()))
        self._oids.update(self._changed)
        return list(self._changed)

    def _abort_in_storage(self):
        try:
            self._storage.tpc_abort(self._metadata)
        except Exception:
            logger.exception("storage %s: aborting failed", self._served.name)

    def _reserve(self, tid):
        self._entry = self._served.journal.reserve(
            tid, list(self._oids), self._session.delivery
        )

    def _end(self):
        with self._lock:
            self._state = State.ENDED
        self._served.commit_lock.release(self)
        self._staging.close()

    def _expect(self, *states):
        """Return the state, or raise if it is another one."""
        if self._state not in states:
            raise StorageTransactionError(
                f"the transaction is {self._state.value}, not {states[0].value}"
            )
        return self._state


def _check_tid(storage, tid=None):
    """Raise unless a recovered transaction can follow the last one."""
    if tid is not None and not storage.lastTransaction() < tid < maxtid:
        raise StorageError(
            f"transaction {tid.hex()} cannot be stored after "
            f"{storage.lastTransaction().hex()}"
        )


def _begin_args(metadata, tid, status):
    """Only what is not the default: not every storage takes all of it."""
    if tid is None:
        return (metadata,)
    return (metadata, tid) if status == " " else (metadata, tid, status)


# What can be staged.  Each adds to `oids` what it changes.


def _store(storage, metadata, oids, oid, serial, data):
    storage.store(oid, serial, data, "", metadata)
    oids[oid] = None


def _restore(storage, metadata, oids, oid, serial, data, prev_txn):
    storage.restore(oid, serial, data, "", prev_txn, metadata)
    oids[oid] = None


def _store_blob(storage, metadata, oids, oid, serial, data, path):
    storage.storeBlob(oid, serial, data, path, "", metadata)
    oids[oid] = None


def _restore_blob(storage, metadata, oids, oid, serial, data, prev_txn, path):
    storage.restoreBlob(oid, serial, data, path, prev_txn, metadata)
    oids[oid] = None


def _delete(storage, metadata, oids, oid, serial):
    storage.deleteObject(oid, serial, metadata)
    oids[oid] = None


def _check_current(storage, metadata, oids, oid, serial):
    storage.checkCurrentSerialInTransaction(oid, serial, metadata)


def _undo(storage, metadata, oids, transaction_id):
    undone = storage.undo(transaction_id, metadata)
    # A storage may tell here what it has undone, or only when it votes.
    return undone[1] if undone else ()


_OPERATIONS = {
    "store": _store,
    "restore": _restore,
    "store_blob": _store_blob,
    "restore_blob": _restore_blob,
    "delete": _delete,
    "check": _check_current,
    "undo": _undo,
}

#: Operations whose last argument is a file that the storage takes over.
_TAKE_FILES = ("store_blob", "restore_blob")
