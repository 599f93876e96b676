"""What a server may answer, and the error where it answers something else.

A server is trusted as little as a client.  What it says is looked at before it is
used or handed out, so that whoever asked gets a `ProtocolError` and not whatever
comes of it later.  The functions named `is_...` say whether an answer is of a kind.
"""

import sys

from ..errors import ProtocolError
from ..wire.packed import is_id


def checked(answer, is_right, what):
    """Return `answer` if `is_right(answer)`; `what` (str) the server was to tell."""
    if not is_right(answer):
        raise ProtocolError(f"the server does not tell {what}")
    return answer


# What several calls are answered with.


def is_id_or_none(answer):
    return answer is None or is_id(answer)


def is_data(answer):
    return type(answer) is bytes


def is_number(answer):
    return type(answer) is int


def is_dictionary(answer):
    return type(answer) is dict


def _is_list(answer):
    return type(answer) in (list, tuple)


def is_list_of_ids(answer):
    return _is_list(answer) and all(map(is_id, answer))


def _is_record(answer, *checks):
    """Whether it is a tuple or list of as many parts, and each is right."""
    return (
        _is_list(answer)
        and len(answer) == len(checks)
        and all(check(part) for check, part in zip(checks, answer))
    )


# Reading.


def is_revision(found):
    """(data, tid, next tid or None), which loads are answered with."""
    if type(found) is not tuple or len(found) != 3:
        return False
    data, start, end = found
    return type(data) is bytes and is_id(start) and (end is None or is_id(end))


def are_changes_or_none(answer):
    """(tid, oids) that `getInvalidations` is answered with."""
    return answer is None or _is_record(answer, is_id, is_list_of_ids)


def is_undo_log(answer):
    """Dictionaries; None from storages that cannot undo."""
    return answer is None or (_is_list(answer) and all(map(is_dictionary, answer)))


def is_history(answer):
    """Dictionaries with tids; None from storages that keep no earlier revisions."""
    return is_undo_log(answer) and all(is_id(item.get("tid")) for item in answer or ())


def is_next_record(answer):
    """(oid, tid, data, next)."""
    return _is_record(answer, is_id, is_id, is_data, is_id_or_none)


# Iterating.


def _is_text(answer):
    if type(answer) is not str:
        return type(answer) is bytes
    try:
        answer.encode()  # A pickle may have halves of surrogates.
    except UnicodeEncodeError:
        return False
    return True


def _is_extension(answer):
    return answer is None or type(answer) in (dict, bytes)


def is_transaction_or_none(answer):
    """(tid, status, user, description, extended info)."""
    return answer is None or _is_record(
        answer, is_id, _is_text, _is_text, _is_text, _is_extension
    )


def is_data_record_or_none(answer):
    """(oid, tid, data, tid of the transaction that had the same data before)."""
    return answer is None or _is_record(
        answer, is_id, is_id, _is_data_or_none, is_id_or_none
    )


def _is_data_or_none(answer):
    return answer is None or is_data(answer)


# Writing.


def are_new_oids(answer):
    """At least one, and none of the upper half, which is not for use."""
    return is_list_of_ids(answer) and answer and all(oid[0] < 0x80 for oid in answer)


def is_vote_or_none(answer):
    """Oids, and dictionaries for conflicts that the client is to resolve."""
    return answer is None or (
        _is_list(answer) and all(is_id(item) or _is_conflict(item) for item in answer)
    )


def _is_conflict(item):
    return (
        type(item) is dict
        and item.keys() == {"oid", "serials", "data"}
        and is_id(item["oid"])
        and _is_record(item["serials"], is_id, is_id_or_none)
        and is_data(item["data"])
    )


# What is told without being asked for.

#: What `info` says, and what it may be.
_INFO = {
    "length": lambda value: type(value) is int and 0 <= value <= sys.maxsize,
    "size": lambda value: type(value) is int and value >= 0,
    "supportsUndo": lambda value: type(value) in (bool, int),
}


def known_info(info):
    """Return what of `info`, a dictionary, is known here and makes sense."""
    return {
        name: value
        for name, value in info.items()
        if name in _INFO and _INFO[name](value)
    }
