"""One storage that is being served, and what all its clients share."""

import logging
import threading
import time
from collections import deque

import ZODB.interfaces
import zope.interface
from ZODB.POSException import ConflictError
from ZODB.serialize import referencesf
from ZODB.utils import p64, u64

from ..tids import seconds_of
from ..wire import messages
from .attendance import Attendance
from .blobs import remove_abandoned
from .commitlock import CommitLock
from .delivery import Dispatcher
from .helpers import Helpers
from .invalidation import InvalidationLog
from .journal import Journal
from .measures import COMMIT_BOUNDS, COUNTS, Histogram
from .options import ServerOptions
from .probe import Probe
from .reports import LockReports
from .revisions import Revisions, keeps_itself
from .transactions import transactions

logger = logging.getLogger(__name__)

#: How many objects may have changed for a client to be told which.
MOST_CHANGED = 1_000_000

#: Seconds that threads have to end at least.
LEAST_PATIENCE = 1

#: The interfaces of a storage whose methods clients can reach.
REACHABLE = (
    ZODB.interfaces.IStorage,
    ZODB.interfaces.IMultiCommitStorage,
    ZODB.interfaces.IStorageRestoreable,
    ZODB.interfaces.IStorageIteration,
    ZODB.interfaces.IStorageUndoable,
    ZODB.interfaces.IStorageCurrentRecordIteration,
    ZODB.interfaces.IExternalGC,
    ZODB.interfaces.ReadVerifyingStorage,
    ZODB.interfaces.IBlobStorage,
    ZODB.interfaces.IBlobStorageRestoreable,
)


@zope.interface.implementer(ZODB.interfaces.IStorageWrapper)
class Served:
    """A storage with its commit lock, invalidation log and statistics.

    Sessions come and go in threads of their own.  To the storage this is the wrapper
    that it tells of changes which it makes by itself, such as those that a client
    storage hears of.
    """

    #: What a client storage looks for in what it tells of changes.
    has_clients = True

    #: Whether a transaction that the storage is about to finish may give the commit
    #: lock back.  For who has it.
    may_overlap = False

    def __init__(self, name, storage, options=None):
        self.name = name
        self.storage = storage
        self.options = options or ServerOptions()
        self.started = time.ctime()
        if self.options.client_conflict_resolution:
            storage.tryToResolveConflict = _leave_conflict
        self.commit_lock = CommitLock()
        self.reports = LockReports(name, self.commit_lock, self.options)
        tid = self._last_transaction()
        self.log = InvalidationLog(tid, self.options.invalidation_queue_size)
        #: What was read from the storage by clients, and is current.
        size = 0 if keeps_itself(storage) else self.options.storage_cache_size
        self.revisions = Revisions(size)
        #: Where commits reserve and publish their places in the log.
        self.journal = Journal(self.log, self.revisions)
        self.dispatcher = Dispatcher(self.log, name)
        # What asks the storage's own server, if it has one.
        self._sync = getattr(storage, "sync", None)
        # Whether the storage has said that it knows nothing, and not since when.
        self._is_unknown = False
        # When `new_size` may be asked for again, and what it took.  Two threads
        # that get in each other's way here do no harm.
        self._next_size = 0
        self._size_costs = deque([0, 0, 0], maxlen=3)
        self._attendance = Attendance()
        #: From a vote's call to the end of the commit.  `took` writes it.
        self.commit_times = Histogram(COMMIT_BOUNDS)
        self._times_lock = threading.Lock()  # A leaf, for that.
        self._probe = Probe(name, storage)
        self.helpers = Helpers(name, self.options.max_background_calls)
        self._threads = [self._thread("vote-runner", self._run_votes)]
        if self.options.transaction_timeout:
            self._watchdog = self._thread("watchdog", self._watch)
            self._threads.append(self._watchdog)
        else:
            self._watchdog = None
        if self.options.slow_call:
            self._threads.append(self._thread("lock-reports", self.reports.watch))

    def _thread(self, role, target):
        return threading.Thread(
            target=target, name=f"zeolite-{role}-{self.name}", daemon=True
        )

    def start(self):
        """Begin: the storage may tell of changes from now on."""
        self._listen()
        self.dispatcher.start()
        for thread in self._threads:
            thread.start()

    def _last_transaction(self):
        """Return the tid where the log begins."""
        return self.storage.lastTransaction()

    def _listen(self):
        """Begin to hear of changes that the storage makes by itself."""
        known = self.log.last_tid
        if hasattr(self.storage, "registerDB"):
            self.storage.registerDB(self)
        # What was committed before the storage knew whom to tell is not in the log,
        # even if what came after that is already.
        tid = max(self.storage.lastTransaction(), self.log.last_tid)
        if tid > known:
            self.log.restart(tid)
        if hasattr(self.storage, "lastInvalidations"):
            size = self.options.invalidation_queue_size
            self.log.seed(self.storage.lastInvalidations(size))
        # What is in the directory of a client storage may be another process's.
        if not keeps_itself(self.storage):
            remove_abandoned(self.storage)

    def _stop_listening(self, patience):
        """Hear of no changes any more; wait for that, at most `patience` seconds."""

    def _close_storage(self):
        self.storage.close()

    def close(self, deadline=None):
        """End the threads and close the storage.

        Waits for helpers such as a pack, because nobody else may open the storage
        before they are done: however long that takes, or until `deadline`
        (`time.monotonic` seconds).  After that the storage is left as it is, for the
        end of the process, and so it is with a session that has not ended by now.
        """
        self.commit_lock.close()
        self._stop_listening(deadline and max(0, deadline - time.monotonic()))
        self.dispatcher.close()
        helpers = self.helpers.threads()
        if deadline is not None:
            # Another storage may have used up the time.
            deadline = max(deadline, time.monotonic() + LEAST_PATIENCE)
        threads = [thread for thread in self._threads if thread.ident is not None]
        for thread in [*threads, *helpers]:
            thread.join(deadline and max(0, deadline - time.monotonic()))
            if thread.is_alive():
                self._leave_open(f"{thread.name} is still at work")
                return
        if busy := self.sessions():
            self._leave_open(f"it still works for client {busy[0]}")
            return
        self._close_storage()

    def _leave_open(self, why):
        logger.warning("storage %s: not closed: %s", self.name, why)

    def release(self, transaction, now=None):
        """Take the commit lock back from a transaction, at `now` if that is known."""
        held = self.commit_lock.release(transaction, now)
        self.reports.released(transaction, held)

    def took(self, seconds):
        """A commit has taken so long, from the call of its vote to its end."""
        with self._times_lock:
            self.commit_times.observe(seconds)

    # What sessions ask.

    def instance(self, delivery):
        """Return the storage object for the session whose delivery this is."""
        return self.storage

    def loader(self, storage):
        """Return what a session that has the object `storage` loads with."""
        return self.revisions.reading(storage.loadBefore)

    def poll(self, is_new=False):
        """See to it that all that is committed by now is in the log.

        It is, but where another server has the data.  The client storage of that asks
        it, if it has the setting; what is told before the answer is in the log then.
        """
        if self._sync is not None and not is_new:
            self._sync()

    def sessions(self):
        """Return a list of the sessions of all clients."""
        return self._attendance.sessions()

    def add(self, session):
        self._attendance.add(session)
        self.dispatcher.add(session.delivery)

    def discard(self, session):
        self.dispatcher.discard(session.delivery)
        self._attendance.discard(session)

    def rename(self, session):
        """A session has another label now."""
        self._attendance.rename(session)

    def count(self, session, key):
        """Count for a session what its own thread does not; see `Attendance.count`."""
        self._attendance.count(session, key)

    def info(self):
        """Return what `get_info` says."""
        return {
            **self.size(),
            "name": self.storage.getName(),
            # What a stock server does not say.  Clients that know it may have
            # several transactions at once, and ask for raw extensions.
            "zeolite": 1,
            "supportsUndo": self._supports_undo(),
            "supports_record_iternext": hasattr(self.storage, "record_iternext"),
            "interfaces": tuple(
                (interface.__module__, interface.__name__)
                for interface in REACHABLE
                if interface.providedBy(self.storage)
            ),
        }

    def _supports_undo(self):
        supports_undo = getattr(self.storage, "supportsUndo", None)
        return bool(supports_undo and supports_undo())

    def size(self):
        """Return the part of `info` that commits change."""
        return {"length": len(self.storage), "size": self.storage.getSize()}

    def new_size(self):
        """Like `size`, after a commit; None where it costs too much to know now.

        Some storages count all their records to tell their size.  No more than
        a hundredth of the time is spent on that.
        """
        start = time.monotonic()
        if start < self._next_size:
            return None
        size = self.size()
        # The least of some measurements: any one may have been interrupted.
        self._size_costs.append(time.monotonic() - start)
        self._next_size = start + 100 * min(self._size_costs)
        return size

    def pack(self, storage, *args, **options):
        """Pack the storage, by the object that a session has for it."""
        try:
            storage.pack(*args, **options)
        finally:
            # Not all objects are there that were, even if it failed.
            self.revisions.forget()

    def packed(self):
        """The storage was packed: tell all clients its new size."""
        frame = messages.encode_one_way("info", (self.size(),))
        for session in self.sessions():
            # Others have not had the answer to their `register` yet, maybe.
            if session.is_informed:
                session.delivery.send(frame)

    def is_read_only(self):
        return self.options.read_only or bool(self.storage.isReadOnly())

    def changed_since(self, tid, cursor, last_tid):
        """Return what was committed after `tid` and before the log's `cursor`.

        The result is how it was found, one of `measures.VERIFICATIONS`, and (last
        tid, list of oids), or None if it cannot be told.  `last_tid` is the tid of
        the last commit before the cursor.
        """
        changed = self.log.since(tid, cursor)
        if changed is not None:
            return "queue", changed
        if hasattr(self.storage, "getInvalidations"):
            # A client of another server, whose log may reach back further.  It
            # tells of all up to `last_tid`, and maybe of what came since.
            changed = self.storage.getInvalidations(tid)
            if changed:
                return "upstream", (last_tid, list(changed[1]))
        age = self.options.invalidation_age
        if age is None or time.time() - seconds_of(tid) > age:
            return "too_old", None
        if not hasattr(self.storage, "iterator"):
            return "too_old", None
        oids = {}
        start = p64(u64(tid) + 1)
        for record in transactions(self.storage, start, None, last_tid):
            for data in record:
                oids[data.oid] = None
                if len(oids) > MOST_CHANGED:
                    return "too_old", None
        return "iterating", (last_tid, list(oids))

    def status(self):
        """Return what `server_status` and ZEO's monitoring say."""
        look = self.look()
        sessions, done = look.sessions, look.total()
        counts = {key: done[key] for key in COUNTS}
        counts["loads"] += done["blob_loads"]
        since = self.commit_lock.since
        return {
            "name": self.name,
            "start": self.started,
            "connections": len(sessions),
            **counts,
            "active_txns": sum(len(session.transactions) for session in sessions),
            "waiting": self.commit_lock.waiting,
            "lock_time": since and time.time() - (time.monotonic() - since),
            "timeout-thread-is-alive": bool(
                self._watchdog and self._watchdog.is_alive()
            ),
            "last-transaction": self.log.last_tid.hex(),
        }

    def look(self):
        """Return a `Look` at what has been done."""
        return self._attendance.look()

    def trouble(self):
        """Return why it cannot be read, None if it can."""
        return self._probe.trouble()

    # What the storage says (ZODB.interfaces.IStorageWrapper).

    def invalidate(self, tid, oids):
        oids = list(oids)
        if self._is_unknown and not oids:
            # Nobody is to hear "nothing changed up to `tid`", who has only just
            # come and believes that what it has is right.
            self.revisions.forget()
            self.log.restart(tid, is_known=False)
        else:
            self.revisions.changed(oids)
            self.log.add(tid, oids)
        self._is_unknown = False
        self.dispatcher.wake()

    def invalidateCache(self):
        """Whatever clients have cached may be wrong: let them connect anew."""
        logger.warning(
            "storage %s: unknown changes, all clients have to reconnect", self.name
        )
        self._is_unknown = True
        self.revisions.forget()
        self.log.restart(self.storage.lastTransaction(), is_known=False)
        self.dispatcher.wake()

    def references(self, record, oids=None):
        return referencesf(record, oids)

    def transform_record_data(self, data):
        return data

    untransform_record_data = transform_record_data

    # Threads.

    def _run_votes(self):
        while True:
            transaction = self.commit_lock.next()
            if transaction is None:
                return
            try:
                transaction.run_vote()
            except Exception:
                logger.exception("storage %s: a vote was not answered", self.name)
            del transaction  # The next may be long in coming.

    def _watch(self):
        timeout, late = self.options.transaction_timeout, None
        while True:
            late = self.commit_lock.expired(timeout, late)
            if late is None:
                return
            try:
                late.expire(timeout)
            except Exception:
                logger.exception("storage %s: a timeout failed", self.name)


def _leave_conflict(oid, committed, read, data, committed_data=b""):
    """What a storage is to do with a conflict that a client will resolve."""
    raise ConflictError(oid=oid, serials=(committed, read), data=data)
