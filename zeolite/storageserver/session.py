"""One client's conversation with the server, in a thread of its own.

    handshake, register, then: receive -> catch up -> execute -> reply -> catch up

"Catch up" means to send the invalidations that are due; `Delivery` has the rules.
What a client may call stands in `calls.METHODS`.  A call that fails is answered
with the exception.  A message that is no well-formed call ends the connection,
with a line in the log.
"""

import contextlib
import json
import logging
import threading
import time
from time import perf_counter

from transaction.interfaces import TransientError
from ZODB.POSException import POSError, ReadOnlyError, StorageTransactionError

from ..errors import ProtocolError
from ..wire import messages
from ..wire.channel import ConnectionLost, PeerSilent
from ..wire.frames import frame
from ..wire.text import text_of
from ..wire.tlserrors import TLSFailed
from .calls import METHODS
from .commit import DELAYED
from .delivery import Delivery
from .incoming import Incoming
from .invalidation import FellBehind
from .iterators import Iterators
from .measures import LOAD_BOUNDS, OWN, Histogram
from .reports import report_slow_call

logger = logging.getLogger(__name__)


#: What the log says of a client that leaves.
_SUMMARY = "loads", "stores", "commits", "aborts"

#: One load in 16 is timed, each client's first included: the clock is slow for what
#: takes 10 microseconds.
_UNTIMED = 0b1111

#: Errors that are part of a client's normal life, not worth a traceback.
_EXPECTED = (POSError, KeyError, TransientError, ConnectionLost)


class Session:
    """A client's connection, its storage, its transactions.

    `run` is for the session's own thread, and so is everything that it calls.
    `end`, `stop` and `respond` may be called by any thread.
    """

    def __init__(
        self, channel, address, storages, options, log, unfinished=None, polling=None
    ):
        """`storages` maps names to `Served`; `address` is for the `SparseLog`.

        `unfinished` and `polling` are the server's, for `Incoming`.
        """
        self._channel = channel
        self._address = address
        self._storages = storages
        self._options = options
        self.log = log
        self._label = None
        self._reason = None
        self._stopping = False
        self.delivery = Delivery(channel, self._delivery_failed)
        self._incoming = Incoming(self, channel, options, unfinished, polling)
        self.served = None
        self.storage = None
        #: Its `loadBefore`, with the server's cache.
        self.load_before = None
        self.read_only = None
        #: Whether the client has asked about its storage, and so hears of changes.
        self.is_informed = False
        #: By the numbers that the client gives them.  Changed by the own thread.
        self.transactions = {}
        #: The number of the last transaction that was one too many.
        self.refused = None
        self.iterators = None
        #: The blob that the client is sending, if any.
        self.upload = None
        #: (oid, serial) -> the `Window` of that blob's download.
        self.windows = {}
        #: How many helpers execute calls and send replies.  For `Helpers`, which
        #: guards them.
        self.background_calls = self.background_replies = 0
        #: Written as `measures.OWN` says.
        self.counts = dict.fromkeys(OWN, 0)
        #: How long loads took, if there is a monitor.
        self.load_times = None
        self._slow = options.slow_call or float("inf")
        #: Message id -> (start, arguments) of calls that are answered later.
        self._delayed = {}
        self._since = None

    def __str__(self):
        return f"{self._label} ({self._address})" if self._label else self._address

    @property
    def address(self):
        """Where the client is, a text for people."""
        return self._address

    @property
    def label(self):
        """What the client calls itself, or None."""
        return self._label

    # Any thread.

    def tally(self):
        """Return what was done for the client, a dictionary of `measures.KEYS`."""
        channel = self._channel
        return {
            **self.counts,
            "bytes_received": channel.bytes_received,
            "bytes_sent": channel.bytes_sent,
        }

    @property
    def is_stalled(self):
        """Whether the client has not taken yet what it was sent."""
        return self._channel.is_stalled

    def end(self, reason):
        """Break the connection; the session's own thread does the rest."""
        self._reason = self._reason or reason
        self._channel.shutdown()

    def stop(self):
        """Answer the call that is being executed, if any, and leave."""
        self._stopping = True
        self._channel.stop_receiving()

    def respond(self, message_id, name, answer, may_wait=False, waited=0):
        """Answer a call of `name` that was left to another thread.

        `answer` is the result, or the exception that it has ended with.  A thread
        that `may_wait` does so until the client has taken the reply.  `waited` are
        seconds that do not count for a slow call.
        """
        start, args = self._delayed.pop(message_id, (None, None))
        # That a pack takes long is normal, and it has lines of its own.
        if start is not None and name != "pack":
            seconds = perf_counter() - start - waited
            if seconds > self._slow:
                report_slow_call(self, name, args, seconds)
        if isinstance(answer, Exception):
            self.log_failure(name, answer)
            reply = messages.encode_error(message_id, answer)
        else:
            reply = _encode_reply(message_id, answer)
        if may_wait:
            # Whoever takes no replies is not to get more of them made.
            with contextlib.suppress(ConnectionLost):
                self.delivery.stream(reply)
        else:
            self.delivery.send(reply)

    def _delivery_failed(self, error):
        self.end(f"sending failed: {text_of(error)}")

    # What calls need.  The session's own thread.

    def register(self, name, read_only):
        """Let the client use a storage; return the tid of its last commit.

        Raises `ValueError` if there is no such storage, and `ReadOnlyError` if
        it cannot be written but the client wants to.
        """
        served = self._storages.get(name)
        if served is None:
            names = ", ".join(map(repr, sorted(self._storages)))
            raise ValueError(f"unknown storage {name[:100]!a}; this server has {names}")
        if not read_only and served.is_read_only():
            raise ReadOnlyError(f"storage {name!r} is read-only on this server")
        self.read_only = bool(read_only)
        served.poll(is_new=True)
        self.storage = served.instance(self.delivery)
        self.load_before = served.loader(self.storage)
        self.iterators = Iterators(self.storage, self._options.max_iterators)
        self._incoming.registered()
        if self._options.monitor_address is not None:
            self.load_times = Histogram(LOAD_BOUNDS)
        self.served = served
        # First, so that the log is not trimmed before this one has read it.
        served.add(self)
        tid = self.delivery.attach(served.log)
        self._since = time.monotonic()
        mode = "read-only" if read_only else "read-write"
        logger.info("client %s: registered for storage %s, %s", self, name, mode)
        return tid

    def set_label(self, label):
        """Have the log show a text for this client."""
        self._label = ascii(label)[1:-1][:200]  # No line breaks in the log.
        logger.debug("client %s: this is its label", self)
        self.served.rename(self)

    def load(self, function, *args):
        """Call a function that loads; return its result."""
        is_timed = self.load_times and not self.counts["loads"] & _UNTIMED
        started = perf_counter()
        self.counts["loads"] += 1
        try:
            return function(*args)
        finally:
            if is_timed:
                self.load_times.observe(perf_counter() - started)

    def check_writable(self):
        """Raise `ReadOnlyError` unless this client may write."""
        if self.read_only or self.served.is_read_only():
            raise ReadOnlyError()

    def transaction(self, id):
        """Return a transaction that the client has begun."""
        try:
            return self.transactions[id]
        except KeyError:
            if id == self.refused:
                raise StorageTransactionError(
                    "this client has begun more transactions than max-transactions in "
                    "the server's configuration allows"
                ) from None
            raise StorageTransactionError("no such transaction") from None

    # The session's own thread.

    def run(self):
        """Talk to the client until it leaves or has to."""
        threading.current_thread().name = f"zeolite-client-{self._address}"
        try:
            if self._handshake():
                self._serve()
        except (ProtocolError, FellBehind, PeerSilent, TLSFailed) as error:
            self._reason = self._reason or text_of(error)
        except ConnectionLost as error:
            logger.debug("client %s: connection lost: %s", self, error)
        except Exception:
            self.log.error(
                "an error in the server",
                "client %s: an error in the server; closing",
                self,
                exc_info=True,
            )
        finally:
            self._leave()

    def _handshake(self):
        self._channel.handshake(self._incoming.deadline)
        self._channel.send(frame(messages.PROTOCOL))
        answer = self._incoming.first()
        if answer == messages.PROTOCOL:
            return True
        if answer == messages.MONITOR:
            status = {name: served.status() for name, served in self._storages.items()}
            self._channel.send(frame(json.dumps(status).encode()))
            logger.debug("client %s asked for the status", self)
        elif answer is not None:
            wanted = messages.PROTOCOL.decode()
            raise ProtocolError(f"it speaks {answer[:20]!r}, not {wanted}")
        return False

    def _serve(self):
        incoming = self._incoming
        while not self._stopping:
            data = incoming.next()
            if data is None:
                return
            load = messages.decode_load(data)
            if load is not None and self.served is not None:
                self._load(*load)
            else:
                self._handle(*messages.decode_call(data))
        self.delivery.flush()

    def _load(self, message_id, oid, tid):
        # What `_handle` would do, for the one call that has to be fast.
        self.delivery.catch_up()
        times = self.load_times
        if times is not None and self.counts["loads"] & _UNTIMED:
            times = None
        start = perf_counter()
        try:
            self.counts["loads"] += 1
            found = self.load_before(oid, tid)
            answer = messages.encode_loaded(message_id, found)
        except Exception as error:
            self.log_failure("loadBefore", error)
            answer = messages.encode_error(message_id, error)
        seconds = perf_counter() - start
        if seconds > self._slow:
            report_slow_call(self, "loadBefore", (oid, tid), seconds)
        if times is not None:
            times.observe(seconds)
        # What is due behind it, the next call or `rest` finds.
        self.delivery.gather(answer)

    def _handle(self, message_id, flag, name, args):
        if name == messages.REPLY and message_id == messages.KEEP_ALIVE:
            return
        method = METHODS.get(name)
        if method is None or (self.served is None) != (name == "register"):
            raise ProtocolError(f"the call of {name[:50]!a} is not possible")
        method.check(name, args)
        one_way = flag == messages.ONE_WAY
        if not one_way:
            self.delivery.catch_up()
        start = perf_counter()
        if method.may_answer_later:
            # Before it runs: the answer may be quicker than this thread.
            self._delayed[message_id] = start, args
        try:
            result = method.run(self, message_id, args)
            if result is DELAYED:
                return
            answer = None if one_way else _encode_reply(message_id, result)
        except (ConnectionLost, FellBehind):
            raise
        except Exception as error:
            self.log_failure(name, error)
            answer = None if one_way else messages.encode_error(message_id, error)
        if method.may_answer_later:
            self._delayed.pop(message_id, None)
        if perf_counter() - start > self._slow:
            report_slow_call(self, name, args, perf_counter() - start)
        if one_way:
            return
        self.delivery.gather(answer)
        self.delivery.catch_up()

    def log_failure(self, name, error):
        """Log, where it is worth that, that a call has failed.  For any thread."""
        cause = f"{name} failed with {type(error).__name__}"
        is_expected = isinstance(error, _EXPECTED)
        if is_expected and name == "pack":
            # Whoever relies on packs is to know.
            self.log.error(cause, "client %s: pack failed: %s", self, text_of(error))
        elif is_expected or name == "register":
            logger.debug("client %s: %s: %s", self, name, text_of(error))
        else:
            self.log.error(cause, "client %s: %s failed", self, name, exc_info=error)

    def _leave(self):
        if self._reason:
            self.log.warning(self._reason, "client %s: closed: %s", self, self._reason)
        elif self._since is not None:
            seconds = time.monotonic() - self._since
            done = ", ".join(f"{self.counts[key]} {key}" for key in _SUMMARY)
            logger.info("client %s: left after %.0f s, %s", self, seconds, done)
        else:
            logger.debug("client %s: left", self)
        # Whoever still listens shall find the connection closed, and not be told
        # that its transactions are aborted.
        self.delivery.close()
        for window in list(self.windows.values()):
            window.close()
        try:
            for transaction in self.transactions.values():
                self.counts["aborts"] += 1
                transaction.abort("its client is gone")
            if self.iterators is not None:
                self.iterators.close()
            if self.upload is not None:
                self.upload.close()
        except Exception:
            logger.exception("client %s: an error while it left", self)
        finally:
            self._incoming.close()
            if self.served is not None:
                self.served.discard(self)
            self._channel.close()


def _encode_reply(message_id, result):
    """Encode a reply; where that is impossible, the error that says so."""
    try:
        return messages.encode_reply(message_id, result)
    except Exception as error:
        return messages.encode_error(message_id, error)
