"""One connection to a server, from the handshake (see there) until it is lost.

Any thread calls; the reader thread receives.  A call is entered before it is
sent, and leaves the table with its reply or when the connection is lost,
whichever comes first, so that nobody waits for ever.
"""

import collections
import itertools
import threading
from typing import Any

from ZODB.POSException import ReadOnlyError

from ..errors import ClientDisconnected, ForkedStorageError, ProtocolError
from ..threads import try_start
from ..wire import messages
from ..wire.channel import ConnectionLost, PeerSilent, format_address
from ..wire.frames import DEFAULT_LIMIT, FrameReader
from . import forking
from .call import Call, Load
from .handshake import agree, receive
from .transfer import Uploads

#: How often a server may let a sign of life be missing while it has something to
#: do that may take it long: anything else than loads.
SLOW_CALLS = 10

#: Bytes that it is not worth to copy for sending them together with others.
_LARGE = 32 * 1024

_KEEP_ALIVE = messages.encode(messages.KEEP_ALIVE, 0, messages.REPLY, None)


class CallFailed(ConnectionLost):
    """The server has answered a call with an error."""


class Link:
    """Sends calls over a channel to `address` and hands out the replies."""

    def __init__(self, channel, address):
        self.address = address
        self.name = format_address(address)
        self._channel = channel
        self._frames = FrameReader(DEFAULT_LIMIT)
        self._ids = itertools.count(1)
        self._lock = threading.Lock()  # Guards the three below.
        self._calls = {}
        self._loads = {}
        self._lost = None
        # What is to be sent, in order.  Whoever has the send lock, which guards the
        # channel's sending side, sends it all, so that nobody waits to send a call
        # whose reply is waited for anyway.  The lock knows whose it is, because an
        # exception from a signal's handler may come right after it was acquired.
        self._outgoing = collections.deque()
        self._send_lock: Any = threading.RLock()
        self._is_sending = False
        #: Numbers of iterators that the server is to be told to forget.
        self.dropped_iterators = []
        #: (oid, serial) -> the `Download` of that blob.
        self.downloads = {}
        self.uploads = Uploads()
        #: Whether the server is one of ours, and not a stock ZEO server.
        self.is_zeolite = False
        #: Whether other servers write to the same database.
        self.is_shared = False
        #: Whether the storage remembers who changed an object before the last time.
        self.keeps_history = True
        #: What a transaction holds from its first call to its last, if the
        #: server takes only one at a time from a client; else None.
        self.transaction_lock = threading.Lock()
        #: Whether the server allows no writing, and was chosen all the same.
        self.is_read_only = False
        #: The server's last transaction when it accepted this client.
        self.tid = None
        #: Whether it was given up for a better one: what could not be read here
        #: can be read there.
        self.is_retired = False
        self._is_ended = False
        self._posts = self._posts_before = 0  # Counted roughly, without a lock.
        self._probe = None
        self._silences = 0
        forking.watch(self)

    # Any thread.

    def call(self, name, args, before=b"", on_reply=None):
        """Send `before` and a call, and return its `Call`."""
        call = Call(on_reply)
        self.start(call, name, args, before)
        return call

    def start(self, call, name, args, before=b""):
        """Send `before` and a call, whose reply `call` gets."""
        self._send(before + self._enter(call, messages.encode_call, name, args))

    def load(self, oid, tid, on_loaded):
        """Return the `Call` of a `loadBefore`, sharing one that is under way.

        `on_loaded(oid, result)` is called in the reader thread.
        """
        try:
            call, data = self._enter_load(oid, tid, on_loaded)
            if data:
                self._send(data)
            return call
        except BaseException:
            # As in `_send`: whoever shares the call must not wait for ever.
            self._channel.shutdown()
            raise

    def loads(self, oids, tid, on_loaded):
        """Like `load`, for several objects; all are asked for at once."""
        try:
            entered = [self._enter_load(oid, tid, on_loaded) for oid in oids]
            self._send(b"".join([data for _, data in entered]), wait=True)
            return [call for call, _ in entered]
        except BaseException:
            self._channel.shutdown()
            raise

    @property
    def has_loads(self):
        """Whether somebody waits for a load now."""
        return bool(self._loads)

    def send_chunk(self, chunk, size, on_reply):
        """Send the first `size` bytes of a blob's `Chunk`; return the `Call`.

        The chunk is in use until the reply.
        """
        call = Call(on_reply)
        self._send(self._enter(call, chunk.encode, size), wait=True)
        return call

    def post(self, data):
        """Send one-way calls that are encoded already.

        Waits while the server takes nothing, so that they do not pile up here.
        """
        self._posts += 1
        self._send(data, wait=True)

    def end(self):
        """Break the connection; the reader thread hears nothing more of it."""
        self._is_ended = True
        self._channel.shutdown()

    def retire(self):
        """Break the connection in favour of another one."""
        self.is_retired = True
        self._channel.shutdown()

    @property
    def is_parents(self):
        """Whether it is the parent's, and this the child of a fork."""
        return isinstance(self._lost, ForkedStorageError)

    def check(self):
        """Raise `ClientDisconnected` if the connection was lost."""
        if self.is_parents:
            raise self._lost
        if self._lost is not None:
            raise ClientDisconnected(
                f"the connection was lost during the transaction: {self._lost}"
            )

    def after_fork(self):
        self._lost = forking.forked_error()
        self._lock, self._send_lock = threading.Lock(), threading.RLock()
        self._calls, self._loads = {}, {}
        self._outgoing = collections.deque()
        self._channel.after_fork()

    def _enter(self, call, encode, *args):
        """Enter a call into the table; return what is to be sent.

        `encode(message_id, *args)` makes that.
        """
        with self._lock:
            if self._lost is None:
                message_id = next(self._ids)
                data = encode(message_id, *args)
                self._calls[message_id] = call
                return data
        call.fail(self._lost)
        return b""

    def _enter_load(self, oid, tid, on_loaded):
        """Return the call, and what is to be sent for it."""
        key = oid, tid
        with self._lock:
            call = self._loads.get(key)
            if call is not None:
                return call, b""
            call = Load(key, on_loaded)
            if self._lost is None:
                message_id = next(self._ids)
                data = messages.encode_load(message_id, oid, tid)
                self._calls[message_id] = self._loads[key] = call
                return call, data
        call.fail(self._lost)
        return call, b""

    def _send(self, data, wait=False):
        """Send `data`, or leave it to the thread that is sending now."""
        outgoing, lock = self._outgoing, self._send_lock
        if lock._is_owned():
            # In a signal's handler: whom it has interrupted will send it.
            outgoing.append(data)
            return
        try:
            outgoing.append(data)
            # Who has let go of the lock looks again: what was added meanwhile is its
            # own to send if whoever added it did not get the lock.
            while outgoing and lock.acquire(wait):
                self._is_sending = True
                self._channel.send(_drain(outgoing))
                self._is_sending = False
                lock.release()
        except ConnectionLost:
            # The reader thread fails all calls, these among them.
            self._channel.shutdown()
        except BaseException:
            # From a signal's handler, Ctrl-C for instance.  Half a message may have
            # been sent, and what others have left to this thread may not.
            self._channel.shutdown()
            raise
        finally:
            if lock._is_owned():
                self._is_sending = False
                lock.release()

    # The reader thread.

    def handshake(self, deadline):
        """Agree on the protocol with the server, as `handshake.agree` does."""
        self._channel.handshake(deadline)
        agree(self._channel, self._frames, self._send, deadline)

    def ask(self, name, *args, deadline, take=None):
        """Make a call, wait for the reply, until `deadline`; return the result.

        `take` is given what the server says meanwhile, which is otherwise an
        error.  Raises the server's error if it is one that refuses a client, and
        `CallFailed` for any other: a server that is no use.
        """
        call = self.call(name, args)
        while not call.is_done:
            try:
                said = self.receive(deadline)
            except PeerSilent:
                raise ConnectionLost(f"it did not answer {name!r} in time") from None
            if said is None:
                continue
            if take is None:
                raise ProtocolError(
                    f"the server's call of {said[0][:50]!a} is too early"
                )
            take(*said)
        try:
            return call.wait()
        except (ReadOnlyError, ValueError, ClientDisconnected):
            raise
        except Exception as error:
            if not call.is_refused:
                raise
            what = type(error).__name__
            raise CallFailed(f"it answers {name!r} with an error, {what}") from error

    def notice_silence(self, seconds):
        """Have `receive` raise `PeerSilent` whenever nothing came for so long."""
        self._channel.notice_silence(seconds)

    def probe(self):
        """Ask for a sign of life, after a silence.  Never waits.

        Raises `PeerSilent` where the last one that was asked for is missing.
        """
        if self._probe is not None and not self._probe.is_done:
            self._silences += 1
            if self._silences >= (SLOW_CALLS if self._may_take_long() else 1):
                raise PeerSilent("it does not give a sign of life any more")
            return
        self._silences = 0
        self._posts_before = self._posts
        self._probe = Call()
        # Sending may have to wait, and the reader thread must not.
        ping = self._probe, "ping", (), _KEEP_ALIVE
        sender = threading.Thread(
            target=self.start, args=ping, name="zeolite-probe", daemon=True
        )
        if not try_start(sender):
            self._probe = None  # Another time.

    def _may_take_long(self):
        """Whether the server has much to do, or to receive, before it answers."""
        if self._posts != self._posts_before or self._is_sending:
            return True
        with self._lock:
            return any(
                call.key is None and call is not self._probe
                for call in self._calls.values()
            )

    def receive(self, deadline=None):
        """Hand the next message to whoever waits for it, if it is a reply.

        Otherwise return it, a call of the server's: its name and arguments.
        Raises `ConnectionLost` and `ProtocolError`.
        """
        while (data := self._frames.next()) is None and not self._is_ended:
            self._frames.feed(receive(self._channel, deadline))
        if self._is_ended:
            raise ConnectionLost("the connection was broken on this side")
        loaded = messages.decode_loaded(data)
        if loaded is not None:
            message_id, found = loaded
            call = self._leave(message_id)
            if call.key is not None:
                call.loaded(found)
            else:
                call.succeed(found)
            return None
        message_id, flag, name, args = messages.decode_reply(data)
        if name != messages.REPLY:
            return name, args
        self.reply(message_id, flag, args)
        return None

    def reply(self, message_id, flag, result):
        """Hand a reply to whoever waits for it."""
        call = self._leave(message_id)
        if messages.is_error(flag, result):
            call.refuse(messages.rebuild_error(flag, result))
        else:
            call.succeed(result)

    def _leave(self, message_id):
        """Take a call out of the table and return it."""
        with self._lock:
            call = self._calls.pop(message_id, None)
            if call is None:
                raise ProtocolError("a reply to no call")
            if call.key is not None:
                del self._loads[call.key]
        return call

    def lose(self, reason):
        """Fail all calls: the connection is no more."""
        error = ClientDisconnected(f"{self.name}: {reason}")
        with self._lock:
            self._lost = error
            calls = list(self._calls.values())
            self._calls.clear()
            self._loads.clear()
        for call in calls:
            call.fail(ClientDisconnected(*error.args))
        self._channel.shutdown()
        with self._send_lock:
            self._channel.close()


def _drain(pieces):
    """Take bytes out of a deque and return them as one, but what is large by itself."""
    if len(pieces) == 1:
        return pieces.popleft()
    data = []
    while pieces and not (data and len(pieces[0]) > _LARGE):
        data.append(pieces.popleft())
        if len(data[-1]) > _LARGE:
            break
    return data[0] if len(data) == 1 else b"".join(data)
