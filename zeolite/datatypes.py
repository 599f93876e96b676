"""The datatypes of configuration keys: from a key's text to its value.

They are named in `schema.xml` (a server's file) and `component.xml` (the
`<clientstorage>` section).  A datatype raises `ValueError`, and ZConfig adds the
file and the line.
"""

from __future__ import annotations

from typing import Any

import ZConfig

from .wire.channel import MOST_KEEP_ALIVE
from .wire.frames import LARGEST
from .wire.tlssettings import TLSSettings

#: Seconds; a little more than this the system does not take.
_LONGEST_WAIT = 1_000_000


def listen_address(text: str) -> tuple[str, int] | str:
    """The address of a server: a pair of host and port, or a path.

    Without a host, the port is one of all interfaces, as ZEO has it.
    """
    return _address(text, default_host="", lowest=0)


def monitor_address(text: str) -> tuple[str, int]:
    """The address of a server's monitor: a pair of host and port.

    Without a host, the port is one of this machine only.
    """
    address = _address(text, default_host="127.0.0.1", lowest=0)
    if isinstance(address, str):
        raise ValueError(f"{text!r} is a path; write HOST:PORT or PORT")
    return address


def client_address(text: str) -> tuple[str, int] | str:
    """The address that a client connects to: a pair of host and port, or a path."""
    return _address(text, default_host="127.0.0.1", lowest=1)


def _address(text: str, default_host: str, lowest: int) -> tuple[str, int] | str:
    if "://" in text:
        raise ValueError(f"{text!r} is a URL; write HOST:PORT")
    if "/" in text:
        return text
    # ZEO takes "HOST: PORT", too.
    host, port = (part.strip() for part in text.rpartition(":")[::2])
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError(f"{text!r}: write an IPv6 address as [{host}]:{port}")
    if not (port.isascii() and port.isdigit() and lowest <= int(port) < 65536):
        raise ValueError(
            f"{text!r} is no address; write HOST:PORT, PORT, or the path of a Unix "
            "socket with a slash in it"
        )
    return host or default_host, int(port)


def positive(text: str) -> int:
    """An int greater than zero."""
    number = _integer(text)
    if number < 1:
        raise ValueError(f"{text!r} is not greater than 0")
    return number


def number(text: str) -> int:
    """An int that is not negative; 0 is for none, or no limit."""
    return _not_negative(_integer(text), text)


def _integer(text):
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"{text!r} is not a whole number") from None


def size(text: str) -> int:
    """Bytes, not negative; 0 is for no limit."""
    return _not_negative(_bytes(text), text)


def _bytes(text):
    try:
        return ZConfig.datatypes.stock_datatypes["byte-size"](text)
    except ValueError:
        raise ValueError(
            f"{text!r} is no size; write bytes, or a number with KB, MB or GB behind"
        ) from None


def _not_negative(number, text):
    if number < 0:
        raise ValueError(f"{text!r} is less than 0; write 0 for no limit")
    return number


def cache_size(text: str) -> int:
    """The size of a client's cache in bytes, an int greater than zero."""
    number = _bytes(text)
    if number < 1:
        raise ValueError(f"{text!r} is no size for a cache; write bytes, KB, MB or GB")
    return number


def register_size(text: str) -> int:
    """Bytes that a message may have before its sender has registered."""
    return _message_size(text, 1024, "1KB")


def message_size(text: str) -> int:
    """Bytes that a message may have.  Pieces of blobs have to fit."""
    return _message_size(text, 1024 * 1024, "1MB")


def _message_size(text, least, least_text):
    number = size(text)
    if not least <= number <= LARGEST:
        raise ValueError(f"{text!r} is not between {least_text} and 4095MB")
    return number


def seconds(text: str) -> float:
    """A float that is not negative."""
    try:
        number = float(text)
    except ValueError:
        number = -1
    if not 0 <= number < float("inf"):
        raise ValueError(f"{text!r} is not a number of seconds")
    return number


def delay(text: str) -> float:
    """A float, greater than zero."""
    number = seconds(text)
    if not number:
        raise ValueError(f"{text!r} is not greater than 0")
    return number


def timeout(text: str) -> float:
    """Seconds that the system takes for a wait, greater than zero."""
    number = delay(text)
    if number > _LONGEST_WAIT:
        raise ValueError(f"{text!r} is more than {_LONGEST_WAIT} seconds")
    return number


def keep_alive(text: str) -> float:
    """Seconds that the system takes for TCP's keep-alive."""
    number = seconds(text)
    if number > MOST_KEEP_ALIVE:
        raise ValueError(f"{text!r} is more than {MOST_KEEP_ALIVE} seconds")
    return number


def file_mode(text: str) -> int:
    """The mode of a file, an int; the text is octal."""
    try:
        mode = int(text, 8)
    except ValueError:
        mode = -1
    if not 0 <= mode <= 0o777:
        raise ValueError(f"{text!r} is no mode of a file; write it like 0660")
    return mode


def allow_pack(text: str) -> str:
    """Who may pack: a word."""
    word = text.lower()
    if word not in ("all", "writers", "none"):
        raise ValueError(f"{text!r} is none of all, writers and none")
    return word


def refuse_msgpack(text: str) -> bool:
    """False; there is nothing else to choose."""
    if ZConfig.datatypes.asBoolean(text):
        raise ValueError(
            "msgpack is not spoken by Zeolite, only pickles; set it to false"
        )
    return False


def tls_settings(section: Any) -> TLSSettings:
    """The `TLSSettings` of an `<ssl>` section, a server's or a client's."""
    names = section.getSectionAttributes()
    return TLSSettings(**{name: getattr(section, name) for name in names})
