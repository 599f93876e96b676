"""What a client may call.

`METHODS` at the end is the whole list, with the types of the arguments; nothing
else can be reached.  The functions get the session first and run in its own
thread, or, where the table says so, in a thread of their own, and are answered
when they are done.  Those that write are in `writing.py`.
"""

import logging

from ZODB.POSException import Unsupported
from ZODB.serialize import referencesf
from ZODB.utils import load_current

from ..wire.messages import plain_only
from . import blobs, writing
from .commit import DELAYED
from .methods import (
    Method,
    is_a,
    is_bytes,
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
    return session.served.info()


def _last_transaction(session):
    session.served.poll()
    session.delivery.catch_up()
    return session.delivery.tid


def _get_invalidations(session, tid):
    delivery = session.delivery
    return session.served.changed_since(tid, delivery.cursor, delivery.tid)


def _load_before(session, oid, tid):
    session.counts["loads"] += 1
    return session.storage.loadBefore(oid, tid)


def _load_serial(session, oid, serial):
    session.counts["loads"] += 1
    return session.storage.loadSerial(oid, serial)


def _get_tid(session, oid):
    get_tid = getattr(session.storage, "getTid", None)
    return get_tid(oid) if get_tid else load_current(session.storage, oid)[1]


def _send_blob(session, oid, serial, room=None):
    session.counts["loads"] += 1
    blobs.send(session, oid, serial, room)


def _blob_received(session, oid, serial, count):
    window = session.windows.get((oid, serial))
    if window is None:
        return  # It has ended meanwhile.
    if count > 0:
        window.grant(count)
    else:
        window.close()


def _history(session, oid, size=1):
    return plain_only(session.storage.history(oid, size))


def _record_iternext(session, next=None):
    return _storage_method(session, "record_iternext")(next)


def _undo_log(session, first, last):
    return plain_only(_storage_method(session, "undoLog")(first, last))


def _undo_info(session, first, last, specification=None):
    undo_info = _storage_method(session, "undoInfo")
    return plain_only(undo_info(first, last, specification))


def _storage_method(session, name):
    try:
        return getattr(session.storage, name)
    except AttributeError:
        raise Unsupported(f"this storage has no {name}") from None


def _pack(session, when, wait, *rest):
    *gc, message_id = rest
    # Not every storage takes it.
    options = {"gc": bool(gc[0])} if gc else {}

    def pack():
        session.storage.pack(when, referencesf, **options)
        session.served.packed()

    def respond(answer):
        if wait:
            session.respond(message_id, "pack", answer)
        elif answer is not None:
            logger.error("client %s: pack failed", session, exc_info=answer)

    session.served.in_helper("pack", respond, pack)
    return DELAYED if wait else None


# Iterating.


def _iterator_start(session, start, stop, raw=False):
    return session.iterators.start(start, stop, raw)


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
    "sendBlob": Method(_send_blob, is_id, is_id, is_int, optional=1, helper=True),
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
    "new_oids": Method(writing.new_oids, is_int, optional=1),
    "tpc_begin": Method(
        writing.tpc_begin,
        is_int,
        is_text,
        is_text,
        is_a(dict, bytes),
        is_id_or_none,
        is_text,
        optional=2,
    ),
    "storea": Method(writing.store, is_oid, is_serial, is_bytes, is_int),
    "restorea": Method(writing.restore, is_oid, is_id, is_data, is_id_or_none, is_int),
    "storeBlobStart": Method(writing.store_blob_start),
    "storeBlobChunk": Method(writing.store_blob_chunk, is_bytes),
    "storeBlobEnd": Method(writing.store_blob_end, is_oid, is_serial, is_bytes, is_int),
    "storeBlobShared": Method(
        writing.store_blob_shared, is_oid, is_serial, is_bytes, is_a(str), is_int
    ),
    # Only our clients know this one.
    "restoreBlob": Method(
        writing.restore_blob,
        is_oid,
        is_id,
        is_bytes,
        is_a(str, type(None)),
        is_id_or_none,
        is_int,
    ),
    "deleteObject": Method(writing.delete_object, is_id, is_id, is_int),
    "checkCurrentSerialInTransaction": Method(
        writing.check_current, is_id, is_id, is_int
    ),
    "undoa": Method(writing.undo, is_bytes, is_int),
    "vote": Method(writing.vote, is_int, delayed=True),
    "tpc_finish": Method(writing.tpc_finish, is_int),
    "tpc_abort": Method(writing.tpc_abort, is_int),
}
