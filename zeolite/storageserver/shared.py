"""A storage in a database to which others write as well.

    sessions  -> revisions: what was read before and is current
              -> instances: what else reads borrows one for each call
              -> committers: a transaction is written with one
    feed      -> the invalidation log, from polling the database

Such a storage provides `IMVCCStorage`, as RelStorage does.  Other servers may serve
the same database, and programs may use it without a server.
"""

import threading
import warnings

from ZODB.interfaces import (
    IMVCCStorage,
    IStorageCurrentRecordIteration,
    IStorageUndoable,
)
from ZODB.POSException import ReadConflictError

from ..errors import ClientDisconnected, ConfigurationError
from .blobs import remove_abandoned
from .changes import find_changes
from .committers import Committers
from .instances import Instances
from .polling import Feed, PollFailed
from .served import REACHABLE, Served
from .sessionstorage import Iteration, SessionStorage, too_many
from .storageerrors import translated

#: How many changed objects a client is told that was away; more, and it empties its
#: cache.
MOST_CHANGED = 100_000


def serve(name, storage, options):
    """Return the `Served` for a storage, of the kind that it needs."""
    if IMVCCStorage.providedBy(storage):
        return SharedServed(name, storage, options)
    return Served(name, storage, options)


class SharedServed(Served):
    """A `Served` whose storage wants one instance for each thread."""

    def __init__(self, name, storage, options=None):
        super().__init__(name, storage, options)
        options = self.options
        if options.client_conflict_resolution:
            raise ConfigurationError(
                f"storage {name!r} finds conflicts only when all was stored, so "
                "client-conflict-resolution cannot be used with it"
            )
        self.interfaces = [
            interface
            for interface in REACHABLE
            if interface.providedBy(storage)
            and interface is not IStorageCurrentRecordIteration
        ]
        #: How to ask it what was committed.
        self.changes = find_changes(storage)
        self.instances = Instances(
            storage, self.log, self.revisions, options.storage_instances
        )
        self.committers = Committers(self)
        self.feed = self.journal = Feed(
            name,
            storage,
            self.log,
            self.changes,
            self.revisions,
            options.poll_interval,
            self.dispatcher.wake,
            self._rest,
        )
        # Iterators have connections besides those of the instances.
        self._most_iterators = max(1, options.storage_instances // 2)
        self._iterators = threading.Semaphore(self._most_iterators)

    def _last_transaction(self):
        # The storage itself is never asked for what would give it a view of the
        # database, because nobody would ever move that forward.
        instance = self.storage.new_instance()
        try:
            return instance.lastTransaction()
        finally:
            instance.release()

    def _listen(self):
        """Begin to hear of changes."""
        settings = getattr(self.storage, "_options", None)
        if not getattr(settings, "shared_blob_dir", True):
            with warnings.catch_warnings():
                # RelStorage's `fshelper` is deprecated; there is nothing instead.
                warnings.simplefilter("ignore", FutureWarning)
                remove_abandoned(self.storage)
        self.feed.start()

    def _stop_listening(self, patience):
        self.feed.close(patience)

    def _close_storage(self):
        self.committers.close()
        self.instances.close()
        self.storage.close()

    def _rest(self):
        self.instances.rest()
        self.committers.rest()

    # What sessions ask.

    @property
    def may_overlap(self):
        return self.changes.tells_commits and self.committers.has_spare

    def instance(self, delivery):
        return SessionStorage(self, delivery)

    def loader(self, storage):
        return storage.loadBefore

    def poll(self, is_new=False):
        """See to it that all that is committed by now is in the log.

        Raises an error that is a reason to try again: here, or for a client that
        `is_new` at another server.
        """
        try:
            self.feed.poll()
        except PollFailed as error:
            reason = f"the server's database cannot be used now: {error}; try again"
            kind = ClientDisconnected if is_new else ReadConflictError
            raise kind(reason) from error

    def info(self):
        info = super().info()
        info["supports_record_iternext"] = False
        info["interfaces"] = tuple((i.__module__, i.__name__) for i in self.interfaces)
        info["supportsUndo"] = IStorageUndoable in self.interfaces
        # Clients that wonder what became of a commit have to know.
        info["is_shared"] = True
        info["keeps_history"] = self.changes.keeps_history
        return info

    def size(self):
        try:
            return super().size()
        except Exception as error:
            raise translated(error, is_reading=True) from error

    def changed_since(self, tid, cursor, last_tid):
        changed = self.log.since(tid, cursor)
        if changed is not None:
            return "queue", changed
        # The database knows it, however long ago it was.  It may tell of more than
        # was published: what is named for nothing is only loaded again.
        oids = self.instances.use(last_tid, self.changes.oids_since, tid, MOST_CHANGED)
        if oids is None:
            return "too_old", None
        return "database", (last_tid, oids)

    def trouble(self):
        error = self.feed.error
        return error and f"storage {self.name} cannot be read: {error}"

    def iterate(self, tid, start, stop):
        """Return an iterator over transactions that sees the commit `tid`."""
        if not self._iterators.acquire(blocking=False):
            raise too_many(self._most_iterators)
        storage = None
        try:
            storage = self.storage.new_instance()
            storage.poll_invalidations()
            iterator = storage.iterator(start, stop)
        except BaseException as error:
            self._iterators.release()
            if storage is not None:
                storage.release()
            if isinstance(error, Exception):
                raise translated(error, is_reading=True) from error
            raise
        return Iteration(storage, iterator, self._iterators.release)

    def status(self):
        return {
            **super().status(),
            "instances": self.instances.count,
            "waiting-for-instances": self.instances.waiting,
            "database-error": self.feed.error,
        }
