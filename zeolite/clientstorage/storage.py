"""`ClientStorage`: a ZODB storage whose data are on a server.

Here are ZODB's storage interfaces, and nothing about sockets: `Connection` has
them.  What the server says by itself takes effect in `View`.
"""

import functools
import itertools
import logging
import os
import threading
import time

from ZODB.blob import BlobFile
from ZODB.ConflictResolution import ConflictResolvingStorage
from ZODB.POSException import ReadOnlyError, StorageTransactionError, Unsupported
from ZODB.utils import load_current, z64

from ..errors import ClientDisconnected, CommitInDoubt
from ..wire.channel import format_address
from . import addresses, transfer
from .blobs import open_directory
from .cache import ClientCache
from .connection import Connection
from .copying import copy_transactions
from .history import filtered_undo_log
from .indoubt import check_not_committed
from .interfaces import provide
from .iteration import TransactionIterator, drop_iterators
from .transaction import ClientTransaction, extension_of
from .view import View

logger = logging.getLogger(__name__)

MB = 1024 * 1024

# Arguments whose features this version does not have.
_LATER = {
    "cache": "a persistent cache",
    "client": "a persistent cache",
    "var": "a persistent cache",
    "ssl": "TLS",
    "ssl_server_hostname": "TLS",
    "read_only_fallback": "falling back to a read-only server",
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
        Size (int, bytes) of the cache.
    name
        Name (str) of this storage, for messages.
    wait_timeout
        Seconds to wait for a connection, at the start and later.
    disconnect_poll
        Seconds between attempts to connect.
    wait
        Whether to wait for the first connection here.
    read_only
        Whether nothing is to be written.
    server_sync
        Whether `sync` asks the server, so that a transaction sees all that was
        committed anywhere before it began.
    client_label
        A text that the server's log shows for this client.
    blob_dir
        Directory (str) for blobs.  Without it there are none.
    shared_blob_dir
        Whether `blob_dir` is the server's own, by way of a shared file system.
        Otherwise it is a cache, which several processes may use.
    blob_cache_size
        Size (int, bytes) that the cache of blobs is to have, None for no limit.
    blob_cache_size_check
        How much may come in, in percent of that, before old blobs are removed: 0 to
        99.
    blob_progress
        Called as `blob_progress(kind, oid, done, total)` while a blob is sent or
        received, with "upload" or "download", and bytes; `total` is None where it
        is not known.  It runs in the thread that stores or opens the blob, and
        what it raises ends the transfer.
    min_disconnect_poll, max_disconnect_poll, drop_cache_rather_verify
        Accepted for old configurations and without effect.

    The remaining arguments belong to features that this version does not have.
    They raise `NotImplementedError` if they are used.

    Raises `zeolite.errors.ClientDisconnected` if `wait` is true and there is no
    connection in time, and `zeolite.errors.ConfigurationError` for a directory of
    the wrong kind.

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
        blob_progress=None,
    ):
        given = locals()
        for argument, feature in _LATER.items():
            if given[argument]:
                raise NotImplementedError(
                    f"{argument}: this version of Zeolite does not have {feature}"
                )
        addrs = addresses.parse(addr)
        where = ", ".join(map(format_address, addrs))
        self.__name__ = name or where
        self._sort_key = f"{storage}:{where}"
        self._is_read_only = bool(read_only)
        self._server_sync = server_sync
        self._lock = threading.Lock()
        self._new_oids = []
        self._transaction_ids = itertools.count(1)
        # What belongs to transactions that are records of another storage and
        # have no place for it.
        self._strangers = {}
        self._blob_progress = blob_progress
        self._blobs = open_directory(
            blob_dir, shared_blob_dir, blob_cache_size, blob_cache_size_check
        )
        #: ZODB's helper for names in the blob directory, or None.
        self.fshelper = self._blobs.helper
        self._cache = ClientCache(cache_size)
        self._view = View(self._cache, self.__name__, self._connected)
        self._connection = Connection(
            self._view,
            addrs,
            (storage, self._is_read_only),
            30 if wait_timeout is None else wait_timeout,
            1 if disconnect_poll is None else disconnect_poll,
            client_label,
        )
        self._connection.start()
        if wait:
            try:
                self._connection.first_link()
            except BaseException:
                self.close()
                raise

    # What it is.

    def close(self):
        """Disconnect, and give the cache back."""
        self._connection.close()
        self._cache.close()
        self._blobs.close()

    def getName(self):
        """The name, and whether there is a connection."""
        state = "connected" if self.is_connected() else "disconnected"
        return f"{self.__name__} ({state})"

    def sortKey(self):
        return self._sort_key

    def is_connected(self):
        """Whether there is a connection to a server now."""
        return self._connection.is_connected

    def isReadOnly(self):
        return self._is_read_only

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
        self._call("ping")

    def sync(self, force=True):
        """Called when a transaction begins: see `server_sync`."""
        if self._server_sync:
            self.ping()

    def server_status(self):
        """Return the server's statistics of this storage, a dictionary."""
        return self._call("server_status")

    # Reading.

    def lastTransaction(self):
        if self._view.last_tid is None:
            self._connection.link()  # Without one there is no telling.
        return self._view.last_tid or z64

    def loadBefore(self, oid, tid):
        found = self._cache.loadBefore(oid, tid)
        if found is not None:
            return found
        link = self._connection.link()
        return link.load(oid, tid, self._view.loaded).wait()

    load = load_current

    def prefetch(self, oids, tid):
        """Ask for objects without waiting for them; loading them will wait."""
        wanted = [oid for oid in oids if not self._cache.has(oid, tid)]
        if wanted:
            self._connection.link().loads(wanted, tid, self._view.loaded)

    def loadSerial(self, oid, serial):
        return self._call("loadSerial", oid, serial)

    def getTid(self, oid):
        return self._call("getTid", oid)

    def history(self, oid, size=1):
        return self._call("history", oid, size)

    def record_iternext(self, next=None):
        return self._call("record_iternext", next)

    def undoLog(self, first=0, last=-20, filter=None):
        if filter is None:
            return self._call("undoLog", first, last)
        return filtered_undo_log(self.undoLog, first, last, filter)

    def undoInfo(self, first=0, last=-20, specification=None):
        return self._call("undoInfo", first, last, specification)

    def iterator(self, start=None, stop=None):
        """Return an iterator over the transactions from tid `start` to `stop`.

        A transaction's records can be had until the next transaction is.
        """
        return TransactionIterator(self._connection.link(), start, stop)

    def pack(self, t=None, referencesf=None, wait=True, days=0):
        """Have the server pack the storage as of `t`, a time in seconds.

        `days` are subtracted from it.  With `wait` false the server packs while
        this returns.  The server finds references by itself.
        """
        t = (time.time() if t is None else t) - days * 86400
        self._call("pack", t, bool(wait))

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
        link = self._connection.link()
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
        state.remember(oid, data)
        self._gather(state, "storea", oid, serial, data, state.id)

    def restore(self, oid, serial, data, version, prev_txn, transaction):
        assert not version
        state = self._get(transaction)
        state.forget([oid])
        self._gather(state, "restorea", oid, serial, data, prev_txn, state.id)

    def deleteObject(self, oid, serial, transaction):
        state = self._get(transaction)
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
        self._gather(state, "checkCurrentSerialInTransaction", oid, serial, state.id)

    # Blobs.

    def temporaryDirectory(self):
        return self._blobs.temporary()

    def loadBlob(self, oid, serial):
        """Return the path of a blob, which is downloaded if it is not there.

        The file may be removed from a cache of limited size at any time: see
        `openCommittedBlobFile`.
        """
        return self._blobs.load(oid, serial, self._download(oid, serial))

    def openCommittedBlobFile(self, oid, serial, blob=None):
        """Return an open file, a `BlobFile` of `blob` if that is given."""

        def opener(path):
            return open(path, "rb") if blob is None else BlobFile(path, "r", blob)

        return self._blobs.open(oid, serial, self._download(oid, serial), opener)

    def _download(self, oid, serial):
        progress = self._progress("download", oid, None)

        def connect():
            link = self._connection.link()
            return lambda write: transfer.download(link, oid, serial, write, progress)

        return connect

    def storeBlob(self, oid, serial, data, path, version, transaction):
        """Store an object and its blob, the file at `path`, which is taken over."""
        assert not version
        state = self._get(transaction)
        path, name = self._take_blob(state, oid, path)
        state.remember(oid, data)
        if name is None:
            self._send_blob(state, path, "storeBlobEnd", oid, serial, data, state.id)
        else:
            state.add("storeBlobShared", oid, serial, data, name, state.id)

    def restoreBlob(self, oid, serial, data, path, prev_txn, transaction):
        """Like `restore` and `storeBlob`.  Only Zeolite servers can do it."""
        state = self._get(transaction)
        if not state.link.is_zeolite:
            raise Unsupported("the server cannot restore blobs")
        path, name = self._take_blob(state, oid, path)
        state.forget([oid])
        args = "restoreBlob", oid, serial, data, name, prev_txn, state.id
        if name is None:
            self._send_blob(state, path, *args)
        else:
            state.add(*args)

    def _take_blob(self, state, oid, path):
        """Take a file over; return its path, and its name if the server can see it."""
        path = self._blobs.take(path, oid)
        state.blobs.append((oid, path))
        return path, os.path.basename(path) if self._blobs.sends_names else None

    def _send_blob(self, state, path, name, oid, *args):
        with open(path, "rb") as file:
            progress = self._progress("upload", oid, os.fstat(file.fileno()).st_size)
            end = name, (oid, *args)
            transfer.upload(state.link, file, state.take(), end, progress)

    def _progress(self, kind, oid, total):
        if self._blob_progress is None:
            return lambda done: None
        return lambda done: self._blob_progress(kind, oid, done, total)

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
            tid = call.wait()
            self._blobs.committed(state.blobs, tid)
            return tid
        except ClientDisconnected as error:
            if call.is_answered:
                raise  # It is `f`'s.
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
        except ClientDisconnected:
            pass  # The server has aborted it because of that.
        finally:
            state.end()

    def _gather(self, state, name, *args):
        state.add(name, *args)
        if state.is_full:
            state.link.post(state.take())

    def _call(self, name, *args):
        link = self._connection.link()
        return link.call(name, args, drop_iterators(link)).wait()

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
        if state.link.is_lost:
            raise ClientDisconnected("the connection was lost during the transaction")
        return state

    # The reader thread.

    def _connected(self, info):
        provide(self, info.get("interfaces", ()))
