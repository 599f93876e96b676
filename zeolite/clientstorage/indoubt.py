"""Finding out whether a commit happened whose answer got lost.

When a connection breaks inside `tpc_finish`, the server may have committed or
not.  After reconnecting the storage's history tells: if no commit since has the
same oids, data, user and description, it has not.  If one has, it is very likely
ours, but another client may have done exactly the same from the same state, so
that is for the application to judge.

Where several servers share a database, another one may answer, while the database
is still about to commit what the first has left behind.  The objects that are to be
changed are locked there until that is over.
"""

import contextlib
import time

from ZODB.POSException import ConflictError, POSKeyError, ReadConflictError

from ..errors import CommitInDoubt
from ..wire import messages
from ..wire.packed import is_id
from .answers import checked, is_history

#: Seconds that a server's database may be out of order.
PATIENCE = 60

#: How often a lock in a shared database is waited for; each time it waits by itself.
TRIES = 3

#: How many of an object's last revisions are looked at.
REVISIONS = 100

#: How many of a transaction's objects are compared.
OBJECTS = 100


def check_not_committed(link, id, state, transaction):
    """Return if a transaction was not committed.

    `link` is a new connection, `id` a number for a transaction on it, `state` the
    `ClientTransaction`, and `transaction` has user and description.  Raises
    `CommitInDoubt` if it was, or where that cannot be known, and
    `ClientDisconnected`.
    """

    deadline = time.monotonic() + PATIENCE

    def ask(name, *args, before=b""):
        while True:
            try:
                return link.call(name, args, before).wait()
            except ReadConflictError as error:
                if name == "vote":
                    raise  # That transaction is over.
                # The server's database is out of order, maybe for the same reason.
                if time.monotonic() > deadline:
                    raise CommitInDoubt(f"it cannot be looked for: {error}") from error
                time.sleep(0.1)

    if not state.stored:
        raise CommitInDoubt("it changed no object that would show it")
    # What has been stored tells more than what was only undone or resolved.
    oids = sorted(state.stored, key=lambda oid: state.stored[oid] is None)[:OBJECTS]
    with link.transaction_lock or contextlib.nullcontext():
        if link.is_shared:
            _wait_for_its_locks(ask, id, oids)
        else:
            _wait_for_its_end(ask, id)
    if not link.keeps_history:
        _check_without_history(ask, oids, state.known_tid)
        return
    for entry in _revisions_since(ask, oids[0], state.known_tid):
        if _matches(entry, transaction) and all(
            _is_as_stored(ask, oid, entry["tid"], state.stored[oid]) for oid in oids
        ):
            raise CommitInDoubt(f"transaction {entry['tid'].hex()} did the same")


def _wait_for_its_end(ask, id):
    """Have the commit lock once: the server may still be about to commit."""
    begin = messages.encode_one_way("tpc_begin", (id, b"", b"", {}, None, " "))
    try:
        ask("vote", id, before=begin)
    finally:
        ask("tpc_abort", id)


def _wait_for_its_locks(ask, id, oids):
    """Have the lock of an object that it was to change, in a shared database."""
    for _ in range(TRIES):
        ask("ping")  # The server is to know what there is by now.
        found = _existing(ask, oids)
        if found is None:
            raise CommitInDoubt("it may still be done: it changed only new objects")
        begin = messages.encode_one_way("tpc_begin", (id, b"", b"", {}, None, " "))
        store = messages.encode_one_way("storea", (*found, b".", id))
        try:
            ask("vote", id, before=begin + store)
        except ConflictError:
            # It was changed just now, or is locked for long, or the database is out
            # of order again.
            continue
        finally:
            ask("tpc_abort", id)
        ask("ping")
        return
    raise CommitInDoubt("it may still be done: its objects are locked or changing")


def _existing(ask, oids):
    """Return (oid, tid) of the first object that the storage has, or None."""
    for oid in oids:
        try:
            return oid, checked(ask("getTid", oid), is_id, "an object's revision")
        except POSKeyError:
            continue
    return None


def _check_without_history(ask, oids, known_tid):
    """Return if there is an object that was not changed since."""
    for oid in oids:
        try:
            tid = checked(ask("getTid", oid), is_id, "an object's revision")
            if tid <= known_tid:
                return
        except POSKeyError:
            return
    raise CommitInDoubt("the storage keeps no history, and its objects were changed")


def _revisions_since(ask, oid, tid):
    try:
        history = ask("history", oid, REVISIONS)
        checked(history, is_history, "an object's revisions")
    except POSKeyError:
        return []
    except Exception as error:
        raise CommitInDoubt(
            f"the storage does not tell its history: {error}"
        ) from error
    if history is None:
        raise CommitInDoubt("the storage keeps no history")
    since = [entry for entry in history if entry["tid"] > tid]
    if len(since) == REVISIONS:
        raise CommitInDoubt("too much was committed since")
    return since


def _matches(entry, transaction):
    return (
        entry.get("user_name") == transaction.user
        and entry.get("description") == transaction.description
    )


def _is_as_stored(ask, oid, tid, data):
    try:
        found = ask("loadSerial", oid, tid)
    except POSKeyError:
        return False
    return data is None or data == found
