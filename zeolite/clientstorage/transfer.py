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
from ..wire.chunks import Chunk
from .call import Call
from .pace import START, Pace

#: Bytes that the room of an upload is counted in, and the most of these in one
#: message.  The larger these are, the fewer times four threads are woken; but what
#: others ask for stands behind each.
PIECE, MOST_PIECES = 64 * 1024, 8

#: Seconds that chunks of an upload may wait for each other while nobody else does.
_LITTLE = 0.002

#: How many chunks ago somebody waited for a load who is expected to do so again.
_EXPECTED = 32

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
        self._pace = Pace(_LITTLE)
        # (call, when it was made, chunk, pieces): those the server has not written yet.
        self._sent = collections.deque()
        self._pieces = 0  # In all of these.
        self._is_measured = False
        self._unloaded = _EXPECTED  # For so many chunks nobody has waited for a load.

    def begin(self, link, data):
        """Send what comes before the first chunk."""
        if self._is_measured:
            link.post(data)
            return
        self._is_measured = True
        sent = time.monotonic()
        call = link.call("ping", (), data, _now)
        self._sent.append((call, sent, None, 0))

    @property
    def size(self):
        """How many bytes the next chunk may have.  Without a load, half of the room."""
        if self._unloaded < _EXPECTED:
            return PIECE
        return min(max(self._pace.room // 2, 1), MOST_PIECES) * PIECE

    def send(self, link, chunk, size):
        """Send a chunk of so many bytes; return one that is not in use, or None.

        Waits until there is room for the next.
        """
        sent = time.monotonic()
        pieces = -(-size // PIECE)
        self._sent.append((link.send_chunk(chunk, size, _now), sent, chunk, pieces))
        self._pieces += pieces  # Not of one whose sending fails: nobody would wait.
        free = None
        while self._pieces >= self._pace.room:
            free = self._wait(link) or free
        return free

    def finish(self, link):
        """Wait until all chunks are written."""
        while self._sent:
            self._wait(link)

    def _wait(self, link):
        call, sent, chunk, pieces = self._sent.popleft()
        self._pieces -= pieces
        seconds = call.wait() - sent
        if chunk is None:
            self._pace.measured(seconds)
        else:
            self._unloaded = 0 if link.has_loads else self._unloaded + 1
            self._pace.took(seconds, self._unloaded < _EXPECTED, pieces)
        return chunk


def _now(result):
    """When the answer came, and not when somebody looked."""
    return time.monotonic()


def upload(link, file, size, before, end, progress):
    """Send a file's contents: `before` (bytes), the chunks, and the one-way call
    `end`, a name and its arguments.

    `file` has `size` bytes and no buffer.  `progress(bytes so far)` is called after
    each chunk.
    """
    uploads = link.uploads
    with uploads.lock:
        uploads.begin(link, before + messages.encode_one_way("storeBlobStart", ()))
        done, chunks, chunk, most = 0, 0, None, min(size, MOST_PIECES * PIECE)
        try:
            while done < size:
                chunk = chunk or Chunk(most)
                count = file.readinto(chunk.room[: uploads.size])
                if not count:
                    raise OSError(f"{file.name} has become shorter")
                done += count
                chunks += 1
                chunk = uploads.send(link, chunk, count)
                progress(done)
            # A stock server answers where it cannot write, and goes on.
            if chunks > 1 or not link.is_zeolite:
                uploads.finish(link)
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
        "_is_late",
        "_is_whole",
        "_key",
        "_table",
        "began",
        "is_dropped",
    )

    def __init__(self, table, key):
        super().__init__()
        self._table, self._key = table, key
        #: When the server began to send (`time.monotonic` seconds).
        self.began = None
        self._chunks = queue.Queue(_WAITING)
        self._is_late = self._is_whole = False
        #: Whether what comes is not taken any more.
        self.is_dropped = False

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
        if not self.is_dropped:
            try:
                self._chunks.put(item, timeout=STALL_TIMEOUT)
            except queue.Full:
                # The others shall not wait for it for ever.
                self._is_late = self.is_dropped = True

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
            self.is_dropped = True
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
    call = Download(link.downloads, key)
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

    try:
        link.downloads[key] = call
        args = key if window is None else (*key, window.ask(START))
        link.start(call, "sendBlob", args)
        call.write(write, taken)
    except BaseException:
        if not call.is_dropped:
            # As in `Link.load`: nobody shall wait for the end of what was not asked
            # for, nor the reader thread for room that nobody makes.
            link.downloads.pop(key, None)
            link.end()
        elif not call.is_done:
            may_send(0)
        raise
