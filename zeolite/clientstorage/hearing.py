"""What a server says by itself once it has registered a client: its calls.

All of it is checked here before it takes effect.  The reader thread hears it, in the
order in which it arrived.
"""

from ..errors import ProtocolError
from ..wire.packed import is_id

#: What servers call when they send a blob, and how many arguments it has.
_BLOB_CALLS = {"receiveBlobStart": 2, "receiveBlobChunk": 3, "receiveBlobStop": 2}


def hear(link, owner, name, args, early=None):
    """Do what a call that came over `link` says; `owner` is its `Connection`'s.

    While the owner is not up to date yet, the list `early` gets the arguments of
    invalidations.  Raises `ProtocolError` for what makes no sense.
    """
    if name == "invalidateTransaction" and _is_invalidation(args):
        if early is None:
            owner.invalidated(*args)
        else:
            early.append(args)
    elif name == "info" and len(args) == 1 and type(args[0]) is dict:
        if early is None:
            owner.informed(*args)
    elif _is_blob_call(name, args):
        # One that nobody waits for any more is ignored.
        download = link.downloads.get(args[:2])
        if download is not None:
            download.receive(name, args[-1])
    else:
        raise ProtocolError(f"the server's call of {name[:50]!a} makes no sense")


def _is_invalidation(args):
    return (
        len(args) == 2
        and is_id(args[0])
        and type(args[1]) in (list, tuple)
        and all(map(is_id, args[1]))
    )


def _is_blob_call(name, args):
    return len(args) == _BLOB_CALLS.get(name) and all(
        type(arg) is bytes for arg in args
    )
