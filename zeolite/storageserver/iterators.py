"""A client's iterators over a storage's transactions and their records."""

import itertools

from ZODB.POSException import StorageError

from ..wire.messages import load_extension, plain_only
from .transactions import transactions


class Iterators:
    """The iterators of one client, by the numbers that it knows them by.

    Used by the session's own thread.  An iterator holds one transaction at a
    time, and is gone when it has come to its end.  There may be `most` over
    transactions, which each have a file open, and as many over records.
    """

    def __init__(self, storage, most):
        self._storage = storage
        self._most = most
        self._ids = itertools.count(1)
        self._transactions = {}  # id -> [iterator, where it is, raw]
        self._records = {}  # id -> (iterator, id of the one over transactions)

    def start(self, start, stop, last, raw):
        """Begin to iterate over transactions from tid `start` to tid `stop`.

        It ends at tid `last` at the latest.  Extended info is a dictionary, or with `raw` the pickle of one where the
        storage has it.
        """
        if not hasattr(self._storage, "iterator"):
            raise StorageError("this storage cannot iterate over its transactions")
        if len(self._transactions) >= self._most:
            raise StorageError(
                f"more than {self._most} iterators at once, which is max-iterators in "
                "the server's configuration"
            )
        id = next(self._ids)
        iterator = iter(transactions(self._storage, start, stop, last))
        self._transactions[id] = [iterator, None, raw]
        return id

    def next(self, id):
        """Return the next transaction's (tid, status, user, description, extension).

        Returns None at the end.
        """
        entry = self._transactions.get(id)
        if entry is None:
            raise _unknown(id)
        entry[1] = record = next(entry[0], None)
        if record is None:
            self._close(id)
            return None
        extension = getattr(record, "extension_bytes", None)
        if extension is None:
            extension = plain_only(record.extension)
        elif not entry[2]:
            extension = load_extension(extension)
        return record.tid, record.status, record.user, record.description, extension

    def start_records(self, id, tid):
        """Begin to iterate over the records of the transaction that `id` is at."""
        entry = self._transactions.get(id)
        if entry is None:
            raise _unknown(id)
        if entry[1] is None or entry[1].tid != tid:
            raise StorageError(
                "the records of a transaction can be had only until the next "
                "transaction is asked for"
            )
        if len(self._records) >= self._most:
            # Clients are slow to say that they have left one before its end.
            del self._records[next(iter(self._records))]
        record_id = next(self._ids)
        self._records[record_id] = iter(entry[1]), id
        return record_id

    def next_record(self, id):
        """Return the next record's (oid, tid, data, data_txn), None at the end."""
        entry = self._records.get(id)
        if entry is None:
            raise _unknown(id)
        record = next(entry[0], None)
        if record is None:
            del self._records[id]
            return None
        return record.oid, record.tid, record.data, record.data_txn

    def drop(self, ids):
        """Forget iterators; those that are not there are fine."""
        for id in ids:
            self._records.pop(id, None)
            if id in self._transactions:
                self._close(id)

    def close(self):
        """Forget all."""
        self.drop([*self._transactions, *self._records])

    def _close(self, id):
        """Forget an iterator over transactions, and what reads from its file."""
        close = getattr(self._transactions.pop(id)[0], "close", None)
        if close is None:
            return
        for record_id, (_, transactions_id) in [*self._records.items()]:
            if transactions_id == id:
                del self._records[record_id]
        close()


def _unknown(id):
    return StorageError(f"there is no iterator {id}; it has ended, or never began")
