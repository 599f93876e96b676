"""Blobs that clients are sending.

A client uploads in pieces, before its vote: `storeBlobStart`, chunks, and an end
that says what it was.  The pieces go to a file in the storage's own temporary
directory, so that the storage need only rename it, and the commit lock is held
by nobody meanwhile.  An error is kept for the vote of the transaction that the
blob turns out to belong to.

The first piece is written at once, what follows by a thread: a disk that is busy
writing makes each of them wait, and the client's loads shall not.  A client of ours
wants a reply to each chunk, which it gets when that is written, and so does not
send more of them than it should.
"""

import contextlib
import queue
import tempfile
import threading
import time

from ZODB.POSException import StorageError

from ..files import write_all
from ..threads import try_start
from . import blobs
from .kepterrors import kept

#: How many chunks may wait to be written, of a client that sends on and on.
_WAITING = 8

#: Bytes of the largest chunk that may wait, and gets a buffer.  Ours have half of that.
_LARGEST = 1100 * 1024


class Upload:
    """A file that a client is sending.

    It may have `most` bytes, 0 for no limit.  `is_idle` is for any thread, all else
    for the session's own.  Errors are kept, and raised by `end`.
    """

    def __init__(self, storage, most=0):
        self._most = most
        self._size = 0
        # When the client has last sent a piece.
        self._touched = time.monotonic()
        self._lock = threading.Lock()  # Guards the two below and what is written.
        self._file = self._error = None
        # (chunk, what to call when it is written), and None at the end.
        self._chunks = queue.Queue(_WAITING)
        self._writer = None
        self._is_first = True
        self._buffers = []  # Those that are free; both threads use it.
        try:
            directory = blobs.directory_of(storage)
            self._file = tempfile.NamedTemporaryFile(
                dir=directory, prefix=blobs.PREFIX, buffering=0, delete=False
            )
        except Exception as error:
            self._error = kept(error)

    def buffer(self, size):
        """Return a bytearray to receive a chunk in, None for one that is too large."""
        if size > _LARGEST:
            return None
        while self._buffers:
            buffer = self._buffers.pop()
            if len(buffer) >= size:
                return buffer
        return bytearray(size)

    def add(self, chunk, written=None):
        """Write the next bytes, and then call `written`.

        `chunk` is bytes, or a part of what `buffer` gave.  This may be done later,
        by another thread.
        """
        self._touched = time.monotonic()
        if self._is_first:
            self._is_first = False
        elif len(chunk) > _LARGEST:
            self._join()  # Nobody is to have us keep several of them.
        elif self._writer is not None or self._start():
            self._chunks.put((chunk, written))
            return
        self._add(chunk, written)

    def _start(self):
        writer = threading.Thread(target=self._run, name="zeolite-upload", daemon=True)
        if not try_start(writer):
            return False
        self._writer = writer
        return True

    def end(self):
        """Return the path of the whole file, which is the caller's from now on.

        Raises what has gone wrong meanwhile.
        """
        self._join()
        with self._lock:
            if self._error is not None:
                raise self._error
            self._file.close()
            path, self._file = self._file.name, None
            return path

    def close(self):
        """Forget it, if it has not ended."""
        self._give_up("the upload of a blob was given up")
        self._join()

    def is_idle(self, seconds):
        """Whether no piece came for so long.  If so, forget it."""
        if time.monotonic() - self._touched < seconds:
            return False
        self._give_up(f"no piece of a blob came for {seconds:g} seconds")
        return True

    def _join(self):
        writer, self._writer = self._writer, None
        if writer is not None:
            self._chunks.put(None)
            writer.join()

    def _give_up(self, why):
        with self._lock:
            self._error = self._error or StorageError(why)
            self._discard()

    # Either thread.

    def _run(self):
        while (item := self._chunks.get()) is not None:
            self._add(*item)

    def _add(self, chunk, written):
        with self._lock:
            if self._error is None:
                self._write(chunk)
        if type(chunk) is memoryview:
            self._buffers.append(chunk.obj)
        if written is not None:
            written()

    def _write(self, chunk):
        try:
            self._size += len(chunk)
            if self._most and self._size > self._most:
                raise blobs.too_large(self._most)
            write_all(self._file, chunk)
        except (OSError, StorageError) as error:
            # The disk is full: give its room back now, not at the end.
            self._error = kept(error)
            self._discard()

    def _discard(self):
        file, self._file = self._file, None
        if file is not None:
            with contextlib.suppress(OSError):
                file.close()
            blobs.remove(file.name)
