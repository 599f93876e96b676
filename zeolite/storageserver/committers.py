"""What the transactions of a storage are written with that other servers write to, too.

A transaction has a committer for itself, with an instance of the storage, from when
it begins to vote until it has ended.  As it gives the commit lock back before that, a
few may be on their way to the database at the same time.
"""

import logging
import threading
import time

from ZODB.utils import z64

from ..wire.channel import ConnectionLost
from .instances import UNUSED, Instance, keeps
from .storageerrors import comes_of_trouble, describe, translated

logger = logging.getLogger(__name__)

#: How many transactions may be written at the same time.
MOST = 4

#: Methods that have an oid and a tid, and may find a conflict.
_CHECKING = ("store", "storeBlob")


class Committers:
    """The committers of a storage; `served` is its `SharedServed`.

    `metadata` is ZODB's transaction metadata, by which a transaction is known.  Who
    has the commit lock calls `has_spare`, `last_transaction` and `begin`, one thread
    at a time what belongs to a transaction, any thread the rest.
    """

    def __init__(self, served):
        self._served = served
        self._lock = (
            threading.Lock()
        )  # Guards both; nothing is called while it is held.
        self._idle = []  # The last used is last.
        self._busy = {}  # metadata -> committer

    @property
    def has_spare(self):
        """Whether another transaction may begin now."""
        return len(self._busy) < MOST

    def last_transaction(self):
        """Return the tid of the last commit there is."""
        with self._lock:
            committer = self._idle.pop() if self._idle else Committer(self._served)
        try:
            return committer.last_transaction()
        finally:
            self._give_back(committer)

    def begin(self, metadata, *args):
        """Begin a transaction; `finish` or `abort` ends it, whatever this raises."""
        with self._lock:
            idle = self._idle
            committer = idle[-1] if idle else Committer(self._served)
            # First: without memory for it, none is lost.
            self._busy[metadata] = committer
            del idle[-1:]
        committer.begin(metadata, *args)

    def call(self, name, *args):
        """Call a method of the storage; the last argument is the metadata."""
        return self._busy[args[-1]].call(name, *args)

    def finish(self, metadata):
        """Like `Committer.finish`; what raises is still to be aborted."""
        committer = self._busy[metadata]
        tid = committer.finish(metadata)
        self._give_back(committer, metadata)
        return tid

    def abort(self, metadata):
        """Abort a transaction, if it has begun and was not finished."""
        committer = self._busy.get(metadata)
        if committer is None:
            return
        try:
            committer.abort(metadata)
        finally:
            self._give_back(committer, metadata)

    def rest(self):
        """Give up those that were not used for a while.  For one thread, now and then."""
        since = time.monotonic() - UNUSED
        with self._lock:
            unused = [committer for committer in self._idle if committer.used < since]
            self._idle = [each for each in self._idle if each not in unused]
        for committer in unused:
            committer.close()

    def close(self):
        """Give up all that have no transaction."""
        with self._lock:
            idle, self._idle = self._idle, []
        for committer in idle:
            committer.close()

    def _give_back(self, committer, metadata=None):
        committer.used = time.monotonic()
        with self._lock:
            self._busy.pop(metadata, None)
            self._idle.append(committer)


class Committer:
    """Writes transactions with an instance, one after the other.  For one at a time."""

    def __init__(self, served):
        self._served = served
        self._instance = None
        self._is_good = True
        #: When it was given back (`time.monotonic` seconds).
        self.used = None
        self._serials = {}  # Of what the transaction changes that is not new.

    def last_transaction(self):
        """Return the tid of the last commit there is."""
        try:
            return self._fresh().lastTransaction()
        except Exception as error:
            self._is_good = self._is_good and keeps(error)
            raise translated(error, is_reading=False) from error

    def begin(self, metadata, *args):
        self._serials = {}
        try:
            try:
                self._fresh().tpc_begin(metadata, *args)
            except Exception as error:
                if not comes_of_trouble(error):
                    raise
                # The connection may have been lost long ago.
                self.close()
                self._fresh().tpc_begin(metadata, *args)
        except Exception as error:
            self._is_good = self._is_good and keeps(error)
            raise translated(error, is_reading=False) from error

    def call(self, name, *args):
        """Call a method of the storage, in a transaction that has begun."""
        if name in _CHECKING and args[1] not in (None, z64):
            self._serials[args[0]] = args[1]
        try:
            if name == "tpc_vote":
                self._served.changes.prepare_to_resolve(
                    self._instance.storage, self._serials
                )
            return getattr(self._instance.storage, name)(*args)
        except Exception as error:
            self._is_good = self._is_good and keeps(error)
            raise translated(error, is_reading=False) from error

    def finish(self, metadata):
        """Commit; return the tid.

        Raises `ConnectionLost` if that went wrong: as nobody knows what became of
        the commit, the client has to find out, and that it does when it has lost
        its connection.
        """
        try:
            return self._instance.storage.tpc_finish(metadata)
        except BaseException as error:
            self._is_good = False
            log = logger.warning if comes_of_trouble(error) else logger.exception
            log(
                "storage %s: a commit broke off: %s; its client is disconnected and "
                "will look whether it was done",
                self._served.name,
                describe(error),
            )
            raise ConnectionLost(f"a commit broke off: {describe(error)}") from error

    def abort(self, metadata):
        if self._instance is None:
            return
        try:
            self._instance.storage.tpc_abort(metadata)
        except Exception as error:
            self._is_good = False
            if not comes_of_trouble(error):
                raise
        finally:
            if not self._is_good:
                self.close()

    def _fresh(self):
        if self._instance is None:
            self._instance = Instance(self._served.storage.new_instance())
            self._is_good = True
        # To resolve conflicts it has to see what the client has seen.
        self._instance.see(self._served.log, self._served.revisions)
        return self._instance.storage

    def close(self):
        instance, self._instance = self._instance, None
        if instance is not None:
            instance.release()
