"""What a client knows of the server's data: cache, last transaction, database.

`View` is changed by the connection's reader thread, so that what the server
says takes effect in the order in which it was said.  Any thread reads it.
"""

import logging
import threading

from .connection import Refused

logger = logging.getLogger(__name__)


class View:
    """Applies what the server says.

    `cache` is a `ClientCache`, `name` is for messages, `on_connected` is called
    with what the server tells about the storage.
    """

    def __init__(self, cache, name, on_connected):
        self.cache = cache
        self.database = None
        #: The last transaction whose changes have been applied, or None.
        self.last_tid = None
        self.info = {"length": 0, "size": 0, "name": "", "supportsUndo": False}
        self._name = name
        # A database registers either before a transaction is shown, and is told
        # of it, or after that.
        self._lock = threading.Lock()
        self._on_connected = on_connected

    def register(self, database):
        """Tell `database` of changes from now on.  For any thread."""
        with self._lock:
            self.database = database

    # The reader thread.

    def verify(self, ask, tid):
        """Find out what has changed since the connection was lost.

        Returns the tid up to which all is known.
        """
        known = self.cache.getLastTid()
        if known is not None and known > tid:
            raise Refused(
                f"the cache has transaction {known.hex()}, and the server's last one "
                f"is {tid.hex()}: it has other data, or was restored from a backup"
            )
        if known is not None and known != tid:
            changed = ask("getInvalidations", known)
            if changed is None:
                logger.critical(
                    "%s: away for too long, forgetting the cache", self._name
                )
                self.cache.clear()
                self._forget_all(tid)
            else:
                tid, oids = changed
                for oid in oids:
                    self.cache.invalidate(oid, None)
                self._apply(tid, oids)
        self._apply(tid, ())
        return tid

    def _forget_all(self, tid):
        """Have the database forget what it has; all is new as of `tid`."""
        with self._lock:
            if self.database is not None and not self._is_idle():
                self.database.invalidateCache()
                # From here on transactions begin at the new tid, and those that
                # began at the old one meanwhile forget what they have loaded.
                self._tell(tid, [])
                self.database.invalidateCache()
            self.last_tid = tid

    def _apply(self, tid, oids):
        """Tell the database, and only then show the transaction."""
        with self._lock:
            if oids and self.database is not None and not self._is_idle():
                self._tell(tid, oids)
            self.cache.setLastTid(tid)
            self.last_tid = tid

    def _is_idle(self):
        """Whether what has registered here is a wrapper that nobody uses yet.

        Storages that wrap others register at once, and keep whom they tell in
        `db` as soon as somebody registers with them.
        """
        database = self.database
        return getattr(database, "base", None) is not None and not (
            hasattr(database, "db")
        )

    def _tell(self, tid, oids):
        try:
            self.database.invalidate(tid, oids)
        except Exception:
            logger.exception(
                "%s: the database has failed to process a change and is told to "
                "forget everything",
                self._name,
            )
            self.database.invalidateCache()

    def connected(self, info):
        self.info.update(info)
        self._on_connected(info)

    def disconnected(self):
        logger.info("%s: disconnected", self._name)

    def informed(self, info):
        self.info.update(info)

    def invalidated(self, tid, oids):
        for oid in oids:
            self.cache.invalidate(oid, tid)
        self._apply(tid, oids)

    def loaded(self, oid, found):
        """A load was answered; return the answer."""
        if found is not None:
            data, start, end = found
            self.cache.store(oid, start, end, data)
        return found

    def finished(self, state, f, tid):
        """A transaction was committed as `tid`; tell `f`, and return it."""
        for oid in state.stored:
            self.cache.invalidate(oid, tid)
        try:
            f(tid)
        finally:
            self.cache.setLastTid(tid)
            self.last_tid = tid
            # Only now: before, a load of the new data could return when
            # `lastTransaction` did not show the commit yet.
            for oid, data in state.stored.items():
                if data is not None:
                    self.cache.store(oid, tid, None, data)
        return tid
