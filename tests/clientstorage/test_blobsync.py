"""Blobs in a cache when the machine crashes before the disk has them.

A crash is a new boot id; what the disk has not got is what is still marked.
"""

import errno
import os
import stat
import threading

import pytest
from ZODB.utils import p64

from tests.support.blocking import Gate
from tests.support.waiting import wait_until
from zeolite.clientstorage import blobsync
from zeolite.clientstorage.blobs import CacheDirectory

TID = p64(5)
BOOT = b"this boot's id.."


def source():
    return lambda write: write(b"content")


def is_marked(path):
    return bool(os.stat(path).st_mode & stat.S_ISVTX)


class Machine:
    """Opens the cache directory, as processes of one boot or the next one do."""

    def __init__(self, path, monkeypatch):
        self._path = str(path)
        self._monkeypatch = monkeypatch
        self._opened = []
        self.boot(BOOT)

    def boot(self, boot):
        self._monkeypatch.setattr(blobsync, "known_boot_id", lambda: boot)

    def crash(self):
        self.boot(b"another boot's..")

    def open(self):
        self._opened.append(CacheDirectory(self._path))
        return self._opened[-1]

    def close(self):
        for cache in self._opened:
            cache.close()


@pytest.fixture
def machine(tmp_path, monkeypatch):
    machine = Machine(tmp_path / "cache", monkeypatch)
    yield machine
    machine.close()


@pytest.fixture
def at_once(monkeypatch):
    monkeypatch.setattr(blobsync, "DELAY", 0)


@pytest.fixture
def synced(monkeypatch):
    """What `os.fsync` was called for: the paths at that time."""
    paths, fsync = [], os.fsync

    def noted(handle):
        paths.append(os.readlink(f"/proc/self/fd/{handle}"))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", noted)
    return paths


def commit(cache, number, content=b"content"):
    path = os.path.join(cache.temporary(), f"new-{number}")
    with open(path, "wb") as file:
        file.write(content)
    cache.committed([(p64(number), path)], TID)
    return cache.path(p64(number), TID)


class TestMark:
    def test_is_there_before_the_name(self, machine):
        cache, marks = machine.open(), []

        def download(write):
            write(b"half")
            marks.append(is_marked(cache.path(p64(1), TID) + ".dl"))

        assert is_marked(cache.load(p64(1), TID, lambda: download))
        assert marks == [True]
        assert is_marked(commit(cache, 2))

    def test_nobody_waits_for_the_disk(self, machine, synced):
        cache = machine.open()
        cache.load(p64(1), TID, source)
        commit(cache, 2)
        assert synced == []

    def test_goes_when_the_disk_has_the_file(self, machine, synced, at_once):
        cache = machine.open()
        paths = [cache.load(p64(1), TID, source), commit(cache, 2)]
        wait_until(lambda: not any(map(is_marked, paths)))
        assert sorted(set(synced)) == sorted(paths)
        assert not any(os.stat(path).st_mode & 0o222 for path in paths)

    def test_stays_until_the_sync_is_done(self, machine, monkeypatch, at_once):
        cache, gate = machine.open(), Gate()
        monkeypatch.setattr(os, "fsync", lambda handle: gate.stop_here())
        path = cache.load(p64(1), TID, source)
        gate.wait_until_reached()
        assert is_marked(path)
        gate.open()
        wait_until(lambda: not is_marked(path))

    def test_closing_syncs_what_is_left(self, machine, synced):
        cache = machine.open()
        path = cache.load(p64(1), TID, source)
        cache.close()
        assert synced == [path]
        assert not is_marked(path)
        assert not any(t.name == "zeolite-blob-sync" for t in threading.enumerate())

    def test_blob_that_is_removed_meanwhile(self, machine, caplog):
        cache = machine.open()
        os.unlink(cache.load(p64(1), TID, source))
        path = cache.load(p64(2), TID, source)
        cache.close()
        assert not is_marked(path)
        assert caplog.text == ""

    def test_blob_that_the_disk_does_not_take(self, machine, monkeypatch, caplog):
        def fail(handle):
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        cache = machine.open()
        path = cache.load(p64(1), TID, source)
        monkeypatch.setattr(os, "fsync", fail)
        cache.close()
        assert not os.path.exists(path)
        assert os.strerror(errno.EIO) in caplog.text


class TestCrash:
    def test_what_the_disk_may_not_have_is_downloaded_again(self, machine):
        cache = machine.open()
        paths = [cache.load(p64(1), TID, source), commit(cache, 2)]
        for path in paths:
            os.chmod(path, os.stat(path).st_mode | 0o200)
            os.truncate(path, 3)  # All that had reached the disk.
        machine.crash()
        again = machine.open()
        assert not any(map(os.path.exists, paths))
        for number in (1, 2):
            with open(again.load(p64(number), TID, source), "rb") as file:
                assert file.read() == b"content"

    def test_what_the_disk_has_stays(self, machine):
        cache = machine.open()
        paths = [cache.load(p64(1), TID, source), commit(cache, 2)]
        cache.close()
        machine.crash()
        machine.open()
        assert all(map(os.path.exists, paths))

    def test_crash_of_a_process_loses_nothing(self, machine):
        path = machine.open().load(p64(1), TID, source)
        machine.open()
        assert is_marked(path)

    def test_only_the_first_one_after_a_boot_looks(self, machine):
        machine.open()
        machine.crash()
        machine.open()
        path = machine.open().load(p64(1), TID, source)
        machine.open()
        assert os.path.exists(path)

    @pytest.mark.parametrize("left", [b"", BOOT[:5], b"\0" * 32])
    def test_record_of_the_boot_that_is_damaged(self, machine, tmp_path, left):
        path = machine.open().load(p64(1), TID, source)
        (tmp_path / "cache" / "synced.boot").write_bytes(left)
        machine.open()
        assert not os.path.exists(path)

    def test_cache_of_zeos(self, machine, tmp_path):
        path = machine.open().path(p64(1), TID)
        os.unlink(tmp_path / "cache" / "synced.boot")
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w") as file:
            file.write("content")
        machine.open()
        assert os.path.exists(path)


class TestWithoutMarks:
    def check(self, cache, synced):
        path = cache.load(p64(1), TID, source)
        assert synced == [path + ".dl"]
        assert not is_marked(path)
        other = commit(cache, 2)
        assert len(synced) == 2 and synced[1] != other
        assert not is_marked(other)

    def test_where_boots_are_not_known(self, machine, synced):
        machine.boot(None)
        self.check(machine.open(), synced)

    def test_where_files_cannot_be_marked(self, machine, synced, monkeypatch):
        def refuse(handle, mode):
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))

        monkeypatch.setattr(os, "fchmod", refuse)
        self.check(machine.open(), synced)
