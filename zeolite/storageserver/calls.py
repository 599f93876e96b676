"""What a client may call.

`METHODS` at the end is the whole list, with the types of the arguments; nothing
else can be reached.  The functions get the session first and run in its own
thread, or, where the table says so, in a thread of their own, and are answered
when they are done.  Those that write are in `writing.py`.
"""

import logging
import time

from ZODB.POSException import StorageError, Unsupported
from ZODB.serialize import referencesf
from ZODB.utils import load_current

from ..wire.messages import plain_only
from . import downloads, writing
from .commit import DELAYED
from .methods import (
    Method,
    is_a,
    is_bytes,
    is_chunk,
    is_data,
    is_flag,
    is_id,
    is_id_or_none,
    is_int,
    is_list_of_ints,
    is_oid,
    is_serial,
    is_text,
)

logger = logging.getLogger(__name__)

#: How many transactions or revisions a client is told of in one reply.
MOST_RESULTS = 10_000


#: Seconds since 1970; not every system can tell a date for more.
_END_OF_TIME = 100_000_000_000


# The connection.


def _register(session, name, read_only):
    return session.register(name, read_only)


def _ping(session):
    session.served.poll()
    session.delivery.catch_up()


def _set_client_label(session, label):
    session.set_label(label)


def _server_status(session):
    return session.served.status()


# Reading.


def _get_info(session):
    session.is_informed = True
    return session.served.info()


def _last_transaction(session):
    session.served.poll()
    session.delivery.catch_up()
    return session.delivery.tid


def _get_invalidations(session, tid):
    delivery = session.delivery
    how, changed = session.served.changed_since(tid, delivery.cursor, delivery.tid)
    session.counts[how] += 1
    return changed


def _load_before(session, oid, tid):
    return session.load(session.load_before, oid, tid)


def _load_serial(session, oid, serial):
    return session.load(session.storage.loadSerial, oid, serial)


def _get_tid(session, oid):
    get_tid = getattr(session.storage, "getTid", None)
    return get_tid(oid) if get_tid else load_current(session.storage, oid)[1]


def _send_blob(session, oid, serial, *rest):
    *room, message_id = rest
    session.served.count(session, "blob_loads")

    def respond(answer):
        session.respond(message_id, "send_blob", answer, may_wait=True)

    # What the client says of it next may come before the thread begins.
    window = downloads.open_window(session, oid, serial, *room)
    args = session, oid, serial, window
    try:
        return session.served.helpers.run(
            session, "send_blob", respond, downloads.send, *args
        )
    except StorageError:
        downloads.close_window(session, oid, serial, window)
        raise


def _blob_received(session, oid, serial, count):
    window = session.windows.get((oid, serial))
    if window is None:
        return  # It has ended meanwhile.
    if count > 0:
        window.grant(count)
    else:
        window.close()


def _history(session, oid, size=1):
    size = min(size, MOST_RESULTS + 1)
    return _plain_results(session.storage.history(oid, size))


def _record_iternext(session, next=None):
    record_iternext = _storage_method(session, "record_iternext")
    try:
        return record_iternext(next)
    except ValueError as error:  # What a file storage makes of an oid too large.
        raise StorageError(f"there is no next record: {error}") from None


def _undo_log(session, first, last):
    undo_log = _storage_method(session, "undoLog")
    return _plain_results(undo_log(*_span(first, last)))


def _undo_info(session, first, last, specification=None):
    undo_info = _storage_method(session, "undoInfo")
    return _plain_results(undo_info(*_span(first, last), specification))


def _span(first, last):
    """Return `first` and `last`, but not to get more than one result too many.

    A `last` that is negative says how many are wanted.
    """
    first = max(first, 0)
    if last < 0:
        return first, max(last, -MOST_RESULTS - 1)
    return first, min(last, first + MOST_RESULTS + 1)


def _plain_results(results):
    if results is None:
        return None
    if len(results) > MOST_RESULTS:
        raise StorageError(
            f"there are more than {MOST_RESULTS}; ask for no more than that at a time"
        )
    return [plain_only(result) for result in results]


def _storage_method(session, name):
    try:
        return getattr(session.storage, name)
    except AttributeError:
        raise Unsupported(f"this storage has no {name}") from None


def _pack(session, when, wait, *rest):
    *gc, message_id = rest
    _check_pack_allowed(session)
    if not 0 <= when < _END_OF_TIME:
        raise StorageError(f"{when!r} is no time to pack to")
    # Not every storage takes it.
    options = {"gc": bool(gc[0])} if gc else {}

    def pack():
        served = session.served
        logger.info("client %s: pack of storage %s begins", session, served.name)
        start, before = time.monotonic(), session.storage.getSize()
        served.pack(session.storage, when, referencesf, **options)
        logger.info(
            "client %s: pack of storage %s took %.1f s, %d bytes before and %d after",
            session,
            served.name,
            time.monotonic() - start,
            before,
            session.storage.getSize(),
        )
        served.packed()

    def respond(answer):
        if wait:
            session.respond(message_id, "pack", answer, may_wait=True)
        elif answer is not None:
            session.log_failure("pack", answer)

    session.served.helpers.run(session, "pack", respond, pack)
    return DELAYED if wait else None


def _check_pack_allowed(session):
    allowed = session.served.options.allow_pack
    if allowed == "none":
        raise Unsupported("packing through this server is forbidden by its allow-pack")
    if allowed == "writers":
        session.check_writable()


# Iterating.


def _iterator_start(session, start, stop, raw=False):
    return session.iterators.start(start, stop, session.delivery.tid, raw)


def _iterator_next(session, id):
    return session.iterators.next(id)


def _iterator_record_start(session, id, tid):
    return session.iterators.start_records(id, tid)


def _iterator_record_next(session, id):
    return session.iterators.next_record(id)


def _iterator_gc(session, ids):
    session.iterators.drop(ids)


METHODS = {
    # The connection.
    "register": Method(_register, is_a(str), is_flag),
    "ping": Method(_ping),
    "set_client_label": Method(_set_client_label, is_a(str)),
    "server_status": Method(_server_status),
    # Reading.
    "get_info": Method(_get_info),
    "lastTransaction": Method(_last_transaction),
    "getInvalidations": Method(_get_invalidations, is_id),
    "loadBefore": Method(_load_before, is_id, is_id),
    "loadSerial": Method(_load_serial, is_id, is_id),
    "getTid": Method(_get_tid, is_id),
    "history": Method(_history, is_id, is_int, optional=1),
    # Our clients say how many chunks may be on their way, and when they have taken
    # some; with 0 they give up.
    "sendBlob": Method(_send_blob, is_id, is_id, is_int, optional=1, delayed=True),
    "blobReceived": Method(_blob_received, is_id, is_id, is_int),
    "record_iternext": Method(_record_iternext, is_id_or_none, optional=1),
    "undoLog": Method(_undo_log, is_int, is_int, helper=True),
    "undoInfo": Method(
        _undo_info, is_int, is_int, is_a(dict, type(None)), optional=1, helper=True
    ),
    # Stock clients do not say whether to collect garbage.
    "pack": Method(_pack, is_a(int, float), is_flag, is_flag, optional=1, delayed=True),
    # Iterating.
    "iterator_start": Method(
        _iterator_start, is_id_or_none, is_id_or_none, is_flag, optional=1
    ),
    "iterator_next": Method(_iterator_next, is_int),
    "iterator_record_start": Method(_iterator_record_start, is_int, is_id),
    "iterator_record_next": Method(_iterator_record_next, is_int),
    "iterator_gc": Method(_iterator_gc, is_list_of_ints),
    # Writing.
    "new_oids": Method(writing.new_oids, is_int, optional=1, writes=True),
    "tpc_begin": Method(
        writing.tpc_begin,
        is_int,
        is_text,
        is_text,
        is_a(dict, bytes),
        is_id_or_none,
        is_text,
        optional=2,
        writes=True,
    ),
    "storea": Method(writing.store, is_oid, is_serial, is_bytes, is_int, writes=True),
    "restorea": Method(
        writing.restore, is_oid, is_id, is_data, is_id_or_none, is_int, writes=True
    ),
    "storeBlobStart": Method(writing.store_blob_start, writes=True),
    "storeBlobChunk": Method(
        writing.store_blob_chunk, is_chunk, delayed=True, writes=True
    ),
    "storeBlobEnd": Method(
        writing.store_blob_end, is_oid, is_serial, is_bytes, is_int, writes=True
    ),
    "storeBlobShared": Method(
        writing.store_blob_shared,
        is_oid,
        is_serial,
        is_bytes,
        is_a(str),
        is_int,
        writes=True,
    ),
    # Only our clients know these two.
    "shareBlob": Method(writing.share_blob, is_int, writes=True),
    "restoreBlob": Method(
        writing.restore_blob,
        is_oid,
        is_id,
        is_bytes,
        is_a(str, type(None)),
        is_id_or_none,
        is_int,
        writes=True,
    ),
    "deleteObject": Method(writing.delete_object, is_id, is_id, is_int, writes=True),
    "checkCurrentSerialInTransaction": Method(
        writing.check_current, is_id, is_id, is_int, writes=True
    ),
    "undoa": Method(writing.undo, is_bytes, is_int, writes=True),
    "vote": Method(writing.vote, is_int, delayed=True, writes=True),
    "tpc_finish": Method(writing.tpc_finish, is_int, writes=True),
    "tpc_abort": Method(writing.tpc_abort, is_int),
}
