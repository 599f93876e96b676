"""What a client may call.

`METHODS` at the end is the whole list, with the types of the arguments; nothing
else can be reached.  The functions get the session first and run in its own
thread, or, where the table says so, in a thread of their own, and are answered
when they are done.  Calls without a reply keep their errors with the transaction,
for the vote to raise.
"""

import logging

from ZODB.POSException import (
    ConflictError,
    StorageError,
    StorageTransactionError,
    Unsupported,
)
from ZODB.serialize import referencesf
from ZODB.utils import load_current

from ..errors import ProtocolError
from ..wire import messages
from ..wire.channel import ConnectionLost
from ..wire.messages import plain_only
from . import blobs
from .commit import DELAYED, Transaction
from .metadata import transaction_metadata

logger = logging.getLogger(__name__)

#: What a transaction may be: committed, packed, or undone.
_STATUSES = (" ", "p", "u", b" ", b"p", b"u")


class Method:
    """A function that clients may call, and the types of its arguments.

    The last `optional` arguments may be left out.  With `delayed` the function is
    given the message id as well, and may answer later.  With `helper` it runs in
    a thread of its own.
    """

    def __init__(self, function, *checks, optional=0, delayed=False, helper=False):
        self._function = function
        self._checks = checks
        self._least = len(checks) - optional
        self._delayed = delayed
        self._helper = helper

    def check(self, name, args):
        """Raise `ProtocolError` unless `args` are what the method takes."""
        if not self._least <= len(args) <= len(self._checks):
            raise ProtocolError(f"{name} with {len(args)} arguments")
        for check, arg in zip(self._checks, args):
            if not check(arg):
                raise ProtocolError(f"{name} with a {type(arg).__name__} of wrong kind")

    def run(self, session, message_id, args):
        """Call the function; return its result, or `DELAYED`."""
        if self._delayed or self._helper:
            # Another thread's reply must not overtake what is due before it.
            session.delivery.flush()
        if self._delayed:
            return self._function(session, *args, message_id)
        if self._helper:
            name = self._function.__name__.strip("_")

            def respond(answer):
                session.respond(message_id, name, answer)

            return session.served.in_helper(
                name, respond, self._function, session, *args
            )
        return self._function(session, *args)


# The connection.


def _register(session, name, read_only):
    return session.register(name, read_only)


def _ping(session):
    return None


def _set_client_label(session, label):
    session.set_label(label)


def _server_status(session):
    return session.served.status()


# Reading.


def _get_info(session):
    return session.served.info()


def _last_transaction(session):
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


def _send_blob(session, oid, serial):
    session.counts["loads"] += 1
    blobs.send(session, oid, serial)


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


def _pack(session, when, wait, message_id):
    def pack():
        session.storage.pack(when, referencesf)
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


# Writing.


def _new_oids(session, n=100):
    session.check_writable()
    return [session.storage.new_oid() for i in range(min(max(n, 1), 100))]


def _tpc_begin(session, id, user, description, extension, tid=None, status=" "):
    if id in session.transactions:
        raise StorageTransactionError("a transaction with this id has begun")
    error = None
    try:
        session.check_writable()
        metadata = transaction_metadata(user, description, extension)
        if status not in _STATUSES:
            raise StorageError(f"{status!r} is no status of a transaction")
    except Exception as e:
        metadata, error = None, e
    transaction = Transaction(session, metadata, tid, status)
    if error is not None:
        transaction.fail(error)
    session.transactions[id] = transaction


def _store(session, oid, serial, data, id):
    session.counts["stores"] += 1
    session.transaction(id).stage("store", oid, serial, data)


def _restore(session, oid, serial, data, prev_txn, id):
    session.counts["stores"] += 1
    session.transaction(id).stage("restore", oid, serial, data, prev_txn)


def _store_blob_start(session):
    _give_up_upload(session)
    session.check_writable()
    session.upload = blobs.Upload(session.storage)


def _store_blob_chunk(session, chunk):
    if session.upload is not None:
        session.upload.add(chunk)


def _store_blob_end(session, oid, serial, data, id):
    _stage_blob(session, id, None, "store_blob", oid, serial, data)


def _store_blob_shared(session, oid, serial, data, name, id):
    _stage_blob(session, id, name, "store_blob", oid, serial, data)


def _restore_blob(session, oid, serial, data, name, prev_txn, id):
    _stage_blob(session, id, name, "restore_blob", oid, serial, data, prev_txn)


def _stage_blob(session, id, name, method, oid, *args):
    """Stage a blob that was uploaded or, with a name, that is in its directory."""
    try:
        transaction = session.transaction(id)
        session.counts["stores"] += 1
        try:
            if name is not None:
                path = blobs.shared_file(session.storage, oid, name)
            elif session.upload is not None:
                path = session.upload.end()
            else:
                raise StorageError("no blob was uploaded")
        except Exception as error:
            transaction.fail(error)
        else:
            transaction.stage_blob(method, oid, *args, path)
    finally:
        _give_up_upload(session)


def _give_up_upload(session):
    upload, session.upload = session.upload, None
    if upload is not None:
        upload.close()


def _delete_object(session, oid, serial, id):
    session.transaction(id).stage("delete", oid, serial)


def _check_current(session, oid, serial, id):
    session.transaction(id).stage("check", oid, serial)


def _undo(session, transaction_id, id):
    session.transaction(id).stage("undo", transaction_id)


def _vote(session, id, message_id):
    def respond(answer):
        # In the vote runner.
        _count_vote(session, answer)
        session.respond(message_id, "vote", answer)

    try:
        result = session.transaction(id).vote(respond)
    except Exception as error:
        _count_vote(session, error)
        raise
    if result is not DELAYED:
        _count_vote(session, result)
    return result


def _count_vote(session, answer):
    # Only one transaction votes at a time, so nobody else counts these.
    if isinstance(answer, ConflictError):
        session.counts["conflicts"] += 1
    elif not isinstance(answer, Exception):
        for item in answer:
            # Those that are left to the client are dictionaries.
            resolved = type(item) is bytes
            session.counts["conflicts_resolved" if resolved else "conflicts"] += 1


def _tpc_finish(session, id):
    transaction = session.transaction(id)
    try:
        tid, entry = transaction.finish()
    finally:
        if transaction.has_ended:
            del session.transactions[id]
    session.counts["commits"] += 1
    # What was committed before goes out before the reply.
    session.delivery.catch_up(until=entry)
    # It is committed: whatever fails from here on is no reason to say otherwise.
    try:
        size = session.served.new_size()
        if size is not None:
            session.delivery.gather(messages.encode_one_way("info", (size,)))
    except ConnectionLost:
        raise
    except Exception:
        logger.exception("storage %s does not tell its size", session.served.name)
    return tid


def _tpc_abort(session, id):
    transaction = session.transactions.pop(id, None)
    if transaction is not None:
        session.counts["aborts"] += 1
        transaction.abort("its client asked for it")


# The types of arguments.


def _is_id(value):
    """An oid, a tid or a serial."""
    return type(value) is bytes and len(value) == 8


def _is_oid(value):
    """An oid that may be stored: storages count on from the largest."""
    return _is_id(value) and value[0] < 0x80


def _is_id_or_none(value):
    """For instance a serial, None for an object that is new."""
    return value is None or _is_id(value)


def _is_serial(value):
    """What was read before: None, zeros or, from careless clients, text of zeros."""
    return _is_id_or_none(value) or value == "\0" * 8


def _is(*types):
    return lambda value: type(value) in types


def _is_list_of_ints(value):
    return type(value) in (list, tuple) and all(type(item) is int for item in value)


_is_text = _is(str, bytes)
_is_int = _is(int)
_is_flag = _is(bool, int)
_is_bytes = _is(bytes)
_is_data = _is(bytes, type(None))

METHODS = {
    # The connection.
    "register": Method(_register, _is(str), _is_flag),
    "ping": Method(_ping),
    "set_client_label": Method(_set_client_label, _is(str)),
    "server_status": Method(_server_status),
    # Reading.
    "get_info": Method(_get_info),
    "lastTransaction": Method(_last_transaction),
    "getInvalidations": Method(_get_invalidations, _is_id),
    "loadBefore": Method(_load_before, _is_id, _is_id),
    "loadSerial": Method(_load_serial, _is_id, _is_id),
    "getTid": Method(_get_tid, _is_id),
    "history": Method(_history, _is_id, _is_int, optional=1),
    "sendBlob": Method(_send_blob, _is_id, _is_id, helper=True),
    "record_iternext": Method(_record_iternext, _is_id_or_none, optional=1),
    "undoLog": Method(_undo_log, _is_int, _is_int, helper=True),
    "undoInfo": Method(
        _undo_info, _is_int, _is_int, _is(dict, type(None)), optional=1, helper=True
    ),
    "pack": Method(_pack, _is(int, float), _is_flag, delayed=True),
    # Iterating.
    "iterator_start": Method(
        _iterator_start, _is_id_or_none, _is_id_or_none, _is_flag, optional=1
    ),
    "iterator_next": Method(_iterator_next, _is_int),
    "iterator_record_start": Method(_iterator_record_start, _is_int, _is_id),
    "iterator_record_next": Method(_iterator_record_next, _is_int),
    "iterator_gc": Method(_iterator_gc, _is_list_of_ints),
    # Writing.
    "new_oids": Method(_new_oids, _is_int, optional=1),
    "tpc_begin": Method(
        _tpc_begin,
        _is_int,
        _is_text,
        _is_text,
        _is(dict, bytes),
        _is_id_or_none,
        _is_text,
        optional=2,
    ),
    "storea": Method(_store, _is_oid, _is_serial, _is_bytes, _is_int),
    "restorea": Method(_restore, _is_oid, _is_id, _is_data, _is_id_or_none, _is_int),
    "storeBlobStart": Method(_store_blob_start),
    "storeBlobChunk": Method(_store_blob_chunk, _is_bytes),
    "storeBlobEnd": Method(
        _store_blob_end, _is_oid, _is_serial, _is_bytes, _is_int
    ),
    "storeBlobShared": Method(
        _store_blob_shared, _is_oid, _is_serial, _is_bytes, _is(str), _is_int
    ),
    # Only our clients know this one.
    "restoreBlob": Method(
        _restore_blob,
        _is_oid,
        _is_id,
        _is_bytes,
        _is(str, type(None)),
        _is_id_or_none,
        _is_int,
    ),
    "deleteObject": Method(_delete_object, _is_id, _is_id, _is_int),
    "checkCurrentSerialInTransaction": Method(_check_current, _is_id, _is_id, _is_int),
    "undoa": Method(_undo, _is_bytes, _is_int),
    "vote": Method(_vote, _is_int, delayed=True),
    "tpc_finish": Method(_tpc_finish, _is_int),
    "tpc_abort": Method(_tpc_abort, _is_int),
}
