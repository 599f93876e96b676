"""Blobs between a file and a connection, chunk by chunk.

Only a few chunks are on their way at a time, so that what other threads ask for
does not stand behind megabytes: an upload waits for the server now and then, and
a download tells the server which chunks were taken.  Stock ZEO servers send as
fast as they can.  A download is written by the thread that wants it; the reader
thread only hands the chunks over.
"""

import contextlib
import queue

from ..errors import ProtocolError
from ..wire import messages
from .call import Call

#: Bytes in one message of an upload.
CHUNK = 32 * 1024

#: After how many chunks that the server has not taken yet an upload waits.  A load
#: of another thread stands behind these and one more.
UPLOAD_WINDOW = 1

#: How many chunks of a download may be on their way.
WINDOW = 3

#: How many chunks of a download may wait to be written.
_WAITING = 64

#: Seconds until whoever writes a download, and takes nothing, has lost it.
STALL_TIMEOUT = 60


def upload(link, file, before, end, progress):
    """Send a file's contents: `before` (bytes), the chunks, and the one-way call
    `end`, a name and its arguments.

    `progress(bytes so far)` is called after each chunk.  One upload at a time goes
    over a connection, because nothing in the chunks says whose they are.
    """
    with link.upload_lock:
        link.post(before + messages.encode_one_way("storeBlobStart", ()))
        done = 0
        try:
            while chunk := file.read(CHUNK):
                data = messages.encode_one_way("storeBlobChunk", (chunk,))
                link.upload_pings.append(link.call("ping", (), before=data))
                done += len(chunk)
                progress(done)
                while len(link.upload_pings) > UPLOAD_WINDOW:
                    link.upload_pings.popleft().wait()
        except BaseException:
            if not link.is_zeolite:
                # A stock server would take the next blob for this one's rest.
                link.end()
            raise
        link.post(messages.encode_one_way(*end))


class Download(Call):
    """The call that asks for a blob, and the chunks that come before its reply.

    It is in `table` under `key` until the reply.
    """

    __slots__ = ("_chunks", "_is_dropped", "_is_late", "_is_whole", "_key", "_table")

    def __init__(self, table, key):
        super().__init__()
        self._table, self._key = table, key
        self._chunks = queue.Queue(_WAITING)
        self._is_dropped = self._is_late = self._is_whole = False

    # The reader thread.

    def receive(self, name, chunk):
        """Take a call of the server's about this blob."""
        if name == "receiveBlobStop":
            self._is_whole = True
        elif name == "receiveBlobChunk":
            self._hand_over(chunk)

    def _hand_over(self, item):
        if not self._is_dropped:
            try:
                self._chunks.put(item, timeout=STALL_TIMEOUT)
            except queue.Full:
                # The others shall not wait for it for ever.
                self._is_late = self._is_dropped = True

    def _finish(self):
        self._table.pop(self._key, None)
        super()._finish()
        self._hand_over(None)

    # Whoever wants the blob.

    def write(self, write, taken):
        """Call `write(bytes)` until all is there; `taken(bytes so far)` after each.

        Raises the server's error.
        """
        try:
            done = 0
            while (chunk := self._next()) is not None:
                write(chunk)
                done += len(chunk)
                taken(done)
            self.wait()
            if not self._is_whole:
                raise ProtocolError("the server has not sent the whole blob")
        finally:
            # The reader thread may be waiting for room.
            self._is_dropped = True
            while not self._chunks.empty():
                self._chunks.get_nowait()

    def _next(self):
        if self._is_late:
            raise TimeoutError(f"nothing was written for {STALL_TIMEOUT} seconds")
        return self._chunks.get()

    def wait_for_end(self):
        """Wait until the server has done with it, one way or the other."""
        with contextlib.suppress(Exception):
            self.wait()


def download(link, oid, serial, write, progress):
    """Ask for a blob and call `write(bytes)` until all is there.

    Not for two threads at a time that want the same blob.
    """
    key = oid, serial
    given_up = link.downloads.get(key)
    if given_up is not None:
        given_up.wait_for_end()  # Its chunks would be taken for ours.
    call = link.downloads[key] = Download(link.downloads, key)

    def received(count):
        if link.is_zeolite:
            link.post(messages.encode_one_way("blobReceived", (oid, serial, count)))

    def taken(done):
        received(1)
        progress(done)

    link.start(call, "sendBlob", (*key, WINDOW) if link.is_zeolite else key)
    try:
        call.write(write, taken)
    except BaseException:
        if not call.is_done:
            received(0)
        raise
