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
    IStorageTransactionInformation,
)
from ZODB.POSException import StorageError

from ..wire import messages
from ..wire.messages import load_extension

#: How many records are asked for ahead.
READ_AHEAD = 16


class TransactionIterator:
    """An iterator over transactions, which are iterators over their records.

    It belongs to one connection, `link`, and ends with it.  The number of an
    iterator that is garbage goes to a list, because a finalizer may run while its
    thread is sending and must not send by itself.
    """

    def __init__(self, link, start, stop):
        self._link = link
        arguments = start, stop
        if link.is_zeolite:
            arguments += (True,)  # Extended info as the storage has it.
        self._id = link.call("iterator_start", arguments, drop_iterators(link)).wait()
        self._finalizer = weakref.finalize(
            self, link.dropped_iterators.append, self._id
        )

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
        return self._link.call("iterator_next", (self._id,)).wait()

    def close(self):
        """Have the server forget the iterator."""
        self._id = None
        self._finalizer()

    def _records(self, tid):
        if self._id is None:
            raise StorageError("the iterator over the transactions has ended")
        call = self._link.call("iterator_record_start", (self._id, tid))
        return _read_records(self._link, call.wait())


def drop_iterators(link):
    """Return the call (bytes) that has the server forget dropped iterators."""
    ids = []
    while link.dropped_iterators:
        ids.append(link.dropped_iterators.pop())
    return messages.encode_one_way("iterator_gc", (ids,)) if ids else b""


def _read_records(link, id):
    calls, ended = deque(), False
    try:
        while True:
            while len(calls) < READ_AHEAD:
                calls.append(link.call("iterator_record_next", (id,)))
            found = calls.popleft().wait()
            if found is None:
                # The calls that are still in flight fail, and nobody waits.
                ended = True
                return
            yield DataRecord(*found)
    finally:
        if not ended:
            link.dropped_iterators.append(id)


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
            self.extension = load_extension(extension)

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
