"""Blobs on their way between clients and a storage.

A client uploads in pieces, before its vote: `storeBlobStart`, chunks, and an end
that says what it was.  The pieces go to a file in the storage's own temporary
directory, so that the storage need only rename it, and the commit lock is held
by nobody meanwhile.  None of these calls has a reply: an error is kept for the
vote of the transaction that the blob turns out to belong to.

A download is sent chunk by chunk from a thread of its own.  Our clients say how
many chunks may be on their way, and when they have taken one, so that what other
threads of theirs ask for does not stand behind megabytes.
"""

import contextlib
import logging
import os
import re
import stat
import tempfile
import threading
import time

import ZODB.interfaces
from ZODB.POSException import StorageError, Unsupported

from ..wire import messages

logger = logging.getLogger(__name__)

#: Bytes in one message.
CHUNK = 120 * 1024

#: What files are called that clients upload.
PREFIX = "zeolite-upload-"

#: What clients that share the blob directory may call a file to be stored: no
#: separators, no leading dot, and not what blobs are called that are committed.
_shared_name = re.compile(r"[^/\0.][^/\0]{0,200}\.tmp-?", re.DOTALL).fullmatch


def directory_of(storage):
    """Return the directory (str) for blobs that are not committed yet.

    Raises `Unsupported` for a storage without blobs.
    """
    if not ZODB.interfaces.IBlobStorage.providedBy(storage):
        raise Unsupported("this storage does not have blobs")
    return storage.temporaryDirectory()


def remove(path):
    """Remove a file, if it is still there."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        logger.error("cannot remove %s: %s", path, error)


def remove_abandoned(storage):
    """Remove what uploads have left behind when a server was killed.

    Only for the one process that serves the storage.
    """
    if not ZODB.interfaces.IBlobStorage.providedBy(storage):
        return
    # Not its `temporaryDirectory`: a DemoStorage would make one now.
    helper = getattr(storage, "fshelper", None)
    if helper is None:
        return
    for name in os.listdir(helper.temp_dir):
        if name.startswith(PREFIX):
            remove(os.path.join(helper.temp_dir, name))


class Upload:
    """A file that a client is sending.  For the session's own thread.

    It may have `most` bytes, 0 for no limit.  Errors are kept, and raised by `end`.
    """

    def __init__(self, storage, most=0):
        self._most = most
        self._size = 0
        # When the client has last sent a piece.
        self._touched = time.monotonic()
        self._lock = threading.Lock()  # Guards the two below.
        self._file = self._error = None
        try:
            directory = directory_of(storage)
            self._file = tempfile.NamedTemporaryFile(
                dir=directory, prefix=PREFIX, buffering=0, delete=False
            )
        except Exception as error:
            self._error = error

    def add(self, chunk):
        """Write the next bytes."""
        self._touched = time.monotonic()
        with self._lock:
            if self._error is not None:
                return
            try:
                self._size += len(chunk)
                if self._most and self._size > self._most:
                    raise too_large(self._most)
                rest = memoryview(chunk)
                while rest:
                    rest = rest[self._file.write(rest) :]
            except (OSError, StorageError) as error:
                # The disk is full: give its room back now, not at the end.
                self._error = error
                self._discard()

    def end(self):
        """Return the path of the whole file, which is the caller's from now on.

        Raises what has gone wrong meanwhile.
        """
        with self._lock:
            if self._error is not None:
                raise self._error
            self._file.close()
            path, self._file = self._file.name, None
            return path

    def close(self):
        """Forget it, if it has not ended."""
        self._give_up("the upload of a blob was given up")

    def is_idle(self, seconds):
        """Whether no piece came for so long.  If so, forget it.  Any thread."""
        if time.monotonic() - self._touched < seconds:
            return False
        self._give_up(f"no piece of a blob came for {seconds:g} seconds")
        return True

    def _give_up(self, why):
        with self._lock:
            self._error = self._error or StorageError(why)
            self._discard()

    def _discard(self):
        file, self._file = self._file, None
        if file is not None:
            with contextlib.suppress(OSError):
                file.close()
            remove(file.name)


def shared_file(storage, oid, name):
    """Return the path of a file that a client has put into the blob directory.

    `name` is the file's in the directory of `oid`.  Raises `StorageError` if it
    is no such file.
    """
    directory_of(storage)
    if not _shared_name(name):
        raise StorageError(f"no name for a blob's file: {name[:100]!a}")
    fshelper = getattr(storage, "fshelper", None)
    if fshelper is None:
        raise Unsupported("this storage does not share its blob directory")
    directory = os.path.realpath(fshelper.getPathForOID(oid))
    path = os.path.join(directory, name)
    try:
        mode = os.lstat(path).st_mode
    except OSError as error:
        raise StorageError(
            f"no file {name} in the directory of the blob: {error.strerror}; do "
            "server and client share one blob directory?"
        ) from None
    if os.path.dirname(os.path.realpath(path)) != directory or not stat.S_ISREG(mode):
        raise StorageError(f"{name} is not a file in the directory of the blob")
    return path


class Window:
    """How many chunks of a download a client has room for.

    A helper takes, the session's own thread grants and closes.
    """

    def __init__(self, room):
        self._room = threading.Semaphore(room)
        self._closed = False

    def take(self):
        """Wait for room for one chunk.  Raises `StorageError` when it is closed."""
        self._room.acquire()
        if self._closed:
            raise StorageError("the download of a blob was given up")

    def grant(self, count=1):
        self._room.release(min(count, 1000))  # More than that is never on its way.

    def close(self):
        """The client wants no more of it."""
        self._closed = True
        self._room.release()


class _NoWindow:
    """For clients that take what comes."""

    def take(self):
        pass


def too_large(most):
    """Return the error for a transaction of more than `most` bytes."""
    return StorageError(
        f"the transaction is larger than the {most} bytes of max-transaction-size, "
        "which the server's configuration sets"
    )


def send(session, oid, serial, room=None):
    """Send a committed blob, chunk by chunk.  In a thread of its own.

    `room` is how many chunks may be on their way, None for no limit.
    """
    directory_of(session.storage)
    if room is None:
        _send(session, oid, serial, _NoWindow())
        return
    window = Window(max(room, 1))
    if session.windows.setdefault((oid, serial), window) is not window:
        raise StorageError("this blob is being sent already")
    try:
        _send(session, oid, serial, window)
    finally:
        del session.windows[oid, serial]


def _send(session, oid, serial, window):
    deliver = session.delivery.stream
    with session.storage.openCommittedBlobFile(oid, serial) as file:
        deliver(messages.encode_one_way("receiveBlobStart", (oid, serial)))
        while chunk := file.read(CHUNK):
            window.take()
            args = oid, serial, chunk
            deliver(messages.encode_one_way("receiveBlobChunk", args))
    deliver(messages.encode_one_way("receiveBlobStop", (oid, serial)))
