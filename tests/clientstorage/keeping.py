"""A process that writes a cache until it is killed: `python -m ... PATH FIRST_TID`.

What it commits follows from the tids alone, so that whoever killed it can tell what
may be in the file: commit number n changes the objects `changed(n)`.
"""

import contextlib
import os
import random
import subprocess
import sys

from ZODB.utils import p64, u64

from zeolite.clientstorage.cache import ClientCache

SIZE = 128 * 1024
_OBJECTS = 60


def changed(tid):
    """Return the numbers of the objects that a commit changes."""
    return sorted(random.Random(tid).sample(range(_OBJECTS), 3))


def data_of(number, tid):
    return b"%d-%d " % (number, tid) * (tid * 31 % 600)


class History:
    """All commits up to some tid."""

    def __init__(self, last):
        self.revisions = {number: [1] for number in range(_OBJECTS)}
        for tid in range(2, last + 1):
            for number in changed(tid):
                self.revisions[number].append(tid)

    def following(self, number, tid):
        """Return the tid that ended a revision, or None."""
        tids = [*self.revisions[number], None]
        return tids[tids.index(tid) + 1]


def keep(path, first):
    """Commit and load for ever."""
    cache = ClientCache(path, SIZE)
    history = History(first)
    chance = random.Random(first)
    print("ready", flush=True)
    tid = first
    while True:
        tid += 1
        for number in changed(tid):
            cache.invalidate(p64(number), p64(tid))
            history.revisions[number].append(tid)
        cache.setLastTid(p64(tid))
        for number in chance.sample(range(_OBJECTS), 5):
            start = chance.choice(history.revisions[number][-3:])
            if not cache.loadBefore(p64(number), p64(start + 1)):
                end = history.following(number, start)
                data = data_of(number, start)
                cache.store(p64(number), p64(start), end and p64(end), data)


@contextlib.contextmanager
def keeper(path, first=1):
    """A process that keeps a cache, and is killed at the end."""
    process = subprocess.Popen(
        [sys.executable, "-m", __name__, path, str(first)], stdout=subprocess.PIPE
    )
    try:
        assert process.stdout.readline() == b"ready\n"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def kill_many(path, times):
    """Kill a process that writes, again and again; what it leaves must be right."""
    last, found, lengths = 1, 0, random.Random(times)
    for _ in range(times):
        with keeper(path, last) as process:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(lengths.random() * 0.1)
        cache = ClientCache(path, SIZE)
        with contextlib.closing(cache):
            last = u64(cache.getLastTid() or p64(1))
            # One commit may be in part there, of which the last tid does not tell.
            history = History(last + 1)
            for oid, start in cache.contents():
                found += 1
                after = p64(u64(start) + 1)
                data, tid, end = cache.loadBefore(oid, after)
                assert tid == start
                assert data == data_of(u64(oid), u64(start))
                expected = history.following(u64(oid), u64(start))
                if end is None:
                    assert expected is None or expected > last
                else:
                    assert u64(end) == expected
        assert not os.path.exists(path + ".bad")
    assert found > 20 * times
    return last, found


if __name__ == "__main__":
    keep(sys.argv[1], int(sys.argv[2]))
