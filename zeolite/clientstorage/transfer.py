"""Blobs between a file and a connection, chunk by chunk.

An upload waits for the server now and then, so that what other threads ask for
does not stand behind megabytes.  A download is written by the thread that wants
it; the reader thread only hands the chunks over.
"""

import queue
from collections import deque

from ..errors import ProtocolError
from ..wire import messages
from .link import Call

#: Bytes in one message.
CHUNK = 64 * 1024

#: How many chunks of an upload may be on their way.
_WINDOW = 3

#: How many chunks of a download may wait to be written.
_WAITING = 64


def upload(link, file, before, end, progress):
    """Send a file's contents: `before` (bytes), the chunks, and the one-way call
    `end`, a name and its arguments.

    `progress(bytes so far)` is called after each chunk.  One upload at a time goes
    over a connection, because nothing in the chunks says whose they are.
    """
    with link.upload_lock:
        link.post(before + messages.encode_one_way("storeBlobStart", ()))
        pings, done = deque(), 0
        while chunk := file.read(CHUNK):
            data = messages.encode_one_way("storeBlobChunk", (chunk,))
            pings.append(link.call("ping", (), before=data))
            done += len(chunk)
            progress(done)
            if len(pings) > _WINDOW:
                pings.popleft().wait()
        link.post(messages.encode_one_way(*end))


class Download(Call):
    """The call that asks for a blob, and the chunks that come before its reply."""

    __slots__ = ("_chunks", "_is_dropped", "_is_whole")

    def __init__(self):
        super().__init__()
        self._chunks = queue.Queue(_WAITING)
        self._is_dropped = self._is_whole = False

    # The reader thread.

    def receive(self, name, chunk):
        """Take a call of the server's about this blob."""
        if name == "receiveBlobStop":
            self._is_whole = True
        elif name == "receiveBlobChunk" and not self._is_dropped:
            self._chunks.put(chunk)

    def _finish(self):
        super()._finish()
        if not self._is_dropped:
            self._chunks.put(None)

    # Whoever wants the blob.

    def write(self, write, progress):
        """Call `write(bytes)` until all is there.

        `progress(bytes so far)` is called after each chunk.  Raises the server's
        error.
        """
        try:
            done = 0
            while (chunk := self._chunks.get()) is not None:
                write(chunk)
                done += len(chunk)
                progress(done)
            self.wait()
            if not self._is_whole:
                raise ProtocolError("the server has not sent the whole blob")
        finally:
            # The reader thread may be waiting for room.
            self._is_dropped = True
            while not self._chunks.empty():
                self._chunks.get_nowait()


def download(link, oid, serial, write, progress):
    """Ask for a blob and call `write(bytes)` until all is there."""
    call = Download()
    link.downloads[oid, serial] = call
    try:
        link.start(call, "sendBlob", (oid, serial))
        call.write(write, progress)
    finally:
        if link.downloads.get((oid, serial)) is call:
            del link.downloads[oid, serial]
