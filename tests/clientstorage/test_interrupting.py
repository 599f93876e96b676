"""A signal's handler raises in the middle of things, as Ctrl-C does.

The thread that is interrupted gets the exception; nobody else may have to wait for ever,
and nothing may be sent behind half a message.
"""

import signal
import threading

import pytest
from ZODB.Connection import TransactionMetaData
from ZODB.utils import maxtid, p64

from tests.support.processes import free_port
from zeolite.clientstorage import transfer
from zeolite.clientstorage.call import Call
from zeolite.clientstorage.link import Link
from zeolite.clientstorage.storage import ClientStorage
from zeolite.errors import ClientDisconnected

from .talking import OID, Background, settle, voted


class Channel:
    """Takes everything, and can be interrupted."""

    def __init__(self):
        self.sent = []
        self.is_shut_down = False
        self.interrupt = lambda: None

    def send(self, data):
        interrupt, self.interrupt = self.interrupt, lambda: None
        interrupt()
        self.sent.append(data)

    def shutdown(self):
        self.is_shut_down = True


class InterruptedLock:
    """Is acquired, and then a handler raises, once."""

    def __init__(self, lock):
        self._lock = lock
        self._is_due = True
        self._is_owned = lock._is_owned
        self.release = lock.release

    def acquire(self, blocking=True):
        is_acquired = self._lock.acquire(blocking)
        if is_acquired and self._is_due:
            self._is_due = False
            raise KeyboardInterrupt
        return is_acquired


@pytest.fixture
def channel():
    return Channel()


@pytest.fixture
def link(channel):
    return Link(channel, ("127.0.0.1", 1))


def raise_interrupt(*args, **kwargs):
    raise KeyboardInterrupt


def ctrl_c(*args, **kwargs):
    """As a user does it, in the main thread."""
    signal.raise_signal(signal.SIGINT)


def is_free(lock):
    """Whether another thread can have a lock."""
    return Background(lock.acquire, False).result()


class TestSending:
    @pytest.mark.parametrize("send", ["post", "call", "load", "loads"])
    @pytest.mark.parametrize("where", ["at the lock", "while sending"])
    def test_connection_ends_and_the_lock_is_given_back(
        self, link, channel, send, where
    ):
        lock = link._send_lock
        if where == "at the lock":
            link._send_lock = InterruptedLock(lock)
        else:
            channel.interrupt = raise_interrupt
        arguments = {
            "post": (b"data",),
            "call": ("ping", ()),
            "load": (OID, maxtid, print),
            "loads": ([OID], maxtid, print),
        }[send]
        with pytest.raises(KeyboardInterrupt):
            getattr(link, send)(*arguments)
        assert channel.is_shut_down
        assert channel.sent == []
        assert is_free(lock)

    @pytest.mark.parametrize("send", ["load", "loads"])
    def test_load_that_others_share(self, link, channel, monkeypatch, send):
        """It is known to the others already, and was not sent yet."""
        monkeypatch.setattr(link, "_send", raise_interrupt)
        oids = OID if send == "load" else [OID]
        with pytest.raises(KeyboardInterrupt):
            getattr(link, send)(oids, maxtid, print)
        assert channel.is_shut_down

    def test_handler_that_sends_something_itself(self, link, channel):
        """It leaves that to whom it has interrupted, who sends it behind its own."""
        channel.interrupt = lambda: link.post(b"the handler's")
        link.post(b"what was interrupted")
        assert channel.sent == [b"what was interrupted", b"the handler's"]
        assert not channel.is_shut_down
        assert is_free(link._send_lock)


@pytest.fixture
def interruptible():
    """In the background of a shell the signal is ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
class TestStorage:
    def test_half_a_message(self, fake, connect, monkeypatch):
        """The server takes nothing, so that the record is not sent as a whole."""
        storage, _ = connect()
        channel = storage._connection.link()._channel
        monkeypatch.setattr(channel, "_wait_until_taken", ctrl_c)
        txn = TransactionMetaData()
        storage.tpc_begin(txn)
        with pytest.raises(KeyboardInterrupt):
            storage.store(OID, None, bytes(50_000_000), "", txn)
        storage.tpc_abort(txn)
        settle(storage, fake.accept())

    def test_wait_for_a_reply(self, connect, monkeypatch):
        """The connection is as good as before, and the reply means nothing."""
        storage, script = connect()
        with monkeypatch.context() as patch:
            patch.setattr(Call, "wait", ctrl_c)
            with pytest.raises(KeyboardInterrupt):
                storage.getTid(OID)
        message_id, _ = script.expect("getTid")
        script.reply(message_id, p64(1))
        settle(storage, script)

    def test_load_that_another_thread_waits_for(self, connect, monkeypatch):
        storage, script = connect()
        other = Background(storage.loadBefore, OID, maxtid)
        message_id, _ = script.expect("loadBefore")
        wait = Call.wait

        def interrupted(call):
            # The other thread may have sent its call and not come here yet.
            if threading.current_thread() is threading.main_thread():
                raise KeyboardInterrupt
            return wait(call)

        with monkeypatch.context() as patch:
            patch.setattr(Call, "wait", interrupted)
            with pytest.raises(KeyboardInterrupt):
                storage.loadBefore(OID, maxtid)
        script.reply(message_id, (b"data", p64(1), None))
        assert other.result() == (b"data", p64(1), None)

    def test_wait_for_a_connection(self, monkeypatch):
        storage = ClientStorage(free_port(), wait=False, wait_timeout=1000)
        with monkeypatch.context() as patch:
            patch.setattr(storage._connection._condition, "wait", ctrl_c)
            with pytest.raises(KeyboardInterrupt):
                storage.ping()
        storage.close()

    def test_abort_that_is_not_sent(self, fake, connect, monkeypatch):
        """The server hears of it in another way: the transaction may have its lock."""
        storage, script = connect()
        txn = voted(storage, script)
        with monkeypatch.context() as patch:
            patch.setattr(Link, "_enter", raise_interrupt)
            with pytest.raises(KeyboardInterrupt):
                storage.tpc_abort(txn)
        assert script.is_closed()
        settle(storage, fake.accept())

    @pytest.mark.parametrize(
        "owner, where",
        [(Link, "_enter"), (Link, "_send"), (transfer.Download, "write")],
    )
    def test_download_that_is_not_asked_for_or_not_taken(
        self, fake, connect_any, monkeypatch, owner, where
    ):
        """Who wants the same blob does not wait for its end."""
        storage, script = connect_any()
        link = storage._connection.link()
        with monkeypatch.context() as patch:
            patch.setattr(owner, where, raise_interrupt)
            with pytest.raises(KeyboardInterrupt):
                storage.loadBlob(OID, p64(1))
        if where == "write":
            script.expect("sendBlob")
        # Another thread may have come to the same connection before.
        again = Background(transfer.download, link, OID, p64(1), print, print)
        with pytest.raises(ClientDisconnected):
            again.result()
        assert script.is_closed()
        settle(storage, fake.accept())

    def test_chunk_that_is_not_sent(self, fake, connect, monkeypatch, tmp_path):
        """It is not waited for by those who send blobs later."""
        fake.info["zeolite"] = 1
        storage, _ = connect(blob_dir=str(tmp_path / "cache"))
        uploads = storage._connection.link().uploads
        txn, path = TransactionMetaData(), tmp_path / "blob"
        path.write_bytes(b"blob")
        storage.tpc_begin(txn)
        with monkeypatch.context() as patch:
            patch.setattr(Link, "_enter", raise_interrupt)
            with pytest.raises(KeyboardInterrupt):
                storage.storeBlob(OID, None, b"data", str(path), "", txn)
        assert uploads._pieces == sum(pieces for *_, pieces in uploads._sent)
