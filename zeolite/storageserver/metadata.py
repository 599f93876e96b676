"""Transaction metadata as a client sent it, without trusting it.

A transaction's extension is a pickled dictionary.  Storages write it as it is and
unpickle it again when somebody asks for history or undo, with an unpickler that
runs what it reads.  So it may hold plain data only.
"""

from ZODB.Connection import TransactionMetaData
from ZODB.POSException import StorageError

from ..errors import ProtocolError
from ..wire.messages import load_received

#: Bytes that each part may have.  It is what a file storage can write.
LONGEST = 65535


class _Received(TransactionMetaData):
    """Has the extended info as its pickle only, and loads that for who asks.

    A transaction may wait long for its vote, and what becomes of a pickle may be a
    hundred times as large.
    """

    @property
    def extension(self):
        return load_received(self.extension_bytes) if self.extension_bytes else {}


def transaction_metadata(user, description, extension):
    """Return ZODB's `TransactionMetaData`.

    `user` and `description` are bytes or text, `extension` is a dictionary or
    its pickle.  Raises `StorageError` for an extension that is not plain data, and
    for text that cannot be encoded and for what is too long.
    """
    try:
        if isinstance(extension, bytes):
            metadata = _Received(user, description, extension)
        else:
            pickled = TransactionMetaData(extension=extension).extension_bytes
            # That pickle is ours, and ZODB's way of loading it is safe.
            metadata = TransactionMetaData(user, description, pickled)
    except UnicodeEncodeError as error:
        raise StorageError(f"a transaction's user or description: {error}") from None
    for name in ("user", "description", "extension_bytes"):
        if len(getattr(metadata, name)) > LONGEST:
            raise StorageError(
                f"a transaction's {name.partition('_')[0]} has more than {LONGEST} bytes"
            )
    if isinstance(extension, bytes):
        try:
            is_dictionary = type(metadata.extension) is dict
        except ProtocolError as error:
            raise StorageError(
                f"a transaction's extended info may hold only plain data: {error}"
            ) from None
        if not is_dictionary:
            raise StorageError("a transaction's extended info is no dictionary")
    return metadata
