"""Client storages under and over other storages, and seen from the past."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import transaction
import ZODB.interfaces
import zope.interface.verify
from zc.zlibstorage import ZlibStorage
from ZODB.blob import Blob
from ZODB.Connection import TransactionMetaData
from ZODB.DemoStorage import DemoStorage
from ZODB.MappingStorage import MappingStorage
from ZODB.POSException import (
    ConflictError,
    POSKeyError,
    ReadOnlyHistoryError,
    Unsupported,
)
from ZODB.tests.hexstorage import HexStorage
from ZODB.tests.MinPO import MinPO
from ZODB.utils import p64

import zeolite
from tests.support.waiting import wait_until

FILE = "<filestorage>\npath {}/Data.fs\n</filestorage>\n"
BLOBS = "<filestorage>\npath {0}/Data.fs\nblob-dir {0}/blobs\n</filestorage>\n"
MAPPING = "<mappingstorage>\n</mappingstorage>\n"
HEX = "%import ZODB.tests\n<hexstorage>\n<filestorage>\npath {}/Data.fs\n</filestorage>\n</hexstorage>\n"


@pytest.fixture
def serve(host, tmp_path):
    servers = []

    def serve(section, **settings):
        servers.append(host.start(section.format(tmp_path), **settings))
        return servers[-1].address

    yield serve
    for server in servers:
        server.stop()


def fill(db, count=3):
    for number in range(count):
        with db.transaction() as connection:
            connection.root()["x"] = MinPO(number)
            connection.root()["n"] = number


@pytest.mark.parametrize("section", [FILE, MAPPING], ids=["file", "mapping"])
def test_interfaces_are_those_of_the_served_storage(serve, section, tmp_path):
    storage = zeolite.client(serve(section))
    provided = set(zope.interface.providedBy(storage))
    for interface in provided:
        assert zope.interface.verify.verifyObject(interface, storage)
    undo = ZODB.interfaces.IStorageUndoable in provided
    assert undo is storage.supportsUndo() is (section is FILE)
    assert ZODB.interfaces.IStorageIteration in provided
    assert ZODB.interfaces.IBlobStorage not in provided
    assert (ZODB.interfaces.IExternalGC in provided) is (section is FILE)
    storage.close()


def test_historical_connections(serve):
    db = zeolite.DB(serve(FILE))
    fill(db)
    tids = [txn.tid for txn in db.storage.iterator()]
    for number, tid in enumerate(tids[1:]):
        manager = transaction.TransactionManager()
        past = db.open(manager, at=tid)
        assert past.root()["n"] == past.root()["x"].value == number
        past.root()["n"] = 5
        with pytest.raises(ReadOnlyHistoryError):
            manager.commit()
        manager.abort()
        past.close()
    db.close()


def test_undo_through_the_database(serve):
    db = zeolite.DB(serve(FILE))
    fill(db)
    (last,) = db.undoLog(0, 1)
    db.undo(last["id"])
    transaction.commit()
    with db.transaction() as connection:
        assert connection.root()["n"] == 1
    db.close()


def test_undo_log_with_a_filter(serve):
    db = zeolite.DB(serve(FILE))
    for number in range(250):
        with db.transaction() as connection:
            connection.transaction_manager.get().note(f"number {number}")
            connection.root()["n"] = number
    found = db.undoLog(1, 3, lambda entry: entry["description"].endswith(b"7"))
    assert [entry["description"][-3:] for entry in found] == ["237", "227"]
    assert len(db.undoLog(0, -1000, lambda entry: True)) == 251
    info = db.undoInfo(0, -20, {"description": b"number 5"})
    assert [entry["description"] for entry in info] == ["number 5"]
    db.close()


def test_demo_storage_over_a_client(serve):
    address = serve(FILE)
    base = zeolite.DB(address)
    fill(base)
    demo = ZODB.DB(DemoStorage(base=zeolite.client(address)))
    with demo.transaction() as connection:
        assert connection.root()["n"] == 2
        connection.root()["n"] = "changed"
    with demo.transaction() as connection:
        assert connection.root()["n"] == "changed"
    with base.transaction() as connection:
        assert connection.root()["n"] == 2
    demo.close()
    base.close()


def test_demo_storage_with_its_changes_in_a_client(serve, tmp_path):
    blobs = {"blob_dir": str(tmp_path / "cache")}
    changes = zeolite.client(serve(BLOBS), **blobs)
    db = ZODB.DB(DemoStorage(base=MappingStorage(), changes=changes))
    with db.transaction() as connection:
        connection.root()["blob"] = Blob(b"data")
    fill(db)
    with pytest.raises(ZeroDivisionError), db.transaction() as connection:
        connection.root()["n"] = 1 // 0
    with db.transaction() as connection:
        assert connection.root()["n"] == 2
        with connection.root()["blob"].open() as file:
            assert file.read() == b"data"
    assert changes.tpc_transaction() is None
    db.close()


def test_transaction_that_began_last(serve):
    storage = zeolite.client(serve(MAPPING))
    first, second = TransactionMetaData(), TransactionMetaData()
    storage.tpc_begin(first)
    assert storage.tpc_transaction() is first
    storage.tpc_begin(second)
    storage.tpc_abort(first)
    assert storage.tpc_transaction() is second
    storage.tpc_abort(second)
    assert storage.tpc_transaction() is None
    storage.close()


def test_connecting_again_while_a_demo_storage_waits_for_it(host, tmp_path):
    """It holds a lock of its changes meanwhile, which nobody else is to want."""
    server = host.start(FILE.format(tmp_path))
    storage = zeolite.client(server.address, disconnect_poll=0.01)
    storage.new_oid()
    try:
        with storage._lock:
            server.stop()
            wait_until(lambda: not storage.is_connected())
            server = host.start(FILE.format(tmp_path), port=server.address[1])
            storage.ping()
            with ThreadPoolExecutor(1) as pool:
                assert pool.submit(storage.new_oid).result(20)
    finally:
        server.stop()
    storage.close()


def test_hex_storage_over_a_client(serve):
    address = serve(FILE)
    for number in range(3):
        db = ZODB.DB(HexStorage(zeolite.client(address)))
        with db.transaction() as connection:
            assert connection.root().get("n", -1) == number - 1
            connection.root()["n"] = number
        db.close()


def test_iteration_leaves_nothing_on_the_server(serve):
    import gc

    db = zeolite.DB(serve(FILE))
    fill(db, 5)
    storage = db.storage
    for _ in range(3):
        iterator = storage.iterator()
        records = iter(next(iterator))
        next(records)
    del iterator, records
    gc.collect()
    storage.ping()
    assert not storage._connection.link().dropped_iterators
    db.close()


def test_records_out_of_order_are_a_clear_error(serve):
    db = zeolite.DB(serve(FILE))
    fill(db)
    iterator = db.storage.iterator()
    first = next(iterator)
    next(iterator)
    with pytest.raises(Exception, match="until the next transaction"):
        list(first)
    iterator.close()
    with pytest.raises(StopIteration):
        next(iterator)
    db.close()


def test_all_records_of_a_large_transaction(serve):
    db = zeolite.DB(serve(FILE))
    with db.transaction() as connection:
        for number in range(500):
            connection.root()[number] = MinPO(number)
    found = {}
    for txn in db.storage.iterator():
        found[txn.tid] = [(record.oid, record.data) for record in txn]
    assert len(found[max(found)]) == 501
    db.close()


def test_record_iternext(serve):
    db = zeolite.DB(serve(FILE))
    fill(db)
    cursor, oids = None, []
    while True:
        oid, _, data, cursor = db.storage.record_iternext(cursor)
        assert data
        oids.append(oid)
        if cursor is None:
            break
    # The root, and the three that were its "x".
    assert oids == [p64(number) for number in range(4)]
    db.close()


@pytest.mark.parametrize("kind", ["file to memory", "memory to file"])
def test_copy_between_kinds_of_storages(serve, kind):
    sections = [FILE, MAPPING] if kind == "file to memory" else [MAPPING, FILE]
    source, destination = (zeolite.client(serve(section)) for section in sections)
    db = ZODB.DB(source)
    fill(db)
    destination.copyTransactionsFrom(source)
    for old, new in zip(source.iterator(), destination.iterator(), strict=True):
        assert (old.tid, old.user, old.description) == (
            new.tid,
            new.user,
            new.description,
        )
        assert [(r.oid, r.tid, r.data) for r in old] == [
            (r.oid, r.tid, r.data) for r in new
        ]
    assert destination.lastTransaction() == source.lastTransaction()
    destination.close()
    db.close()


@pytest.mark.parametrize("wrapper", [HexStorage, ZlibStorage])
def test_wrapped_clients_hear_of_changes(serve, wrapper):
    """HexStorage's `invalidate` fails, in ZODB 5.8 to 6.4."""
    address = serve(MAPPING)
    first, second = (
        ZODB.DB(wrapper(zeolite.client(address, server_sync=True))) for _ in range(2)
    )
    for number in range(3):
        fill(first, number + 1)
        second.storage.base.ping()
        with second.transaction() as connection:
            assert connection.root()["n"] == connection.root()["x"].value == number
    assert second.storage.base.is_connected()
    first.close()
    second.close()


@pytest.mark.parametrize("wrapper", [HexStorage, ZlibStorage])
def test_wrapper_without_a_database_stays_connected(serve, wrapper):
    """For instance in a script that copies or packs, while others commit."""
    address = serve(MAPPING)
    wrapped = wrapper(zeolite.client(address, disconnect_poll=0.01))
    link = wrapped.base._connection.link()
    db = ZODB.DB(wrapper(zeolite.client(address)))
    fill(db)
    wrapped.base.ping()
    assert wrapped.lastTransaction() == db.lastTransaction()
    assert wrapped.base._connection.link() is link
    db.close()
    wrapped.close()


def test_records_without_data(serve):
    storage = zeolite.client(serve(FILE))
    txn = TransactionMetaData(description="nothing")
    storage.tpc_begin(txn)
    storage.tpc_vote(txn)
    tid = storage.tpc_finish(txn)
    found = [(txn.tid, txn.description, list(txn)) for txn in storage.iterator()]
    assert found == [(tid, b"nothing", [])]
    storage.close()


def test_external_garbage_collection(serve):
    db = zeolite.DB(serve(FILE))
    fill(db, 1)
    with db.transaction() as connection:
        garbage = connection.root()["x"]._p_oid
        del connection.root()["x"]
    _, serial = db.storage.load(garbage)
    db.storage.pack(time.time() + 1, gc=False)
    assert len(db.storage) == 2
    for wrong in (p64(1), None):
        txn = TransactionMetaData()
        db.storage.tpc_begin(txn)
        db.storage.deleteObject(garbage, wrong or serial, txn)
        if wrong:
            with pytest.raises(ConflictError):
                db.storage.tpc_vote(txn)
            db.storage.tpc_abort(txn)
    db.storage.tpc_vote(txn)
    tid = db.storage.tpc_finish(txn)
    with pytest.raises(POSKeyError):
        db.storage.load(garbage)
    assert db.storage.loadBefore(garbage, tid)[1:] == (serial, tid)
    db.storage.pack(time.time() + 1, gc=False)
    assert len(db.storage) == 1
    db.close()


def test_zeo_server_cannot_be_told_about_garbage(zeo_host):
    server = zeo_host.start(MAPPING)
    storage = zeolite.client(server.address)
    with pytest.raises(Unsupported, match="pack-gc"):
        storage.pack(gc=False)
    storage.pack()
    storage.close()
    server.stop()
