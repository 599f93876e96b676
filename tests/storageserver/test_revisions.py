"""The revisions of a database that a server keeps in memory."""

from ZODB.utils import maxtid, p64

from zeolite.storageserver import revisions as module
from zeolite.storageserver.revisions import OVERHEAD, RECENT, Revisions

ONE, TWO, THREE = p64(1), p64(2), p64(3)
TIDS = [p64(number) for number in range(100, 110)]


def kept(revisions):
    return [oid for oid in (ONE, TWO, THREE) if revisions.get(oid, maxtid)]


def test_least_recently_used_is_given_up():
    revisions = Revisions(TIDS[0], 20 * (100 + OVERHEAD))
    oids = [p64(number) for number in range(1, 21)]
    for oid in oids:
        revisions.keep(oid, b"x" * 100, TIDS[0], TIDS[0])
    revisions.get(oids[0], maxtid)
    revisions.keep(p64(99), b"x" * 100, TIDS[0], TIDS[0])
    assert revisions.get(oids[0], maxtid)
    assert not revisions.get(oids[1], maxtid)
    assert revisions.get(oids[2], maxtid)


def test_what_is_too_large_is_not_kept():
    revisions = Revisions(TIDS[0], 10_000)
    revisions.keep(ONE, b"x" * 1000, TIDS[0], TIDS[0])
    assert not kept(revisions)
    none = Revisions(TIDS[0], 0)
    none.keep(ONE, b"", TIDS[0], TIDS[0])
    assert not kept(none)


def test_replaced_revisions_take_no_room():
    revisions = Revisions(TIDS[0], 20_000)
    for _ in range(100):
        revisions.keep(ONE, b"x" * 1000, TIDS[0], TIDS[0])
        revisions.keep(TWO, b"x" * 1000, TIDS[0], TIDS[0])
        revisions.changed(TIDS[0], [TWO])
    revisions.keep(THREE, b"x" * 1000, TIDS[0], TIDS[0])
    assert kept(revisions) == [ONE, THREE]


def test_only_what_was_changed_behind_the_mark_is_refused():
    revisions = Revisions(TIDS[0], 1 << 20)
    revisions.changed(TIDS[1], [ONE])
    revisions.changed(TIDS[2], [TWO])
    for oid in (ONE, TWO, THREE):
        revisions.keep(oid, b"", TIDS[0], TIDS[1])
    assert kept(revisions) == [ONE, THREE]


def test_mark_that_is_not_remembered_is_refused():
    revisions = Revisions(TIDS[0], 1 << 20)
    for number in range(RECENT + 1):
        revisions.changed(p64(1000 + number), [TWO])
    revisions.keep(ONE, b"", TIDS[0], TIDS[0])
    assert not kept(revisions)
    revisions.keep(ONE, b"", TIDS[0], revisions.mark)
    assert kept(revisions) == [ONE]


def test_all_is_forgotten():
    revisions = Revisions(TIDS[0], 1 << 20)
    revisions.keep(ONE, b"", TIDS[0], TIDS[0])
    revisions.forget(TIDS[3])
    assert not kept(revisions)
    revisions.keep(ONE, b"", TIDS[0], TIDS[2])
    assert not kept(revisions)
    assert revisions.mark == TIDS[3]


def test_few_objects_of_recent_commits_are_remembered(monkeypatch):
    monkeypatch.setattr(module, "RECENT_OIDS", 100, raising=False)
    revisions = Revisions(TIDS[0], 20_000)
    for number in range(1, 6):
        revisions.changed(TIDS[number], [p64(n) for n in range(60)])
        assert sum(len(oids) for _, oids in revisions._recent) <= 100
    revisions.keep(ONE, b"x", TIDS[0], TIDS[3])  # Of what came since is not all known.
    assert not kept(revisions)
    revisions.keep(p64(99), b"x", TIDS[0], TIDS[4])
    assert revisions.get(p64(99), maxtid)
