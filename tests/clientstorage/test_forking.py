"""A storage in the child of a fork: a clear error, and no harm to the parent."""

import contextlib
import os
import socket
import subprocess
import sys
import threading
import traceback

import pytest
import transaction
import ZODB
from ZODB.Connection import TransactionMetaData
from ZODB.FileStorage import FileStorage
from ZODB.utils import maxtid, p64, z64

import zeolite
from tests.support.certificates import Files
from tests.support.waiting import wait_until
from zeolite.clientstorage import blobs
from zeolite.clientstorage.storage import ClientStorage
from zeolite.errors import ClientDisconnected, ForkedStorageError

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")


def in_child(function, *args):
    """Run a function in a forked child; fail if it raises."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            function(*args)
            status = 0
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
        os._exit(status)
    _, status = os.waitpid(pid, 0)
    assert status == 0, "see above for what the child has raised"


@pytest.fixture(params=["plain", "TLS"])
def server(serve, request):
    return serve(tls=request.param == "TLS")


@pytest.fixture
def storage(server):
    db = zeolite.DB(server.address, ssl=server.tls)
    with db.transaction() as connection:
        connection.root()["x"] = 1
    yield db.storage
    db.close()


def raises_forked(function, *args):
    with pytest.raises(ForkedStorageError, match=f"process {os.getppid()}.*open anoth"):
        function(*args)


def test_every_use_is_an_error(storage):
    txn = TransactionMetaData()
    assert storage.load(z64)  # It is in the cache now.

    def child():
        for call, *args in (
            (storage.loadBefore, z64, maxtid),
            (storage.loadBefore, p64(99), maxtid),
            (storage.prefetch, [z64], maxtid),
            (storage.lastTransaction,),
            (storage.ping,),
            (storage.history, z64),
            (storage.new_oid,),
            (storage.iterator,),
            (storage.tpc_begin, txn),
            (storage.pack,),
            (storage.getSize,),
            (storage.new_addr, 1),
        ):
            raises_forked(call, *args)
        assert not storage.is_connected()

    in_child(child)
    storage.ping()


def test_transaction_that_began_before(storage):
    txn = TransactionMetaData()
    oid = storage.new_oid()
    storage.tpc_begin(txn)
    storage.store(oid, None, b"data", "", txn)

    def child():
        raises_forked(storage.store, oid, None, b"child's", "", txn)
        raises_forked(storage.tpc_vote, txn)
        raises_forked(storage.tpc_finish, txn)
        storage.tpc_abort(txn)

    in_child(child)
    storage.tpc_vote(txn)
    tid = storage.tpc_finish(txn)
    assert storage.loadSerial(oid, tid) == b"data"


@pytest.mark.parametrize("is_shared", [True, False], ids=["shared", "cache"])
def test_blob_of_a_transaction_that_began_before(serve, tmp_path, is_shared):
    """The file that is to be committed is the parent's."""
    blobs = str(tmp_path / "blobs")
    server = serve(FileStorage(str(tmp_path / "Data.fs"), blob_dir=blobs))
    directory = blobs if is_shared else str(tmp_path / "cache")
    settings = {"blob_dir": directory, "shared_blob_dir": is_shared}
    with contextlib.closing(ClientStorage(server.address, **settings)) as storage:
        path = os.path.join(storage.temporaryDirectory(), "new")
        with open(path, "wb") as file:
            file.write(b"content")
        txn = TransactionMetaData()
        storage.tpc_begin(txn)
        storage.storeBlob(p64(7), z64, b"record", path, "", txn)
        in_child(storage.tpc_abort, txn)
        storage.tpc_vote(txn)
        path = storage._blobs.path(p64(7), storage.tpc_finish(txn))
        with open(path, "rb") as file:
            assert file.read() == b"content"


def test_iterator_that_began_before(storage):
    iterator = storage.iterator()
    next(iterator)
    in_child(raises_forked, next, iterator)
    assert next(iterator)


def test_child_closes_it_and_exits(storage):
    link = storage._connection.link()

    def child():
        storage.close()
        storage.close()

    in_child(child)
    storage.ping()
    assert storage._connection.link() is link


def test_fork_while_another_thread_sends(storage):
    """The child does not wait for locks whose holders are not there."""
    link = storage._connection.link()
    channel = link._channel
    locks = [link._send_lock, channel._closing]
    locks += [
        getattr(channel, name, threading.Lock()) for name in ("_sending", "_lock")
    ]

    def child():
        raises_forked(storage.ping)
        storage.close()

    with contextlib.ExitStack() as held:
        for lock in locks:
            held.enter_context(lock)
        in_child(child)
    storage.ping()
    assert storage._connection.link() is link


def test_database_and_connection_in_the_child(storage, server):
    db = zeolite.DB(server.address, ssl=server.tls)
    connection = db.open()
    root = connection.root()

    def child():
        raises_forked(transaction.begin)
        db.close()

    in_child(child)
    transaction.begin()
    assert root["x"] == 1
    connection.close()
    db.close()


def test_child_opens_one_of_its_own(storage, server):
    def child():
        db = zeolite.DB(server.address, ssl=server.tls)
        with db.transaction() as connection:
            connection.root()["child"] = 1
        db.close()

    in_child(child)
    storage.ping()
    db = ZODB.DB(storage)
    with db.transaction() as connection:
        assert connection.root()["child"] == 1


def test_server_notices_that_the_parent_is_gone(server, tmp_path):
    """Though the child is still there, and had the connection once."""
    trusted = Files(tmp_path).authority()
    tls = f"ssl.create_default_context(cafile={str(trusted)!r})" if server.tls else None
    script = (
        "import os, ssl, sys, zeolite\n"
        f"storage = zeolite.client({server.address!r}, ssl={tls})\n"
        "if os.fork() == 0:\n"
        "    sys.stdin.read()\n"
        "os._exit(0)\n"
    )
    status = zeolite.client(server.address, ssl=server.tls)
    parent = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE)
    try:
        assert parent.wait(20) == 0
        wait_until(lambda: status.server_status()["connections"] == 1)
    finally:
        parent.stdin.close()  # The child ends.
        status.close()


def test_fork_while_it_connects(stack):
    """The attempts of the parent go on, and the child has nothing of them."""
    from tests.support import deadservers

    address = stack.enter_context(deadservers.silent())
    storage = ClientStorage(address, wait=False, wait_timeout=0.1)
    stack.callback(storage.close)
    in_child(raises_forked, storage.ping)
    with pytest.raises(ClientDisconnected):
        storage.ping()


def test_child_does_not_keep_a_cache_of_blobs_in_use(tmp_path):
    """When the parent is gone, what it has left there goes with the next one."""
    directory = blobs.CacheDirectory(tmp_path)
    left = tmp_path / "tmp" / "left"
    left.write_bytes(b"half a blob")
    here, there = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        here.close()
        there.send(b"!")
        there.recv(1)
        os._exit(0)
    there.close()
    try:
        assert here.recv(1) == b"!"
        os.close(directory._lock)  # As when the process ends.
        directory._lock = None
        blobs.CacheDirectory(tmp_path).close()
        assert not left.exists()
    finally:
        here.close()
        os.waitpid(pid, 0)
        directory.close()
