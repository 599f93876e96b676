"""A storage's blobs, as files and directories.

How they come from clients, and go to them, is in `uploads` and `downloads`.
"""

import logging
import os
import re
import secrets
import stat

import ZODB.interfaces
from ZODB.POSException import StorageError, Unsupported

logger = logging.getLogger(__name__)

#: What files are called that clients upload or put there.
PREFIX = "zeolite-upload-"

#: What clients that share the blob directory may call a file to be stored: no
#: separators, no leading dot, and not what blobs are called that are committed.
_shared_name = re.compile(r"[^/\0.][^/\0]{0,200}\.tmp-?", re.DOTALL).fullmatch


def directory_of(storage):
    """Return the directory (str) for blobs that are not committed yet.

    Raises `Unsupported` for a storage without blobs.
    """
    if not ZODB.interfaces.IBlobStorage.providedBy(storage):
        raise Unsupported("this storage does not have blobs")
    return storage.temporaryDirectory()


def remove(path):
    """Remove a file, if it is still there."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        logger.error("cannot remove %s: %s", path, error)


def remove_abandoned(storage):
    """Remove what uploads have left behind when a server was killed.

    Only for the one process that serves the storage.
    """
    if not ZODB.interfaces.IBlobStorage.providedBy(storage):
        return
    # Not its `temporaryDirectory`: a DemoStorage would make one now.
    helper = getattr(storage, "fshelper", None)
    if helper is None:
        return
    for name in os.listdir(helper.temp_dir):
        if name.startswith(PREFIX):
            remove(os.path.join(helper.temp_dir, name))


def new_shared_file(storage):
    """Return the path of a file that a client may make in the blob directory.

    It is among those that are removed if nobody is there any more to do it.
    """
    directory_of(storage)
    directory = _shared_helper(storage).temp_dir
    return os.path.join(directory, f"{PREFIX}{secrets.token_hex(16)}.tmp")


def shared_file(storage, oid, name, is_expected):
    """Return the path of a file that a client has put into the blob directory.

    `name` is the file's: one that came from `new_shared_file`, if `is_expected(path)`
    says that it is this client's, or in the directory of `oid`, where stock clients
    put it.  Raises `StorageError` if it is no such file.
    """
    directory_of(storage)
    if not _is_shared_name(name):
        raise StorageError(f"no name for a blob's file: {name[:100]!a}")
    helper = _shared_helper(storage)
    is_ours = is_expected(os.path.join(helper.temp_dir, name))
    directory = helper.temp_dir if is_ours else helper.getPathForOID(oid)
    real = os.path.realpath(directory)
    # It is known by the name that was expected.
    path = os.path.join(directory if is_ours else real, name)
    try:
        mode = os.lstat(path).st_mode
    except OSError as error:
        raise StorageError(
            f"no file {name} in the directory of the blob: {error.strerror}; do "
            "server and client share one blob directory?"
        ) from None
    if os.path.dirname(os.path.realpath(path)) != real or not stat.S_ISREG(mode):
        raise StorageError(f"{name} is not a file in the directory of the blob")
    return path


def check_file(path):
    """Raise `StorageError` unless there is a file at `path`, and no link to one.

    Who has put it there, by way of a shared directory, can put something else there
    until the storage has it.
    """
    try:
        if stat.S_ISREG(os.lstat(path).st_mode):
            return
    except OSError as error:
        raise StorageError(
            f"the file of a blob is gone: {path}: {error.strerror}"
        ) from None
    raise StorageError(f"{path} is not a file any more")


def _is_shared_name(name):
    try:
        os.fsencode(name)
    except UnicodeEncodeError:
        return False  # Half of a surrogate: no file is called that.
    return _shared_name(name) is not None


def _shared_helper(storage):
    helper = getattr(storage, "fshelper", None)
    if helper is None:
        raise Unsupported("this storage does not share its blob directory")
    return helper


def too_large(most):
    """Return the error for a transaction of more than `most` bytes."""
    return StorageError(
        f"the transaction is larger than the {most} bytes of max-transaction-size, "
        "which the server's configuration sets"
    )
