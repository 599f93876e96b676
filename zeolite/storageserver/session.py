"""One client's conversation with the server, in a thread of its own.

    handshake, register, then: receive -> catch up -> execute -> reply -> catch up

"Catch up" means to send the invalidations that are due; `Delivery` has the rules.
What a client may call stands in `METHODS`, with the types of the arguments, and
nothing else can be reached.  A call that fails is answered with the exception; a
call without a reply keeps its error with the transaction, for the vote to raise.
A message that is no well-formed call ends the connection with a line in the log.
"""

import json
import logging
import threading
import time

from transaction.interfaces import TransientError
from ZODB.POSException import (
    ConflictError,
    POSError,
    ReadOnlyError,
    StorageTransactionError,
)
from ZODB.serialize import referencesf
from ZODB.utils import load_current

from ..errors import ProtocolError
from ..wire import messages
from ..wire.channel import ConnectionLost, PeerSilent
from ..wire.frames import FrameReader, frame
from .commit import DELAYED, Transaction
from .delivery import Delivery
from .invalidation import FellBehind
from .metadata import transaction_metadata
from .served import COUNTS

logger = logging.getLogger(__name__)


class Session:
    """A client's connection, its storage, its transactions.

    `run` is for the session's own thread, and so is everything that it calls.
    `end` and `stop` may be called by any thread.
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

    def _delivery_failed(self, error):
        self.end(f"sending failed: {_text(error)}")

    # The session's own thread.

    def run(self):
        """Talk to the client until it leaves or has to."""
        threading.current_thread().name = f"zeolite-client-{self._address}"
        try:
            if self._handshake():
                self._serve()
        except (ProtocolError, FellBehind, PeerSilent) as error:
            self._reason = self._reason or _text(error)
        except ConnectionLost as error:
            logger.debug("client %s: connection lost: %s", self, error)
        except Exception:
            logger.exception("client %s: an error in the server; closing", self)
        finally:
            self._leave()

    def _handshake(self):
        self._channel.send(frame(messages.PROTOCOL))
        answer = self._next_frame()
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
            found = self._load_before(oid, tid)
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
        self.delivery.catch_up()
        one_way = flag == messages.ONE_WAY
        try:
            if method.delayed:
                result = method.function(self, *args, message_id)
            else:
                result = method.function(self, *args)
            if one_way or result is DELAYED:
                return
            answer = messages.encode_reply(message_id, result)
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
        if isinstance(error, _EXPECTED):
            logger.debug("client %s: %s: %s", self, name, _text(error))
        else:
            logger.error("client %s: %s failed", self, name, exc_info=error)

    def _leave(self):
        if self._reason:
            logger.warning("client %s: closed: %s", self, self._reason)
        else:
            logger.debug("client %s: left", self)
        for transaction in self.transactions.values():
            transaction.abort("its client is gone")
        if self.served is not None:
            self.served.discard(self)
        self.delivery.close()
        self._channel.close()

    # Calls: the connection.

    def _register(self, name, read_only):
        served = self._storages.get(name)
        if served is None:
            names = ", ".join(map(repr, sorted(self._storages)))
            raise ValueError(f"unknown storage {name!r}; this server has {names}")
        if not read_only and served.is_read_only():
            raise ReadOnlyError(f"storage {name!r} is read-only on this server")
        self.read_only = bool(read_only)
        self.storage = served.instance()
        self._frames.limit = self._options.max_message_size
        self._deadline = None
        self.served = served
        tid = self.delivery.attach(served.log)
        served.add(self)
        logger.debug("client %s: registered for storage %s", self, name)
        return tid

    def _ping(self):
        return None

    def _set_client_label(self, label):
        self._label = label[:200]

    def _server_status(self):
        return self.served.status()

    # Calls: reading.

    def _get_info(self):
        return self.served.info()

    def _last_transaction(self):
        return self.delivery.tid

    def _get_invalidations(self, tid):
        return self.served.changed_since(tid, self.delivery.cursor, self.delivery.tid)

    def _load_before(self, oid, tid):
        self.counts["loads"] += 1
        return self.storage.loadBefore(oid, tid)

    def _load_serial(self, oid, serial):
        self.counts["loads"] += 1
        return self.storage.loadSerial(oid, serial)

    def _get_tid(self, oid):
        get_tid = getattr(self.storage, "getTid", None)
        return get_tid(oid) if get_tid else load_current(self.storage, oid)[1]

    def _history(self, oid, size=1):
        return self.storage.history(oid, size)

    def _pack(self, when, wait, message_id):
        def pack():
            try:
                self.storage.pack(when, referencesf)
                answer = messages.encode_reply(message_id, None)
            except Exception as error:
                self._log_error("pack", error)
                answer = messages.encode_error(message_id, error)
            if wait:
                self.delivery.send(answer)

        threading.Thread(target=pack, name="zeolite-pack", daemon=True).start()
        return DELAYED if wait else None

    # Calls: writing.

    def _new_oids(self, n=100):
        self._check_writable()
        return [self.storage.new_oid() for i in range(min(max(n, 1), 100))]

    def _tpc_begin(self, id, user, description, extension, tid=None, status=" "):
        if id in self.transactions:
            raise StorageTransactionError("a transaction with this id has begun")
        error = None
        try:
            self._check_writable()
            metadata = transaction_metadata(user, description, extension)
        except Exception as e:
            metadata, error = None, e
        transaction = Transaction(self, metadata, tid, status)
        if error is not None:
            transaction.fail(error)
        self.transactions[id] = transaction

    def _store(self, oid, serial, data, id):
        self.counts["stores"] += 1
        self._transaction(id).stage("store", oid, serial, data)

    def _check_current(self, oid, serial, id):
        self._transaction(id).stage("check", oid, serial)

    def _vote(self, id, message_id):
        def respond(answer):
            # In the vote runner.
            if isinstance(answer, Exception):
                self._log_error("vote", answer)
                self._voted(answer)
                answer = messages.encode_error(message_id, answer)
            else:
                self._voted(answer)
                answer = messages.encode_reply(message_id, answer)
            self.delivery.send(answer)

        try:
            result = self._transaction(id).vote(respond)
        except Exception as error:
            self._voted(error)
            raise
        if result is not DELAYED:
            self._voted(result)
        return result

    def _voted(self, answer):
        # Only one transaction votes at a time, so nobody else counts these.
        if isinstance(answer, ConflictError):
            self.counts["conflicts"] += 1
        elif not isinstance(answer, Exception):
            self.counts["conflicts_resolved"] += len(answer)

    def _tpc_finish(self, id):
        tid, entry = self._transaction(id).finish()
        del self.transactions[id]
        self.counts["commits"] += 1
        # What was committed before goes out before the reply.
        self.delivery.catch_up(until=entry)
        size = self.served.new_size()
        if size is not None:
            self.delivery.gather(messages.encode_one_way("info", (size,)))
        return tid

    def _tpc_abort(self, id):
        transaction = self.transactions.pop(id, None)
        if transaction is not None:
            self.counts["aborts"] += 1
            transaction.abort("its client asked for it")

    def _check_writable(self):
        if self.read_only or self.served.is_read_only():
            raise ReadOnlyError()

    def _transaction(self, id):
        try:
            return self.transactions[id]
        except KeyError:
            raise StorageTransactionError("no such transaction") from None


#: Errors that are part of a client's normal life, not worth a traceback.
_EXPECTED = (POSError, KeyError, TransientError)


def _text(error):
    return str(error) or type(error).__name__


class Method:
    """What a client may call: the function, and the types of its arguments.

    The last `optional` arguments may be left out.  A `delayed` method is given
    the message id as well, to answer later.
    """

    def __init__(self, function, *checks, optional=0, delayed=False):
        self.function = function
        self.delayed = delayed
        self._checks = checks
        self._least = len(checks) - optional

    def check(self, name, args):
        """Raise `ProtocolError` unless `args` are what the method takes."""
        if not self._least <= len(args) <= len(self._checks):
            raise ProtocolError(f"{name} with {len(args)} arguments")
        for check, arg in zip(self._checks, args):
            if not check(arg):
                raise ProtocolError(f"{name} with a {type(arg).__name__} of wrong kind")


def _is_id(value):
    """An oid, a tid or a serial."""
    return type(value) is bytes and len(value) == 8


def _is_serial(value):
    """A serial, or None for an object that is new."""
    return value is None or _is_id(value)


def _is(*types):
    return lambda value: type(value) in types


_is_text = _is(str, bytes)
_is_int = _is(int)
_is_bytes = _is(bytes)


METHODS = {
    "register": Method(Session._register, _is(str), _is(bool, int)),
    "get_info": Method(Session._get_info),
    "lastTransaction": Method(Session._last_transaction),
    "ping": Method(Session._ping),
    "set_client_label": Method(Session._set_client_label, _is(str)),
    "server_status": Method(Session._server_status),
    "getInvalidations": Method(Session._get_invalidations, _is_id),
    "loadBefore": Method(Session._load_before, _is_id, _is_id),
    "loadSerial": Method(Session._load_serial, _is_id, _is_id),
    "getTid": Method(Session._get_tid, _is_id),
    "history": Method(Session._history, _is_id, _is_int, optional=1),
    "pack": Method(Session._pack, _is(int, float), _is(bool, int), delayed=True),
    "new_oids": Method(Session._new_oids, _is_int, optional=1),
    "tpc_begin": Method(
        Session._tpc_begin,
        _is_int,
        _is_text,
        _is_text,
        _is(dict, bytes),
        _is_serial,
        _is_text,
        optional=2,
    ),
    "storea": Method(Session._store, _is_id, _is_serial, _is_bytes, _is_int),
    "checkCurrentSerialInTransaction": Method(
        Session._check_current, _is_id, _is_id, _is_int
    ),
    "vote": Method(Session._vote, _is_int, delayed=True),
    "tpc_finish": Method(Session._tpc_finish, _is_int),
    "tpc_abort": Method(Session._tpc_abort, _is_int),
}
