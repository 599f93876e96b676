"""The first words with a server: whether it speaks what we speak.

Nothing is known yet of who listens there, so what it says is held against all that
a wrong port, a wrong setting or an overloaded server may say.
"""

import time

from ..errors import ProtocolError
from ..wire import messages
from ..wire.channel import ConnectionLost, PeerSilent
from ..wire.frames import DEFAULT_LIMIT, frame
from ..wire.tlserrors import TLSFailed
from .strangers import refusal

#: The most bytes of the first frame, which says what the server speaks.
_OFFER = 64

#: Seconds that a server has to say something first, before it is told something.
_FIRST_WORD = 0.5

#: How a server begins that cannot do with what it was told because it wants TLS.
_ALERT = b"\x15\x03"


def agree(channel, frames, send, deadline):
    """Agree on the protocol with the server, until `deadline`.

    `channel` is ready, `frames` is the `FrameReader` of what comes through it, and
    `send(bytes)` sends.  Raises `ProtocolError` if the server speaks another
    protocol, `TLSFailed` if they cannot agree on encryption, and `ConnectionLost`.
    """
    try:
        first, is_answered = _first_word(channel, send, deadline)
        offered = _offer(channel, frames, first, deadline)
    except PeerSilent:
        raise ConnectionLost(
            "it accepts connections but does not say what it speaks; is it a "
            "ZEO or Zeolite server, and not overloaded?"
        ) from None
    if offered.startswith(_ALERT):
        raise TLSFailed(
            "a server that wants TLS answers there; connect with ssl (a command with --ssl), or look at "
            "the port"
        )
    if offered != messages.PROTOCOL:
        raise ProtocolError(refusal(offered))
    if not is_answered:
        send(frame(messages.PROTOCOL))


def _first_word(channel, send, deadline):
    """Return what the server says first, and whether it was answered before.

    One that wants TLS waits for us.  So one that says nothing gets its answer
    early: that one complains, and any other finds it when it needs it.
    """
    why = "perhaps it does not accept this client's certificate"
    if not channel.is_encrypted:
        why = "perhaps it wants TLS"
        try:
            return receive(channel, min(deadline, deadline_in(_FIRST_WORD))), False
        except PeerSilent:
            send(frame(messages.PROTOCOL))
    try:
        return receive(channel, deadline), not channel.is_encrypted
    except (PeerSilent, TLSFailed):
        raise
    except ConnectionLost as error:
        raise ConnectionLost(f"{error}, without a word; {why}") from None


def _offer(channel, frames, seen, deadline):
    """Return what the server says first, not more than a line of it."""
    frames.limit = _OFFER
    frames.feed(seen)
    try:
        while (offered := frames.next()) is None:
            received = receive(channel, deadline)
            seen += received
            frames.feed(received)
    except ProtocolError:
        return seen  # It is no frame.
    frames.limit = DEFAULT_LIMIT
    return offered


def receive(channel, deadline):
    """Return what comes next (bytes).  Raises `ConnectionLost` at the end."""
    received = channel.receive(deadline)
    if not received:
        raise ConnectionLost("the server closed the connection")
    return received


def deadline_in(seconds):
    """Return the `time.monotonic` of so many seconds from now."""
    return time.monotonic() + seconds
