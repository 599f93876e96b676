"""When a tid was made.

A client may send any 8 bytes for a tid, and `persistent.timestamp` refuses some of
them, such as the 30th of February, where it has no compiled part.
"""

import datetime
import struct

_PARTS = struct.Struct(">II")
_MINUTES = 24 * 60
_EPOCH = datetime.datetime(1970, 1, 1)


def seconds_of(tid):
    """Return the time of `tid` (bytes) in seconds since 1970 (float)."""
    minutes, rest = _PARTS.unpack(tid)
    days, minutes = divmod(minutes, _MINUTES)
    months, days = divmod(days, 31)
    years, months = divmod(months, 12)
    days += (datetime.datetime(1900 + years, 1 + months, 1) - _EPOCH).days
    return (days * _MINUTES + minutes) * 60 + rest * 60 / 2**32


def date_of(seconds):
    """Return seconds since 1970 as text for people, in UTC."""
    date = _EPOCH + datetime.timedelta(seconds=seconds)
    return date.isoformat(" ", "microseconds")


def shown(tid):
    """Return `tid` (bytes) as text for people, with its time."""
    return f"{tid.hex()} ({date_of(seconds_of(tid))} UTC)"
