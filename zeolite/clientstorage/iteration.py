"""Iterating over a server's transactions and their records.

The server's iterators are used by number.  Records are read ahead, several calls
in flight, so that a transaction costs three round trips however many records it
has, and neither side holds more than a few of them.
"""

import weakref
from collections import deque

import zope.interface
from ZODB.Connection import TransactionMetaData
from ZODB.interfaces import (
    IStorageRecordInformation,
    IStorageRestoreable,
    IStorageTransactionInformation,
)
from ZODB.POSException import StorageError

from ..errors import ProtocolError
from ..wire.messages import load_plain

#: How many records are asked for ahead.
READ_AHEAD = 16


class TransactionIterator:
    """An iterator over transactions, which are iterators over their records.

    `begin(name, *args)` sends a call and returns a `Call`.  The number of an
    iterator that is garbage goes to the list `dropped`, because a finalizer may
    run while its thread is sending and must not send by itself.  `arguments` are
    those of `iterator_start`.
    """

    def __init__(self, begin, dropped, *arguments):
        self._begin = begin
        self._dropped = dropped
        self._id = begin("iterator_start", *arguments).wait()
        self._finalizer = weakref.finalize(self, dropped.append, self._id)

    def __iter__(self):
        return self

    def __next__(self):
        found = None if self._id is None else self._next()
        if found is None:
            self._id = None
            self._finalizer.detach()
            raise StopIteration
        return TransactionRecord(self._records, *found)

    def _next(self):
        return self._begin("iterator_next", self._id).wait()

    def close(self):
        """Have the server forget the iterator."""
        self._id = None
        self._finalizer()

    def _records(self, tid):
        if self._id is None:
            raise StorageError("the iterator over the transactions has ended")
        record_id = self._begin("iterator_record_start", self._id, tid).wait()
        return _read_records(self._begin, self._dropped, record_id)


def _read_records(begin, dropped, id):
    calls, ended = deque(), False
    try:
        while True:
            while len(calls) < READ_AHEAD:
                calls.append(begin("iterator_record_next", id))
            found = calls.popleft().wait()
            if found is None:
                # The calls that are still in flight fail, and nobody waits.
                ended = True
                return
            yield DataRecord(*found)
    finally:
        if not ended:
            dropped.append(id)


@zope.interface.implementer(IStorageTransactionInformation)
class TransactionRecord(TransactionMetaData):
    """A transaction; iterate over it, as often as you like, for its records."""

    def __init__(self, records, tid, status, user, description, extension):
        super().__init__(user, description, extension)
        self.tid = tid
        self.status = status
        self._records = records
        if isinstance(extension, bytes):
            # ZODB would unpickle it in a way that trusts it.
            try:
                self.extension = load_plain(extension) if extension else {}
            except ProtocolError:
                self.extension = {}

    def __iter__(self):
        return self._records(self.tid)


@zope.interface.implementer(IStorageRecordInformation)
class DataRecord:
    """One object's data in a transaction."""

    version = ""

    def __init__(self, oid, tid, data, data_txn):
        self.oid = oid
        self.tid = tid
        self.data = data
        self.data_txn = data_txn


def copy_transactions(source, destination):
    """Store all of `source`'s transactions in `destination`, with their tids."""
    restores = IStorageRestoreable.providedBy(destination)
    serials = {}
    for transaction in source.iterator():
        destination.tpc_begin(transaction, transaction.tid, transaction.status)
        try:
            for record in transaction:
                oid, tid, data = record.oid, record.tid, record.data
                if restores:
                    destination.restore(
                        oid, tid, data, "", record.data_txn, transaction
                    )
                else:
                    destination.store(oid, serials.get(oid), data, "", transaction)
                    serials[oid] = tid
            destination.tpc_vote(transaction)
            destination.tpc_finish(transaction)
        except BaseException:
            destination.tpc_abort(transaction)
            raise
