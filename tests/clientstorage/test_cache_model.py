"""The cache against a dictionary: it may forget, and is never wrong.

Whatever happens to the file, what is found in it is what the server had, and what
it takes for current is current as of its last tid.
"""

import contextlib
import os
import shutil
import tempfile
from unittest import mock

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from ZODB.utils import maxtid, p64, u64

from tests.support.tearing import Killed, TearingMap
from zeolite.clientstorage import cachefile, cacheformat
from zeolite.clientstorage.cache import ClientCache
from zeolite.errors import CacheFileError

OBJECTS = 25
SIZES = 64 * 1024, 80 * 1024, 200 * 1024

# A file system in memory, where there is one: nothing here is about disks.
_DIRECTORY = "/dev/shm" if os.path.isdir("/dev/shm") else None


class World:
    """A server, a client that hears of its commits, and the client's cache."""

    def __init__(self, directory):
        self.path = os.path.join(directory, "cache")
        self.history = {p64(n): [(p64(1), b"first %d" % n)] for n in range(OBJECTS)}
        self.tid = 1
        self.cache = ClientCache(self.path, SIZES[0])
        self.cache.setLastTid(p64(1))

    def close(self):
        self.cache.close()

    # The server.

    def change(self, oid, size):
        data = b"%d-%d " % (u64(oid), self.tid) * (size // 6)
        self.history[oid].append((p64(self.tid), data))
        return data

    def as_of(self, oid, before):
        """What a storage's `loadBefore` returns."""
        found = None
        for tid, data in self.history[oid]:
            if tid >= before:
                return found and (*found[:2], tid)
            found = data, tid, None
        return found

    # What a client does, in the order in which `View` does it.

    def commit(self, oid, size, other):
        self.tid += 1
        oids = {oid, p64(other % len(self.history))}
        data = {oid: self.change(oid, size) for oid in sorted(oids)}
        for changed in sorted(oids):
            self.cache.invalidate(changed, p64(self.tid))
        self.cache.setLastTid(p64(self.tid))
        if size % 2:
            self.cache.store(oid, p64(self.tid), None, data[oid])

    def load(self, oid, before):
        before = p64(before % (self.tid + 2)) if before % 3 else maxtid
        expected = self.as_of(oid, before)
        has = self.cache.has(oid, before)
        found = self.cache.loadBefore(oid, before)
        assert has == (found is not None)
        assert found is None or found == expected
        if found is None and expected is not None:
            data, start, end = expected
            self.cache.store(oid, start, end, data)

    def load_of_what_is_told_later(self, oid, size):
        """A reply overtakes the invalidation of the commit that it has seen."""
        self.tid += 1
        data = self.change(oid, size)
        self.cache.store(oid, p64(self.tid), None, data)
        self.cache.invalidate(oid, p64(self.tid))
        self.cache.setLastTid(p64(self.tid))

    def fill(self, number, size):
        """Load much and read some of it again, so that the ring goes round."""
        for n in range(30):
            oid = p64((number + n * n) % len(self.history))
            if n % 3 == 0:
                self.commit(oid, 3001 + 2 * size % 12000, number + n)
            self.load(oid, 0)
            if n % 5 == 0:
                self.load(p64(number), 0)

    def miss(self, oid, size):
        """The client was away while this was committed."""
        self.tid += 1
        self.change(oid, size)
        self.verify()

    def verify(self):
        known = self.cache.getLastTid()
        assert known is None or known <= p64(self.tid)
        if known is None:
            assert len(self.cache) == 0
        else:
            for oid, revisions in self.history.items():
                if revisions[-1][0] > known:
                    self.cache.invalidate(oid, None)
        self.cache.setLastTid(p64(self.tid))

    # What happens to it.

    def reopen(self, size):
        self.cache.close()
        self.open(size)

    def kill(self, size):
        self.end()
        self.open(size)

    def end(self):
        """End without closing the file."""
        copy = self.path + ".copy"
        shutil.copyfile(self.path, copy)
        self.cache.close()
        os.replace(copy, self.path)

    def damage(self, place, size):
        """Spoil some bytes: of the file's header, of a block's, or anywhere."""
        with open(self.path, "r+b") as file:
            content = file.read()
            blocks = [block[0] for block in cacheformat.scan(content, len(content))]
            if place % 4 == 0:
                place = place // 4 % cacheformat.START
            elif place % 4 == 1:
                place = place * 7919 % len(content)
            else:
                place = blocks[place % len(blocks)] + size % 48
            file.seek(place)
            old = file.read(1 + size % 20)
            file.seek(place)
            file.write(bytes(byte ^ (37 + size) % 255 + 1 for byte in old))

    def open(self, size):
        try:
            self.cache = ClientCache(self.path, SIZES[size % len(SIZES)])
        except CacheFileError:
            # Its first bytes have gone, and it might be anything.
            os.unlink(self.path)
            self.cache = ClientCache(self.path, SIZES[0])
        self.check()
        self.verify()

    def check(self):
        """Whether all that is in the cache is right, and its books as well."""
        cache, known = self.cache, self.cache.getLastTid() or p64(0)
        for oid, start in cache.contents():
            found = cache.loadBefore(oid, p64(u64(start) + 1))
            data, first, _ = self.as_of(oid, p64(u64(start) + 1))
            assert found[:2] == (data, start) == (data, first)
            tids = [tid for tid, _ in self.history[oid]] + [None]
            following = tids[tids.index(start) + 1]
            if found[2] is None:
                assert following is None or following > known, "it is not current"
            else:
                assert found[2] == following
        blocks = list(cacheformat.scan(cache._map, cache._size))
        assert blocks[-1][1] == cache._size
        live = [b for b in blocks if b[2] is not None and b[4] != b"\xff" * 8]
        assert len(live) == len(cache) == len(cache.contents())
        assert sum(b[1] - b[0] for b in live) == cache.statistics().bytes
        assert cacheformat.read_tid(cache._map) == cache.getLastTid()


def run(world, steps):
    for step, number, value, writes in steps:
        oid = p64(number)
        before = p64(value)
        match step:
            case "load":
                world.load(oid, value)
            case "commit":
                world.commit(oid, value, writes)
            case "fill":
                world.fill(number, value)
            case "early":
                world.load_of_what_is_told_later(oid, value)
            case "away":
                world.miss(oid, value)
            case "forget":
                world.cache.invalidate(oid, None)
            case "clear":
                world.cache.clear()
                world.cache.setLastTid(p64(world.tid))
            case "reopen":
                world.reopen(value)
            case "kill":
                world.kill(value)
            case "kill while writing":
                with TearingMap.kill_at(writes, value % 11 / 10):
                    with contextlib.suppress(Killed):
                        for more in range(1 + value % 4):
                            world.commit(oid, value, more)
                            world.load(p64((number + more) % OBJECTS), value)
                world.kill(0)
            case "damage":
                world.cache.close() if number % 2 else world.end()
                world.damage(value, number + writes)
                world.open(value)
            case "truncate":
                world.cache.close()
                length = os.path.getsize(world.path)
                os.truncate(world.path, before[-1] * value % length)
                world.open(value)
    world.check()


_STEPS = [
    *["load"] * 6,
    *["commit"] * 4,
    *["fill"] * 3,
    "early",
    "away",
    "forget",
    "clear",
    "reopen",
    "kill",
    *["kill while writing"] * 2,
    *["damage"] * 2,
    "truncate",
]

steps = st.lists(
    st.tuples(
        st.sampled_from(_STEPS),
        st.integers(0, OBJECTS - 1),
        st.integers(0, 9000),
        st.integers(0, 40),
    ),
    max_size=40,
)


def never_wrong(steps):
    tearing = mock.patch.object(cachefile.mmap, "mmap", TearingMap)
    with tearing, tempfile.TemporaryDirectory(dir=_DIRECTORY) as directory:
        world = World(directory)
        try:
            run(world, steps)
        finally:
            world.close()


@settings(max_examples=100, deadline=None)
@given(steps)
# Damage that undoes itself: what was forgotten must not come back.
@example(
    [("load", 0, 0, 0), ("damage", 19, 66, 5), ("load", 0, 0, 0), ("damage", 0, 66, 24)]
)
@example(
    [
        ("load", 0, 0, 0),
        ("damage", 0, 66, 24),
        ("commit", 0, 0, 0),
        ("damage", 0, 2, 24),
    ]
)
def test_never_wrong(steps):
    never_wrong(steps)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@settings(max_examples=10_000, deadline=None)
@given(steps)
def test_never_wrong_in_ten_thousand_examples(steps):
    never_wrong(steps)
