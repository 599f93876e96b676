"""A server that lies: the client runs nothing, waits for nobody for ever, goes on, and
raises only what callers have to expect.

`ZEOLITE_FUZZ_REPLIES` says how many frames the slow test's servers send, and
`ZEOLITE_FUZZ_SEED` where its seeds begin.
"""

import collections
import gc
import logging
import os
import random
import sys
import threading
import traceback

import psutil
import pytest
from ZODB.Connection import TransactionMetaData
from ZODB.POSException import POSError
from ZODB.utils import maxtid, p64, z64

import zeolite
from tests.support.lyingserver import RECORD, LyingServer
from tests.support.waiting import wait_until
from zeolite.clientstorage.call import Call

REPLIES = int(os.environ.get("ZEOLITE_FUZZ_REPLIES", "100000"))
SEED = int(os.environ.get("ZEOLITE_FUZZ_SEED", "0"))

#: MB that the process may grow by in the slow test.  The largest bomb takes 109 for a
#: moment, and the C library keeps some of that for each of its arenas.
_GROWTH = 100

#: How many more objects there may be in it, lists and strings and all.
_OBJECTS = 2000


def _commit(storage, rng):
    transaction = TransactionMetaData()
    storage.tpc_begin(transaction)
    try:
        oid = p64(rng.randrange(5))
        if rng.randrange(4) == 0:
            path = os.path.join(storage.temporaryDirectory(), "blob")
            with open(path, "wb") as file:
                file.write(bytes(rng.choice([0, 10, 2**20])))
            storage.storeBlob(oid, z64, b"data", path, "", transaction)
        else:
            storage.store(oid, z64, b"data", "", transaction)
        storage.tpc_vote(transaction)
        storage.tpc_finish(transaction)
    except BaseException:
        storage.tpc_abort(transaction)
        raise


def _iterate(storage, rng):
    for transaction in storage.iterator():
        transaction.extension  # noqa: B018
        list(transaction)
        if rng.randrange(3) == 0:
            return


_CALLS = [
    lambda s, r: s.loadBefore(p64(r.randrange(5)), maxtid),
    lambda s, r: s.loadBefore(p64(r.randrange(5)), r.choice([z64, p64(3)])),
    lambda s, r: s.loadSerial(p64(r.randrange(5)), p64(1)),
    lambda s, r: s.prefetch([p64(n) for n in range(5)], maxtid),
    lambda s, r: [entry["tid"].hex() for entry in s.history(p64(1))],
    lambda s, r: s.getTid(p64(1)).hex(),
    lambda s, r: s.getInvalidations(p64(1)),
    lambda s, r: [entry.get("id") for entry in s.undoLog(0, -20)],
    lambda s, r: s.undoLog(0, -20, lambda entry: "id" in entry),
    lambda s, r: [entry.get("id") for entry in s.undoInfo(0, -20)],
    lambda s, r: [part and part.hex() for part in s.record_iternext()],
    lambda s, r: s.new_oid().hex(),
    lambda s, r: s.ping(),
    lambda s, r: s.pack(0),
    lambda s, r: s.openCommittedBlobFile(p64(1), p64(r.randrange(9))).close(),
    lambda s, r: (len(s), s.getSize(), s.lastTransaction(), s.isReadOnly()),
    lambda s, r: s.server_status().items(),
    _iterate,
    _commit,
]


def _is_documented(error):
    """Whether callers have to expect `error`: any of ZODB's and ours, and what the
    server itself has sent and nobody here has raised."""
    if isinstance(error, POSError):
        str(error)
        return True
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    is_the_servers = frame.f_code is Call.wait.__code__
    return is_the_servers and type(error) in (KeyError, TypeError, ValueError)


@pytest.fixture
def uncaught(monkeypatch):
    """What no thread has caught."""
    found = []
    for module, name in ((threading, "excepthook"), (sys, "unraisablehook")):
        monkeypatch.setattr(module, name, lambda args: found.append(args.exc_value))
    return found


def _be_lied_to(seed, calls, directory, counts):
    """Make calls to a liar, and then a load from the same, honest server."""
    server, rng = LyingServer(seed), random.Random(seed)
    storage = zeolite.client(
        server.address,
        wait=False,
        wait_timeout=20,
        disconnect_poll=0.01,
        cache_size=200_000,
        blob_dir=str(directory),
    )
    try:
        for _ in range(calls):
            try:
                rng.choice(_CALLS)(storage, rng)
                counts["returned"] += 1
            except Exception as error:
                assert _is_documented(error)
                counts[type(error).__name__] += 1
        server.become_honest()
        # Not what the cache may have got from the liar.
        oid = p64(1000 + rng.randrange(1000))

        def is_served():
            try:
                return storage.loadBefore(oid, maxtid)[0] == RECORD
            except zeolite.errors.ClientDisconnected:
                return False

        wait_until(is_served)
        assert storage._connection._thread.is_alive()
    finally:
        storage.close()
        server.close()
    return server.counts


def _errors(caplog):
    return [r for r in caplog.records if r.exc_info and r.name.startswith("zeolite")]


@pytest.mark.parametrize("seed", range(6))
def test_whatever_a_server_says_the_client_goes_on(seed, tmp_path, uncaught, caplog):
    counts = collections.Counter()
    sent = _be_lied_to(seed, 80, tmp_path / "blobs", counts)
    assert sum(sent.values()) > 80
    assert not uncaught
    assert not _errors(caplog), _errors(caplog)[0].exc_text


def _size():
    """Return the MB that the process has, and how many objects there are."""
    gc.collect()
    return psutil.Process().memory_info().rss / 2**20, sys.getallocatedblocks()


@pytest.mark.slow
@pytest.mark.timeout(3 * 3600)
def test_many_lies(tmp_path, uncaught, monkeypatch):
    monkeypatch.setattr(logging.root.manager, "disable", logging.CRITICAL)
    sent, counts, first_size, seed = *map(collections.Counter, ((), ())), None, SEED
    while sum(sent.values()) < REPLIES:
        sent += _be_lied_to(f"{seed}", 500, tmp_path / "blobs", counts)
        assert not uncaught, (seed, uncaught)
        seed += 1
        size = _size()
        if first_size is None and sum(sent.values()) > REPLIES / 10:
            first_size = size
    print(sum(sent.values()), "frames:", dict(sent.most_common()))
    print("calls:", dict(counts.most_common()))
    for when, (memory, objects) in {"a tenth": first_size, "all": size}.items():
        print(f"after {when}: {memory:.1f} MB, {objects} objects")
    assert size[0] - first_size[0] < _GROWTH
    assert size[1] - first_size[1] < _OBJECTS
