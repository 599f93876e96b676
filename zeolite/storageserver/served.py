"""One storage that is being served, and what all its clients share."""

import logging
import threading
import time
from collections import deque

import ZODB.interfaces
import zope.interface
from persistent.TimeStamp import TimeStamp
from ZODB.POSException import ConflictError
from ZODB.serialize import referencesf
from ZODB.utils import p64, u64

from ..wire import messages
from .blobs import remove_abandoned
from .commit import DELAYED, CommitLock
from .delivery import Dispatcher
from .invalidation import InvalidationLog
from .options import ServerOptions

logger = logging.getLogger(__name__)

#: What sessions count.
COUNTS = ("loads", "stores", "commits", "aborts", "conflicts", "conflicts_resolved")

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

    Sessions come and go in threads of their own.  The lock guards the set of
    sessions and the counts of those that are gone.  To the storage this is the
    wrapper that it tells of changes which it makes by itself, such as those
    that a client storage hears of.
    """

    def __init__(self, name, storage, options=None):
        self.name = name
        self.storage = storage
        self.options = options or ServerOptions()
        self.started = time.ctime()
        if self.options.client_conflict_resolution:
            storage.tryToResolveConflict = _leave_conflict
        self.commit_lock = CommitLock()
        tid = self._last_transaction()
        self.log = InvalidationLog(tid, self.options.invalidation_queue_size)
        #: Where commits reserve and publish their places in the log.
        self.journal = self.log
        self.dispatcher = Dispatcher(self.log, name)
        # Whether the storage has said that it knows nothing, and not since when.
        self._is_unknown = False
        # When `new_size` may be asked for again, and what it took.  Two threads
        # that get in each other's way here do no harm.
        self._next_size = 0
        self._size_costs = deque([0, 0, 0], maxlen=3)
        self._lock = threading.Lock()
        self._sessions = set()
        self._gone = dict.fromkeys(COUNTS, 0)
        self._helpers = set()
        self._threads = [self._thread("vote-runner", self._run_votes)]
        if self.options.transaction_timeout:
            self._watchdog = self._thread("watchdog", self._watch)
            self._threads.append(self._watchdog)
        else:
            self._watchdog = None

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
        if hasattr(self.storage, "registerDB"):
            self.storage.registerDB(self)
        # What was committed before the storage knew whom to tell.
        tid = self.storage.lastTransaction()
        if tid > self.log.last_tid:
            self.log.restart(tid)
        if hasattr(self.storage, "lastInvalidations"):
            size = self.options.invalidation_queue_size
            self.log.seed(self.storage.lastInvalidations(size))
        remove_abandoned(self.storage)

    def _stop_listening(self, patience):
        """Hear of no changes any more; wait for that, at most `patience` seconds."""

    def _close_storage(self):
        self.storage.close()

    def close(self, patience=None):
        """End the threads and close the storage.  No session is left by now.

        Waits for helpers such as a pack, because nobody else may open the storage
        before they are done: however long that takes, or `patience` seconds.
        After that the storage is left as it is, for the end of the process.
        """
        self.commit_lock.close()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()
        self._stop_listening(patience)
        self.dispatcher.close()
        deadline = None if patience is None else time.monotonic() + patience
        for helper in list(self._helpers):
            helper.join(deadline and max(0, deadline - time.monotonic()))
            if helper.is_alive():
                logger.warning("storage %s: not closed: %s", self.name, helper.name)
                return
        self._close_storage()

    def in_helper(self, name, respond, function, *args):
        """Call a function in a thread of its own; `respond` gets result or error.

        Returns `DELAYED`.
        """

        def run():
            try:
                answer = function(*args)
            except Exception as error:
                answer = error
            try:
                respond(answer)
            finally:
                self._helpers.discard(threading.current_thread())

        helper = self._thread(name, run)
        self._helpers.add(helper)
        helper.start()
        return DELAYED

    # What sessions ask.

    def instance(self, delivery):
        """Return the storage object for the session whose delivery this is."""
        return self.storage

    def poll(self, is_new=False):
        """See to it that all that is committed by now is in the log: it is."""

    def add(self, session):
        with self._lock:
            self._sessions.add(session)
        self.dispatcher.add(session.delivery)

    def discard(self, session):
        self.dispatcher.discard(session.delivery)
        with self._lock:
            self._sessions.discard(session)
            for key in COUNTS:
                self._gone[key] += session.counts[key]

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

    def packed(self):
        """The storage was packed: tell all clients its new size."""
        frame = messages.encode_one_way("info", (self.size(),))
        with self._lock:
            sessions = list(self._sessions)
        for session in sessions:
            session.delivery.send(frame)

    def is_read_only(self):
        return self.options.read_only or bool(self.storage.isReadOnly())

    def changed_since(self, tid, cursor, last_tid):
        """Return what was committed after `tid` and before the log's `cursor`.

        The result is (last tid, list of oids), or None if it cannot be told.
        `last_tid` is the tid of the last commit before the cursor.
        """
        changed = self.log.since(tid, cursor)
        if changed is None and hasattr(self.storage, "getInvalidations"):
            # A client of another server, whose log may reach back further.  It
            # tells of all up to `last_tid`, and maybe of what came since.
            changed = self.storage.getInvalidations(tid)
            changed = changed and (last_tid, list(changed[1]))
        age = self.options.invalidation_age
        if changed is not None or age is None:
            return changed
        if time.time() - TimeStamp(tid).timeTime() > age:
            return None
        if not hasattr(self.storage, "iterator"):
            return None
        oids = {}
        for record in self.storage.iterator(p64(u64(tid) + 1), last_tid):
            oids.update((data.oid, None) for data in record)
        return last_tid, list(oids)

    def status(self):
        """Return what `server_status` and monitoring say."""
        with self._lock:
            sessions = list(self._sessions)
            counts = dict(self._gone)
        for session in sessions:
            for key in COUNTS:
                counts[key] += session.counts[key]
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

    # What the storage says (ZODB.interfaces.IStorageWrapper).

    def invalidate(self, tid, oids):
        if self._is_unknown and not oids:
            # Nobody is to hear "nothing changed up to `tid`", who has only just
            # come and believes that what it has is right.
            self.log.restart(tid, is_known=False)
        else:
            self.log.add(tid, list(oids))
        self._is_unknown = False
        self.dispatcher.wake()

    def invalidateCache(self):
        """Whatever clients have cached may be wrong: let them connect anew."""
        logger.warning(
            "storage %s: unknown changes, all clients have to reconnect", self.name
        )
        self._is_unknown = True
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
