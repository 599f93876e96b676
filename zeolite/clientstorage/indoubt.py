"""Finding out whether a commit happened whose answer got lost.

When a connection breaks inside `tpc_finish`, the server may have committed or
not.  After reconnecting the storage's history tells: a commit after the last one
that was known, with the same oids, data, user and description, is ours.
"""

from ZODB.POSException import POSKeyError

from ..errors import CommitInDoubt
from ..wire import messages

#: How many of an object's last revisions are looked at.
REVISIONS = 100

#: How many of a transaction's objects are compared.
OBJECTS = 100


def find_commit(ask, state, transaction):
    """Return the tid of a transaction if it was committed, None if it was not.

    `ask(name, *args, before=b"")` makes a call on a new connection; `state` is
    the `ClientTransaction`, and `transaction` has user and description.  Raises
    `CommitInDoubt` where it cannot be known, and `ClientDisconnected`.
    """
    if not state.stored:
        raise CommitInDoubt("it changed no object that would show it")
    _wait_for_its_end(ask)
    # What has been stored tells more than what was only undone or resolved.
    oids = sorted(state.stored, key=lambda oid: state.stored[oid] is None)[:OBJECTS]
    for entry in _revisions_since(ask, oids[0], state.known_tid):
        if _matches(entry, transaction) and all(
            _is_as_stored(ask, oid, entry["tid"], state.stored[oid]) for oid in oids
        ):
            return entry["tid"]
    return None


def _wait_for_its_end(ask):
    """Have the commit lock once: the server may still be about to commit."""
    begin = messages.encode_one_way("tpc_begin", (0, b"", b"", {}, None, " "))
    ask("vote", 0, before=begin)
    ask("tpc_abort", 0)


def _revisions_since(ask, oid, tid):
    try:
        history = ask("history", oid, REVISIONS)
    except POSKeyError:
        return []
    except Exception as error:
        raise CommitInDoubt(
            f"the storage does not tell its history: {error}"
        ) from error
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
