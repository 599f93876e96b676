"""The half of `ClientStorage` that writes: transactions, from the first call to the
commit, and new oids.

What belongs to a transaction is a `ClientTransaction`, which is kept with it.
"""

from __future__ import annotations

import functools
import itertools
import logging
import os
import threading
from collections.abc import Callable
from typing import Any

from ZODB.ConflictResolution import ConflictResolvingStorage
from ZODB.POSException import ReadOnlyError, StorageTransactionError, Unsupported

from ..errors import ClientDisconnected, CommitInDoubt, ForkedStorageError
from ..wire.text import text_of
from . import transfer
from .answers import are_new_oids, checked
from .arguments import check_bytes, check_id, check_oid
from .copying import copy_transactions
from .indoubt import check_not_committed
from .transaction import ClientTransaction, extension_of
from .vote import Vote

logger = logging.getLogger(__name__)


class Committing(ConflictResolvingStorage):
    """What stores, restores, undoes and commits.

    `ClientStorage` adds the connection, the view, the directory for blobs and whether
    it is read-only, in `_connection`, `_view`, `_blobs` and `_is_read_only`.

    `_oids_lock` guards the list of new oids.  `_lock` is for storages around this one:
    ZODB's demo storage has the lock and `tpc_transaction` of the storage with its
    changes, and holds it while it waits for the server.  So nothing here takes it.
    """

    def _begin_life(self):
        """Begin without transactions; also in the child of a fork."""
        self._lock = threading.RLock()
        self._oids_lock = threading.Lock()
        self._new_oids = []
        self._transaction_ids = itertools.count(1)
        self._last_begun = None  # A transaction, until it ends.
        # What belongs to transactions that are records of another storage and
        # have no place for it.
        self._strangers = {}

    # Any thread.

    def new_oid(self) -> bytes:
        """Return an oid that no object has; they are fetched by the hundred."""
        self._check_writable()
        with self._oids_lock:
            if self._new_oids:
                return self._new_oids.pop()
            new_oids = self._new_oids
        oids = checked(self._call("new_oids"), are_new_oids, "new oids")
        oids = list(reversed(oids))
        with self._oids_lock:
            oid = oids.pop()
            # Where there is another connection by now it is not the list any more.
            new_oids[:0] = oids
            return oid

    def _forget_new_oids(self):
        """There is another connection: its server may give them to others.

        A storage that is opened again counts on from what was stored in it.
        """
        with self._oids_lock:
            self._new_oids = []

    def tpc_begin(
        self, transaction: Any, tid: bytes | None = None, status: str = " "
    ) -> None:
        """Begin a transaction; `tid` (8 bytes) and `status` are for copies of others.

        Raises `ReadOnlyError`, and `ClientDisconnected` if there is no connection in
        time.
        """
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

    def store(
        self,
        oid: bytes,
        serial: bytes | None,
        data: bytes,
        version: str,
        transaction: Any,
    ) -> None:
        """Store an object's data (bytes), which were changed from revision `serial`.

        `serial` is None for a new object.  A conflict is raised by `tpc_vote`.
        """
        assert not version
        state = self._get(transaction)
        check_oid(oid)
        if serial is not None:
            check_id("serial", serial)
        check_bytes("data", data)
        state.remember(oid, data)
        self._gather(state, "storea", oid, serial, data, state.id)

    def restore(
        self,
        oid: bytes,
        serial: bytes,
        data: bytes | None,
        version: str,
        prev_txn: bytes | None,
        transaction: Any,
    ) -> None:
        """Store a revision as it was elsewhere, without a look at what is there.

        `serial` is its tid, `data` is None if it undid the object's creation, and
        `prev_txn` is the tid of a transaction that had the same data, or None.
        """
        assert not version
        state = self._get(transaction)
        check_oid(oid)
        check_id("serial", serial)
        if prev_txn is not None:
            check_id("prev_txn", prev_txn)
        if data is not None:
            check_bytes("data", data)
        state.forget([oid])
        self._gather(state, "restorea", oid, serial, data, prev_txn, state.id)

    def deleteObject(self, oid: bytes, serial: bytes, transaction: Any) -> None:
        """Remove an object whose current revision is `serial`, and that nobody needs."""
        state = self._get(transaction)
        check_id("oid", oid)
        check_id("serial", serial)
        state.forget([oid])
        self._gather(state, "deleteObject", oid, serial, state.id)

    def undo(self, transaction_id: bytes, transaction: Any) -> None:
        """Undo a transaction; what that changes is known when it votes."""
        state = self._get(transaction)
        check_bytes("transaction_id", transaction_id)
        self._gather(state, "undoa", transaction_id, state.id)

    def copyTransactionsFrom(self, other: Any, verbose: int = 0) -> None:
        """Copy all transactions of another storage, in their order."""
        copy_transactions(other, self)

    def checkCurrentSerialInTransaction(
        self, oid: bytes, serial: bytes, transaction: Any
    ) -> None:
        """Have the vote fail if `serial` is not the object's current revision."""
        state = self._get(transaction)
        check_id("oid", oid)
        check_id("serial", serial)
        self._gather(state, "checkCurrentSerialInTransaction", oid, serial, state.id)

    # Blobs.

    def storeBlob(
        self,
        oid: bytes,
        serial: bytes | None,
        data: bytes,
        path: str,
        version: str,
        transaction: Any,
    ) -> None:
        """Store an object and its blob, the file at `path`, which is taken over."""
        assert not version
        state = self._get(transaction)
        check_oid(oid)
        # ZODB's own tests have text of zeros, and servers take it.
        if serial is not None and serial != "\0" * 8:
            check_id("serial", serial)
        check_bytes("data", data)
        path, name = self._take_blob(state, oid, path)
        state.remember(oid, data)
        if name is None:
            self._send_blob(state, path, "storeBlobEnd", oid, serial, data, state.id)
        else:
            state.add("storeBlobShared", oid, serial, data, name, state.id)

    def restoreBlob(
        self,
        oid: bytes,
        serial: bytes,
        data: bytes,
        path: str,
        prev_txn: bytes | None,
        transaction: Any,
    ) -> None:
        """Like `restore` and `storeBlob`.  Only Zeolite servers can do it."""
        state = self._get(transaction)
        if not state.link.is_zeolite:
            raise Unsupported("the server cannot restore blobs")
        check_oid(oid)
        check_id("serial", serial)
        if prev_txn is not None:
            check_id("prev_txn", prev_txn)
        check_bytes("data", data)
        path, name = self._take_blob(state, oid, path)
        state.forget([oid])
        args = "restoreBlob", oid, serial, data, name, prev_txn, state.id
        if name is None:
            self._send_blob(state, path, *args)
        else:
            state.add(*args)

    def _take_blob(self, state, oid, path):
        """Take a file over; return its path, and its name if the server can see it."""
        if self._blobs.sends_names and state.link.is_zeolite:
            # Before the file is there, so that it goes if this process is killed.
            call = state.link.call("shareBlob", (state.id,), before=state.take())
            path = self._blobs.take_as(path, call.wait())
        else:
            path = self._blobs.take(path, oid)
        state.blobs.append((oid, path))
        return path, os.path.basename(path) if self._blobs.sends_names else None

    def _send_blob(self, state, path, name, oid, *args):
        with open(path, "rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            progress = self._progress("upload", oid, size)
            end = name, (oid, *args)
            transfer.upload(state.link, file, size, state.take(), end, progress)

    # The two phases of a commit.

    def tpc_vote(self, transaction: Any) -> list[bytes]:
        """Get the commit lock, and have the server check all that was stored.

        Returns the oids of objects whose conflicts were resolved, which have to be
        read anew.  Raises `ConflictError` and what else speaks against the
        transaction, which is then to be aborted.
        """
        state = self._get(transaction)
        changed = []
        while True:
            call = Vote(self._view)
            state.link.start(call, "vote", (state.id,), before=state.take())
            answer = call.wait()
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

    def tpc_finish(
        self, transaction: Any, f: Callable[[bytes], object] = lambda tid: None
    ) -> bytes:
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
        except Exception as why:
            # Whatever it is, a server that is read-only by now for instance: it
            # does not say that nothing was committed.
            reason = text_of(why)
            raise CommitInDoubt(
                f"{error}; it may have been committed: {reason}"
            ) from why

    def tpc_abort(self, transaction: Any) -> None:
        """Give a transaction up.  One that has not begun here is no error."""
        state = self._find(transaction)
        if state is None:
            return
        self._remember(transaction, None)
        call = None
        try:
            if state.sent:
                call = state.link.call("tpc_abort", (state.id,))
                call.wait()
        except (ClientDisconnected, ForkedStorageError):
            pass  # The server has aborted it because of that, or it is the parent's.
        except BaseException:
            if call is None:
                # Nobody will abort it any more, and it may have the commit lock.
                state.link.end()
            raise
        finally:
            state.end()

    def tpc_transaction(self) -> Any:
        """Return the transaction that began last, or None if that one has ended.

        For storages around this one that have only one at a time.
        """
        return self._last_begun

    # Helpers.

    def _gather(self, state, name, *args):
        state.add(name, *args)
        if state.is_full:
            state.link.post(state.take())

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
        if state is not None:
            self._last_begun = transaction
        elif self._last_begun is transaction:
            self._last_begun = None
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
