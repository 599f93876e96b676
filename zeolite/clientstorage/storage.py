"""`ClientStorage`: a ZODB storage whose data are on a server.

Here are ZODB's storage interfaces, and nothing about sockets: `Connection` has
them.  What the server says by itself takes effect in `View`.
"""

import functools
import itertools
import logging
import threading
import time

import ZODB.event
from ZODB.ConflictResolution import ConflictResolvingStorage
from ZODB.POSException import ReadOnlyError, StorageTransactionError, Unsupported
from ZODB.utils import load_current, z64

from ..errors import ClientDisconnected, CommitInDoubt, ForkedStorageError
from ..interfaces import StaleCache
from ..wire.channel import MOST_KEEP_ALIVE, format_address
from . import addresses, forking
from .arguments import check_id, check_oid, number_of_seconds, text, tls
from .connecting import Request
from .connection import Connection
from .history import filtered_undo_log
from .indoubt import check_not_committed
from .interfaces import provide
from .iteration import TransactionIterator, copy_transactions, drop_iterators
from .opencache import open_cache
from .transaction import ClientTransaction, extension_of
from .view import View

logger = logging.getLogger(__name__)

MB = 1024 * 1024

# Arguments whose features this version does not have.
_LATER = {
    "blob_dir": "blobs",
    "shared_blob_dir": "blobs",
    "blob_cache_size": "blobs",
    "credentials": "authentication by credentials",
    "username": "authentication by password",
    "password": "authentication by password",
    "realm": "authentication by password",
}


class ClientStorage(ConflictResolvingStorage):
    """A storage on a server, shared with other processes.

    `addr` is the server's address: a port (int) on 127.0.0.1, a pair of host and
    port, the path of a Unix socket, or a list of addresses whose servers have the
    same content.  The other arguments:

    storage
        Name (str) of the storage on the server.
    cache_size
        Size (int, bytes) of the cache's file, at least 64 KB.
    cache
        Path (str) of the cache's file, which is used again by the next process; or
        an object that provides `zeolite.interfaces.IClientCache`, which is closed
        with the storage.  Without it the cache is a temporary file.
    client, var
        The older way to name the cache's file, if there is no `cache`: it is
        CLIENT-STORAGE.zec in the directory `var` (str), the current one by default.
    name
        Name (str) of this storage, for messages.
    wait_timeout
        Seconds to wait for a connection, at the start and later.
    disconnect_poll
        Seconds between attempts to connect to an address, about.
    wait
        Whether to wait for the first connection here.
    read_only
        Whether nothing is to be written.
    read_only_fallback
        Whether a server that allows no writing will do as long as there is no
        other.  `read_only` is ignored then.
    keep_alive
        Seconds of silence after which the server is asked for a sign of life.  If
        there is none for as long again, the connection is given up; if the server
        owes the answer to something that may take it long, ten times as long.  0
        for never.
    server_sync
        Whether `sync` asks the server, so that a transaction sees all that was
        committed anywhere before it began.
    ssl
        An `ssl.SSLContext` for the client's side of TLS.  Without it there is no
        encryption.
    ssl_server_hostname
        The host name (str) that the server's certificate is to be for, by default
        the host of its address; see `ssl.SSLContext.check_hostname`.
    client_label
        A text that the server's log shows for this client.
    min_disconnect_poll, max_disconnect_poll, drop_cache_rather_verify,
    blob_cache_size_check
        Accepted for old configurations and without effect.

    The remaining arguments belong to features that this version does not have.
    They raise `NotImplementedError` if they are used.

    Raises `zeolite.errors.ClientDisconnected` if `wait` is true and there is no
    connection in time, or, without waiting, if all servers refuse this client for
    good; `zeolite.errors.ProtocolError` if they are no servers for it; and
    `TypeError` or `ValueError` for arguments that make no sense; `CacheFileError` if
    the cache's file cannot be used, and `CacheFileInUse` if another storage has it.

    In the child of a fork all that one can do with it is to close it; anything
    else raises `zeolite.errors.ForkedStorageError`.

    Any number of threads may use a storage.  `_lock` guards the list of new oids.
    """

    def __init__(
        self,
        addr,
        storage="1",
        cache_size=20 * MB,
        name="",
        wait_timeout=30,
        disconnect_poll=1,
        read_only=False,
        read_only_fallback=False,
        blob_dir=None,
        shared_blob_dir=False,
        blob_cache_size=None,
        blob_cache_size_check=10,
        client_label=None,
        cache=None,
        ssl=None,
        ssl_server_hostname=None,
        client=None,
        var=None,
        min_disconnect_poll=None,
        max_disconnect_poll=None,
        wait=True,
        drop_cache_rather_verify=True,
        credentials=None,
        server_sync=False,
        username=None,
        password=None,
        realm=None,
        keep_alive=30,
    ):
        given = locals()
        for argument, feature in _LATER.items():
            if given[argument]:
                raise NotImplementedError(
                    f"{argument}: this version of Zeolite does not have {feature}"
                )
        addrs = addresses.parse(addr)
        where = ", ".join(map(format_address, addrs))
        request = Request(
            text("storage", storage),
            bool(read_only and not read_only_fallback),
            bool(read_only_fallback),
            number_of_seconds("keep_alive", keep_alive, 30, most=MOST_KEEP_ALIVE),
            *tls("ssl", ssl, "ssl_server_hostname", ssl_server_hostname, addrs),
        )
        wait_timeout = number_of_seconds("wait_timeout", wait_timeout, 30)
        poll = number_of_seconds("disconnect_poll", disconnect_poll, 1, least=0.001)
        label = None if client_label is None else text("client_label", client_label)
        self.__name__ = text("name", name) or where
        self._sort_key = f"{storage}:{where}"
        self._is_read_only = request.read_only
        self._server_sync = server_sync
        self._lock = threading.Lock()
        self._new_oids = []
        self._transaction_ids = itertools.count(1)
        # What belongs to transactions that are records of another storage and
        # have no place for it.
        self._strangers = {}
        self._cache = open_cache(cache, client, var, storage, cache_size)
        self._view = View(self._cache, self.__name__, self._connected, self._stale)
        self._connection = Connection(
            self._view, addrs, request, wait_timeout, poll, label
        )
        forking.watch(self)
        self._connection.start()
        if wait:
            try:
                self._connection.first_link()
            except BaseException:
                self.close()
                raise

    def after_fork(self):
        """In the child: let go of what is the parent's."""
        self._cache = self._view = self._connection = forking.Elsewhere()
        self._lock = threading.Lock()
        self._new_oids = []

    # What it is.

    def close(self):
        """Disconnect, and give the cache back."""
        self._connection.close()
        self._cache.close()

    def getName(self):
        """The name, and whether there is a connection."""
        state = "connected" if self.is_connected() else "disconnected"
        return f"{self.__name__} ({state})"

    def sortKey(self):
        return self._sort_key

    def is_connected(self):
        """Whether there is a connection to a server now."""
        return self._connection.is_connected

    def new_addr(self, addr):
        """Look for servers at other addresses from now on; as the argument `addr`.

        A connection that works is kept; otherwise they are tried at once.
        """
        self._connection.set_addresses(addresses.parse(addr))

    def isReadOnly(self):
        """Whether nothing can be written: at all, or on the server of the moment."""
        return self._is_read_only or self._connection.is_read_only

    def __len__(self):
        return self._view.info["length"]

    def getSize(self):
        return self._view.info["size"]

    def supportsUndo(self):
        return self._view.info["supportsUndo"]

    def registerDB(self, database):
        super().registerDB(database)
        self._view.register(database)

    def ping(self):
        """Wait for the server to answer, and for all that it said before."""
        self._ask("ping")

    def sync(self, force=True):
        """Called when a transaction begins: see `server_sync`."""
        if self._server_sync:
            self.ping()

    def server_status(self):
        """Return the server's statistics of this storage, a dictionary."""
        return self._ask("server_status")

    def cache_statistics(self):
        """Return the cache's `CacheStatistics`: hits, misses, bytes and more.

        They count from when the storage was opened.  None for a cache object that
        was given and has no method `statistics`.
        """
        statistics = getattr(self._cache, "statistics", None)
        return statistics and statistics()

    # Reading.

    def lastTransaction(self):
        if self._view.last_tid is None:
            self._connection.link()  # Without one there is no telling.
        return self._view.last_tid or z64

    def getInvalidations(self, tid):
        """Return what was committed after `tid`: (last tid, list of oids).

        Returns None if the server cannot tell.  It is for servers of this
        storage, which have to tell their clients.
        """
        return self._ask("getInvalidations", tid)

    def loadBefore(self, oid, tid):
        try:
            found = self._cache.loadBefore(oid, tid)
        except Exception:
            _check_ids(oid, tid)
            raise
        if found is not None:
            return found
        _check_ids(oid, tid)
        while True:
            link = self._connection.link()
            try:
                return link.load(oid, tid, self._view.loaded).wait()
            except ClientDisconnected:
                if not link.is_retired:
                    raise

    load = load_current

    def prefetch(self, oids, tid):
        """Ask for objects without waiting for them; loading them will wait."""
        check_id("tid", tid)
        oids = list(oids)
        for oid in oids:
            check_id("oid", oid)
        has = getattr(self._cache, "has", self._cache.loadBefore)
        wanted = [oid for oid in oids if not has(oid, tid)]
        if wanted:
            self._connection.link().loads(wanted, tid, self._view.loaded)

    def loadSerial(self, oid, serial):
        check_id("oid", oid)
        check_id("serial", serial)
        return self._ask("loadSerial", oid, serial)

    def getTid(self, oid):
        check_id("oid", oid)
        return self._ask("getTid", oid)

    def history(self, oid, size=1):
        check_id("oid", oid)
        return self._ask("history", oid, size)

    def record_iternext(self, next=None):
        if next is not None:
            check_id("oid", next)
        return self._ask("record_iternext", next)

    def undoLog(self, first=0, last=-20, filter=None):
        if filter is None:
            return self._ask("undoLog", first, last)
        return filtered_undo_log(self.undoLog, first, last, filter)

    def undoInfo(self, first=0, last=-20, specification=None):
        return self._ask("undoInfo", first, last, specification)

    def iterator(self, start=None, stop=None):
        """Return an iterator over the transactions from tid `start` to `stop`.

        A transaction's records can be had until the next transaction is.
        """
        for tid in (start, stop):
            if tid is not None:
                check_id("tid", tid)
        return TransactionIterator(self._connection.link, start, stop)

    def pack(self, t=None, referencesf=None, wait=True, days=0, gc=None):
        """Have the server pack the storage as of `t`, a time in seconds.

        `days` are subtracted from it.  With `wait` false the server packs while
        this returns.  The server finds references by itself.  `gc` says whether
        objects that are not referenced are removed; None leaves it to the served
        storage.  Raises `Unsupported` for another `gc` if the server is a stock
        ZEO server.
        """
        t = (time.time() if t is None else t) - days * 86400
        arguments = t, bool(wait)
        if gc is not None:
            if not self._connection.link().is_zeolite:
                raise Unsupported(
                    "a ZEO server cannot be told whether to collect garbage; set "
                    "pack-gc for the storage that it serves"
                )
            arguments += (bool(gc),)
        self._call("pack", *arguments)

    # Writing.

    def new_oid(self):
        self._check_writable()
        with self._lock:
            if self._new_oids:
                return self._new_oids.pop()
        oids = self._call("new_oids")
        oids.reverse()
        with self._lock:
            oid = oids.pop()
            self._new_oids[:0] = oids
            return oid

    def tpc_begin(self, transaction, tid=None, status=" "):
        self._check_writable()
        if self._find(transaction) is not None:
            raise StorageTransactionError(
                "Duplicate tpc_begin calls for same transaction"
            )
        if tid is not None:
            check_id("tid", tid)
        link = self._connection.link()
        if link.is_read_only:
            raise ReadOnlyError(f"{link.name} is a read-only server")
        state = ClientTransaction(next(self._transaction_ids), link)
        try:
            state.add(
                "tpc_begin",
                state.id,
                transaction.user,
                transaction.description,
                extension_of(transaction),
                tid,
                status,
            )
            self._remember(transaction, state)
        except BaseException:
            state.end()
            raise

    def store(self, oid, serial, data, version, transaction):
        assert not version
        state = self._get(transaction)
        check_oid(oid)
        if serial is not None:
            check_id("serial", serial)
        state.remember(oid, data)
        self._gather(state, "storea", oid, serial, data, state.id)

    def restore(self, oid, serial, data, version, prev_txn, transaction):
        assert not version
        state = self._get(transaction)
        check_oid(oid)
        check_id("serial", serial)
        if prev_txn is not None:
            check_id("prev_txn", prev_txn)
        state.forget([oid])
        self._gather(state, "restorea", oid, serial, data, prev_txn, state.id)

    def deleteObject(self, oid, serial, transaction):
        state = self._get(transaction)
        check_id("oid", oid)
        check_id("serial", serial)
        state.forget([oid])
        self._gather(state, "deleteObject", oid, serial, state.id)

    def undo(self, transaction_id, transaction):
        """Undo a transaction; what that changes is known when it votes."""
        state = self._get(transaction)
        self._gather(state, "undoa", transaction_id, state.id)

    def copyTransactionsFrom(self, other, verbose=0):
        """Copy all transactions of another storage, in their order."""
        copy_transactions(other, self)

    def checkCurrentSerialInTransaction(self, oid, serial, transaction):
        state = self._get(transaction)
        check_id("oid", oid)
        check_id("serial", serial)
        self._gather(state, "checkCurrentSerialInTransaction", oid, serial, state.id)

    def tpc_vote(self, transaction):
        state = self._get(transaction)
        changed = []
        while True:
            call = state.link.call("vote", (state.id,), before=state.take())
            answer = call.wait() or ()
            changed += [item for item in answer if not isinstance(item, dict)]
            conflicts = [item for item in answer if isinstance(item, dict)]
            for conflict in conflicts:
                self._resolve(state, **conflict)
                changed.append(conflict["oid"])
            if not conflicts:
                break
        state.forget(changed)
        state.voted = True
        return list(dict.fromkeys(changed))

    def _resolve(self, state, oid, serials, data):
        """Resolve a conflict that the server has left to its clients.

        Raises `ConflictError` where that is impossible.
        """
        committed, read = serials
        data = self.tryToResolveConflict(oid, committed, read, data)
        self._gather(state, "storea", oid, committed, data, state.id)

    def tpc_finish(self, transaction, f=lambda tid: None):
        """Commit; return the tid.

        `f` is called with it in the connection's reader thread, before any later
        change is heard of.  It must not use this storage to ask the server.

        If the connection breaks meanwhile, this waits for the next one and asks
        there.  Raises `ClientDisconnected` if the server has not committed, and
        `CommitInDoubt` if it may have.
        """
        state = self._get(transaction)
        if not state.voted:
            raise StorageTransactionError("tpc_finish before tpc_vote")
        state.known_tid = self._view.last_tid
        finished = functools.partial(self._view.finished, state, f)
        call = state.link.call("tpc_finish", (state.id,), on_reply=finished)
        try:
            return call.wait()
        except ClientDisconnected as error:
            if call.is_answered:
                raise  # It is `f`'s.
            if call.is_refused and state.link.is_zeolite:
                raise  # The server lost its own server, and has found out.
            self._find_out(state, transaction, error)
            raise ClientDisconnected(f"{error}; it was not committed") from error
        finally:
            self._remember(transaction, None)
            state.end()

    def _find_out(self, state, transaction, error):
        """Raise `CommitInDoubt` unless a transaction was not committed."""
        try:
            link = self._connection.link()
            id = next(self._transaction_ids)
            check_not_committed(link, id, state, transaction)
        except (ClientDisconnected, CommitInDoubt) as why:
            raise CommitInDoubt(f"{error}; it may have been committed: {why}") from why

    def tpc_abort(self, transaction):
        state = self._find(transaction)
        if state is None:
            return
        self._remember(transaction, None)
        try:
            if state.sent:
                state.link.call("tpc_abort", (state.id,)).wait()
        except (ClientDisconnected, ForkedStorageError):
            pass  # The server has aborted it because of that, or it is the parent's.
        finally:
            state.end()

    def _gather(self, state, name, *args):
        state.add(name, *args)
        if state.is_full:
            state.link.post(state.take())

    def _call(self, name, *args):
        link = self._connection.link()
        return link.call(name, args, drop_iterators(link)).wait()

    def _ask(self, name, *args):
        """Make a call that only reads: anew if this has left the server meanwhile."""
        while True:
            link = self._connection.link()
            try:
                return link.call(name, args, drop_iterators(link)).wait()
            except ClientDisconnected:
                if not link.is_retired:
                    raise

    def _check_writable(self):
        if self._is_read_only:
            raise ReadOnlyError()

    def _find(self, transaction):
        """Return what belongs to a transaction, None if it has not begun here."""
        if not hasattr(transaction, "set_data"):
            return self._strangers.get(id(transaction), (None, None))[1]
        try:
            return transaction.data(self)
        except KeyError:
            return None

    def _remember(self, transaction, state):
        if hasattr(transaction, "set_data"):
            transaction.set_data(self, state)
        elif state is not None:
            self._strangers[id(transaction)] = transaction, state
        else:
            del self._strangers[id(transaction)]

    def _get(self, transaction):
        """Like `_find`, and raise if it has not begun here, or elsewhere."""
        self._check_writable()
        state = self._find(transaction)
        if state is None:
            raise StorageTransactionError("the transaction has not begun here")
        state.link.check()
        return state

    # The reader thread.

    def _connected(self, info):
        provide(self, info.get("interfaces", ()))

    def _stale(self):
        ZODB.event.notify(StaleCache(self))


def _check_ids(oid, tid):
    check_id("oid", oid)
    check_id("tid", tid)
