"""`python -m zeolite cache FILE`: what a client's cache file has, and if it is right.

The file is only read, so this can be done at any time.
"""

import contextlib
import mmap

from ZODB.utils import z64

from ..clientstorage import cacheformat, cacheowner
from ..errors import ConfigurationError
from ..tids import shown

DESCRIPTION = """\
Show what a client's cache file has, and verify it.  The file is not changed.

exit status:
  0  all records check
  1  the file is damaged
  2  there is no such file, or it is no cache
  3  a client has the file open; it is shown, but not verified
"""

_DAMAGED = 1
_IN_USE = 3


def add_arguments(parser):
    parser.add_argument("file", metavar="FILE", help="the cache's file")


def run(arguments):
    """Return the exit status; raise `ConfigurationError` if it is no cache."""
    path = arguments.file
    with _mapped(path) as data:
        try:
            size = cacheformat.read_size(data, len(data))
        except cacheformat.Foreign as error:
            raise ConfigurationError(f"{path}: {error}") from None
        except cacheformat.Damaged as error:
            print(f"{path}: damaged: {error}")
            return _DAMAGED
        owner = cacheowner.holder(path)
        _show(path, data, size, owner)
        good = owner is None and _verify(data, size)
        if cacheowner.holder(path) is not None:
            print("verified: no, because a client is writing it")
            return _IN_USE
        return 0 if good else _DAMAGED


@contextlib.contextmanager
def _mapped(path):
    try:
        with open(path, "rb") as file:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError:  # Nothing of a size of 0 can be mapped.
        raise ConfigurationError(f"{path}: is empty") from None
    with data:
        yield data


def _show(path, data, size, owner):
    hits, misses, stores, evictions, moves, used, records = cacheformat.read_counters(
        data
    )
    loads = hits + misses
    print(f"{path}: cache of {size:,} bytes")
    print(f"state: {_state(data, owner)}")
    print(f"last transaction: {_last_transaction(data)}")
    print(f"in use: {used:,} bytes ({used / size:.1%}) for {records:,} records")
    rate = f" ({hits / loads:.1%})" if loads else ""
    print(f"loads of the last session: {loads:,}, hits: {hits:,}{rate}")
    print(f"stores: {stores:,}, evictions: {evictions:,}, moved forward: {moves:,}")


def _state(data, owner):
    if owner is not None:
        return f"in use by {owner}"
    session = cacheformat.read_session(data)
    if session == b"":
        return "closed"
    if session == cacheowner.boot_id():
        return "not closed; its process was killed, or ended without closing it"
    return "not closed before its machine went down; the next client will empty it"


def _last_transaction(data):
    tid = cacheformat.read_tid(data)
    return "none" if tid is None else shown(tid)


def _verify(data, size):
    """Look at all records; return whether they check."""
    current = earlier = forgotten = 0
    stop = cacheformat.START
    for _, behind, oid, _, end in cacheformat.scan(data, size):
        stop = behind
        if oid is None:
            continue
        if end == cacheformat.FORGOTTEN:
            forgotten += 1
        elif end == z64:
            current += 1
        else:
            earlier += 1
    print(f"records: {current:,} current, {earlier:,} earlier, {forgotten:,} forgotten")
    if stop == size:
        print("verified: every record checks")
    else:
        print(f"damaged: the block at {stop:,} of {size:,} does not check")
    return stop == size
