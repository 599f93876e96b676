"""TLS as it looks from outside: what a connection begins with, where its records end."""

from .tlserrors import TLSFailed

#: An alert, "protocol version", for peers that have sent something else than TLS.
NOT_TLS = b"\x15\x03\x01\x00\x02\x02\x46"

#: What a TLS connection begins with, and what it may be answered with: types of
#: records.
_HANDSHAKE, _ALERT = 0x16, 0x15

#: A record begins with a type, a version, and its size in two bytes.
_HEADER_SIZE = 5

#: Where the first message says how many bytes it has, and how many these may be.
_HELLO_SIZE, _LARGEST_HELLO = slice(6, 9), 16 * 1024

#: How many bytes `check_hello` looks at.
BEGINNING = _HELLO_SIZE.stop


def is_tls(beginning):
    """Whether the first bytes of a peer, one at least, can be TLS."""
    return beginning[0] in (_HANDSHAKE, _ALERT)


def check_hello(beginning):
    """Raise `TLSFailed` if the first bytes of a peer are the first of too much.

    OpenSSL reserves what the hello says that it needs, for any stranger.
    """
    if beginning[0] != _HANDSHAKE or len(beginning) < BEGINNING:
        return
    size = int.from_bytes(beginning[_HELLO_SIZE], "big")
    if size > _LARGEST_HELLO:
        raise TLSFailed(
            f"its first message has {size} bytes, where {_LARGEST_HELLO} are allowed"
        )


def name_in_certificates(host):
    """Return how certificates have a host's name or address (str).

    They know neither IPv6 zones nor the dot that ends a name which is complete.
    Raises `ValueError` for what is no name.
    """
    if "\0" in host:
        raise ValueError(f"{host!a} is no host name")
    return host.partition("%")[0].removesuffix(".")


class RecordEnds:
    """Whether a record has arrived whole.  For the thread that receives."""

    def __init__(self):
        #: Whether there is a part of a record.
        self.is_inside = False
        # What there is of a header, or how many bytes the record lacks.
        self._header, self._missing = b"", 0

    def feed(self, received):
        """Take note of what was received (bytes-like)."""
        data, at = self._header + received if self._header else received, self._missing
        while at + _HEADER_SIZE <= len(data):
            size = int.from_bytes(data[at + 3 : at + _HEADER_SIZE], "big")
            at += _HEADER_SIZE + size
        self._header, self._missing = bytes(data[at:]), max(0, at - len(data))
        self.is_inside = bool(self._header or self._missing)

    def end(self):
        """Take note that what there is ends with a record."""
        self._header, self._missing = b"", 0
        self.is_inside = False
