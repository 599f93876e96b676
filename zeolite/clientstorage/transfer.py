"""Blobs between a file and a connection, chunk by chunk.

Only a few chunks are on their way at a time, so that what other threads ask for
does not stand behind megabytes: an upload waits for the server now and then, and
a download tells the server which chunks were taken; `pace` says how few.  Stock ZEO
servers send as fast as they can.  A download is written by the thread that wants
it; the reader thread only hands the chunks over.
"""

import collections
import contextlib
import queue
import threading
import time

from ..errors import ProtocolError
from ..wire import messages
from .call import Call
from .pace import START, Pace

#: Bytes in one message of an upload.  What is larger than 128 KB, the C library
#: gives back to the system each time, which takes longer than the sending.
CHUNK = 120 * 1024

#: How many chunks of a download may wait to be written.
_WAITING = 64

#: Seconds until whoever writes a download, and takes nothing, has lost it.
STALL_TIMEOUT = 60


class Uploads:
    """Says when the server is to be waited for.  One per connection.

    For who holds `lock`: one upload at a time goes over a connection, because
    nothing in the chunks says whose they are.
    """

    def __init__(self):
        self.lock = threading.Lock()
        self._pace = Pace()
        # Calls that tell how far the server is: (call, when it was made, chunks).
        self._pings = collections.deque()
        self._on_their_way = 0
        self._is_measured = False

    def begin(self, link, data):
        """Send what comes before the first chunk."""
        if self._is_measured:
            link.post(data)
        else:
            self._is_measured = True
            self._ping(link, data, 0)

    def send(self, link, data):
        """Send a chunk, encoded, and wait until there is room for the next."""
        self._ping(link, data, 1)
        while self._on_their_way >= self._pace.room:
            call, sent, count = self._pings.popleft()
            self._on_their_way -= count
            seconds = call.wait() - sent
            if count:
                self._pace.took(seconds, link.has_loads)
            else:
                self._pace.measured(seconds)

    def _ping(self, link, data, count):
        sent = time.monotonic()
        # The result is when the answer came, and not when somebody looked.
        call = link.call("ping", (), data, lambda result: time.monotonic())
        self._pings.append((call, sent, count))
        self._on_their_way += count


def upload(link, file, before, end, progress):
    """Send a file's contents: `before` (bytes), the chunks, and the one-way call
    `end`, a name and its arguments.

    `progress(bytes so far)` is called after each chunk.
    """
    uploads = link.uploads
    with uploads.lock:
        uploads.begin(link, before + messages.encode_one_way("storeBlobStart", ()))
        done = 0
        try:
            while chunk := file.read(CHUNK):
                data = messages.encode_one_way("storeBlobChunk", (chunk,))
                uploads.send(link, data)
                done += len(chunk)
                progress(done)
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

    __slots__ = (
        "_chunks",
        "_is_dropped",
        "_is_late",
        "_is_whole",
        "_key",
        "_table",
        "began",
    )

    def __init__(self, table, key):
        super().__init__()
        self._table, self._key = table, key
        #: When the server began to send (`time.monotonic` seconds).
        self.began = None
        self._chunks = queue.Queue(_WAITING)
        self._is_dropped = self._is_late = self._is_whole = False

    # The reader thread.

    def receive(self, name, chunk):
        """Take a call of the server's about this blob."""
        if name == "receiveBlobStart":
            self.began = time.monotonic()
        elif name == "receiveBlobStop":
            self._is_whole = True
        elif name == "receiveBlobChunk":
            self._hand_over((chunk, time.monotonic()))

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
        """Call `write(bytes)` until all is there.

        After each, call `taken(bytes so far, when it arrived)`.  Raises the server's
        error.
        """
        try:
            done = 0
            while (item := self._next()) is not None:
                chunk, arrived = item
                write(chunk)
                done += len(chunk)
                taken(done, arrived)
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


class _Window:
    """When which chunks of a download were asked for.  For who wants the blob."""

    def __init__(self):
        self._pace = Pace()
        self._asked = collections.deque()

    def ask(self, count):
        """So many more may come."""
        self._asked.extend([time.monotonic()] * count)
        return count

    def began(self, when):
        """The server has answered, and not sent a chunk yet."""
        self._pace.measured(when - self._asked[0])

    def took(self, arrived, others_wait):
        """A chunk was taken, which arrived then; return how many more to ask for."""
        if self._asked:
            self._pace.took(arrived - self._asked.popleft(), others_wait)
        room = self._pace.room
        free = room - len(self._asked)
        # Not one by one: each time costs as much as a load.
        return self.ask(free) if free >= room // 2 else 0


def download(link, oid, serial, write, progress):
    """Ask for a blob and call `write(bytes)` until all is there.

    Not for two threads at a time that want the same blob.
    """
    key = oid, serial
    given_up = link.downloads.get(key)
    if given_up is not None:
        given_up.wait_for_end()  # Its chunks would be taken for ours.
    call = link.downloads[key] = Download(link.downloads, key)
    window = _Window() if link.is_zeolite else None

    def may_send(count):
        if window is not None:
            link.post(messages.encode_one_way("blobReceived", (oid, serial, count)))

    def taken(done, arrived):
        if window is not None:
            if call.began is not None:
                window.began(call.began)
                call.began = None
            count = window.took(arrived, link.has_loads)
            if count:
                may_send(count)
        progress(done)

    link.start(call, "sendBlob", key if window is None else (*key, window.ask(START)))
    try:
        call.write(write, taken)
    except BaseException:
        if not call.is_done:
            may_send(0)
        raise
