"""The client's cache against a model, and at its edges."""

import sys
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ZODB.utils import maxtid, p64, u64

from zeolite.clientstorage.cache import SHARE, ClientCache

SIZE = 64 * 1024


@pytest.fixture
def cache():
    cache = ClientCache(None, SIZE)
    yield cache
    cache.close()


OID = p64(1)


def test_current_revision(cache):
    cache.store(OID, p64(5), None, b"data")
    assert cache.loadBefore(OID, maxtid) == (b"data", p64(5), None)
    assert cache.loadBefore(OID, p64(6)) == (b"data", p64(5), None)
    assert cache.loadBefore(OID, p64(5)) is None
    assert cache.loadBefore(p64(2), maxtid) is None


def test_invalidated_revision_is_kept_as_an_earlier_one(cache):
    cache.store(OID, p64(5), None, b"data")
    cache.invalidate(OID, p64(8))
    assert cache.loadBefore(OID, maxtid) is None
    assert cache.loadBefore(OID, p64(9)) is None
    assert cache.loadBefore(OID, p64(8)) == (b"data", p64(5), p64(8))


def test_invalidated_without_a_tid_is_forgotten(cache):
    cache.store(OID, p64(5), None, b"data")
    cache.invalidate(OID, None)
    assert cache.loadBefore(OID, p64(6)) is None
    assert len(cache) == 0


def test_loaded_after_the_commit_that_is_told_later(cache):
    """A load may see a commit before its invalidation arrives."""
    cache.store(OID, p64(8), None, b"new")
    cache.invalidate(OID, p64(7))
    cache.invalidate(OID, p64(8))
    assert cache.loadBefore(OID, maxtid) == (b"new", p64(8), None)


def test_earlier_revision_beside_the_current_one(cache):
    cache.store(OID, p64(8), None, b"new")
    cache.store(OID, p64(5), p64(8), b"old")
    assert cache.loadBefore(OID, p64(8)) == (b"old", p64(5), p64(8))
    assert cache.loadBefore(OID, p64(9)) == (b"new", p64(8), None)
    assert len(cache) == 2
    assert sorted(cache.contents()) == [(OID, p64(5)), (OID, p64(8))]


def test_earlier_revision_of_another_object_is_not_found(cache):
    cache.store(p64(1), p64(2), p64(9), b"of another")
    assert cache.loadBefore(p64(7), p64(5)) is None
    assert not cache.has(p64(7), p64(5))


def test_gap_between_revisions_is_not_filled(cache):
    cache.store(OID, p64(2), p64(4), b"a")
    cache.store(OID, p64(6), p64(8), b"b")
    assert cache.loadBefore(OID, p64(5)) is None
    assert cache.loadBefore(OID, p64(9)) is None


def test_known_revision_is_not_stored_twice(cache):
    for _ in range(3):
        cache.store(OID, p64(5), None, b"data")
        cache.store(OID, p64(2), p64(5), b"old")
    assert len(cache) == 2


def test_older_current_revision_does_not_replace_a_newer_one(cache):
    cache.store(OID, p64(8), None, b"new")
    cache.store(OID, p64(5), None, b"old")
    assert cache.loadBefore(OID, maxtid)[0] == b"new"


def test_large_record_is_not_cached(cache):
    cache.store(OID, p64(5), None, b"x" * (SIZE // SHARE))
    assert len(cache) == 0
    cache.store(OID, p64(5), None, b"x" * (SIZE // SHARE - 100))
    assert len(cache) == 1


def test_empty_data(cache):
    cache.store(OID, p64(5), None, b"")
    assert cache.loadBefore(OID, maxtid) == (b"", p64(5), None)


def test_oldest_are_forgotten_first(cache):
    for number in range(1000):
        cache.store(p64(number), p64(1), None, b"x" * 1000)
    found = [n for n in range(1000) if cache.loadBefore(p64(n), maxtid)]
    assert found == list(range(1000 - len(found), 1000))
    assert len(found) > 50


def test_cleared_cache_is_empty_and_can_be_used_again(cache):
    cache.store(OID, p64(5), None, b"data")
    cache.setLastTid(p64(5))
    cache.clear()
    assert len(cache) == 0
    assert cache.getLastTid() is None
    cache.store(OID, p64(5), None, b"again")
    assert cache.loadBefore(OID, maxtid)[0] == b"again"


def test_closed_cache_finds_nothing():
    cache = ClientCache(None, SIZE)
    cache.store(OID, p64(5), None, b"data")
    cache.close()
    cache.close()
    assert cache.loadBefore(OID, maxtid) is None
    cache.store(OID, p64(5), None, b"data")
    cache.invalidate(OID, p64(6))


def test_statistics(cache):
    for number in range(100):
        cache.store(p64(number), p64(5), None, b"x" * 1000)
    cache.loadBefore(p64(99), maxtid)
    cache.loadBefore(p64(99), p64(5))
    cache.loadBefore(p64(1), maxtid)
    cache.loadBefore(p64(1), maxtid)
    cache.has(p64(99), maxtid)
    found = cache.statistics()
    assert (found.hits, found.misses, found.hit_rate) == (1, 3, 0.25)
    assert (found.stores, found.evictions) == (100, 100 - len(cache))
    assert (found.records, found.size) == (len(cache), SIZE)
    assert found.bytes == len(cache) * 1040


def test_statistics_of_a_new_cache(cache):
    found = cache.statistics()
    assert (found.bytes, found.records, found.hit_rate) == (0, 0, 0.0)


def test_threads_load_while_one_stores(cache):
    """What any of them finds is one revision from end to end."""
    rounds, failures = 3000, []
    done = threading.Event()

    def load(first):
        number = first
        while not done.is_set():
            number += 1
            for oid, before in ((p64(number % 20), maxtid), (OID, p64(number % 3000))):
                found = cache.loadBefore(oid, before)
                if found is None:
                    continue
                data, start, end = found
                if data != start * 100 or not start < before <= (end or maxtid):
                    failures.append((oid, before, found))

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    threads = [threading.Thread(target=load, args=(n,)) for n in range(4)]
    try:
        for thread in threads:
            thread.start()
        for tid in range(1, rounds):
            oid = p64(tid * 7 % 20)
            cache.invalidate(oid, p64(tid))
            cache.store(oid, p64(tid), None, p64(tid) * 100)
            cache.setLastTid(p64(tid))
    finally:
        done.set()
        for thread in threads:
            thread.join()
        sys.setswitchinterval(interval)
    assert not failures
    found = cache.statistics()
    assert found.hits > 0
    assert found.moves > 0


operations = st.lists(
    st.tuples(
        st.sampled_from(["load", "load", "store", "store", "invalidate", "commit"]),
        st.integers(0, 6),
        st.integers(0, 9000),
    ),
    max_size=200,
)


@settings(max_examples=200, deadline=None)
@given(operations)
def test_never_wrong(operations):
    """Whatever the cache finds is what the server would say."""
    cache = ClientCache(None, SIZE)
    history = {p64(n): [(p64(1), b"%d" % n)] for n in range(7)}
    tid = 1
    try:
        for operation, number, value in operations:
            oid = p64(number)
            if operation == "commit":
                tid += 1
                data = b"%d-%d" % (number, tid) * (value // 4)
                history[oid].append((p64(tid), data))
                cache.invalidate(oid, p64(tid))
                if value % 2:
                    cache.store(oid, p64(tid), None, data)
            elif operation == "invalidate":
                cache.invalidate(oid, None)
            else:
                before = p64(value % (tid + 2))
                expected = as_of(history[oid], before)
                found = cache.loadBefore(oid, before)
                assert found is None or found == expected
                if operation == "store" and expected is not None:
                    cache.store(oid, expected[1], expected[2], expected[0])
                    if len(expected[0]) < SIZE // SHARE - 100:
                        assert cache.loadBefore(oid, before) == expected
    finally:
        cache.close()


def as_of(history, before):
    """What a storage's `loadBefore` returns."""
    found = None
    for tid, data in history:
        if u64(tid) >= u64(before):
            return found and (*found[:2], tid)
        found = data, tid, None
    return found
