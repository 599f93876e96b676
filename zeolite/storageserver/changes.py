"""What was committed to a database, whoever committed it.

`find_changes` returns who knows best how to ask a storage.  Invalidations should
tell the tid of the commit that made a change: with a later one, clients would
believe that the revision before it was current for longer than it was.
"""

from ZODB.POSException import POSKeyError
from ZODB.utils import p64, u64

from ..errors import ConfigurationError

#: How many objects a query has at most.
MOST_ASKED = 1000


def find_changes(storage):
    """Return what finds changes in instances of `storage`.

    Raises `ConfigurationError` where they may not see what clients are told of.
    """
    while hasattr(storage, "base") and not hasattr(storage, "_load_connection"):
        storage = storage.base  # A wrapper, such as zc.zlibstorage's.
    if hasattr(storage, "_load_connection") and hasattr(storage, "keep_history"):
        if getattr(getattr(storage, "_options", None), "ro_replica_conf", None):
            raise ConfigurationError(
                "ro-replica-conf cannot be used with a server: a replica that is behind "
                "has not got the commits that clients are told of; remove it from the "
                "relstorage section"
            )
        return RelStorageChanges(storage.keep_history)
    return PolledChanges()


class RelStorageChanges:
    """Asks the tables of RelStorage, with the connection that an instance has.

    With a history each commit's own changes are known.  Without one, or when a pack
    was faster, only the last change of each object is: it may have been changed before
    by commits of which nothing, or not all, is left.
    """

    #: Whether what is found has the tid of each commit.
    tells_commits = True

    def __init__(self, keeps_history):
        self.keeps_history = keeps_history

    def since(self, storage, tid):
        """Return the commits after `tid` (bytes): {tid: oids}, and whether that is exact.

        Raises what the database's driver raises.
        """
        number = u64(tid)
        if self.keeps_history:
            query = (
                "SELECT tid, zoid, FALSE FROM object_state "
                f"WHERE tid > {number} UNION ALL "
                "SELECT tid, NULL, packed FROM transaction "
                f"WHERE tid > {number} ORDER BY 1"
            )
        else:
            query = (
                f"SELECT tid, zoid, TRUE FROM object_state WHERE tid > {number} "
                "ORDER BY 1"
            )
        commits, is_exact = {}, True
        for found, oid, is_packed in _query_now(storage, query):
            is_exact = is_exact and not is_packed
            oids = commits.setdefault(p64(found), [])
            if oid is not None:
                oids.append(p64(oid))
        return commits, is_exact

    def oids_since(self, storage, tid, limit):
        """Return the oids that have changed after `tid`, None if there are more
        than `limit`."""
        table = "current_object" if self.keeps_history else "object_state"
        query = f"SELECT zoid FROM {table} WHERE tid > {u64(tid)} LIMIT {limit + 1}"
        oids = [p64(oid) for (oid,) in _query(storage, query)]
        return oids if len(oids) <= limit else None

    def current(self, storage, oid):
        """Return (data, tid) of an object's last revision, in one query.

        None where the storage itself has to be asked: there is no such object, a
        wrapper changes the data, or the database has gone back behind what was seen
        of it, after which RelStorage's own methods refuse to read.
        """
        if "_load_connection" not in vars(storage):
            return None
        cursor = storage._load_connection.cursor  # May look at the database.
        if hasattr(storage.loadBefore, "stale_error"):
            return None
        data, tid = storage._adapter.mover.load_current(cursor, u64(oid))
        return (data, p64(tid)) if data else None

    def prepare_to_resolve(self, storage, serials):
        """Have the storage know the revisions that conflicts are resolved with.

        `serials` (dictionary) has the oids that a transaction changes with the tids
        of what it began with.  RelStorage looks for these in its cache only, where
        they are if they were committed through this server.  Without a history they
        are nowhere else.
        """
        if not self.keeps_history:
            return
        storage, numbers = _base(storage), [str(u64(oid)) for oid in serials]
        for start in range(0, len(numbers), MOST_ASKED):
            some = ",".join(numbers[start : start + MOST_ASKED])
            query = f"SELECT zoid, tid FROM current_object WHERE zoid IN ({some})"
            for number, tid in _query(storage, query):
                serial = serials[p64(number)]
                if p64(tid) != serial:
                    _remember(storage, number, serial)


def _remember(storage, number, serial):
    try:
        state = storage.loadSerial(p64(number), serial)
    except POSKeyError:
        return  # It was packed away.
    storage._cache.cache[number, u64(serial)] = state, u64(serial)


def _query(storage, query):
    cursor = _base(storage)._load_connection.cursor
    cursor.execute(query)
    return cursor.fetchall()


def _query_now(storage, query):
    """Return what the database answers as of now.

    Where a statement can stand alone it is all that is sent; elsewhere it needs a new
    view of the database, which takes three more.
    """
    base = _base(storage)
    manager = base._adapter.connmanager
    # An instance finds out that it is to use another replica when it gets a new view.
    if base._adapter.driver.__name__ != "psycopg2" or manager.ro_replica_selector:
        storage.poll_invalidations()
        return _query(storage, query)

    def ask(connection, cursor, is_fresh):
        if not connection.autocommit:
            connection.rollback()
            connection.autocommit = True
        cursor.execute(query)
        return cursor.fetchall()

    return base._load_connection.call(ask, True)


def _base(storage):
    while not hasattr(storage, "_load_connection"):
        storage = storage.base
    return storage


class PolledChanges:
    """Asks a storage with the methods of `IMVCCStorage` only.

    They tell which objects have changed, and not which commit did it.
    """

    tells_commits = False
    keeps_history = True

    def __init__(self):
        self._polled = None

    def since(self, storage, tid):
        """Like `RelStorageChanges.since`; None if it cannot be told."""
        is_first = self._polled is not storage
        self._polled = storage
        oids = storage.poll_invalidations()
        last = storage.lastTransaction()
        if last <= tid:
            return {}, True
        if oids is None or is_first:
            return None, False
        return {last: list(oids)}, False

    def oids_since(self, storage, tid, limit):
        return None

    def current(self, storage, oid):
        return None

    def prepare_to_resolve(self, storage, serials):
        pass
