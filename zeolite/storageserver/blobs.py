"""A storage's blobs, as files and directories.

How they come from clients, and go to them, is in `uploads` and `downloads`.
"""

import logging
import os
import re
import stat

import ZODB.interfaces
from ZODB.POSException import StorageError, Unsupported

logger = logging.getLogger(__name__)

#: What files are called that clients upload.
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


def shared_file(storage, oid, name):
    """Return the path of a file that a client has put into the blob directory.

    `name` is the file's in the directory of `oid`.  Raises `StorageError` if it
    is no such file.
    """
    directory_of(storage)
    if not _shared_name(name):
        raise StorageError(f"no name for a blob's file: {name[:100]!a}")
    fshelper = getattr(storage, "fshelper", None)
    if fshelper is None:
        raise Unsupported("this storage does not share its blob directory")
    directory = os.path.realpath(fshelper.getPathForOID(oid))
    path = os.path.join(directory, name)
    try:
        mode = os.lstat(path).st_mode
    except OSError as error:
        raise StorageError(
            f"no file {name} in the directory of the blob: {error.strerror}; do "
            "server and client share one blob directory?"
        ) from None
    if os.path.dirname(os.path.realpath(path)) != directory or not stat.S_ISREG(mode):
        raise StorageError(f"{name} is not a file in the directory of the blob")
    return path


def too_large(most):
    """Return the error for a transaction of more than `most` bytes."""
    return StorageError(
        f"the transaction is larger than the {most} bytes of max-transaction-size, "
        "which the server's configuration sets"
    )
