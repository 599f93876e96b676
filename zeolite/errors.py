"""Every exception that a user of Zeolite may want to catch.

ZODB's own exceptions (`ZODB.POSException`) cross the wire unchanged and are not
repeated here.  The names below are those that users of ZEO know.
"""

import transaction.interfaces
from ZODB.POSException import StorageError


class ClientStorageError(StorageError):
    """Something went wrong between a client storage and its server."""


class ClientDisconnected(ClientStorageError, transaction.interfaces.TransientError):
    """There is no connection to the server, or it was lost during the call.

    Transient: a transaction that failed with it may be tried again, and
    frameworks that retry on `TransientError` do so.
    """


class ForkedStorageError(ClientStorageError):
    """A storage that was opened before a fork is used in the child.

    The connection and the cache belong to the parent.  Open another storage after
    the fork.
    """


class CommitInDoubt(ClientStorageError):
    """The connection broke while a transaction was committed, and it cannot be
    known whether it was.

    A client storage asks by itself after it has reconnected.  If nothing was
    committed, it raises `ClientDisconnected` instead, and the transaction may be
    tried again.  This is raised if there is a commit that did the same, which the
    message names; if it could not reconnect within `wait_timeout`, or the
    connection broke again; if the transaction changed no object; if the storage
    does not tell its history, because it has none or because too much was
    committed since; or if it may still be done, in a database that servers share.
    The application has to look at its data.
    """


class CacheFileError(ClientStorageError):
    """The file for a client's cache cannot be used.  The message says why, and what
    to do about it."""


class CacheFileInUse(CacheFileError):
    """Another process, or another storage of this one, has the cache file open."""


class ServerException(ClientStorageError):
    """The server raised an exception that has no counterpart on this side.

    Its arguments are the exception's dotted class name and its details.
    """

    def __str__(self) -> str:
        if len(self.args) != 2:
            return super().__str__()
        name, details = self.args
        if isinstance(details, tuple):
            details = ", ".join(map(str, details))
        what = f"{name}: {details}" if details else name
        return f"the server failed with {what}; its log says more"


class ProtocolError(ClientStorageError):
    """The peer said something that is not the protocol spoken here."""


class ConfigurationError(Exception):
    """A setting that cannot work.  The message says what to do about it."""
