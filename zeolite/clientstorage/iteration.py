"""Iterating over a server's transactions and their records.

The server's iterators are used by number.  Records are read ahead, several calls
in flight, so that a transaction costs three round trips however many records it
has, and neither side holds more than a few of them.
"""

import contextlib
import itertools
import weakref
from collections import deque

import zope.interface
from ZODB.Connection import TransactionMetaData
from ZODB.interfaces import (
    IStorageRecordInformation,
    IStorageTransactionInformation,
)
from ZODB.POSException import StorageError
from ZODB.utils import p64, u64

from ..errors import ClientDisconnected
from ..wire import messages
from ..wire.messages import load_extension
from .answers import (
    checked,
    is_data_record_or_none,
    is_number,
    is_transaction_or_none,
)

#: How many records are asked for ahead, at most: there are as many calls in flight
#: as records have come, since those behind the last record are in vain.
READ_AHEAD = 16


_LAST = 2**64 - 1


class TransactionIterator:
    """An iterator over transactions, which are iterators over their records.

    It belongs to one connection and ends with it, unless the client leaves that for
    a better one, where it goes on.  `connect` returns the `Link` to use.  The number
    of an iterator that is garbage goes to a list, because a finalizer may run while
    its thread is sending and must not send by itself.
    """

    def __init__(self, connect, start, stop):
        self._connect = connect
        self._start = start
        self._stop = stop
        self._begin()

    def _begin(self):
        """Have an iterator on the server that begins at `_start`."""
        while True:
            link = self._connect()
            arguments = self._start, self._stop
            if link.is_zeolite:
                arguments += (True,)  # Extended info as the storage has it.
            call = link.call("iterator_start", arguments, drop_iterators(link))
            try:
                self._id = checked(call.wait(), is_number, "an iterator's number")
                break
            except ClientDisconnected:
                if not link.is_retired:
                    raise
        self._link = link
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
        tid = found[0]
        self._start = _behind(tid)
        return TransactionRecord(self._records, *found)

    def _next(self):
        while True:
            try:
                found = self._link.call("iterator_next", (self._id,)).wait()
                return checked(found, is_transaction_or_none, "of a transaction")
            except ClientDisconnected as error:
                self._go_on_elsewhere(error)

    def _go_on_elsewhere(self, error):
        """Begin again at `_start`, on the server that the client has moved to."""
        if not self._link.is_retired:
            raise error
        self._finalizer.detach()
        self._begin()

    def close(self):
        """Have the server forget the iterator."""
        self._id = None
        self._finalizer()

    def _records(self, tid):
        if self._id is None:
            raise StorageError("the iterator over the transactions has ended")
        done = 0
        while True:
            try:
                call = self._link.call("iterator_record_start", (self._id, tid))
                id = checked(call.wait(), is_number, "an iterator's number")
                records = _read_records(self._link, id)
                for record in itertools.islice(records, done, None):
                    done += 1
                    yield record
                return
            except ClientDisconnected as error:
                # There the iterator has to be at this transaction again.
                self._start = tid
                self._go_on_elsewhere(error)
                self._next()
                self._start = _behind(tid)


def _behind(tid):
    """Return the tid after this one, which is the last one if there is none."""
    return p64(min(u64(tid) + 1, _LAST))


def drop_iterators(link):
    """Return the call (bytes) that has the server forget dropped iterators."""
    if not link.dropped_iterators:
        return b""
    ids = []
    # Other threads may empty the list meanwhile.
    with contextlib.suppress(IndexError):
        while True:
            ids.append(link.dropped_iterators.pop())
    return messages.encode_one_way("iterator_gc", (ids,)) if ids else b""


def _read_records(link, id):
    calls, ended, count = deque(), False, 0
    # Stock ZEO servers log an error for each call behind the end.
    most = READ_AHEAD if link.is_zeolite else 1
    try:
        while True:
            while len(calls) < min(max(2, count), most):
                calls.append(link.call("iterator_record_next", (id,)))
            found = calls.popleft().wait()
            checked(found, is_data_record_or_none, "of an object")
            if found is None:
                # The calls that are still in flight fail, and nobody waits.
                ended = True
                return
            count += 1
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
