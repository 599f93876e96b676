"""A database in memory that several servers share, as they would PostgreSQL.

Each instance of `SharedStorage` sees it as of its last poll, and stops where a test
tells it to.
"""

import threading

import zope.interface
from ZODB.interfaces import IMVCCStorage
from ZODB.POSException import ConflictError, POSKeyError
from ZODB.utils import p64, u64, z64

from .blocking import Gate


class OperationalError(Exception):
    """What a driver for a database raises when that is gone."""


class SharedDatabase:
    """What is committed, and the gates and failures of all storages on it."""

    def __init__(self):
        self.lock = threading.Lock()
        self.commits = [(p64(1000), {})]  # tid, {oid: data}
        self.gates = {}
        self.is_down = False
        self.instances = 0
        self.most_instances = 0

    def commit(self, oid, data=b"foreign"):
        """Commit as somebody beside the servers; return the tid."""
        with self.lock:
            return self.append({p64(oid): data})

    def append(self, changes):
        tid = p64(u64(self.commits[-1][0]) + 10)
        self.commits.append((tid, changes))
        return tid

    def gate(self, where):
        """Make the next thread stop at `where`; return the gate."""
        self.gates[where] = gate = Gate()
        return gate

    def fail(self, where, error):
        self.gates[where] = error

    def reach(self, where):
        if self.is_down:
            raise OperationalError("the database is down")
        gate = self.gates.pop(where, None)
        if isinstance(gate, Exception):
            raise gate
        if gate is not None:
            gate.stop_here()


@zope.interface.implementer(IMVCCStorage)
class SharedStorage:
    """One instance, or with `is_root` the one that instances are made from."""

    def __init__(self, database, is_root=True):
        self.database = database
        self.view = None
        self._is_root = is_root
        self._stored = None
        if not is_root:
            with database.lock:
                database.instances += 1
                database.most_instances = max(
                    database.most_instances, database.instances
                )

    def new_instance(self):
        return SharedStorage(self.database, is_root=False)

    def release(self):
        with self.database.lock:
            self.database.instances -= 1

    def close(self):
        self.is_closed = True

    def getName(self):
        return "shared"

    def isReadOnly(self):
        return False

    def __len__(self):
        return 0

    def getSize(self):
        return 0

    def sync(self, force=True):
        pass

    def poll_invalidations(self):
        self.database.reach("poll")
        with self.database.lock:
            before, self.view = self.view, len(self.database.commits)
            if before is None:
                return None
            return {
                oid: 1
                for _, changes in self.database.commits[before:]
                for oid in changes
            }

    def lastTransaction(self):
        with self.database.lock:
            return self.database.commits[-1 if self.view is None else self.view - 1][0]

    def loadBefore(self, oid, tid):
        self.database.reach("before loadBefore")
        found, end = None, None
        with self.database.lock:
            for start, changes in self.database.commits[: self.view]:
                if oid in changes:
                    if start >= tid:
                        end = start
                        break
                    found = changes[oid], start
        if found is None:
            if end is None:
                raise POSKeyError(oid)
            return None
        self.database.reach("after loadBefore")
        return (*found, end)

    def new_oid(self):
        return p64(77)

    def tpc_begin(self, transaction, tid=None, status=" "):
        self._stored = {}

    def store(self, oid, serial, data, version, transaction):
        current = z64
        for tid, changes in self.database.commits:
            if oid in changes:
                current = tid
        if current != (serial or z64):
            raise ConflictError(oid=oid, serials=(current, serial), data=data)
        self._stored[oid] = data

    def tpc_vote(self, transaction):
        self.database.reach("vote")
        return []

    def tpc_finish(self, transaction, callback=None):
        self.database.reach("before tpc_finish")
        with self.database.lock:
            tid = self.database.append(self._stored)
        self._stored = None
        self.database.reach("after tpc_finish")
        return tid

    def tpc_abort(self, transaction):
        self._stored = None


class ExactChanges:
    """Like `RelStorageChanges` of a database with history."""

    tells_commits = True
    keeps_history = True

    def since(self, storage, tid):
        storage.poll_invalidations()
        commits = storage.database.commits[: storage.view]
        storage.database.reach("after poll")
        return {t: list(changes) for t, changes in commits if t > tid}, True

    def oids_since(self, storage, tid, limit):
        commits = storage.database.commits[: storage.view]
        oids = {oid for t, changes in commits if t > tid for oid in changes}
        return sorted(oids) if len(oids) <= limit else None

    def current(self, storage, oid):
        return None

    def prepare_to_resolve(self, storage, serials):
        pass
