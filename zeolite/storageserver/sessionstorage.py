"""A storage whose instances are borrowed for each call: what sessions use.

What reads borrows an instance that sees all that its client was told of, so that
nothing is answered which an invalidation before it has said to be past.  What
writes uses one that belongs to its transaction, see `committers`.
"""

import logging

import zope.interface
from ZODB.POSException import POSKeyError, StorageError, Unsupported
from ZODB.utils import maxtid, p64, u64

from .storageerrors import translated

logger = logging.getLogger(__name__)

#: Methods that read, and do not say anything about how.
_READING = ("loadSerial", "undoLog", "undoInfo", "openCommittedBlobFile")

#: Methods of a transaction that has begun; the last argument is its metadata.
_WRITING = (
    "store",
    "restore",
    "storeBlob",
    "restoreBlob",
    "deleteObject",
    "checkCurrentSerialInTransaction",
    "undo",
    "tpc_vote",
)

#: Later than all commits, and not what RelStorage answers from its cache.
_NOW = p64(u64(maxtid) - 1)


class SessionStorage:
    """What one session has for a storage.  `served` is a `SharedServed`."""

    def __init__(self, served, delivery):
        self._served = served
        self._delivery = delivery
        zope.interface.directlyProvides(self, served.interfaces)

    def __getattr__(self, name):
        if name in _READING and hasattr(self._served.storage, name):
            return lambda *args: self._read(name, *args)
        if name in _WRITING and hasattr(self._served.storage, name):
            return lambda *args: self._served.committers.call(name, *args)
        raise AttributeError(name)

    # Reading.  Any thread of the session.

    def _read(self, name, *args, **kwargs):
        def read(storage):
            return getattr(storage, name)(*args, **kwargs)

        return self._served.instances.use(self._delivery.tid, read)

    def _load_before(self, storage, oid, tid):
        """Ask the database itself.

        The cache that instances of RelStorage share was seen to have revisions that
        were not current any more, where several servers wrote to the database.
        """
        current = self._served.changes.current(storage, oid)
        if current is not None and current[1] < tid:
            return (*current, None)
        found = storage.loadBefore(oid, min(tid, _NOW))
        if found is not None and found[0] is None:
            raise POSKeyError(oid)  # Its creation was undone.
        return found

    def loadBefore(self, oid, tid):
        found = self._served.revisions.get(oid, tid)
        if found is not None:
            return (*found, None)

        def load(instance):
            found = self._load_before(instance.storage, oid, tid)
            if found is not None and found[2] is None:
                self._served.revisions.keep(oid, *found[:2], instance.told)
            return found

        return self._served.instances.borrow(self._delivery.tid, load)

    def getTid(self, oid):
        def get_tid(storage):
            found = self._load_before(storage, oid, maxtid)
            if found is None:
                raise POSKeyError(oid)
            return found[1]

        return self._served.instances.use(self._delivery.tid, get_tid)

    def history(self, oid, size=1):
        return self._read("history", oid, size=size)

    def new_oid(self):
        return self._read("new_oid")

    def temporaryDirectory(self):
        return self._served.storage.temporaryDirectory()

    def getSize(self):
        try:
            return self._served.storage.getSize()
        except Exception as error:
            raise translated(error, is_reading=True) from error

    def iterator(self, start=None, stop=None):
        return self._served.iterate(self._delivery.tid, start, stop)

    def pack(self, when, referencesf, gc=None):
        if gc is not None:
            raise Unsupported(
                "whether a pack collects garbage is a setting of this storage "
                "(RelStorage's pack-gc), and nothing to ask for"
            )
        storage = self._served.storage.new_instance()
        try:
            storage.pack(when, referencesf)
        except Exception as error:
            raise translated(error, is_reading=True) from error
        finally:
            storage.release()

    # Writing.  What has the commit lock, or had it and is being finished.

    def lastTransaction(self):
        return self._served.committers.last_transaction()

    def tpc_begin(self, metadata, *args):
        self._served.committers.begin(metadata, *args)

    def tpc_finish(self, metadata, callback):
        tid = self._served.committers.finish(metadata)
        callback(tid)
        return tid

    def tpc_abort(self, metadata):
        self._served.committers.abort(metadata)


class Iteration:
    """An iterator over transactions, with an instance of its own until its end."""

    def __init__(self, storage, iterator, on_close):
        self._storage = storage
        self._iterator = iter(iterator)
        self._inner = iterator
        self._on_close = on_close

    def __iter__(self):
        return self

    def __next__(self):
        try:
            return next(self._iterator)
        except StopIteration:
            raise
        except IndexError:
            # How RelStorage's iterators end, as ZODB's interface allows them to.
            raise StopIteration from None
        except Exception as error:
            raise translated(error, is_reading=True) from error

    def close(self):
        on_close, self._on_close = self._on_close, None
        if on_close is None:
            return
        try:
            close = getattr(self._inner, "close", None)
            if close is not None:
                close()
            self._storage.release()
        except Exception as error:
            logger.debug("an iterator was not closed: %r", error)
        finally:
            on_close()


def too_many(maximum):
    return StorageError(
        f"{maximum} iterators are in use on this server, each with a connection to the "
        "database; try again when one has ended"
    )
