"""One client's conversation with the server, in a thread of its own.

    handshake, register, then: receive -> catch up -> execute -> reply -> catch up

"Catch up" means to send the invalidations that are due; `Delivery` has the rules.
What a client may call stands in `calls.METHODS`.  A call that fails is answered
with the exception.  A message that is no well-formed call ends the connection,
with a line in the log.
"""

import json
import logging
import threading
import time

from transaction.interfaces import TransientError
from ZODB.POSException import POSError, ReadOnlyError, StorageTransactionError

from ..errors import ProtocolError
from ..wire import messages
from ..wire.channel import ConnectionLost, PeerSilent
from ..wire.frames import FrameReader, frame
from ..wire.tlserrors import TLSFailed
from .calls import METHODS
from .commit import DELAYED
from .delivery import Delivery
from .invalidation import FellBehind
from .iterators import Iterators
from .served import COUNTS

logger = logging.getLogger(__name__)


#: How a client begins that speaks TLS.  As the size of a frame it is too large.
_TLS = b"\x16\x03"

#: Errors that are part of a client's normal life, not worth a traceback.
_EXPECTED = (POSError, KeyError, TransientError, ConnectionLost)


class Session:
    """A client's connection, its storage, its transactions.

    `run` is for the session's own thread, and so is everything that it calls.
    `end`, `stop` and `respond` may be called by any thread.
    """

    def __init__(self, channel, address, storages, options):
        """`storages` maps names to `Served`; `address` is for the log."""
        self._channel = channel
        self._address = address
        self._storages = storages
        self._options = options
        self._frames = FrameReader()
        self._label = None
        self._reason = None
        self._stopping = False
        self._deadline = time.monotonic() + options.handshake_timeout
        self.delivery = Delivery(channel, self._delivery_failed)
        self.served = None
        self.storage = None
        self.read_only = None
        self.transactions = {}
        self.iterators = None
        #: The blob that the client is sending, if any.
        self.upload = None
        #: (oid, serial) -> the `Window` of that blob's download.
        self.windows = {}
        self.counts = dict.fromkeys(COUNTS, 0)

    def __str__(self):
        return f"{self._label} ({self._address})" if self._label else self._address

    # Any thread.

    def end(self, reason):
        """Break the connection; the session's own thread does the rest."""
        self._reason = self._reason or reason
        self._channel.shutdown()

    def stop(self):
        """Answer the call that is being executed, if any, and leave."""
        self._stopping = True
        self._channel.stop_receiving()

    def respond(self, message_id, name, answer):
        """Answer a call of `name` that was left to another thread.

        `answer` is the result, or the exception that it has ended with.
        """
        if isinstance(answer, Exception):
            self._log_error(name, answer)
            reply = messages.encode_error(message_id, answer)
        else:
            reply = _encode_reply(message_id, answer)
        self.delivery.send(reply)

    def _delivery_failed(self, error):
        self.end(f"sending failed: {_text(error)}")

    # What calls need.  The session's own thread.

    def register(self, name, read_only):
        """Let the client use a storage; return the tid of its last commit.

        Raises `ValueError` if there is no such storage, and `ReadOnlyError` if
        it cannot be written but the client wants to.
        """
        served = self._storages.get(name)
        if served is None:
            names = ", ".join(map(repr, sorted(self._storages)))
            raise ValueError(f"unknown storage {name!r}; this server has {names}")
        if not read_only and served.is_read_only():
            raise ReadOnlyError(f"storage {name!r} is read-only on this server")
        self.read_only = bool(read_only)
        served.poll(is_new=True)
        self.storage = served.instance(self.delivery)
        self.iterators = Iterators(self.storage)
        self._frames.limit = self._options.max_message_size
        self._deadline = None
        self.served = served
        tid = self.delivery.attach(served.log)
        served.add(self)
        logger.debug("client %s: registered for storage %s", self, name)
        return tid

    def set_label(self, label):
        """Have the log show a text for this client."""
        self._label = ascii(label)[1:-1][:200]  # No line breaks in the log.

    def check_writable(self):
        """Raise `ReadOnlyError` unless this client may write."""
        if self.read_only or self.served.is_read_only():
            raise ReadOnlyError()

    def transaction(self, id):
        """Return a transaction that the client has begun."""
        try:
            return self.transactions[id]
        except KeyError:
            raise StorageTransactionError("no such transaction") from None

    # The session's own thread.

    def run(self):
        """Talk to the client until it leaves or has to."""
        threading.current_thread().name = f"zeolite-client-{self._address}"
        try:
            if self._handshake():
                self._serve()
        except (ProtocolError, FellBehind, PeerSilent, TLSFailed) as error:
            self._reason = self._reason or _text(error)
        except ConnectionLost as error:
            logger.debug("client %s: connection lost: %s", self, error)
        except Exception:
            logger.exception("client %s: an error in the server; closing", self)
        finally:
            self._leave()

    def _handshake(self):
        self._channel.handshake(self._deadline)
        self._channel.send(frame(messages.PROTOCOL))
        answer = self._first_frame()
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
        while not self._stopping:
            data = self._next_frame()
            if data is None:
                return
            load = messages.decode_load(data)
            if load is not None and self.served is not None:
                self._load(*load)
            else:
                self._handle(*messages.decode_call(data))
        self.delivery.flush()

    def _first_frame(self):
        received = self._channel.receive(self._deadline)
        if received[:2] == _TLS:
            raise ProtocolError(
                "it speaks TLS, and this server does not; configure the server with "
                "an ssl section, or the client without"
            )
        self._frames.feed(received)
        return self._next_frame() if received else None

    def _next_frame(self):
        """Return the next frame, None at the end of the stream."""
        while True:
            data = self._frames.next()
            if data is not None:
                return data
            self.delivery.rest()
            received = self._channel.receive(self._deadline)
            self.delivery.wake()
            if not received:
                return None
            self._frames.feed(received)

    def _load(self, message_id, oid, tid):
        # What `_handle` would do, for the one call that has to be fast.
        self.delivery.catch_up()
        try:
            self.counts["loads"] += 1
            found = self.storage.loadBefore(oid, tid)
            answer = messages.encode_loaded(message_id, found)
        except Exception as error:
            self._log_error("loadBefore", error)
            answer = messages.encode_error(message_id, error)
        self.delivery.gather(answer)
        self.delivery.catch_up()

    def _handle(self, message_id, flag, name, args):
        if name == messages.REPLY and message_id == messages.KEEP_ALIVE:
            return
        method = METHODS.get(name)
        if method is None or (self.served is None) != (name == "register"):
            raise ProtocolError(f"the call of {name[:50]!r} is not possible")
        method.check(name, args)
        one_way = flag == messages.ONE_WAY
        if not one_way:
            self.delivery.catch_up()
        try:
            result = method.run(self, message_id, args)
            if one_way or result is DELAYED:
                return
            answer = _encode_reply(message_id, result)
        except (ConnectionLost, FellBehind):
            raise
        except Exception as error:
            self._log_error(name, error)
            if one_way:
                return
            answer = messages.encode_error(message_id, error)
        self.delivery.gather(answer)
        self.delivery.catch_up()

    def _log_error(self, name, error):
        if isinstance(error, _EXPECTED) or name == "register":
            logger.debug("client %s: %s: %s", self, name, _text(error))
        else:
            logger.error("client %s: %s failed", self, name, exc_info=error)

    def _leave(self):
        if self._reason:
            logger.warning("client %s: closed: %s", self, self._reason)
        else:
            logger.debug("client %s: left", self)
        # Whoever still listens shall find the connection closed, and not be told
        # that its transactions are aborted.
        self.delivery.close()
        for window in list(self.windows.values()):
            window.close()
        try:
            for transaction in self.transactions.values():
                transaction.abort("its client is gone")
            if self.iterators is not None:
                self.iterators.close()
            if self.upload is not None:
                self.upload.close()
        except Exception:
            logger.exception("client %s: an error while it left", self)
        finally:
            if self.served is not None:
                self.served.discard(self)
            self._channel.close()


def _encode_reply(message_id, result):
    """Encode a reply; where that is impossible, the error that says so."""
    try:
        return messages.encode_reply(message_id, result)
    except Exception as error:
        return messages.encode_error(message_id, error)


def _text(error):
    return str(error) or type(error).__name__
