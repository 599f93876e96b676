"""Comparing two storages, transaction by transaction.

A transaction's status is not compared, which only says if it was packed, nor where
a record points back to, which is a storage's own business.
"""

import contextlib
import dataclasses
import hashlib
import itertools

from ZODB.blob import is_blob_record
from ZODB.interfaces import IBlobStorage
from ZODB.POSException import POSKeyError
from ZODB.utils import z64

_CHUNK = 1024 * 1024


@dataclasses.dataclass
class Comparison:
    """What was compared, up to the first difference (str), or None for none."""

    transactions: int = 0
    records: int = 0
    blobs: int = 0
    #: Of the records; blobs do not count.
    bytes: int = 0
    difference: str | None = None


def headers(source, destination, progress):
    """Compare all that the destination has with the source, and the last records.

    `progress(count)` is called now and then.  Returns (how many transactions there
    are, the last one's tid or None, the first difference or None).
    """
    # What its `lastTransaction` says does not count: after a crash that may be a
    # transaction which is not there.
    count, last = 0, None
    ours = iter(source.iterator())
    for there in destination.iterator():
        here = next(ours, None)
        difference = _header_difference(here, there)
        if difference:
            return count, last, difference
        last = there.tid
        count += 1
        if count % 1000 == 0:
            progress(count)
    if last is None:
        return 0, None, None
    # A transaction's records can be had as long as its iterator is there.
    iterators = [iter(s.iterator(last, last)) for s in (source, destination)]
    here, there = map(next, iterators)
    return count, last, _record_difference(source, destination, here, there)


def contents(source, destination, stop, progress):
    """Return the `Comparison` of all that there is; of the source up to `stop`.

    `progress(count)` is told how many bytes were compared.
    """
    found = Comparison()
    here = source.iterator(None, stop) if stop != z64 else ()
    for ours, theirs in itertools.zip_longest(here, destination.iterator()):
        found.difference = _header_difference(ours, theirs)
        if found.difference is None:
            found.difference = _record_difference(
                source, destination, ours, theirs, found
            )
        if found.difference:
            return found
        found.transactions += 1
        found.bytes += header_size(ours)
        progress(found.bytes)
    return found


def header_size(transaction):
    """Return the bytes of a transaction without its records, in a file storage."""
    texts = transaction.user, transaction.description, transaction.extension_bytes
    return 31 + sum(map(len, texts))


def record_size(record):
    """Return the bytes of a record in a file storage."""
    return 42 + (8 if record.data_txn or not record.data else len(record.data))


def _header_difference(here, there):
    if here is None or there is None:
        tid = (here or there).tid.hex()
        return f"only the {'source' if there is None else 'destination'} has {tid}"
    if here.tid != there.tid:
        return f"the source has {here.tid.hex()} where the destination has {there.tid.hex()}"
    for name in ("user", "description", "extension"):
        if getattr(here, name) != getattr(there, name):
            return f"the {name} of {here.tid.hex()}"
    return None


def _record_difference(source, destination, here, there, found=None):
    """Compare two transactions' records, in any order; count them in `found`."""
    tid = here.tid.hex()
    theirs = {}
    for record in there:
        theirs.setdefault(record.oid, []).append(_digest(record))
    have_blobs = all(map(IBlobStorage.providedBy, (source, destination)))
    for record in here:
        oid = record.oid.hex()
        if not theirs.get(record.oid):
            return f"object {oid} in {tid} is not in the destination"
        if theirs[record.oid].pop(0) != _digest(record):
            return f"the data of object {oid} in {tid}"
        if is_blob_record(record.data):
            if not have_blobs:
                return f"object {oid} in {tid} is a blob, and not both have blobs"
            if not _same_blob(source, destination, record):
                return f"the blob of object {oid} in {tid}"
            if found:
                found.blobs += 1
        if found:
            found.records += 1
            found.bytes += record_size(record)
    for oid in filter(theirs.get, theirs):
        return f"object {oid.hex()} in {tid} is not in the source"
    return None


def _digest(record):
    """Return what a record's data are, in few bytes."""
    data = record.data
    return record.tid, None if data is None else hashlib.sha256(data).digest()


def _same_blob(source, destination, record):
    with contextlib.ExitStack() as stack:
        files = []
        for storage in (source, destination):
            try:
                file = storage.openCommittedBlobFile(record.oid, record.tid)
            except POSKeyError:
                files.append(None)
            else:
                files.append(stack.enter_context(file))
        if None in files:
            return files == [None, None]
        while True:
            ours, theirs = (file.read(_CHUNK) for file in files)
            if ours != theirs:
                return False
            if not ours:
                return True
