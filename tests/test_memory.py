"""What iterating over a large database costs, on both sides: no memory."""

import os

import psutil
import pytest
from ZODB.Connection import TransactionMetaData
from ZODB.FileStorage import FileStorage
from ZODB.utils import p64

import zeolite
from tests.support.processes import running

TRANSACTIONS = 100_000

#: Bytes that a process may grow by: a tenth of what the database has.
GROWTH = 10_000_000


def fill(path):
    """Make a file of 100 MB, in transactions of a KB."""
    storage = FileStorage(str(path))
    serial = None
    for number in range(TRANSACTIONS):
        txn = TransactionMetaData()
        storage.tpc_begin(txn)
        storage.store(p64(1), serial, b"%1000d" % number, "", txn)
        storage.tpc_vote(txn)
        serial = storage.tpc_finish(txn)
    storage.close()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_iteration_holds_a_few_transactions_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda file: None)
    fill(tmp_path / "Data.fs")
    with running("-a", "0", "-f", "Data.fs", cwd=tmp_path) as server:
        storage = zeolite.client(server.address())
        processes = psutil.Process(), psutil.Process(server.pid)
        count, most = 0, [0, 0]
        for txn in storage.iterator():
            (record,) = txn
            assert record.data == b"%1000d" % count
            count += 1
            if count == 1000:  # What is imported and allocated once is there now.
                start = [process.memory_info().rss for process in processes]
            if count >= 1000 and count % 100 == 0:
                for i, process in enumerate(processes):
                    most[i] = max(most[i], process.memory_info().rss - start[i])
        storage.close()
    print("bytes that client and server have grown by:", most)
    assert count == TRANSACTIONS
    assert max(most) < GROWTH
