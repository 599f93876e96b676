"""What callers may pass, checked before it costs the connection."""

import math
import pickle
import ssl
import threading

from ..wire.messages import load_plain


def text(name, value):
    """Return an argument that is to be a str."""
    if not isinstance(value, str):
        raise TypeError(
            f"{name} is a str, not {value!r} ({type(value).__name__}); "
            f"write {name}={str(value)!r}"
        )
    return value


def number_of_seconds(name, value, default, least=0, most=threading.TIMEOUT_MAX):
    """Return an argument that is to be a number of seconds, None for the default."""
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} is a number of seconds, not {value!r}")
    if math.isnan(value) or not least <= value <= most:
        at_least = "not negative" if least == 0 else "greater than 0"
        raise ValueError(
            f"{name} is a number of seconds, {at_least} and at most {most:.0f}, "
            f"not {value!r}"
        )
    return value


def tls(name, context, host_name, host, addrs):
    """Return the `ssl.SSLContext` and the host name that are arguments, or None.

    `addrs` are the servers' addresses; those without a host need the name.
    """
    if context is None:
        if host is not None:
            raise ValueError(f"{host_name} is for connections with TLS; give {name}")
        return None, None
    if not isinstance(context, ssl.SSLContext):
        raise TypeError(f"{name} is an ssl.SSLContext, not {context!r}")
    if context.protocol == ssl.PROTOCOL_TLS_SERVER:
        raise ValueError(
            f"{name} is a server's SSLContext; make one with "
            "ssl.create_default_context()"
        )
    if host is not None:
        text(host_name, host)
    elif context.check_hostname and any(isinstance(addr, str) for addr in addrs):
        raise ValueError(
            f"a Unix socket has no host that a certificate could be for; give "
            f"{host_name} (server-hostname), or switch check_hostname off"
        )
    return context, host


def function(name, value):
    """Return an argument that is to be callable, or None."""
    if value is not None and not callable(value):
        raise TypeError(f"{name} is a function, not {value!r}")
    return value


def check_number(name, value):
    """Raise unless `value` is a whole number."""
    if type(value) is not int:
        raise TypeError(f"{name} is a whole number, not {value!r}")


def check_time(name, value):
    """Raise unless `value` is a number of seconds, whether or not it makes sense."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} is a number, not {value!r}")


def check_bytes(name, value):
    """Raise unless `value` is bytes, which may be long."""
    if not isinstance(value, bytes):
        raise TypeError(f"{name} is bytes, not {type(value).__name__}")


def check_specification(value):
    """Raise unless `value` says which transactions `undoInfo` is to tell of."""
    if value is None:
        return
    if type(value) is not dict:
        raise TypeError(f"specification is a dictionary, not {value!r}")
    try:
        load_plain(pickle.dumps(value, 3))
    except Exception as error:
        raise TypeError(
            f"specification may have numbers, text and the like, and nothing else: "
            f"{error}"
        ) from error


def check_id(name, value):
    """Raise unless `value` is an oid, a tid or a serial."""
    if not isinstance(value, bytes):
        raise TypeError(f"{name} is 8 bytes, not {value!r} ({type(value).__name__})")
    if len(value) != 8:
        raise ValueError(f"{name} is 8 bytes, not {len(value)}: {value!r}")


def check_oid(value):
    """Raise unless `value` is an oid that may be stored.

    Storages count on from the largest, so the upper half is not for use.
    """
    check_id("oid", value)
    if value[0] >= 0x80:
        raise ValueError(f"oid is less than 2 ** 63, not {value!r}")
