"""Blobs that are sent to clients.

A download is sent chunk by chunk from a thread of its own.  Our clients say how
many chunks may be on their way, and when they have taken one, so that what other
threads of theirs ask for does not stand behind megabytes.
"""

import threading

from ZODB.POSException import StorageError

from ..wire import messages
from .blobs import directory_of

#: Bytes in one message.  What is larger than 128 KB, the C library gives back to the
#: system each time, which takes longer than the sending.
CHUNK = 120 * 1024


class Window:
    """How many chunks of a download a client has room for.

    The session's own thread opens, grants and closes, a helper takes.
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


def open_window(session, oid, serial, room=None):
    """Return the window of a download.  In the session's own thread.

    `room` is how many chunks may be on their way, None for no limit.  Raises
    `StorageError` if the blob is on its way already.
    """
    if room is None:
        return _NoWindow()
    window = Window(max(room, 1))
    if session.windows.setdefault((oid, serial), window) is not window:
        raise StorageError("this blob is being sent already")
    return window


def close_window(session, oid, serial, window):
    """The download has ended, or will not begin."""
    if session.windows.get((oid, serial)) is window:
        del session.windows[oid, serial]


def send(session, oid, serial, window):
    """Send a committed blob, chunk by chunk.  In a thread of its own."""
    try:
        directory_of(session.storage)
        _send(session, oid, serial, window)
    finally:
        close_window(session, oid, serial, window)


def _send(session, oid, serial, window):
    deliver = session.delivery.stream
    with session.storage.openCommittedBlobFile(oid, serial) as file:
        deliver(messages.encode_one_way("receiveBlobStart", (oid, serial)))
        while chunk := file.read(CHUNK):
            window.take()
            args = oid, serial, chunk
            deliver(messages.encode_one_way("receiveBlobChunk", args))
    deliver(messages.encode_one_way("receiveBlobStop", (oid, serial)))
