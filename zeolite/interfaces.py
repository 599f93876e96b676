"""What users may implement, and the events that they may subscribe to.

Events are notified with `ZODB.event.notify`, which gives them to the functions in
`zope.event.subscribers` if the package zope.event is installed.  For instance, a
subscriber can announce the port that the system has chosen for a server::

    import zope.event
    from zeolite.interfaces import Serving

    def announce(event):
        if isinstance(event, Serving):
            print(event.address)

    zope.event.subscribers.append(announce)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from zope.interface import Interface

if TYPE_CHECKING:
    from .clientstorage.storage import ClientStorage
    from .storageserver.server import StorageServer


class StaleCache:
    """A client's cache cannot be brought up to date, and is about to be emptied.

    The client was away for too long, or its cache's file is of another database.
    `storage` is the `ClientStorage`.  Notified in the thread that the storage reads
    its connection with: a subscriber must not ask the storage for anything, but
    may, for example, arrange for the process to be restarted.
    """

    def __init__(self, storage: ClientStorage) -> None:
        self.storage = storage


class ServerEvent:
    """Something happened to `server`, a `StorageServer`."""

    def __init__(self, server: StorageServer) -> None:
        self.server = server


class Serving(ServerEvent):
    """A server accepts clients at `address`: (host, real port), or a path (str).

    Notified in the thread that starts the server, before starting returns.  If a
    subscriber raises, starting fails with that.
    """

    def __init__(self, server: StorageServer, address: tuple[str, int] | str) -> None:
        super().__init__(server)
        self.address = address


class Closed(ServerEvent):
    """A server has stopped, and its storages are closed.

    Notified in the thread that stops the server, before stopping returns.
    """


class IClientCache(Interface):
    """A cache of object records, for `ClientStorage`'s argument `cache`.

    An oid and a tid are 8 bytes each.  Any thread may load and ask for the last
    tid at any time.  All else is called by one thread at a time, in the order in
    which the server's messages arrived.

    Whatever is found has to be right: a cache may forget all, but no invalidation.
    """

    def loadBefore(oid, tid):
        """Return (data, start tid, end tid) of the last revision before `tid`.

        The end tid is None if the revision is the current one.  Returns None if
        that revision is not known; an older one is not an answer.
        """

    def store(oid, start_tid, end_tid, data):
        """Keep a revision, or do not.

        `data` (bytes) was committed by the transaction `start_tid`, and replaced by
        the transaction `end_tid`, or is current if that is None.  What is known of
        the object may already be newer.
        """

    def invalidate(oid, tid):
        """The object has changed.

        The current revision ends with the transaction `tid`, unless that is its
        start or before.  If `tid` is None it is not known when the object changed,
        and the current revision is to be forgotten.
        """

    def getLastTid():
        """Return the tid that was set last, None if none was or all was cleared."""

    def setLastTid(tid):
        """All changes up to the transaction `tid` have been told.

        A persistent cache must not keep this without the invalidations before it.
        """

    def clear():
        """Forget everything, the last tid as well."""

    def close():
        """The storage is closed; nothing will be called any more but `loadBefore`,
        which may return None."""
