"""A persistent cache's file: kept, resized, foreign, locked."""

import errno
import os
import signal

import pytest
from ZODB.utils import maxtid, p64, u64

from zeolite.clientstorage import cacheformat, cacheowner
from zeolite.clientstorage.cache import ClientCache
from zeolite.errors import CacheFileError, CacheFileInUse

from . import keeping
from .cachefiles import SIZE, data, fill, killed


class TestReopening:
    def test_all_is_there_again(self, opened, path):
        cache = opened()
        fill(cache)
        cache.invalidate(p64(3), p64(6))
        cache.invalidate(p64(4), None)
        cache.setLastTid(p64(6))
        cache.close()
        cache = opened()
        assert cache.getLastTid() == p64(6)
        assert cache.loadBefore(p64(2), maxtid) == (data(2), p64(5), None)
        assert cache.loadBefore(p64(3), maxtid) is None
        assert cache.loadBefore(p64(3), p64(6)) == (data(3), p64(5), p64(6))
        assert cache.loadBefore(p64(4), maxtid) is None
        assert len(cache) == 19
        assert not os.path.exists(path + ".new")

    def test_killed_process_loses_nothing(self, opened, path, caplog):
        cache = opened()
        fill(cache)
        killed(cache, path)
        cache = opened()
        assert len(cache) == 20
        assert cache.getLastTid() == p64(5)
        assert not caplog.records

    def test_oldest_records_go_first_after_reopening(self, opened):
        cache = opened()
        for number in range(100):
            cache.store(p64(number), p64(5), None, b"x" * 1000)
        cache.setLastTid(p64(5))
        before = {u64(oid) for oid, _ in cache.contents()}
        cache.close()
        cache = opened()
        cache.store(p64(100), p64(5), None, b"x" * 1000)
        after = {u64(oid) for oid, _ in cache.contents()}
        assert before - after == {min(before)}

    @pytest.mark.parametrize("what", ["_current", "_read"])
    def test_record_that_the_index_has_not_is_not_there_again(self, opened, what):
        """There was no memory, for the new one or the one in its place."""

        def fail(*args):
            raise MemoryError

        oids = [p64(number) for number in range(64)]
        cache = opened()
        for oid in oids[:-1]:
            cache.store(oid, p64(5), None, b"x" * 1000)
        assert len(cache) < 63  # The oldest have gone already.
        before = getattr(cache, what)
        failing = type("Failing", (type(before),), {})
        setattr(cache, what, failing(before))
        method = {"_current": "__setitem__", "_read": "__getitem__"}[what]
        setattr(failing, method, fail)
        with pytest.raises(MemoryError):
            cache.store(oids[-1], p64(5), None, b"x" * 1000)
        delattr(failing, method)
        for oid in oids:
            cache.invalidate(oid, p64(6))
        cache.setLastTid(p64(6))
        cache.close()
        cache = opened()
        assert not [oid for oid in oids if cache.loadBefore(oid, maxtid)]

    @pytest.mark.parametrize("where", ["at the head", "at the end of the file"])
    def test_record_that_made_way_for_none_is_not_there_again(
        self, opened, monkeypatch, where
    ):
        """There was no memory in the middle of that; what comes next is small."""
        oids = [p64(number) for number in range(200)]
        cache, new = opened(), iter(oids)

        def store(size):
            cache.store(next(new), p64(5), None, b"x" * size)

        for _ in range(100):
            store(1000)
        while (SIZE - cache._file.head > 6000) != (where == "at the head"):
            store(1000)
        store(10)  # Behind which there is room.
        assert len(cache) < 63  # The oldest have gone already.
        remove, failures = cache._remove, [False, True]

        def fail(*args):
            if failures.pop(0):
                raise MemoryError
            return remove(*args)

        with monkeypatch.context() as patch, pytest.raises(MemoryError):
            patch.setattr(cache, "_remove", fail)
            store(6000)
        store(10)
        for oid in oids:
            cache.invalidate(oid, p64(6))
        cache.setLastTid(p64(6))
        cache.close()
        cache = opened()
        assert not [oid for oid in oids if cache.loadBefore(oid, maxtid)]

    def test_file_without_a_last_tid_is_emptied(self, opened, path):
        cache = opened()
        cache.store(p64(1), p64(5), None, b"data")
        killed(cache, path)
        cache = opened()
        assert len(cache) == 0
        assert cache.getLastTid() is None

    def test_record_read_before_is_kept_when_its_turn_comes(self, opened):
        cache = opened()
        fill(cache, 1)
        for number in range(1, 400):
            assert cache.loadBefore(p64(0), maxtid)[0] == data(0)
            cache.store(p64(number), p64(5), None, b"x" * 1000)
        assert cache.statistics().moves >= 5
        cache.close()
        assert opened().loadBefore(p64(0), maxtid) == (data(0), p64(5), None)

    def test_record_not_read_again_goes_at_its_next_turn(self, opened):
        cache = opened()
        fill(cache, 1)
        cache.loadBefore(p64(0), maxtid)
        for number in range(1, 400):
            cache.store(p64(number), p64(5), None, b"x" * 1000)
        assert not cache.has(p64(0), maxtid)
        assert cache.statistics().moves == 1

    def test_storing_moves_only_so_much(self, opened):
        cache = opened(size=1024 * 1024)
        number = 0
        while not cache.statistics().evictions:
            number += 1
            cache.store(p64(number), p64(5), None, b"x" * 100)
            cache.loadBefore(p64(number), maxtid)
        # All have been read.  A large one takes the place of many.
        before = cache.statistics()
        cache.store(p64(number + 1), p64(5), None, b"x" * 100_000)
        after = cache.statistics()
        assert after.moves - before.moves == 16
        assert after.evictions - before.evictions > 500

    @pytest.mark.parametrize("size", [100 * 1024, 10 * 1024 * 1024])
    def test_larger_file_keeps_all(self, opened, path, size):
        cache = opened()
        fill(cache)
        cache.close()
        cache = opened(size=size)
        assert len(cache) == 20
        assert cache.getLastTid() == p64(5)
        assert os.path.getsize(path) == cache.statistics().size
        assert size - 16 < os.path.getsize(path) <= size
        cache.store(p64(99), p64(5), None, b"x" * (size // 5))
        assert len(cache) == 21

    def test_smaller_file_keeps_the_youngest(self, opened, path):
        cache = opened(size=1024 * 1024)
        for number in range(2000):
            cache.store(p64(number), p64(5), None, b"x" * 1000)
        cache.store(p64(2000), p64(5), None, b"x" * 100_000)
        cache.setLastTid(p64(5))
        cache.close()
        cache = opened()
        found = sorted(u64(oid) for oid, _ in cache.contents())
        assert found == list(range(2000 - len(found), 2000))
        assert len(found) > 50
        assert os.path.getsize(path) == SIZE
        cache.store(p64(3000), p64(5), None, b"x" * 1000)
        assert not cache.has(p64(found[0]), maxtid)

    def test_killed_file_can_be_resized(self, opened, path):
        cache = opened()
        fill(cache)
        killed(cache, path)
        assert len(opened(size=2 * SIZE)) == 20

    def test_empty_file_is_a_new_cache(self, opened, path):
        open(path, "w").close()
        cache = opened()
        assert len(cache) == 0
        assert os.path.getsize(path) == SIZE

    def test_link_stays_a_link(self, opened, path, tmp_path):
        real = tmp_path / "real"
        os.symlink(real, path)
        opened().close()
        opened(size=2 * SIZE).close()
        assert os.path.islink(path)
        assert os.path.getsize(real) == 2 * SIZE


class TestForeignFiles:
    @pytest.mark.parametrize(
        "content, words",
        [
            (b"ZEC3" + bytes(100_000), "is a cache of ZEO's"),
            (b"%PDF" + bytes(100_000), "is not a cache file"),
            (b"Z", "is not a cache file"),
            (b"ZLC2" + bytes(100_000), "version '2'.*knows version '1' only"),
        ],
    )
    def test_are_left_alone(self, path, content, words):
        with open(path, "wb") as file:
            file.write(content)
        with pytest.raises(CacheFileError, match=words) as error:
            ClientCache(path, SIZE)
        assert str(error.value).startswith(path)
        assert "name another file" in str(error.value)
        with open(path, "rb") as file:
            assert file.read() == content
        os.unlink(path)
        ClientCache(path, SIZE).close()  # The lock was given back.

    def test_cache_that_zeo_has_made(self, path):
        from ZEO.cache import ClientCache as ZEOCache

        ZEOCache(path, 1024 * 1024).close()
        with pytest.raises(CacheFileError, match="cache of ZEO's"):
            ClientCache(path, SIZE)

    def test_directory(self, tmp_path):
        (tmp_path / "cache").mkdir()
        with pytest.raises(CacheFileError, match=r"cache: .*Is a directory"):
            ClientCache(str(tmp_path / "cache"), SIZE)

    def test_directory_that_is_not_there(self, tmp_path):
        with pytest.raises(CacheFileError, match=r"none/cache: .*No such file"):
            ClientCache(str(tmp_path / "none" / "cache"), SIZE)


class TestOwner:
    def test_other_storage_of_this_process(self, opened, path):
        opened()
        with pytest.raises(CacheFileInUse, match="another storage of this process"):
            ClientCache(path, SIZE)

    def test_other_process(self, path):
        with keeping.keeper(path) as process:
            words = f"in use by process {process.pid} on"
            with pytest.raises(CacheFileInUse, match=words) as error:
                ClientCache(path, SIZE)
            assert "a cache file of its own" in str(error.value)
            process.send_signal(signal.SIGKILL)
            process.wait()
            ClientCache(path, SIZE).close()

    def test_looking_who_holds_it_does_not_disturb(self, opened, path, monkeypatch):
        """The lock is tried once more."""
        import fcntl

        opened().close()
        looking = open(path + ".lock", "rb")
        fcntl.flock(looking.fileno(), fcntl.LOCK_SH)
        monkeypatch.setattr(cacheowner.time, "sleep", lambda _: looking.close())
        opened()
        assert looking.closed

    def test_child_of_a_fork_leaves_the_file_open(self, opened, path):
        cache = opened()
        fill(cache)
        child = os.fork()
        if not child:
            try:
                cache.close()
            finally:
                os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        with open(path, "rb") as file:
            assert cacheformat.read_session(file.read(128)) == cacheowner.boot_id()
        with pytest.raises(CacheFileInUse):
            ClientCache(path, SIZE)
        fill(cache, 30)
        assert len(cache) == 30


class TestRoom:
    def test_without_posix_fallocate(self, opened, path, monkeypatch):
        monkeypatch.delattr(os, "posix_fallocate")
        opened(size=3_000_000)
        status = os.stat(path)
        assert status.st_size == 3_000_000
        assert status.st_blocks * 512 >= 3_000_000
        opened(path=None)

    def test_file_system_that_cannot_allocate(self, opened, path, monkeypatch):
        def refuse(*_):
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

        monkeypatch.setattr(os, "posix_fallocate", refuse)
        opened()
        assert os.stat(path).st_blocks * 512 >= SIZE

    def test_full_disk(self, opened, path, monkeypatch):
        cache = opened()
        fill(cache)
        cache.close()

        def refuse(*_):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        with monkeypatch.context() as context:
            context.setattr(os, "posix_fallocate", refuse)
            with pytest.raises(CacheFileError, match="no room for a cache of 131072 b"):
                ClientCache(path, 2 * SIZE)
            with pytest.raises(CacheFileError, match=r"a temporary file in .*no room"):
                ClientCache(None, SIZE)
        # What was there is still there.
        assert len(opened()) == 20
        assert not os.path.exists(path + ".new")
