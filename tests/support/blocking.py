"""A storage whose methods stop where a test tells them to."""

import threading

from ZODB.MappingStorage import MappingStorage

#: Seconds after which a test that hangs is given up.
PATIENCE = 20


class Gate:
    """A point in the code at which threads stop until the test lets them go."""

    def __init__(self):
        self._reached = threading.Semaphore(0)
        self._open = threading.Event()
        self._error = None

    def stop_here(self):
        self._reached.release()
        assert self._open.wait(PATIENCE), "nobody opened the gate"
        if self._error is not None:
            raise self._error

    def wait_until_reached(self):
        assert self._reached.acquire(timeout=PATIENCE), "nobody came to the gate"

    def open(self, error=None):
        """Let the thread go on, or raise `error`."""
        self._error = error
        self._open.set()


class BlockingStorage(MappingStorage):
    """Stops at gates: `storage.gate("after loadBefore")`.

    There is a gate before and after each of `loadBefore`, `tpc_vote` and
    `tpc_finish`, and one at "callback", inside `tpc_finish` when its callback
    has been called and the data cannot be read yet.  A gate stops the first
    thread that comes after it was made.
    """

    def __init__(self):
        super().__init__()
        self._gates = {}

    def gate(self, where):
        """Make the next thread stop at `where`; return the gate."""
        self._gates[where] = gate = Gate()
        return gate

    def fail(self, where, error):
        """Make the next thread raise `error` at `where`."""
        self._gates[where] = error

    def _pass(self, where):
        gate = self._gates.pop(where, None)
        if isinstance(gate, Exception):
            raise gate
        if gate is not None:
            gate.stop_here()

    def loadBefore(self, oid, tid):
        self._pass("before loadBefore")
        found = super().loadBefore(oid, tid)
        self._pass("after loadBefore")
        return found

    def tpc_vote(self, transaction):
        self._pass("before tpc_vote")
        result = super().tpc_vote(transaction)
        self._pass("after tpc_vote")
        return result

    def tpc_finish(self, transaction, func=lambda tid: None):
        def callback(tid):
            func(tid)
            self._pass("callback")

        self._pass("before tpc_finish")
        tid = super().tpc_finish(transaction, callback)
        self._pass("after tpc_finish")
        return tid

    def reopened(self):
        """For looking at what is in it after the server has closed it."""
        self._opened = True
        return self
