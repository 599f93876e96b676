"""Transactions, from their first call to their end.

One transaction at a time may be between its vote and its end: it has the commit
lock, see `commitlock`.  Where a database orders the commits it gives the lock back
when the storage begins to finish it, so that the next may vote meanwhile.

A vote that finds the lock free runs in the client's thread; one that must wait is put
in the queue, and the *vote runner*, one thread a storage, runs it when its turn comes,
so that the client's other calls go on meanwhile.

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
from functools import partial

from ZODB.POSException import ConflictError, StorageTransactionError

from ..wire.text import text_of
from .kepterrors import kept
from .operations import OPERATIONS, TAKE_FILES, begin
from .staging import MEMORY, Staging

logger = logging.getLogger(__name__)

#: What `Transaction.vote` returns if the answer comes later.
DELAYED = object()


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
        #: Whose it is.
        self.session = session
        self._served = session.served
        self._storage = session.storage
        self._metadata = metadata
        # What it is to begin with in the storage, until it has.
        self._recovered = tid, status
        self._has_begun = False
        options = session.served.options
        # All of a client's transactions together are to stay within some MB.
        memory = MEMORY // (1 + len(session.transactions))
        self._new_staging = partial(Staging, options.max_transaction_size, memory)
        self._staging = self._new_staging()
        self._leaves_conflicts = options.client_conflict_resolution
        self._most_conflicts = options.max_message_size
        self._conflicts = []
        self._oids = {}
        # What the client does not know that it changes: conflicts that the
        # storage resolved, and what was undone.
        self._changed = {}
        self._error = None
        self._respond = None
        self._entry = None
        # When the client has last said something about it.  Read by any thread.
        self._touched = time.monotonic()
        # When its vote was asked for first (`time.monotonic` seconds).
        self._asked = None
        #: Seconds that it had to wait for the commit lock.
        self.waited = 0
        # Seconds that it had the lock, if it gave it back before its end.
        self._held = None
        self._lock = threading.Lock()  # Guards the three below.
        self._state = State.STAGING
        self._doom = None
        # Why it did not commit, once that is known.
        self._why = None

    def __str__(self):
        return f"client {self.session}"

    @property
    def has_ended(self):
        return self._state is State.ENDED

    @property
    def state(self):
        """What it is doing, a text for people."""
        state = self._state
        if state is State.WAITING and self._served.commit_lock.is_held_by(self):
            return "about to vote"  # Its thread has not heard yet.
        return state.value

    @property
    def is_committed(self):
        """Whether it has ended with a commit, for who knows that it has ended."""
        return self._entry is not None and self._why is None

    @property
    def outcome(self):
        """How it has ended, for the log."""
        if self.is_committed:
            tid = self._entry.tid.hex()
            return f"committed {tid} with {len(self._oids)} objects"
        return f"did not commit: {self._why or 'its vote failed'}"

    # The session's own thread.

    def stage(self, method, *args):
        """Keep an operation for the vote.

        The call that asked for it has no reply: an error is kept as well, and
        raised by `vote`.
        """
        self._touched = time.monotonic()
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
        self._touched = time.monotonic()
        try:
            self._staging.own(path)
        except Exception as error:
            self.fail(error)
        else:
            self.stage(method, *args)

    def expect_file(self, path):
        """The client is about to put a file there, which is removed as any other.

        Raises the error that the transaction has, if any.
        """
        self._touched = time.monotonic()
        if self._error is not None:
            raise self._error
        self._expect(State.STAGING, State.RESOLVING)
        self._staging.expect(path)

    def expects_file(self, path):
        """Whether `expect_file` was told of it."""
        return self._staging.owns(path)

    def fail(self, error):
        """Let `vote` raise `error`, if it is the first; keep nothing until then."""
        if self._error is None:
            self._error = kept(error)
            self._staging.close()

    def vote(self, respond):
        """Let the storage prepare the commit; return its result or `DELAYED`.

        If the commit lock is taken the answer comes later: `respond` is called
        by the vote runner with the result, or with an exception.
        """
        now = time.monotonic()
        if self._asked is None:
            self._asked = now
        with self._lock:
            again = self._expect(State.STAGING, State.RESOLVING) is State.RESOLVING
            if self._error is None:
                self._state = State.WAITING
        if self._error is not None:
            error = self._error
            self.abort("its vote failed")
            raise error
        self._respond = respond
        if not again and not self._served.commit_lock.acquire(self, now):
            self._served.reports.queued(self)
            return DELAYED
        return self._vote()

    def finish(self):
        """Commit; return (tid, entry in the invalidation log).

        What it raises means that it has failed, unless it `is_committed`.
        """
        with self._lock:
            self._expect(State.VOTED)
            self._state = State.FINISHING
        journal, number = self._served.journal, None
        try:
            number = journal.finishing(self._oids)
            if self._served.may_overlap:
                self._held = self._served.commit_lock.release(self)
            tid = self._storage.tpc_finish(self._metadata, self._reserve)
            if self._entry is None:
                # A storage that forgot to call back.
                self._reserve(tid or self._storage.lastTransaction())
        except BaseException as error:
            self._why = f"{type(error).__name__}: {text_of(error)}"
            journal.cancel(self._entry, number)
            try:
                self._abort_in_storage()
            finally:
                journal.aborted()
                self._end()
            # What came behind its place in the log may be told now.
            self._served.dispatcher.wake()
            raise
        now = None
        try:
            journal.publish(self._entry, number)
            now = time.monotonic()
            self._served.took(now - self._asked)
        finally:
            self._end(now)
        self._served.dispatcher.wake(self.session.delivery)
        return self._entry.tid, self._entry

    # The vote runner.

    def run_vote(self):
        """Vote now, having got the commit lock, and respond."""
        self.waited = time.monotonic() - self._asked
        try:
            answer = self._vote()
        except Exception as error:
            answer = error
        self._respond(answer)
        self._served.reports.got(self, self.waited)

    # Any thread.

    def abort(self, why):
        """End it without a commit; return False if it is too late for that.

        `why` is for the one who may still wait for its vote.
        """
        error = _aborted(why)
        with self._lock:
            before = self._state
            if before in (State.FINISHING, State.ENDED):
                return False
            self._why = why
            if before is State.VOTING or (
                before is State.WAITING and not self._served.commit_lock.withdraw(self)
            ):
                self._doom = error
                return True
            self._state = State.ENDED
        if before in (State.VOTED, State.RESOLVING):
            self._abort_in_storage()
            self._served.release(self)
        elif before is State.WAITING:
            self.waited = time.monotonic() - self._asked
            self._respond(error)
        self._staging.close()
        return True

    def abort_if_idle(self, seconds):
        """End it if nothing was said about it for so long before its vote.

        Returns whether it was ended.
        """
        with self._lock:
            if self._state is not State.STAGING:
                return False
            if time.monotonic() - self._touched < seconds:
                return False
            self._state = State.ENDED
            self._why = f"nothing was said about it for {seconds:g} seconds"
        self._staging.close()
        return True

    def expire(self, seconds):
        """End it, and the client's connection, because it took too long."""
        why = f"it was not finished within {seconds:g} seconds of getting the lock"
        if self.abort(why):
            self.session.end(f"its transaction was aborted: {why}")

    # Whoever holds the commit lock.

    def _vote(self):
        with self._lock:
            self._expect(State.WAITING)
            self._state = State.VOTING
            doom = self._doom or self._error
        try:
            if doom is not None:
                raise doom
            changed = self._vote_in_storage()
        except BaseException as error:
            self._why = self._why or f"{type(error).__name__}: {text_of(error)}"
            self._abort_in_storage()
            self._end()
            raise
        with self._lock:
            # What was to be stored is not whole if an error came too late for it.
            doom = self._doom or self._error
            if doom is None:
                self._state = State.RESOLVING if self._conflicts else State.VOTED
                return changed
        self._abort_in_storage()
        self._end()
        raise doom

    def _vote_in_storage(self):
        """Return the oids that were changed, and conflicts for the client."""
        storage, metadata = self._storage, self._metadata
        if not self._has_begun:
            begin(storage, metadata, *self._recovered)
            self._has_begun = True
        self._conflicts = []
        size = 0
        for method, args in self._staging:
            if self._doom is not None:
                raise self._doom  # Others wait for the lock: no need to go on.
            try:
                found = OPERATIONS[method](storage, metadata, self._oids, *args)
            except ConflictError as error:
                if method != "store" or not self._leaves_conflicts:
                    raise
                oid, _, data = args
                size += len(data)
                if size > self._most_conflicts:
                    raise  # They would not fit into one message.
                conflict = {"oid": oid, "serials": error.serials, "data": data}
                self._conflicts.append(conflict)
            else:
                self._changed.update(dict.fromkeys(found or ()))
                if method in TAKE_FILES:
                    self._staging.disown(args[-1])
        self._staging.close()
        if self._conflicts:
            self._staging = self._new_staging()  # For what the client resolves.
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
            tid, list(self._oids), self.session.delivery
        )

    def _end(self, now=None):
        with self._lock:
            self._state = State.ENDED
        if self._held is None:
            self._served.release(self, now)
        else:
            self._served.reports.released(self, self._held)
        self._staging.close()

    def _expect(self, *states):
        """Return the state, or raise if it is another one."""
        if self._state not in states:
            if self._why is not None:
                raise _aborted(self._why)
            raise StorageTransactionError(
                f"the transaction is {self._state.value}, not {states[0].value}"
            )
        return self._state


def _aborted(why):
    return StorageTransactionError(f"the transaction was aborted: {why}")
