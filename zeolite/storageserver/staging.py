"""What a transaction is to do, kept until it votes.

Before the vote nothing touches the storage, so a transaction that is sent slowly
keeps nobody waiting.  Operations stay in memory up to `MEMORY` bytes and go to a
temporary file from there on.  Blobs are files already.
"""

import pickle
import tempfile
import threading

from ZODB.POSException import StorageTransactionError

from . import blobs

MEMORY = 1024 * 1024


class Staging:
    """A list of operations.  Used by one thread at a time, but for `close`."""

    def __init__(self):
        self._operations = []
        self._size = 0
        self._file = None
        self._lock = threading.Lock()  # Guards the two below.
        self._blobs = set()
        self._closed = False

    def add(self, method, *args):
        """Add an operation: a storage method's name and its arguments.

        Raises `OSError` where the temporary file cannot be written.
        """
        if self._file is not None:
            pickle.dump((method, args), self._file, 4)
            return
        self._operations.append((method, args))
        self._size += 200 + sum(len(arg) for arg in args if isinstance(arg, bytes))
        if self._size > MEMORY:
            self._file = tempfile.TemporaryFile(prefix="zeolite-")

    def own(self, path):
        """Remove the blob's file `path` at the end, unless it is disowned."""
        with self._lock:
            if not self._closed:
                self._blobs.add(path)
                return
        blobs.remove(path)
        raise StorageTransactionError("the transaction has ended")

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
        for path in abandoned:
            blobs.remove(path)
        self._operations = []
        file, self._file = self._file, None
        if file is not None:
            try:
                file.close()
            except OSError:
                pass  # It wanted to write what nobody will read.
