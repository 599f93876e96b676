"""Calls that write: what stands in `calls.METHODS` under that title.

Like all of them they get the session first.  Those without a reply keep their
errors with the transaction, for the vote to raise.
"""

import logging
import os

from ZODB.POSException import (
    ConflictError,
    StorageError,
    StorageTransactionError,
    Unsupported,
)

from ..wire import messages
from ..wire.channel import ConnectionLost
from . import blobs
from .commit import DELAYED, Transaction
from .headroom import check_oid, check_tid
from .invalidation import FellBehind
from .metadata import transaction_metadata
from .uploads import Upload

logger = logging.getLogger(__name__)

#: What a transaction may be: committed, packed, or undone.
_STATUSES = (" ", "p", "u", b" ", b"p", b"u")

#: An object's record is a pickle.  A file storage that is given none writes what it
#: cannot read again.
_EMPTY = "the record of an object is empty"


def new_oids(session, n=100):
    session.check_writable()
    return [session.storage.new_oid() for i in range(min(max(n, 1), 100))]


def tpc_begin(session, id, user, description, extension, tid=None, status=" "):
    if id in session.transactions:
        raise StorageTransactionError("a transaction with this id has begun")
    if len(session.transactions) >= session.served.options.max_transactions:
        session.refused = id
        session.log.warning(
            "max-transactions",
            "client %s: a transaction was refused: it has as many as "
            "max-transactions allows",
            session,
        )
        return
    error = None
    try:
        session.check_writable()
        metadata = transaction_metadata(user, description, extension)
        if status not in _STATUSES:
            raise StorageError(f"{status!r} is no status of a transaction")
        if tid is not None:
            check_tid(session.served.log.last_tid, tid)
    except Exception as e:
        metadata, error = None, e
    transaction = Transaction(session, metadata, tid, status)
    if error is not None:
        transaction.fail(error)
    session.transactions[id] = transaction


def store(session, oid, serial, data, id):
    session.counts["stores"] += 1
    transaction = session.transaction(id)
    try:
        _check(session, oid, data)
    except Exception as error:
        transaction.fail(error)
    transaction.stage("store", oid, serial, data)


def _check(session, oid, data, tid=None):
    """Raise `StorageError` for what would do harm once it is stored."""
    if data == b"":
        raise StorageError(_EMPTY)
    check_oid(session.storage, oid)
    if tid is not None:
        check_tid(session.served.log.last_tid, tid)


def _transaction(session, id, needed):
    """Return a transaction, which fails if its storage has no method `needed`."""
    transaction = session.transaction(id)
    if not hasattr(session.storage, needed):
        transaction.fail(Unsupported(f"this storage has no {needed}"))
    return transaction


def restore(session, oid, serial, data, prev_txn, id):
    session.counts["stores"] += 1
    transaction = _transaction(session, id, "restore")
    try:
        _check(session, oid, data, serial)
    except Exception as error:
        transaction.fail(error)
    transaction.stage("restore", oid, serial, data, prev_txn)


def store_blob_start(session):
    _give_up_upload(session)
    session.check_writable()
    session.upload = Upload(
        session.storage, session.served.options.max_transaction_size
    )


def store_blob_chunk(session, chunk, message_id):
    """Take a part of a blob; our clients want to know when it is written."""
    upload = session.upload
    if upload is None:
        return None
    if not message_id:
        upload.add(chunk)
        return None

    def written():
        session.respond(message_id, "storeBlobChunk", None, may_wait=True)

    upload.add(chunk, written)
    return DELAYED


def store_blob_end(session, oid, serial, data, id):
    _stage_blob(session, id, None, "store_blob", oid, serial, data)


def share_blob(session, id):
    """Say how the client is to call a file that it puts into the blob directory.

    From now on it is removed with the transaction, so that nothing stays where the
    client is killed.
    """
    transaction = session.transaction(id)
    path = blobs.new_shared_file(session.storage)
    transaction.expect_file(path)
    return os.path.basename(path)


def store_blob_shared(session, oid, serial, data, name, id):
    _stage_blob(session, id, name, "store_blob", oid, serial, data)


def restore_blob(session, oid, serial, data, name, prev_txn, id):
    _stage_blob(session, id, name, "restore_blob", oid, serial, data, prev_txn)


def _stage_blob(session, id, name, method, oid, *args):
    """Stage a blob that was uploaded or, with a name, that is in its directory."""
    try:
        transaction = session.transaction(id)
        session.counts["stores"] += 1
        try:
            tid = args[0] if method == "restore_blob" else None
            _check(session, oid, args[1], tid)
            if name is not None:
                path = blobs.shared_file(
                    session.storage, oid, name, transaction.expects_file
                )
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


def delete_object(session, oid, serial, id):
    _transaction(session, id, "deleteObject").stage("delete", oid, serial)


def check_current(session, oid, serial, id):
    session.transaction(id).stage("check", oid, serial)


def undo(session, transaction_id, id):
    _transaction(session, id, "undo").stage("undo", transaction_id)


def vote(session, id, message_id):
    def respond(answer):
        # In the vote runner.
        _count_vote(session, answer)
        session.respond(message_id, "vote", answer, waited=transaction.waited)

    transaction = None
    try:
        transaction = session.transaction(id)
        result = transaction.vote(respond)
    except Exception as error:
        _count_vote(session, error)
        raise
    if result is not DELAYED:
        _count_vote(session, result)
    return result


def _count_vote(session, answer):
    if isinstance(answer, ConflictError):
        session.served.count(session, "conflicts")
    elif not isinstance(answer, Exception):
        for item in answer:
            # Those that are left to the client are dictionaries.
            resolved = type(item) is bytes
            session.served.count(
                session, "conflicts_resolved" if resolved else "conflicts"
            )


def tpc_finish(session, id):
    transaction = session.transaction(id)
    try:
        tid, entry = transaction.finish()
        session.counts["commits"] += 1
        # What was committed before goes out before the reply.
        session.delivery.catch_up(until=entry)
    except (ConnectionLost, FellBehind):
        raise
    except Exception as error:
        if not transaction.is_committed:
            raise
        # No reason to say otherwise: the client finds out when it comes back.
        logger.exception("client %s: its commit cannot be answered", session)
        raise ConnectionLost("its commit could not be answered") from error
    finally:
        if transaction.has_ended:
            del session.transactions[id]
    # Nor is what fails from here on.
    try:
        size = session.served.new_size()
        if size is not None:
            session.delivery.gather(messages.encode_one_way("info", (size,)))
    except ConnectionLost:
        raise
    except Exception:
        logger.exception("storage %s does not tell its size", session.served.name)
    return tid


def tpc_abort(session, id):
    transaction = session.transactions.pop(id, None)
    if transaction is not None:
        session.counts["aborts"] += 1
        transaction.abort("its client asked for it")
