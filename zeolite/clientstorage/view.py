"""What a client knows of the server's data: cache, last transaction, database.

`View` is changed by the connection's reader thread, so that what the server
says takes effect in the order in which it was said.  Any thread reads it.
"""

import logging
import threading

from ZODB.utils import maxtid, p64, u64, z64

from ..errors import ClientDisconnected, CommitInDoubt
from ..tids import shown
from ..wire.packed import is_id
from .answers import are_changes_or_none, checked, known_info
from .connection import Refused
from .link import CallFailed

logger = logging.getLogger(__name__)


#: Of how many objects the server is asked if a cache has them right.
_SAMPLE = 3


class View:
    """Applies what the server says.

    `cache` provides `IClientCache`, `name` is for messages.  `on_connected` is
    called with what the server tells about the storage, `on_stale` when the cache
    cannot be brought up to date.
    """

    def __init__(self, cache, name, on_connected, on_stale):
        self.cache = cache
        self.database = None
        #: The last transaction whose changes have been applied, or None.  With a
        #: persistent cache transactions can be read before there is a connection.
        self.last_tid = _last_tid(cache)
        # Whether another process has filled it, perhaps from another server.
        self._is_inherited = self.last_tid is not None and hasattr(cache, "sample")
        self.info = {"length": 0, "size": 0, "supportsUndo": False}
        self._name = name
        # A database registers either before a transaction is shown, and is told
        # of it, or after that.
        self._lock = threading.Lock()
        self._on_connected = on_connected
        self._on_stale = on_stale

    def register(self, database):
        """Tell `database` of changes from now on.  For any thread."""
        with self._lock:
            self.database = database

    # The reader thread.

    def verify(self, ask, tid):
        """Find out what has changed since the connection was lost.

        `tid` is the server's last transaction.  Returns the tid up to which all is
        known.  What may be found:

        - The cache is empty and nobody has read anything: there is nothing to do.
        - The cache is up to date: its last transaction is the server's.
        - The server tells what has changed, from its queue or by iterating over
          its storage; these objects are forgotten.
        - The server cannot tell: `on_stale` is called, all is forgotten.
        - What an earlier process has left in the cache is not what the server has,
          which is another database, or was restored.  The same is done.
        - The cache is newer than the server's data.  `Refused` is raised: whichever
          of them is wrong, no object may be read from both.
        """
        known = self._known()
        if known is not None and known > tid:
            raise Refused(self._is_newer(known, tid))
        oids = ()
        if known is not None and known != tid:
            changed = ask("getInvalidations", known)
            checked(changed, are_changes_or_none, "what has changed")
            if changed is None:
                self._empty(
                    tid,
                    "away for too long: the server cannot tell what has changed "
                    f"between transactions {shown(known)} and {shown(tid)}",
                )
            else:
                tid, oids = changed
                for oid in oids:
                    self.cache.invalidate(oid, None)
                logger.info(
                    "%s: the cache is brought up to date: %s objects have changed "
                    "since transaction %s",
                    self._name,
                    len(oids),
                    shown(known),
                )
        difference = self._difference(ask, tid)
        if difference is not None:
            oids = ()
            self._empty(tid, difference)
        self._apply(tid, oids, is_exact=False)
        return tid

    def _known(self):
        """Return the last transaction that cache and database both know of."""
        tids = _last_tid(self.cache), self.last_tid
        return min((tid for tid in tids if tid is not None), default=None)

    def _is_newer(self, known, tid):
        path = getattr(self.cache, "path", None)
        if path is None:
            what, remedy = "this client", "restart this client"
        else:
            what = f"the cache {path}"
            remedy = f"stop this client, remove {path}, and start it again"
        return (
            f"{what} knows transaction {shown(known)}, but the last one of the server "
            f"is {shown(tid)}: it has another database, or one that was restored from "
            f"an older copy; if it was really restored, {remedy}"
        )

    def _difference(self, ask, tid):
        """Say what a cache has that is not what the server has; None for nothing.

        It can only be asked for some objects, and is for a cache that was filled by
        another process.  They have not changed up to `tid`, as far as the server has
        told.
        """
        if not self._is_inherited:
            return None
        for oid, start in self.cache.sample(_SAMPLE):
            try:
                found = checked(ask("getTid", oid), is_id, "an object's revision")
            except CallFailed:
                continue  # For instance, it was packed away meanwhile.
            except ClientDisconnected:
                return None  # The server has lost its own server: the next time.
            if found != start and found <= tid:
                return (
                    f"the cache {self.cache.path} has object {oid.hex()} as of "
                    f"transaction {shown(start)}, the server as of {shown(found)}: "
                    "one of them is another database, or was restored from an older copy"
                )
        self._is_inherited = False
        return None

    def _empty(self, tid, why):
        """Forget all that is known, and tell why."""
        logger.critical("%s: %s; emptying the cache", self._name, why)
        try:
            self._on_stale()
        except Exception:
            logger.exception("%s: an error in a subscriber of StaleCache", self._name)
        self.cache.clear()
        self._is_inherited = False
        self._forget_all(tid)

    def _forget_all(self, tid):
        """Have the database forget what it has; all is new as of `tid`."""
        with self._lock:
            if is_told := self._has_database():
                self.database.invalidateCache()
                # From here on transactions begin at the new tid, and those that
                # began at the old one meanwhile forget what they have loaded.
                self._tell(tid, [])
                self.database.invalidateCache()
            self.last_tid = tid
            if not is_told and self._has_database():
                self.database.invalidateCache()

    def _apply(self, tid, oids, is_exact=True):
        """Tell the database, and only then show the transaction.

        Where it is not exact which commit has changed what, but only that it was not
        later than `tid`, a server is told of the earliest that may have, too: its
        clients keep revisions that have ended, and theirs are to end there.
        """
        with self._lock:
            # Also of a commit without objects: a server that serves this storage has
            # clients, which may have heard of it elsewhere.
            is_news = oids or tid != self.last_tid
            if is_told := bool(is_news and self._has_database()):
                if not is_exact and oids and self.last_tid and self._is_server():
                    earliest = p64(u64(self.last_tid) + 1)
                    if earliest < tid:
                        self._tell(earliest, oids)
                self._tell(tid, oids)
            self.cache.setLastTid(tid)
            self.last_tid = tid
            if is_news and not is_told and self._has_database():
                self._tell(tid, oids)  # It has registered with a wrapper meanwhile.

    def _has_database(self):
        """Whether somebody has registered here, and no wrapper that nobody uses yet.

        Storages that wrap others register at once, and keep whom they tell in
        `db` as soon as somebody registers with them.
        """
        database = self.database
        if database is None:
            return False
        return getattr(database, "base", None) is None or hasattr(database, "db")

    def _is_server(self):
        """Whether what has registered here, or with a wrapper, is a server."""
        database = self.database
        while hasattr(database, "base") and hasattr(database, "db"):
            database = database.db
        # A stock ZEO server knows the storage by that.
        return hasattr(database, "storage_id") or getattr(
            database, "has_clients", False
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
        self.info.update(known_info(info))
        self._on_connected(info)

    def disconnected(self):
        logger.info("%s: disconnected", self._name)

    def informed(self, info):
        self.info.update(known_info(info))

    def invalidated(self, tid, oids):
        for oid in oids:
            self.cache.invalidate(oid, tid)
        self._apply(tid, oids)

    def loaded(self, oid, found):
        """A load was answered, with (data, tid, next tid) or None."""
        if found is not None:
            data, start, end = found
            self.cache.store(oid, start, end, data)

    def conflicted(self, oid, serials):
        """A transaction that has changed or read an object conflicts with another.

        `serials` has the tid of the server's revision, or is something else.  If the
        cache has another one for the current one, it is forgotten: it may be wrong.
        """
        try:
            found = self.cache.loadBefore(oid, maxtid)
            if found is not None and found[2] is None:
                if type(serials) is not tuple or found[1] not in serials[:1]:
                    self.cache.invalidate(oid, None)
        except Exception:  # Somebody waits to hear of the conflict itself.
            logger.exception("%s: the cache has failed to forget", self._name)

    def finished(self, state, f, tid):
        """A transaction was committed as `tid`; tell `f`, and return it."""
        if not is_id(tid):
            state.link.end()  # What was committed is found out with the next one.
            raise CommitInDoubt("the server does not tell what it was committed as")
        try:
            for oid in state.stored:
                self.cache.invalidate(oid, tid)
        except Exception as error:
            state.link.end()  # The next one brings the cache up to date.
            raise CommitInDoubt(
                f"it was committed as {tid.hex()}, but the cache failed: {error!r}"
            ) from error
        try:
            f(tid)
        except BaseException:
            self._show(state, tid)
            with self._lock:
                if self._has_database():
                    self.database.invalidateCache()  # It may not have heard of all.
            raise
        self._show(state, tid)
        return tid

    def _show(self, state, tid):
        """Show a commit of this client's own, and keep what it has stored."""
        self.cache.setLastTid(tid)
        self.last_tid = tid
        # Only now: before, a load of the new data could return when
        # `lastTransaction` did not show the commit yet.
        try:
            for oid, data in state.stored.items():
                if data is not None:
                    self.cache.store(oid, tid, None, data)
        except Exception:  # The commit is none the worse for that.
            logger.exception("%s: the cache has failed to keep a commit", self._name)


def _last_tid(cache):
    """Return a cache's last tid, or None; some say zeros for that, as ZEO's does."""
    tid = cache.getLastTid()
    return None if tid == z64 else tid
