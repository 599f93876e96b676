"""Transaction metadata as a client sent it, without trusting it.

A transaction's extension is a pickled dictionary.  Storages write it as it is and
unpickle it again when somebody asks for history or undo, with an unpickler that
runs what it reads.  So it may hold plain data only.
"""

from ZODB.Connection import TransactionMetaData
from ZODB.POSException import StorageError

from ..errors import ProtocolError
from ..wire.messages import load_plain

#: Bytes that each part may have.  It is what a file storage can write.
LONGEST = 65535


def transaction_metadata(user, description, extension):
    """Return ZODB's `TransactionMetaData`.

    `user` and `description` are bytes or text, `extension` is a dictionary or
    its pickle.  Raises `StorageError` for an extension that is not plain data, and
    for text that cannot be encoded and for what is too long.
    """
    try:
        metadata = TransactionMetaData(user, description, extension)
    except UnicodeEncodeError as error:
        raise StorageError(f"a transaction's user or description: {error}") from None
    for name in ("user", "description", "extension_bytes"):
        if len(getattr(metadata, name)) > LONGEST:
            raise StorageError(
                f"a transaction's {name.partition('_')[0]} has more than {LONGEST} bytes"
            )
    if isinstance(extension, bytes):
        try:
            metadata.extension = load_plain(extension) if extension else {}
        except ProtocolError as error:
            raise StorageError(
                f"a transaction's extended info may hold only plain data: {error}"
            ) from None
        if type(metadata.extension) is not dict:
            raise StorageError("a transaction's extended info is no dictionary")
    return metadata
