"""What tests of a client have in common that talks to a scripted server."""

import threading

from ZODB.Connection import TransactionMetaData
from ZODB.utils import maxtid, p64

from tests.support.fakeserver import FIRST_TID
from zeolite.clientstorage.storage import ClientStorage

OID = p64(7)


class Database:
    """Stands for ZODB's database, and can be stopped while it is told."""

    def __init__(self):
        self.told = []
        self.gate = None

    def invalidate(self, tid, oids):
        if self.gate is not None:
            self.gate.stop_here()
        self.told.append((tid, oids))

    def invalidateCache(self):
        self.told.append("everything")

    def transform_record_data(self, data):
        return data

    untransform_record_data = transform_record_data


class Background(threading.Thread):
    """Runs a function and keeps what it returns or raises."""

    def __init__(self, function, *args):
        super().__init__()
        self._call = function, args
        self._outcome = None
        self.start()

    def run(self):
        function, args = self._call
        try:
            self._outcome = function(*args), None
        except Exception as error:
            self._outcome = None, error

    def result(self):
        self.join(20)
        assert not self.is_alive(), "it hangs"
        result, error = self._outcome
        if error is not None:
            raise error
        return result


def voted(storage, script, data=b"mine"):
    """A transaction that has stored OID and voted; returns its metadata."""
    transaction = TransactionMetaData()
    storage.tpc_begin(transaction)
    storage.store(OID, None, data, "", transaction)
    vote = Background(storage.tpc_vote, transaction)
    script.expect("tpc_begin")
    script.expect("storea")
    script.answer("vote", [])
    assert vote.result() == []
    return transaction


def loaded(storage, script, data, start):
    """Load OID from the server."""
    load = Background(storage.loadBefore, OID, maxtid)
    script.answer("loadBefore", (data, start, None))
    assert load.result() == (data, start, None)


def settle(storage, script):
    """Wait until all that the server has said has taken effect."""
    ping = Background(storage.ping)
    script.answer("ping", None)
    ping.result()


def open_in_background(stack, *args, **kwargs):
    """A client that waits in its constructor, and is closed at the end."""
    kwargs.setdefault("disconnect_poll", 0.01)
    kwargs.setdefault("wait_timeout", 20)
    storage = []

    def open_storage():
        storage.append(ClientStorage(*args, **kwargs))
        return storage[0]

    opening = Background(open_storage)
    stack.callback(lambda: [opened.close() for opened in storage])
    return opening


def accept_read_only(fake, tid=FIRST_TID):
    """Let a client find a server that allows no writing; return its script."""
    script = fake.accept(register=False)
    refuse_to_write(script)
    assert script.answer("register", tid) == ("1", True)
    return script


def refuse_to_write(script):
    """Refuse a client that wants to write."""
    message_id, args = script.expect("register")
    assert args == ("1", False)
    script.fail(message_id, "ZODB.POSException.ReadOnlyError", ())
