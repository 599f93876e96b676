"""The half of `ClientStorage` that reads: objects, their history, transactions.

What loads is asked for once, whoever wants it, and goes through the cache; the rest is
asked of the server each time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from ZODB.utils import load_current, z64

from ..errors import ClientDisconnected
from ..wire.packed import is_id
from . import answers
from .answers import checked
from .arguments import check_id, check_number, check_specification
from .history import filtered_undo_log
from .iteration import TransactionIterator, drop_iterators


class Reading:
    """What reads.  Any thread.

    `ClientStorage` adds the connection, the view and the cache, in `_connection`,
    `_view` and `_cache`.  All of it raises `ClientDisconnected` if there is no
    connection in time, and `POSKeyError` for what is not there.
    """

    _connection: Any
    _view: Any
    _cache: Any

    def lastTransaction(self) -> bytes:
        """Return the tid of the last commit that this client has heard of."""
        if self._view.last_tid is None:
            self._connection.link()  # Without one there is no telling.
        return self._view.last_tid or z64

    def getInvalidations(self, tid: bytes) -> tuple[bytes, list[bytes]] | None:
        """Return what was committed after `tid`: (last tid, list of oids).

        Returns None if the server cannot tell.  It is for servers of this
        storage, which have to tell their clients.
        """
        check_id("tid", tid)
        changed = self._ask("getInvalidations", tid)
        return checked(changed, answers.are_changes_or_none, "what has changed")

    def loadBefore(
        self, oid: bytes, tid: bytes
    ) -> tuple[bytes, bytes, bytes | None] | None:
        """Return (data, tid, next tid) of an object's last revision before `tid`.

        The next tid is None for the current revision.  Returns None if there was no
        revision then.
        """
        try:
            found = self._cache.loadBefore(oid, tid)
        except Exception:
            _check_ids(oid, tid)
            raise
        if found is not None:
            return found
        if not (is_id(oid) and is_id(tid)):
            _check_ids(oid, tid)
        while True:
            link = self._connection.link()
            try:
                return link.load(oid, tid, self._view.loaded).wait()
            except ClientDisconnected:
                if not link.is_retired:
                    raise

    load: Callable[..., tuple[bytes, bytes]] = load_current

    def prefetch(self, oids: Iterable[bytes], tid: bytes) -> None:
        """Ask for objects without waiting for them; loading them will wait."""
        check_id("tid", tid)
        oids = list(oids)
        for oid in oids:
            check_id("oid", oid)
        has = getattr(self._cache, "has", self._cache.loadBefore)
        wanted = [oid for oid in oids if not has(oid, tid)]
        if wanted:
            self._connection.link().loads(wanted, tid, self._view.loaded)

    def loadSerial(self, oid: bytes, serial: bytes) -> bytes:
        """Return the data (bytes) that an object got by the transaction `serial`."""
        check_id("oid", oid)
        check_id("serial", serial)
        data = self._ask("loadSerial", oid, serial)
        return checked(data, answers.is_data, "an object's data")

    def getTid(self, oid: bytes) -> bytes:
        """Return the tid of an object's current revision."""
        check_id("oid", oid)
        return checked(self._ask("getTid", oid), is_id, "an object's revision")

    def history(self, oid: bytes, size: int = 1) -> list[dict[str, Any]]:
        """Return the last `size` revisions of an object, the newest first.

        Each is a dictionary with `tid`, `time` (seconds), `user_name`, `description`
        and `size` (bytes).
        """
        check_id("oid", oid)
        check_number("size", size)
        revisions = self._ask("history", oid, size)
        return checked(revisions, answers.is_history, "an object's history") or []

    def record_iternext(
        self, next: bytes | None = None
    ) -> tuple[bytes, bytes, bytes, bytes | None]:
        """Return (oid, tid, data, next): an object, and what to call this with next.

        It begins with None, and `next` is None after the last object.
        """
        if next is not None:
            check_id("oid", next)
        record = self._ask("record_iternext", next)
        return checked(record, answers.is_next_record, "of an object")

    def undoLog(
        self,
        first: int = 0,
        last: int = -20,
        filter: Callable[[dict[str, Any]], bool] | None = None,
    ) -> list[dict[str, Any]]:
        """Return transactions that could be undone, the newest first.

        Those from the `first` on and before the `last`, counted from 0; if `last` is
        negative, that many at most.  `filter` gets each one's dictionary, here and not
        on the server, and says whether it counts.
        """
        _check_span(first, last)
        if filter is None:
            return _checked_log(self._ask("undoLog", first, last))
        return filtered_undo_log(self.undoLog, first, last, filter)

    def undoInfo(
        self,
        first: int = 0,
        last: int = -20,
        specification: dict[str, Any] | None = None,
    ) -> list[dict[str, Any]]:
        """Like `undoLog`; those whose keys have the values in `specification`."""
        _check_span(first, last)
        check_specification(specification)
        return _checked_log(self._ask("undoInfo", first, last, specification))

    def iterator(
        self, start: bytes | None = None, stop: bytes | None = None
    ) -> TransactionIterator:
        """Return an iterator over the transactions from tid `start` to `stop`.

        A transaction's records can be had until the next transaction is.
        """
        for tid in (start, stop):
            if tid is not None:
                check_id("tid", tid)
        return TransactionIterator(self._connection.link, start, stop)

    def _ask(self, name, *args):
        """Make a call that only reads: anew if this has left the server meanwhile."""
        while True:
            link = self._connection.link()
            try:
                return link.call(name, args, drop_iterators(link)).wait()
            except ClientDisconnected:
                if not link.is_retired:
                    raise


def _checked_log(log):
    return checked(log, answers.is_undo_log, "what can be undone") or []


def _check_span(first, last):
    check_number("first", first)
    check_number("last", last)


def _check_ids(oid, tid):
    check_id("oid", oid)
    check_id("tid", tid)
