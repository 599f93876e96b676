"""What leaves on one client's connection, in the order that the protocol demands.

While the session's own thread executes a call, only that thread sends
invalidations: what the log had when the call arrived goes out before the call
runs, what came after goes out behind the reply.  While the thread waits for the
next call the connection is *idle*, and the dispatcher may send for it.

Whoever had the send lock looks at the log once more after letting go of it.  So
the dispatcher may pass over a connection whose lock is held, and no commit is
forgotten.  The lock is never held across a storage call.
"""

import logging
import threading
import time

from ..wire.channel import ConnectionLost

logger = logging.getLogger(__name__)

#: Replies and invalidations are gathered up to about so many bytes.
GATHER = 64 * 1024

#: How many replies of other threads may wait for the peer to take what is before them.
MOST_LATER = 1000

#: Seconds from which on a round of the dispatcher is followed by a pause as long, so
#: that what is committed meanwhile is told in one piece; and its most.
LEAST_PAUSE = 0.0005
MOST_PAUSE = 0.05


class Delivery:
    """The sending side of one connection.

    `gather`, `catch_up`, `flush`, `rest` and `wake` are for the session's own
    thread; `send` is for other threads, `nudge` for any thread.  `on_failure`
    is called with the exception when sending fails in another thread than the
    session's own, for whatever reason; it is to end the connection and must not block.
    """

    def __init__(self, channel, on_failure):
        self._channel = channel
        self._on_failure = on_failure
        # The send lock guards the channel's sending side, `_idle`, `_closed`, and while
        # `_idle` is set, `_cursor`.  Otherwise the cursor is the own thread's.
        self._lock = threading.Lock()
        # Held by the own thread while it waits for the send lock, so that who sends
        # one piece after the other lets it go first.  Always taken before that.
        self._turn = threading.Lock()
        self._idle = False
        self._closed = False
        self._log = None
        self._cursor = 0
        self._later_lock = threading.Lock()  # A leaf.  Guards the two below.
        # What `_finish` is to send, and whether it runs.
        self._later = []
        self._is_finishing = False
        # What the own thread has not sent yet.
        self._gathered = []
        self._gathered_size = 0

        #: The tid of the last commit that this connection knows of.
        self.tid = None

    @property
    def cursor(self):
        """The number of the log's next entry for this connection."""
        return self._cursor

    @property
    def is_idle(self):
        """Whether the session's own thread waits for the next call."""
        return self._idle

    # The session's own thread.

    def attach(self, log):
        """Listen to `log` from now on; return the tid where now is."""
        self.tid, self._cursor = log.join()
        self._log = log
        return self.tid

    def gather(self, frame):
        """Send `frame` (bytes) with what follows, at the latest in `rest`."""
        self._gathered.append(frame)
        self._gathered_size += len(frame)
        if self._gathered_size > GATHER:
            self.flush()

    def catch_up(self, until=None):
        """Gather the invalidations that are due, or those before entry `until`."""
        log = self._log
        while log is not None and self._cursor != log.end:
            for entry in log.read(self._cursor):
                if entry is until:
                    return
                # First: without memory for it, it is still to be told.
                frame = entry.frame() if self._is_for_us(entry) else None
                self._pass(entry)
                if frame is not None:
                    self.gather(frame)

    def flush(self):
        """Send what was gathered; waits while the peer takes it."""
        if self._gathered:
            with self._turn, self._lock:
                self._send_gathered()

    def rest(self):
        """Send what was gathered and be idle."""
        self.catch_up()
        with self._turn, self._lock:
            self._send_gathered()
            self._idle = True
        self.nudge()

    def wake(self):
        """A call has arrived: be idle no longer."""
        with self._turn, self._lock:
            self._idle = False

    def close(self):
        """Send nothing any more.  Then nobody else uses the channel."""
        self._channel.shutdown()  # Whoever has the lock is to let go of it.
        with self._lock:
            self._closed = True
            self._idle = False
            # The log knows this as the origin of commits for as long as it has them,
            # and is not to keep the whole session with its last messages.
            self._on_failure = _ignore
            self._gathered.clear()

    def _send_gathered(self):
        gathered = self._gathered
        data = gathered[0] if len(gathered) == 1 else b"".join(gathered)
        gathered.clear()
        self._gathered_size = 0
        try:
            self._channel.send(data)
        except BaseException:
            self._channel.shutdown()  # Nothing may follow what was half sent.
            raise

    def _pass(self, entry):
        self._cursor += 1
        if not entry.void:
            self.tid = entry.tid

    def _is_for_us(self, entry):
        return entry.origin is not self and not entry.void

    # Helper threads.

    def stream(self, frame):
        """Send `frame` (bytes), one of many, and wait until the peer has taken it.

        The own thread goes first if it has something to send.  A failure ends the
        connection; raises `ConnectionLost`.
        """
        with self._turn:
            pass
        try:
            with self._lock:
                if self._closed:
                    raise ConnectionLost("the client is gone")
                self._channel.send(frame)
        except Exception as error:
            self._on_failure(error)
            raise ConnectionLost("sending has failed") from error
        self.nudge()

    def send(self, frame):
        """Send `frame` (bytes), before what the own thread has gathered.

        Never waits: what the peer does not take at once is left to a thread.  A
        failure ends the connection and is not raised.
        """
        if not self._lock.acquire(blocking=False):
            self._finish_later(frame)
            return
        try:
            if self._closed:
                return
            if self._channel.has_rest:
                self._finish_later(frame)
                return
            self._channel.offer(frame)
            unfinished = self._channel.has_rest
        except Exception as error:
            self._on_failure(error)
            return
        finally:
            self._lock.release()
        if unfinished:
            self._finish_later(b"")
        else:
            self.nudge()

    def _finish_later(self, frame):
        """Leave a thread behind that sends the rest and `frame`; one is enough."""
        with self._later_lock:
            self._later.append(frame)
            if len(self._later) > MOST_LATER:
                error = ConnectionLost(f"it left {MOST_LATER} replies untaken")
            elif self._is_finishing:
                return
            else:
                self._is_finishing, error = True, None
        if error is not None:
            self._on_failure(error)
            return
        thread = threading.Thread(target=self._finish, name="zeolite-rest", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:  # There are too many threads.
            self._on_failure(error)

    def _finish(self):
        try:
            while frames := self._take_later():
                with self._lock:
                    if not self._closed:
                        self._channel.send(b"".join(frames))
        except Exception as error:
            self._on_failure(error)
        else:
            self.nudge()

    def _take_later(self):
        with self._later_lock:
            frames, self._later = self._later, []
            self._is_finishing = bool(frames)
            return frames

    # Any thread.

    def nudge(self):
        """Send invalidations that are due if the connection is idle.

        Never waits: where the lock is held, its holder looks at the log after
        letting go; where the peer does not take everything, a thread is left
        behind that sees to the rest.
        """
        while self._log is not None and self._cursor != self._log.end:
            if not self._lock.acquire(blocking=False):
                return
            try:
                if not self._idle or self._channel.has_rest:
                    return
                self._offer()
                unfinished = self._channel.has_rest
            except Exception as error:
                self._idle = False  # Nobody is to try again.
                self._on_failure(error)
                return
            finally:
                self._lock.release()
            if unfinished:
                self._finish_later(b"")
                return

    def _offer(self):
        frames, size = [], 0
        for entry in self._log.read(self._cursor):
            self._pass(entry)
            if self._is_for_us(entry):
                frames.append(entry.frame())
                size += len(frames[-1])
                if size > GATHER:
                    break
        if frames:
            self._channel.offer(b"".join(frames))


def _ignore(error):
    """What a connection that is closed does about a failure."""


class Dispatcher:
    """Tells idle connections of commits.  One thread for each storage.

    The thread walks over the connections only to wake them; none depends on
    being in its list, because each looks at the log by itself as well.
    """

    def __init__(self, log, name):
        self._log = log
        self._closed = threading.Event()
        self._condition = threading.Condition()  # Guards both of the below.
        self._deliveries = set()
        self._due = False
        self._thread = threading.Thread(
            target=self._run, name=f"zeolite-dispatcher-{name}", daemon=True
        )

    def start(self):
        self._thread.start()

    def close(self):
        """End the thread."""
        with self._condition:
            self._closed.set()
            self._condition.notify()
        if self._thread.ident is not None:
            self._thread.join()

    def add(self, delivery):
        with self._condition:
            self._deliveries.add(delivery)

    def discard(self, delivery):
        with self._condition:
            self._deliveries.discard(delivery)

    def wake(self, origin=None):
        """Something was published by `origin`, who needs not to be told."""
        with self._condition:
            if len(self._deliveries) > (origin in self._deliveries):
                self._due = True
                self._condition.notify()
                return
            # Before anybody can join, who needs what is published from then on.
            needed = self._log.end if origin is None else origin.cursor
        # Nobody else listens; the thread would only trim.
        self._log.trim(needed)

    def _run(self):
        while True:
            with self._condition:
                while not (self._due or self._closed.is_set()):
                    self._condition.wait()
                if self._closed.is_set():
                    return
                self._due = False
                deliveries, end = list(self._deliveries), self._log.end
            start = time.monotonic()
            try:
                self._tell(deliveries, end)
            except Exception:
                logger.exception("telling clients of a commit failed")
            took = time.monotonic() - start
            if took > LEAST_PAUSE:
                self._closed.wait(min(took, MOST_PAUSE))

    def _tell(self, deliveries, needed):
        """Tell those that were there when the log had come to entry `needed`."""
        for delivery in deliveries:
            delivery.nudge()
            needed = min(needed, delivery.cursor)
        self._log.trim(needed)
