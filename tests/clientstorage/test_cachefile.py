"""A persistent cache's file: kept, killed, damaged, foreign, locked, resized."""

import contextlib
import errno
import logging
import os
import shutil
import signal
import subprocess
import sys

import pytest
from ZODB.utils import maxtid, p64, u64

from tests.support.tearing import Killed, TearingMap
from zeolite.clientstorage import cachefile, cacheformat, cacheowner
from zeolite.clientstorage.cache import ClientCache
from zeolite.errors import CacheFileError, CacheFileInUse

from . import keeping
from .test_cache_model import World

SIZE = 64 * 1024


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "cache")


@pytest.fixture
def stack():
    with contextlib.ExitStack() as stack:
        yield stack


@pytest.fixture
def opened(stack, path):
    def opened(path=path, size=SIZE):
        cache = ClientCache(path, size)
        stack.callback(cache.close)
        return cache

    return opened


def fill(cache, count=20, tid=5):
    for number in range(count):
        cache.store(p64(number), p64(tid), None, data(number))
    cache.setLastTid(p64(tid))


def data(number):
    return b"the data of %d" % number


def killed(cache, path):
    """Leave the file as if the process of the cache had been killed."""
    shutil.copyfile(path, path + ".copy")
    cache.close()
    os.replace(path + ".copy", path)


def write(path, place, data):
    with open(path, "r+b") as file:
        file.seek(place)
        file.write(data)


def place_of(cache, oid):
    return cache._current[oid]


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


class TestKilled:
    @pytest.mark.parametrize("share", [0, 0.3, 0.7, 1])
    def test_at_every_write(self, tmp_path, monkeypatch, share):
        """Each write of a story is the last one once, in part."""
        monkeypatch.setattr(cachefile.mmap, "mmap", TearingMap)
        writes = 0
        while True:
            directory = tmp_path / str(writes)
            directory.mkdir()
            world = World(str(directory))
            with contextlib.closing(world):
                world.fill(3, 6000)
                try:
                    with TearingMap.kill_at(writes, share):
                        world.fill(4, 9000)
                        world.cache.invalidate(p64(4), None)
                        world.cache.clear()
                    break
                except Killed:
                    world.kill(0)
                    assert not os.path.exists(world.path + ".bad")
                    world.fill(5, 6000)
                    world.check()
            writes += 5 if writes > 40 else 1
        assert writes > 120

    def test_torn_end_tid_forgets_that_revision_only(self, opened, path):
        cache = opened()
        fill(cache)
        place = place_of(cache, p64(7)) + 24
        killed(cache, path)
        write(path, place, p64(9)[4:])
        cache = opened()
        assert len(cache) == 19
        assert cache.loadBefore(p64(7), maxtid) is None
        assert cache.loadBefore(p64(7), p64(9)) is None
        assert cache.loadBefore(p64(8), maxtid)[0] == data(8)

    def test_torn_record_ends_what_is_used(self, opened, path, caplog):
        cache = opened()
        fill(cache)
        place = place_of(cache, p64(7))
        killed(cache, path)
        write(path, place + 36, b"!")
        cache = opened()
        assert sorted(u64(oid) for oid, _ in cache.contents()) == list(range(7))
        assert f"block at {place} does not check" in caplog.text
        assert not os.path.exists(path + ".bad")
        # And it goes on from there.
        fill(cache, 30)
        cache.close()
        assert len(opened()) == 30

    def test_torn_last_tid_leaves_the_one_before(self, opened, path):
        cache = opened()
        fill(cache)
        cache.setLastTid(p64(6))
        cache.setLastTid(p64(7))
        turn = cache._file._turn
        killed(cache, path)
        write(path, cacheformat.TIDS[turn].start, b"\1\1\1")
        assert opened().getLastTid() == p64(6)

    def test_real_processes(self, path):
        keeping.kill_many(path, 6)

    @pytest.mark.slow
    @pytest.mark.timeout(3600)
    def test_real_processes_many_times(self, path):
        keeping.kill_many(path, 500)


class TestOtherBoot:
    def test_open_file_is_dropped(self, opened, path, monkeypatch, caplog):
        cache = opened()
        fill(cache)
        killed(cache, path)
        monkeypatch.setattr(cachefile, "boot_id", lambda: b"another boot's i")
        cache = opened()
        assert len(cache) == 0
        assert cache.getLastTid() is None
        assert "went down before it was closed" in caplog.text
        assert not os.path.exists(path + ".bad")

    def test_closed_file_is_kept(self, opened, monkeypatch):
        cache = opened()
        fill(cache)
        cache.close()
        monkeypatch.setattr(cachefile, "boot_id", lambda: b"another boot's i")
        assert len(opened()) == 20

    def test_mark_is_on_the_disk_before_anything_changes(self, path, monkeypatch):
        flushed = []

        class Map(TearingMap):
            def flush(self, *args):
                flushed.append(bytes(self[cacheformat.SESSION]))
                return super().flush(*args)

        ClientCache(path, SIZE).close()
        monkeypatch.setattr(cachefile.mmap, "mmap", Map)
        mark = cacheformat.session(cacheowner.boot_id())
        cache = ClientCache(path, SIZE)
        assert flushed == [mark]
        cache.close()
        # The records first, and only then that it is closed.
        assert flushed == [mark, mark, cacheformat.session()]

    def test_boot_id_is_the_same_for_all_processes(self):
        script = (
            "from zeolite.clientstorage.cacheowner import boot_id;"
            "print(boot_id().hex())"
        )
        output = subprocess.check_output([sys.executable, "-c", script], text=True)
        assert output.strip() == cacheowner.boot_id().hex()

    def test_unknown_boot_is_never_the_same(self, monkeypatch):
        monkeypatch.setattr(cacheowner, "_BOOT_ID", "/nonexistent")
        monkeypatch.setattr(
            cacheowner.subprocess, "check_output", lambda *_, **__: "garbage"
        )
        unknown = cacheowner.boot_id.__wrapped__
        assert len(unknown()) == 16
        assert unknown() != unknown()


class TestDamage:
    def damaged(self, opened, path):
        cache = opened()
        fill(cache)
        place = place_of(cache, p64(7))
        cache.close()
        write(path, place + 36, b"!")
        with open(path, "rb") as file:
            return file.read()

    def test_closed_file_is_set_aside(self, opened, path, caplog):
        content = self.damaged(opened, path)
        cache = opened()
        assert len(cache) == 0
        assert cache.getLastTid() is None
        with open(path + ".bad", "rb") as file:
            assert file.read() == content
        [record] = caplog.records
        assert record.levelno == logging.ERROR
        assert f"it is now {path}.bad" in record.getMessage()
        fill(cache)
        cache.close()
        assert len(opened()) == 20

    def test_only_the_last_damage_is_kept(self, opened, path):
        for _ in range(2):
            content = self.damaged(opened, path)
            opened().close()
        with open(path + ".bad", "rb") as file:
            assert file.read() == content
        assert sorted(os.listdir(os.path.dirname(path))) == [
            "cache",
            "cache.bad",
            "cache.lock",
        ]

    def test_damaged_file_is_not_resized(self, opened, path):
        self.damaged(opened, path)
        assert len(opened(size=2 * SIZE)) == 0
        assert os.path.exists(path + ".bad")

    @pytest.mark.parametrize("length", [5, 127, 128, 5000, SIZE - 1])
    def test_truncated_file(self, opened, path, length):
        cache = opened()
        fill(cache)
        cache.close()
        os.truncate(path, length)
        assert len(opened()) == 0
        assert os.path.getsize(path + ".bad") == length

    def test_damaged_size(self, opened, path):
        opened().close()
        write(path, 12, b"!")
        assert len(opened()) == 0
        assert os.path.exists(path + ".bad")


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
