"""A persistent cache's file after a kill, a crash of the machine, or damage."""

import contextlib
import errno
import logging
import os
import subprocess
import sys

import pytest
from ZODB.utils import maxtid, p64, u64

from tests.support.tearing import Killed, TearingMap
from zeolite.clientstorage import cachefile, cacheformat, cacheowner
from zeolite.clientstorage.cache import ClientCache
from zeolite.errors import CacheFileError

from . import keeping
from .cachefiles import SIZE, data, fill, killed, place_of, write
from .test_cache_model import World


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

    def test_torn_record_ends_what_is_copied_to_another_size(self, opened, path):
        cache = opened()
        fill(cache)
        place = place_of(cache, p64(7))
        killed(cache, path)
        write(path, place + 36, b"!")
        cache = opened(size=2 * SIZE)
        assert sorted(u64(oid) for oid, _ in cache.contents()) == list(range(7))
        assert not os.path.exists(path + ".bad")

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
        uncached = cacheowner.known_boot_id.__wrapped__
        monkeypatch.setattr(cacheowner, "known_boot_id", uncached)
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
        with open(path, "rb") as file:  # The new one is as open as any.
            assert cacheformat.read_session(file.read(128)) == cacheowner.boot_id()
        [record] = caplog.records
        assert record.levelno == logging.ERROR
        assert f"it is now {path}.bad" in record.getMessage()
        fill(cache)
        cache.close()
        assert len(opened()) == 20

    def test_full_disk_when_it_is_set_aside(self, opened, path, monkeypatch):
        self.damaged(opened, path)

        def refuse(*_):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        with monkeypatch.context() as context:
            context.setattr(os, "posix_fallocate", lambda *_: None)
            context.setattr(os, "fsync", refuse)
            with pytest.raises(CacheFileError, match="no room") as error:
                ClientCache(path, SIZE)
        assert len(opened()) == 0, error  # Nobody has it locked.

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
