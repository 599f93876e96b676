"""The databases that are measured: made once, then copied for each system."""

import functools
import shutil

import transaction
import ZODB
from persistent.mapping import PersistentMapping
from ZODB.Connection import TransactionMetaData
from ZODB.FileStorage import FileStorage
from ZODB.serialize import ObjectWriter
from ZODB.utils import p64, z64

#: Bytes in a record.
RECORD_SIZE = 400

#: Objects in a transaction while a large database is made.
_BATCH = 5000


class Databases:
    """Makes copies of databases in the directory of a run."""

    def __init__(self, scratch):
        self._scratch = scratch

    def records(self, count):
        """Return the path of a new file with records that have the oids 1..count."""
        return self._copy(self._records(count))

    def garbage(self, objects, revisions):
        """Return the path of a new file with work for a pack.

        It has so many small objects, all of them reachable, and so many
        revisions of each, of which only the last one survives.
        """
        return self._copy(self._garbage(objects, revisions))

    def _copy(self, path):
        copy = self._scratch.fresh("Data.fs")
        shutil.copyfile(path, copy)
        return copy

    @functools.cache  # noqa: B019 - there is one of these in a process.
    def _records(self, count):
        path = self._scratch.fresh("Data.fs")
        storage = FileStorage(str(path))
        fill(storage, count)
        storage.close()
        return path

    @functools.cache  # noqa: B019
    def _garbage(self, objects, revisions):
        path = self._scratch.fresh("Data.fs")
        database = ZODB.DB(FileStorage(str(path)), cache_size=2 * objects)
        with database.transaction() as connection:
            folders = connection.root()["folders"] = PersistentMapping()
            for first in range(0, objects, 100):
                folder = folders[first] = PersistentMapping()
                for number in range(first, min(first + 100, objects)):
                    folder[number] = PersistentMapping(number=number)
        connection = database.open()
        leaves = [
            leaf
            for folder in connection.root()["folders"].values()
            for leaf in folder.values()
        ]
        for revision in range(1, revisions):
            for first in range(0, objects, _BATCH):
                for leaf in leaves[first : first + _BATCH]:
                    leaf["revision"] = revision
                transaction.commit()
        connection.close()
        database.close()
        return path


def fill(storage, count):
    """Write a root without items, and objects with the oids 1..count, to a storage."""
    metadata = TransactionMetaData()
    storage.tpc_begin(metadata)
    storage.store(z64, z64, _serialized(PersistentMapping()), "", metadata)
    for number in range(1, count + 1):
        storage.store(p64(number), z64, _record(number), "", metadata)
    storage.tpc_vote(metadata)
    storage.tpc_finish(metadata)


def _record(number):
    """Return an object's data, `RECORD_SIZE` bytes."""
    return _serialized(PersistentMapping(text=str(number).ljust(_TEXT, ".")))


def _serialized(object):
    return ObjectWriter().serialize(object)


#: Characters in an object's text.
_TEXT = RECORD_SIZE - len(_serialized(PersistentMapping(text="")))
