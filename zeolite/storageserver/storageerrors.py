"""What a storage on a database raises, as what clients can rebuild and understand.

Clients, ZEO's own among them, know ZODB's exceptions by name and no others.  So a
class of the storage's own becomes the one of ZODB's that it is derived from, and
trouble with the database becomes a conflict: that is what applications take for a
reason to try again.
"""

from transaction.interfaces import TransientError
from ZODB.POSException import (
    ConflictError,
    POSError,
    POSKeyError,
    ReadConflictError,
    ReadOnlyError,
    StorageError,
    StorageTransactionError,
    UndoError,
    Unsupported,
)

from ..wire.text import text_of

#: What a driver's exceptions are called by Python's database API (PEP 249) that come
#: from the connection rather than from what was asked.
_TROUBLE = ("OperationalError", "InterfaceError", "InternalError")

_FAMILIES = (
    POSKeyError,
    ReadConflictError,
    ConflictError,
    ReadOnlyError,
    StorageTransactionError,
    UndoError,
    Unsupported,
    StorageError,
)


def is_trouble(error):
    """Whether an exception says that the database cannot be reached or used now."""
    if isinstance(error, ConflictError):
        return False
    if type(error).__name__ == "DatabaseError":
        return True  # None of the kinds of it: how psycopg2 tells of lost connections.
    return isinstance(error, (TransientError, ConnectionError)) or any(
        class_.__name__ in _TROUBLE for class_ in type(error).__mro__
    )


def comes_of_trouble(error):
    """Whether an exception says so, or comes of one that does, or is of no kind."""
    return _trouble(error) is not None


def _trouble(error):
    found = error
    while found is not None and not is_trouble(found):
        found = found.__cause__ or found.__context__
    # RelStorage's way to say that it cannot give its connections back is a bare
    # `Exception`, which has the reason in its text, and at times nowhere else.
    if found is None and type(error) is Exception:
        return error
    return found


def describe(error):
    """Return what a database's exception says, on one line."""
    return " ".join(text_of(error).split()) or type(error).__name__


def translated(error, is_reading):
    """Return the exception to tell a client instead of `error`; maybe the same."""
    trouble = _trouble(error)
    if trouble is not None and (trouble is error or not isinstance(error, POSError)):
        class_ = ReadConflictError if is_reading else ConflictError
        return class_(
            f"the server's database cannot be used now: {describe(trouble)}; try again"
        )
    if type(error).__module__ == "ZODB.POSException":
        return error
    for family in _FAMILIES:
        if isinstance(error, family):
            return _as(family, error)
    return error


def _as(family, error):
    if family is POSKeyError:
        return POSKeyError(*error.args[:1])
    if issubclass(family, ConflictError):
        made = family(text_of(error))
        made.oid = getattr(error, "oid", None)
        made.serials = getattr(error, "serials", None)
        made.class_name = getattr(error, "class_name", None)
        return made
    return family(describe(error))
