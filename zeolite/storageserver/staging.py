"""What a transaction is to do, kept until it votes.

Before the vote nothing touches the storage, so a transaction that is sent slowly
keeps nobody waiting.  Operations stay in memory up to `MEMORY` bytes and go to a
temporary file from there on.  Blobs are files already.
"""

import os
import pickle
import tempfile
import threading

from ZODB.POSException import StorageTransactionError

from . import blobs

MEMORY = 1024 * 1024


class Staging:
    """A list of operations.  Used by one thread at a time, but for `close`.

    It may have `most` bytes, 0 for no limit, and `memory` bytes of it in memory.
    """

    def __init__(self, most=0, memory=MEMORY):
        self._most = most
        self._memory = memory
        self._lock = threading.Lock()  # Guards all below.
        self._size = 0
        self._operations = []
        self._in_memory = 0
        self._file = None
        self._blobs = set()
        self._closed = False

    def add(self, method, *args):
        """Add an operation: a storage method's name and its arguments.

        Raises `StorageError` where it is too large, `OSError` where the temporary
        file cannot be written, and `StorageTransactionError` after `close`.
        """
        size = 200 + sum(len(arg) for arg in args if isinstance(arg, bytes))
        with self._lock:
            if self._closed:
                raise StorageTransactionError("the transaction has ended")
            self._count(size)
            if self._file is not None:
                pickle.dump((method, args), self._file, 4)
                return
            self._operations.append((method, args))
            self._in_memory += size
            if self._in_memory > self._memory:
                self._file = tempfile.TemporaryFile(prefix="zeolite-")

    def own(self, path):
        """Remove the blob's file `path` at the end, unless it is disowned.

        Raises as `add` does; the file is removed after `close`, too.
        """
        with self._lock:
            if not self._closed:
                self._blobs.add(path)
                self._count(os.path.getsize(path))
                return
        blobs.remove(path)
        raise StorageTransactionError("the transaction has ended")

    def _count(self, size):
        self._size += size
        if self._most and self._size > self._most:
            raise blobs.too_large(self._most)

    def disown(self, path):
        """The storage has taken the file over."""
        with self._lock:
            self._blobs.discard(path)

    def __iter__(self):
        """Yield (method, args) in the order in which they were added."""
        yield from self._operations
        if self._file is not None:
            self._file.seek(0)
            while True:
                try:
                    yield pickle.load(self._file)
                except EOFError:
                    break

    def close(self):
        """Forget the operations and remove the files."""
        with self._lock:
            self._closed = True
            abandoned, self._blobs = self._blobs, set()
            self._operations = []
            file, self._file = self._file, None
        for path in abandoned:
            blobs.remove(path)
        if file is not None:
            try:
                file.close()
            except OSError:
                pass  # It wanted to write what nobody will read.
