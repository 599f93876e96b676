"""What one transaction of a client has stored, and what of it is still to be sent.

One-way calls are gathered and leave together, with the vote at the latest.  The
data that was stored enters the cache when the commit is done, as long as it is
not more than `REMEMBER` bytes; beyond that the objects are only invalidated.
"""

import logging
import os

from ..wire import messages

logger = logging.getLogger(__name__)

#: Calls are gathered up to about so many bytes.
GATHER = 64 * 1024

#: Stored data is kept for the cache up to so many bytes.
REMEMBER = 4 * 1024 * 1024


class ClientTransaction:
    """The client's side of a transaction.  For the thread that commits."""

    def __init__(self, id, link):
        """Waits for another one to end if the server takes one at a time."""
        if link.transaction_lock is not None:
            link.transaction_lock.acquire()
        self.id = id
        #: The connection on which it began.
        self.link = link
        #: Whether the server has heard of it.
        self.sent = False
        self.voted = False
        #: The last transaction that was known before it was finished.
        self.known_tid = None
        #: oid -> data, or None where it is not known what was committed.
        self.stored = {}
        #: (oid, path) of blobs, files that are removed at the end if still there.
        self.blobs = []
        self._remembered = 0
        self._calls = []
        self._size = 0

    @property
    def is_full(self):
        """Whether enough was gathered to be sent."""
        return self._size > GATHER

    def add(self, name, *args):
        """Gather a one-way call."""
        call = messages.encode_one_way(name, args)
        self._calls.append(call)
        self._size += len(call)

    def take(self):
        """Return what was gathered (bytes), to be sent now."""
        self.sent = True
        calls = b"".join(self._calls)
        self._calls.clear()
        self._size = 0
        return calls

    def end(self):
        """The transaction is over, here and on the server."""
        if not self.link.is_parents:  # Which may be about to commit them.
            for _, path in self.blobs:
                _remove(path)
        if self.link.transaction_lock is not None:
            self.link.transaction_lock.release()

    def remember(self, oid, data):
        """The transaction changes `oid` to `data`."""
        self._remembered += len(data)
        self.stored[oid] = data if self._remembered <= REMEMBER else None

    def forget(self, oids):
        """What these objects are changed to is known to the server only."""
        self.stored.update(dict.fromkeys(oids))


def _remove(path):
    """Remove a file, if it is still there.  Whatever is wrong, the commit was done."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        logger.warning("the file of a blob cannot be removed: %s", error)


def extension_of(transaction):
    """Return a transaction's extended info as its pickle, or as a dictionary."""
    extension = getattr(transaction, "extension_bytes", None)
    return transaction.extension if extension is None else extension
