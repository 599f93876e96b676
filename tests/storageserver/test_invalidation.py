"""The invalidation log by itself."""

import threading

import pytest
from ZODB.utils import p64

from zeolite.storageserver import invalidation
from zeolite.storageserver.invalidation import FellBehind, InvalidationLog


def tids(entries):
    return [entry.tid for entry in entries]


def filled(count, keep=100, maximum=10_000):
    """A log with the tids 1 to `count`, after tid 0."""
    log = InvalidationLog(p64(0), keep, maximum)
    for number in range(1, count + 1):
        log.add(p64(number), [p64(number)])
    return log


class TestReading:
    def test_join_is_behind_all_that_is_published(self):
        log = filled(3)
        assert log.join() == (p64(3), 3)
        assert log.read(3) == []

    def test_reads_in_order_from_the_cursor(self):
        assert tids(filled(5).read(2)) == [p64(3), p64(4), p64(5)]

    def test_reads_no_more_than_the_limit(self):
        assert tids(filled(5).read(0, limit=2)) == [p64(1), p64(2)]

    def test_stops_at_what_is_not_published(self):
        log = filled(1)
        reserved = log.reserve(p64(2), [])
        log.add(p64(3), [])
        assert log.join() == (p64(1), 1)
        assert tids(log.read(0)) == [p64(1)]
        log.publish(reserved)
        assert log.join() == (p64(3), 3)

    def test_cancelled_place_at_the_end_is_gone(self):
        log = filled(1)
        log.cancel(log.reserve(p64(2), []))
        assert len(log) == 1
        log.add(p64(3), [])
        assert tids(log.read(0)) == [p64(1), p64(3)]

    def test_cancelled_place_in_the_middle_is_void(self):
        log = filled(1)
        reserved = log.reserve(p64(2), [p64(2)])
        log.add(p64(3), [p64(3)])
        log.cancel(reserved)
        assert [entry.void for entry in log.read(0)] == [False, True, False]
        assert log.join() == (p64(3), 3)
        assert log.since(p64(1), 3) == (p64(3), [p64(3)])

    def test_cancelled_place_does_not_become_the_last_tid(self):
        log = filled(1)
        first = log.reserve(p64(2), [])
        second = log.reserve(p64(3), [])
        log.cancel(first)
        assert log.join() == (p64(1), 2)
        log.publish(second)
        assert log.join() == (p64(3), 3)


class TestSince:
    def test_union_without_repetition(self):
        log = InvalidationLog(p64(0))
        for number in (1, 2, 3):
            log.add(p64(number), [p64(7), p64(number)])
        tid, oids = log.since(p64(1), log.end)
        assert tid == p64(3)
        assert sorted(oids) == [p64(2), p64(3), p64(7)]

    def test_nothing_happened(self):
        assert filled(3).since(p64(3), 3) == (p64(3), [])

    def test_only_up_to_the_cursor(self):
        assert filled(5).since(p64(1), 3) == (p64(3), [p64(3), p64(2)])

    def test_reaches_back_to_the_start(self):
        assert filled(5).since(p64(0), 5)[0] == p64(5)

    def test_too_old(self):
        log = filled(10, keep=3)
        log.trim(10)
        assert log.since(p64(6), 10) is None
        assert log.since(p64(7), 10) == (p64(10), [p64(10), p64(9), p64(8)])

    def test_who_fell_behind_is_not_told_that_nothing_happened(self):
        log = filled(10, keep=3, maximum=3)
        assert log.since(p64(9), 5) is None
        assert log.since(p64(9), 10) == (p64(10), [p64(10)])

    def test_before_the_server_started(self):
        log = InvalidationLog(p64(5))
        assert log.since(p64(4), 0) is None
        assert log.since(p64(5), 0) == (p64(5), [])

    def test_seed_reaches_back_before_the_first_commit(self):
        log = InvalidationLog(p64(5))
        log.seed([(p64(n), [p64(n)]) for n in (2, 3, 4, 5)])
        assert log.since(p64(1), log.end) is None
        assert log.since(p64(2), log.end) == (p64(5), [p64(5), p64(4), p64(3)])
        assert log.last_tid == p64(5)

    @pytest.mark.parametrize("count", [0, 1])
    def test_seeded_with_little(self, count):
        log = InvalidationLog(p64(5))
        log.seed([(p64(5), [p64(1)])][:count])
        assert log.since(p64(5), log.end) == (p64(5), [])


class TestBounds:
    def test_keeps_for_those_who_reconnect(self):
        log = filled(50, keep=10)
        log.trim(50)
        assert len(log) == 10

    def test_keeps_what_the_slowest_needs(self):
        log = filled(50, keep=10)
        log.trim(20)
        assert tids(log.read(20, limit=1)) == [p64(21)]

    def test_gives_the_slowest_up_at_the_maximum(self):
        log = filled(50, keep=10, maximum=30)
        assert len(log) == 30
        with pytest.raises(FellBehind):
            log.read(19)
        assert tids(log.read(20, limit=1)) == [p64(21)]

    def test_never_drops_what_is_not_published(self):
        log = InvalidationLog(p64(0), keep=1, maximum=1)
        reserved = log.reserve(p64(1), [])
        log.add(p64(2), [])
        log.trim(2)
        log.publish(reserved)
        assert log.join() == (p64(2), 2)

    def test_restart_leaves_every_cursor_behind(self):
        log = filled(3)
        log.restart(p64(9))
        for cursor in range(4):
            with pytest.raises(FellBehind):
                log.read(cursor)
        assert log.join()[0] == p64(9)
        assert log.since(p64(3), log.end) is None

    def test_restart_after_unknown_commits_is_no_help_to_who_was_up_to_date(self):
        log = filled(3)
        log.restart(p64(3), is_known=False)
        assert log.since(p64(3), log.end) is None
        assert log.join()[0] == p64(3)
        log.add(p64(5), [p64(5)])
        assert log.since(p64(3), log.end) is None
        assert log.since(p64(4), log.end) == (p64(5), [p64(5)])

    def test_restart_keeps_what_is_reserved(self):
        log = filled(3)
        reserved = log.reserve(p64(5), [p64(5)])
        log.restart(p64(4))
        tid, cursor = log.join()
        assert tid == p64(4)
        log.publish(reserved)
        assert tids(log.read(cursor)) == [p64(5)]

    def test_restart_never_turns_back(self):
        log = filled(3)
        log.restart(p64(1))
        assert log.join()[0] == p64(3)


def test_many_threads_read_what_one_writes():
    """Each reader sees every tid once and in order, wherever it joins."""
    log = InvalidationLog(p64(0), keep=5)
    last = p64(2000)
    problems = []

    def read():
        tid, cursor = log.join()
        while tid != last:
            for entry in log.read(cursor):
                cursor += 1
                if entry.void:
                    continue
                if entry.tid <= tid or int.from_bytes(entry.tid, "big") % 7 == 0:
                    problems.append((tid, entry.tid))
                tid = entry.tid

    readers = [threading.Thread(target=read) for _ in range(4)]
    for reader in readers:
        reader.start()
    for number in range(1, 2001):
        entry = log.reserve(p64(number), [])
        if number % 7 == 0:
            log.cancel(entry)
        else:
            log.publish(entry)
    for reader in readers:
        reader.join()
    assert not problems


class TestLargeCommits:
    """Of commits with many objects fewer are kept for those who are behind."""

    def fill(self, log, numbers, size):
        for number in numbers:
            log.add(p64(number), [p64(oid) for oid in range(size)])

    def test_they_do_not_wait_for_a_slow_client(self, monkeypatch):
        monkeypatch.setattr(invalidation, "MAXIMUM_OIDS", 100)
        log = InvalidationLog(p64(0), keep=3)
        _, cursor = log.join()
        self.fill(log, range(1, 11), 10)
        assert len(log) == 10
        self.fill(log, range(11, 31), 10)
        assert len(log) == 10
        with pytest.raises(FellBehind):
            log.read(cursor)

    def test_as_many_as_is_set_are_kept_nevertheless(self, monkeypatch):
        monkeypatch.setattr(invalidation, "MAXIMUM_OIDS", 100)
        log = InvalidationLog(p64(0), keep=3)
        self.fill(log, range(1, 9), 1000)
        assert len(log) == 3
        assert log.since(p64(5), log.join()[1])[0] == p64(8)

    def test_what_is_dropped_does_not_count(self, monkeypatch):
        monkeypatch.setattr(invalidation, "MAXIMUM_OIDS", 100)
        log = InvalidationLog(p64(0), keep=3)
        self.fill(log, range(1, 9), 10)
        log.trim(log.end)
        first, second = log.reserve(p64(9), OIDS), log.reserve(p64(10), OIDS)
        log.cancel(first)
        log.cancel(second)
        log.restart(p64(11))
        self.fill(log, range(12, 22), 10)
        assert len(log) == 10
        assert log._oids == 100


OIDS = [p64(oid) for oid in range(50)]
