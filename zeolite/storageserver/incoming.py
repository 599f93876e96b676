"""What one client sends, frame by frame, and how much of it may be under way.

Until it has registered, a client is a stranger: it may send little, and has a deadline.
A large message that may be a blob's chunk is received where the upload wants it.
"""

import time

from ..errors import ProtocolError
from ..wire.chunks import begins_chunk
from ..wire.frames import STRANGER_LIMIT, FrameReader
from .busypolling import BusyPolling, Receiver
from .unfinished import Unfinished

#: How a client begins that speaks TLS.  As the size of a frame it is too large.
_TLS = b"\x16\x03"


class Incoming:
    """The receiving side of a session's channel, for the session's own thread.

    While it waits, the session's delivery is idle.  `unfinished` is the server's
    `Unfinished`, None for one without a limit, and `polling` its `BusyPolling`, None
    for none.
    """

    def __init__(self, session, channel, options, unfinished=None, polling=None):
        self._session = session
        self._channel = channel
        self._receiver = Receiver(channel, polling or BusyPolling(False))
        self._options = options
        self._delivery = session.delivery
        self._frames = FrameReader(options.max_register_size, self._find_buffer)
        self._unfinished = unfinished or Unfinished(0)
        self._has_unfinished = False  # There is more than a stranger may send.
        #: The `time.monotonic` until which a stranger has to register, else None.
        self.deadline = time.monotonic() + options.handshake_timeout

    def registered(self):
        """The client is no stranger any more."""
        self._frames.limit = self._options.max_message_size
        self.deadline = None

    def first(self):
        """Return the first frame, None at the end of the stream.

        Raises `ProtocolError` if the client speaks something else.
        """
        received = self._channel.receive(self.deadline)
        if received[:2] == _TLS:
            raise ProtocolError(
                "it speaks TLS, and this server does not; configure the server with "
                "an ssl section, or the client without"
            )
        self._frames.feed(received)
        return self.next() if received else None

    def next(self):
        """Return the next frame, None at the end of the stream.

        Raises `ProtocolError`, `ConnectionLost` and `PeerSilent`.
        """
        while True:
            data = self._frames.next()
            if data is not None:
                return data
            self._delivery.rest()
            if self._frames.is_partial:
                received = self._receive_more()
            else:
                if self._has_unfinished:
                    self._tell_unfinished(0)
                received = self._receiver.receive(self.deadline)
                self._frames.feed(received)
            self._delivery.wake()
            if not received:
                return None

    def close(self):
        """The session ends: forget what is unfinished."""
        self._tell_unfinished(0)

    def _receive_more(self):
        """Receive a part of a message that has begun; return it or its size."""
        self._tell_unfinished(self._frames.arrived)
        timeout = self._options.client_timeout
        room = self._frames.room
        if room is None:
            deadline = self.deadline or time.monotonic() + timeout
            received = self._channel.receive(deadline)
            self._frames.feed(received)
        else:
            received = self._channel.receive_into(room, timeout)
            self._frames.filled(received)
        return received

    def _find_buffer(self, beginning, size):
        """Return where a large message is to be received, if that is a chunk."""
        upload = self._session.upload
        if upload is None or not begins_chunk(beginning):
            return None
        return upload.buffer(size)

    def _tell_unfinished(self, size):
        if size > STRANGER_LIMIT or self._has_unfinished:
            self._has_unfinished = size > 0
            self._unfinished.update(self._session, size)
