"""The revisions of a storage that a server keeps in memory."""

import pytest
from ZODB.utils import maxtid, p64

from zeolite.storageserver import revisions as module
from zeolite.storageserver.revisions import OVERHEAD, RECENT, Revisions

ONE, TWO, THREE = p64(1), p64(2), p64(3)
TID = p64(100)


@pytest.fixture
def revisions():
    return Revisions(20_000)


def keep(revisions, oid, told=None, data=b""):
    revisions.keep(oid, data, TID, revisions.told if told is None else told)


def kept(revisions):
    return [oid for oid in (ONE, TWO, THREE) if revisions.get(oid, maxtid)]


def test_least_recently_used_is_given_up():
    revisions = Revisions(20 * (100 + OVERHEAD))
    oids = [p64(number) for number in range(1, 21)]
    for oid in oids:
        keep(revisions, oid, data=b"x" * 100)
    revisions.get(oids[0], maxtid)
    keep(revisions, p64(99), data=b"x" * 100)
    assert revisions.get(oids[0], maxtid)
    assert not revisions.get(oids[1], maxtid)
    assert revisions.get(oids[2], maxtid)


def test_what_is_too_large_is_not_kept():
    revisions = Revisions(10_000)
    keep(revisions, ONE, data=b"x" * 1000)
    assert not kept(revisions)


def test_what_is_no_more_is_not_kept(revisions):
    """Some storages say so with a revision that has no data."""
    load = revisions.reading(lambda oid, tid: (None, TID, None))
    assert load(ONE, maxtid) == (None, TID, None)
    assert not kept(revisions)


def test_without_room_there_is_nothing_to_do():
    revisions = Revisions(0)
    revisions.changing({ONE: None})
    revisions.changed([ONE])
    revisions.settled()
    keep(revisions, TWO)
    assert not kept(revisions)
    assert not revisions._recent
    assert revisions.reading(keep) is keep


def test_replaced_revisions_take_no_room(revisions):
    for _ in range(100):
        keep(revisions, ONE, data=b"x" * 1000)
        keep(revisions, TWO, data=b"x" * 1000)
        revisions.changed([TWO])
    keep(revisions, THREE, data=b"x" * 1000)
    assert kept(revisions) == [ONE, THREE]


def test_only_what_was_changed_since_is_refused(revisions):
    revisions.changed([ONE])
    told = revisions.told
    revisions.changed([TWO])
    for oid in (ONE, TWO, THREE):
        keep(revisions, oid, told)
    assert kept(revisions) == [ONE, THREE]


def test_what_was_read_too_long_ago_is_refused(revisions):
    told = revisions.told
    for _ in range(RECENT):
        revisions.changed([TWO])
    keep(revisions, ONE, told)
    assert kept(revisions) == [ONE]
    revisions.changed([TWO])
    keep(revisions, THREE, told)
    assert kept(revisions) == [ONE]


def test_all_is_forgotten(revisions):
    revisions.changed([TWO])
    keep(revisions, ONE)
    told = revisions.told
    revisions.forget()
    assert not kept(revisions)
    revisions.changed([TWO])
    keep(revisions, ONE, told)
    assert not kept(revisions)
    keep(revisions, ONE)
    assert kept(revisions) == [ONE]


def test_few_objects_of_recent_commits_are_remembered(revisions, monkeypatch):
    monkeypatch.setattr(module, "RECENT_OIDS", 100)
    for _ in range(5):
        revisions.changed([p64(n) for n in range(60)])
        assert sum(map(len, revisions._recent)) <= 100
    keep(revisions, THREE, 3)  # Of what came since is not all known.
    assert not kept(revisions)
    keep(revisions, p64(99), 4)
    assert revisions.get(p64(99), maxtid)


@pytest.mark.parametrize("number", [1, 2, 1000])
def test_commit_of_any_size_drops_what_it_changes(revisions, number):
    keep(revisions, ONE)
    keep(revisions, TWO)
    oids = {p64(n): None for n in range(number)}
    revisions.changing(oids)
    assert kept(revisions) == [oid for oid in (ONE, TWO) if oid not in oids]
    keep(revisions, ONE)
    revisions.changed(list(oids))
    assert kept(revisions) == [oid for oid in (ONE, TWO) if oid not in oids]
