"""Iterators over a file storage that is being written to."""

import os
import threading
import time

import pytest
from ZODB.Connection import TransactionMetaData
from ZODB.FileStorage import FileStorage
from ZODB.utils import p64, u64, z64

LARGE = 1 << 20


class Watched(FileStorage):
    """Says when an iterator could not be had."""

    def __init__(self, *args, **kwargs):
        self.failed = threading.Event()
        super().__init__(*args, **kwargs)

    def iterator(self, *args):
        try:
            return super().iterator(*args)
        except (ValueError, AttributeError, FileNotFoundError):
            self.failed.set()
            raise


def commit(storage, data):
    txn = TransactionMetaData()
    storage.tpc_begin(txn)
    storage.store(storage.new_oid(), z64, data, "", txn)
    storage.tpc_vote(txn)
    return storage.tpc_finish(txn)


@pytest.fixture(params=[100, LARGE], ids=["small", "large"])
def being_written(request, tmp_path):
    """A storage into whose file a part of a transaction has been written; the tids in
    it, and what is to be called to take that away."""
    storage = Watched(str(tmp_path / "Data.fs"))
    tids = [commit(storage, b"x" * request.param) for _ in range(3)]
    end = os.path.getsize(storage.getName())
    with open(storage.getName(), "ab") as file:
        file.write(p64(u64(tids[-1]) + 1) + p64(1000) + b"c" + bytes(6) + b"x" * 50)

    def go_on():
        assert storage.failed.wait(10)
        os.truncate(storage.getName(), end)

    return storage, tids, go_on


def tids_from(client, start):
    """Return the tids that an iterator gives."""
    iterator = client.ask("iterator_start", start, None)
    return [
        record[0]
        for record in iter(lambda: client.ask("iterator_next", iterator), None)
    ]


def test_iterator_finds_its_start_when_the_commit_is_written(serve, being_written):
    storage, tids, go_on = being_written
    client = serve(storage).connect()
    thread = threading.Thread(target=go_on)
    thread.start()
    assert tids_from(client, tids[1]) == tids[1:]
    thread.join()


def test_verification_by_iterating_waits_for_it_too(serve, being_written):
    storage, tids, go_on = being_written
    server = serve(storage, invalidation_queue_size=1, invalidation_age=3600)
    client = server.connect()
    thread = threading.Thread(target=go_on)
    thread.start()
    assert client.ask("getInvalidations", tids[0]) == (tids[2], [p64(2), p64(3)])
    thread.join()


def test_iterator_begins_when_a_pack_has_put_the_new_file_in_place(
    serve, tmp_path, monkeypatch
):
    storage = Watched(str(tmp_path / "Data.fs"), pack_gc=False)
    client = serve(storage).connect()
    client.commit(2, serial=client.commit(1))

    def rename(source, target):
        if source.endswith(".pack"):
            started.append(client.call("iterator_start", None, None))
            assert storage.failed.wait(10)
        real(source, target)

    real, started = os.rename, []
    monkeypatch.setattr(os, "rename", rename)
    storage.pack(time.time() + 1, lambda data: [])
    assert client.wait_for(*started)


def test_iterator_that_never_finds_its_start_says_so(serve, being_written, monkeypatch):
    monkeypatch.setattr("zeolite.storageserver.transactions._PAUSE", 0)
    storage, tids, _ = being_written
    with pytest.raises(Exception, match=r"last transaction|_scan"):
        tids_from(serve(storage).connect(), tids[1])


def test_iterator_without_an_end_ends_at_the_last_commit_before_it(
    serve, tmp_path, caplog
):
    server = serve(FileStorage(str(tmp_path / "Data.fs")))
    client, other = server.connect(), server.connect()
    tids = [other.commit(1, oids=[11]), other.commit(2, oids=[12])]
    iterator = client.ask("iterator_start", None, None)
    other.commit(3, oids=[13])
    found = [client.ask("iterator_next", iterator) for _ in range(3)]
    assert [record and record[0] for record in found] == [*tids, None]
    assert "truncated" not in caplog.text


def test_iterator_ends_where_it_is_told_to(serve):
    client = serve().connect()
    tids = [client.commit(id, oids=[10 + id]) for id in (1, 2, 3)]
    iterator = client.ask("iterator_start", None, tids[1])
    found = [client.ask("iterator_next", iterator) for _ in range(3)]
    assert [record and record[0] for record in found] == [*tids[:2], None]
