"""Whether a storage can be read: for who watches the server."""

import threading

from ZODB.POSException import POSKeyError
from ZODB.utils import maxtid, z64

from ..wire.text import text_of

#: Seconds after which a storage that is being read for a look does not answer.
PATIENCE = 2


class Probe:
    """Reads from a storage to see whether that is possible.  For any thread."""

    def __init__(self, name, storage):
        self._name = name
        self._storage = storage
        self._lock = threading.Lock()  # Held by who looks.

    def trouble(self):
        """Return why it cannot be read (str), None if it can."""
        is_connected = getattr(self._storage, "is_connected", None)
        if is_connected is not None and not is_connected():
            return f"storage {self._name} is not connected to its server"
        if not self._lock.acquire(blocking=False):
            # One thread at a time may be kept waiting, and no more.
            if not self._lock.acquire(timeout=PATIENCE):
                return f"storage {self._name} does not answer"
        try:
            self._storage.loadBefore(z64, maxtid)
        except POSKeyError:
            pass  # It is empty.
        except Exception as error:
            return f"storage {self._name} cannot be read: {text_of(error)}"
        finally:
            self._lock.release()
        return None
