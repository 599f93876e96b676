"""Directories for blobs: a cache that many share, the server's own, none."""

import contextlib
import errno
import fcntl
import os
import threading

import pytest
import ZODB.blob
from ZODB.POSException import POSKeyError, Unsupported
from ZODB.utils import p64

from tests.support.blocking import Gate
from tests.support.waiting import wait_until
from zeolite.clientstorage import blobs
from zeolite.clientstorage.blobs import CacheDirectory, SharedDirectory, open_directory
from zeolite.errors import ClientDisconnected, ConfigurationError

from .storing import OID, TID, read
from .talking import Background


class Source:
    """A server that counts downloads, and stops in the middle where told to."""

    def __init__(self, content=b"content"):
        self.content = content
        self.count = 0
        self.gate = None
        self.error = None

    def __call__(self):
        return self._download

    def _download(self, write):
        self.count += 1
        write(self.content[:3])
        if self.gate is not None:
            self.gate.stop_here()
        if self.error is not None:
            raise self.error
        write(self.content[3:])


@pytest.fixture
def open_cache(tmp_path):
    """Call it to open the cache directory, as another process would."""
    opened = []

    def open_cache(size=None, check=10):
        opened.append(CacheDirectory(str(tmp_path / "cache"), size, check))
        return opened[-1]

    yield open_cache
    for directory in opened:
        directory.close()


def partials(tmp_path):
    return list((tmp_path / "cache").glob("*/*.dl"))


def opener(path):
    return open(path, "rb")


@contextlib.contextmanager
def children():
    """Gives a function that forks a child, which lives until the end."""
    pids, (reading, writing) = [], os.pipe()

    def fork():
        pid = os.fork()
        if pid == 0:
            os.close(writing)
            os.read(reading, 1)
            os._exit(0)
        pids.append(pid)

    try:
        yield fork
    finally:
        os.close(writing)
        for pid in pids:
            os.waitpid(pid, 0)
        os.close(reading)


def test_child_of_a_fork_keeps_nothing_locked(tmp_path, monkeypatch):
    """Whatever was locked at that moment, by whichever thread."""
    flock = fcntl.flock
    path = tmp_path / "cache"
    with children() as fork:

        def lock(file, how):
            if how != fcntl.LOCK_EX:
                flock(file, how)
            else:
                wait_until(lambda: try_flock(file))  # Not for ever.
            if how & fcntl.LOCK_EX:
                fork()

        def try_flock(file):
            with contextlib.suppress(BlockingIOError):
                flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return True

        monkeypatch.setattr(fcntl, "flock", lock)
        cache = CacheDirectory(str(path), 10, 10)
        for number in range(3):
            cache.load(p64(number), TID, Source())
        wait_until(lambda: cache._check._thread is None)
        cache.close()
        for found in [path / "tmp", *path.rglob("*.blob"), *path.glob("*.*")]:
            handle = os.open(found, os.O_RDONLY)
            try:
                flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            finally:
                os.close(handle)


class TestDownloading:
    def test_once_for_all_that_want_it(self, open_cache, tmp_path):
        # Several directory objects: locks are between open files, not processes.
        source = Source()
        source.gate = gate = Gate()
        caches = [open_cache() for _ in range(3)]
        loads = [
            Background(cache.load, OID, TID, source) for cache in caches for _ in "abc"
        ]
        gate.wait_until_reached()
        gate.open()
        paths = {load.result() for load in loads}
        assert [read(path) for path in paths] == [source.content]
        assert source.count == 1
        assert partials(tmp_path) == []

    def test_different_blobs_side_by_side(self, open_cache):
        cache, barrier = open_cache(), threading.Barrier(2)

        def download(write):
            barrier.wait(20)  # Both are under way.
            write(b"content")

        loads = [Background(cache.load, p64(n), TID, lambda: download) for n in (1, 2)]
        assert [read(load.result()) for load in loads] == [b"content"] * 2

    def test_half_a_file_is_never_seen(self, open_cache, tmp_path):
        source, cache, other = Source(), open_cache(), open_cache()
        source.gate = gate = Gate()
        load = Background(cache.load, OID, TID, source)
        gate.wait_until_reached()
        path = cache.path(OID, TID)
        assert not os.path.exists(path)
        assert read(path + ".dl") == b"con"
        second = Background(other.open, OID, TID, source, opener)
        gate.open()
        load.result()
        with second.result() as file:
            assert file.read() == b"content"

    @pytest.mark.parametrize("mode", [0o600, 0o400])
    def test_what_a_crash_left_is_repeated(self, open_cache, tmp_path, mode):
        cache = open_cache()
        partial = cache.path(OID, TID) + ".dl"
        os.mkdir(os.path.dirname(partial))
        with open(partial, "wb") as file:
            file.write(b"half of something longer")
        assert read(cache.load(OID, TID, Source())) == b"content"
        assert partials(tmp_path) == []

    def test_failed_one_is_repeated_by_who_waits(self, open_cache, tmp_path):
        failing, good = Source(), Source()
        failing.gate, failing.error = Gate(), OSError(errno.ENOSPC, "full")
        cache = open_cache()
        first = Background(cache.load, OID, TID, failing)
        failing.gate.wait_until_reached()
        second = Background(cache.load, OID, TID, good)
        failing.gate.open()
        with pytest.raises(OSError, match="full"):
            first.result()
        assert read(second.result()) == b"content"
        assert good.count == 1
        assert partials(tmp_path) == []

    def test_full_disk_is_named(self, open_cache, tmp_path, monkeypatch):
        def full(file, data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        cache = open_cache()
        monkeypatch.setattr(blobs, "write_all", full)
        with pytest.raises(OSError, match=f"No space.*{tmp_path}"):
            cache.load(OID, TID, Source())
        assert partials(tmp_path) == []

    def test_blob_that_came_just_now(self, open_cache, tmp_path):
        source, cache, other = Source(), open_cache(), open_cache()

        def late():
            other.load(OID, TID, source)  # Between looking and locking.
            return source()

        assert read(cache.load(OID, TID, late)) == b"content"
        assert source.count == 1
        assert partials(tmp_path) == []

    def test_who_waits_for_a_connection_keeps_nobody_waiting(self, open_cache):
        cache, gate = open_cache(), Gate()

        def disconnected():
            gate.stop_here()
            raise ClientDisconnected("no connection")

        waiting = Background(cache.load, OID, TID, disconnected)
        gate.wait_until_reached()
        assert read(cache.load(OID, TID, Source())) == b"content"
        gate.open()
        with pytest.raises(ClientDisconnected):
            waiting.result()

    def test_full_disk_where_the_directory_is_made(self, open_cache, monkeypatch):
        def full(*args, **kwargs):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        cache = open_cache()
        monkeypatch.setattr(blobs.os, "makedirs", full)
        with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
            cache.load(OID, TID, Source())
        monkeypatch.undo()
        cache.load(OID, TID, Source())

    def test_files_are_not_writable(self, open_cache):
        path = open_cache().load(OID, TID, Source())
        assert not os.stat(path).st_mode & 0o222


class TestEviction:
    def test_by_last_access(self, open_cache):
        cache = open_cache()
        paths = {n: cache.load(p64(n), TID, Source(b"x" * 100)) for n in range(5)}
        for n, path in paths.items():
            os.utime(path, (n, 0))
        cache.load(p64(0), TID, Source())  # Used again.
        other = open_cache(250, 10)
        wait_until(lambda: other._check._thread is None)
        assert [n for n, path in paths.items() if os.path.exists(path)] == [0, 4]

    def test_never_what_is_open(self, open_cache):
        cache = open_cache()
        file = cache.open(OID, TID, Source(), opener)
        with file:
            other = open_cache(1, 10)
            wait_until(lambda: other._check._thread is None)
            assert os.path.exists(file.name)
            assert file.read() == b"content"
        other._check.added(1)
        wait_until(lambda: not os.path.exists(file.name))

    def test_blob_that_goes_before_it_is_opened(self, open_cache):
        cache, source, gone = open_cache(), Source(), []

        def too_late(path):
            if not gone:
                gone.append(path)
                os.unlink(path)
            return open(path, "rb")

        with cache.open(OID, TID, source, too_late) as file:
            assert file.read() == b"content"
        assert source.count == 2

    def test_blob_that_never_stays(self, open_cache):
        def too_late(path):
            os.unlink(path)
            return open(path, "rb")

        with pytest.raises(POSKeyError, match="as soon as it is there"):
            open_cache().open(OID, TID, Source(), too_late)

    def test_opening_waits_for_who_is_about_to_remove_it(self, open_cache):
        cache = open_cache()
        path = cache.load(OID, TID, Source())
        with open(path, "rb") as evictor:
            fcntl.flock(evictor, fcntl.LOCK_EX)
            opening = Background(cache.open, OID, TID, Source(), opener)
            os.unlink(path)
        with opening.result() as file:
            assert file.read() == b"content"

    def test_directory_stays_within_its_size(self, open_cache, tmp_path):
        cache = open_cache(10_000, 10)
        for n in range(200):
            cache.load(p64(n), TID, Source(b"x" * 500))
        wait_until(lambda: cache._check._thread is None)
        files = (tmp_path / "cache").glob("*/*.blob")
        assert sum(file.stat().st_size for file in files) <= 10_000

    def test_own_commits_count(self, open_cache, tmp_path):
        cache, path = open_cache(10_000, 10), tmp_path / "new"
        for n in range(200):
            path.write_bytes(b"x" * 500)
            cache.committed([(p64(n), cache.take(str(path), p64(n)))], TID)
        wait_until(lambda: cache._check._thread is None)
        files = (tmp_path / "cache").glob("*/*.blob")
        assert sum(file.stat().st_size for file in files) <= 10_000


class TestUncommittedFiles:
    def test_what_killed_processes_left_goes(self, open_cache, tmp_path):
        cache = open_cache()
        left = [tmp_path / "cache" / "tmp" / name for name in ("savepoint", "BUCabc")]
        left[0].mkdir()
        (left[0] / "uncommitted").write_text("")
        left[1].write_text("")
        cache.close()
        alone = open_cache()
        assert os.listdir(alone.temporary()) == []

    def test_what_others_have_not_committed_stays(self, open_cache):
        living = open_cache()
        path = os.path.join(living.temporary(), "uncommitted")
        with open(path, "w"):
            pass
        open_cache()
        assert os.path.exists(path)

    def test_full_disk_when_a_file_is_taken_over(
        self, open_cache, tmp_path, monkeypatch
    ):
        def full(*args):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        cache = open_cache()
        (tmp_path / "new").write_text("new")
        monkeypatch.setattr(ZODB.blob, "rename_or_copy_blob", full)
        with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
            cache.take(str(tmp_path / "new"), OID)
        assert os.listdir(cache.temporary()) == []

    def test_it_stays_when_whoever_came_first_has_left(self, open_cache):
        first, second = open_cache(), open_cache()
        path = os.path.join(second.temporary(), "uncommitted")
        with open(path, "w"):
            pass
        first.close()
        open_cache()
        assert os.path.exists(path)

    def test_full_disk_after_the_commit(self, open_cache, monkeypatch, caplog):
        def full(*args):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        cache = open_cache()
        path = os.path.join(cache.temporary(), "new")
        with open(path, "w"):
            pass
        monkeypatch.setattr(blobs.os, "replace", full)
        cache.committed([(OID, path)], TID)
        assert os.strerror(errno.ENOSPC) in caplog.text


class TestDescriptors:
    def test_none_is_left(self, tmp_path):
        def count():
            return len(os.listdir("/proc/self/fd"))

        before = count()
        for _ in range(5):
            cache = CacheDirectory(str(tmp_path / "cache"), 1000, 10)
            failing = Source()
            failing.error = OSError("failed")
            for source in (failing, Source()):
                try:
                    cache.open(OID, TID, source, opener).close()
                except OSError:
                    pass
            cache.close()
        assert count() == before

    def test_none_is_left_where_it_cannot_be_opened(self, tmp_path, monkeypatch):
        def fail(*args):
            raise OSError("failed")

        monkeypatch.setattr(blobs, "SizeCheck", fail)
        before = len(os.listdir("/proc/self/fd"))
        with pytest.raises(OSError, match="failed"):
            CacheDirectory(str(tmp_path / "cache"))
        assert len(os.listdir("/proc/self/fd")) == before
        assert os.listdir(tmp_path / "cache" / "tmp") == []


class TestKinds:
    def test_server_directory_as_a_cache(self, tmp_path):
        SharedDirectory(str(tmp_path))
        with pytest.raises(ConfigurationError, match="or set shared_blob_dir"):
            open_directory(str(tmp_path), False, None, 10)

    def test_cache_as_server_directory(self, tmp_path, open_cache):
        open_cache()
        with pytest.raises(ConfigurationError, match="leave shared_blob_dir out"):
            open_directory(str(tmp_path / "cache"), True, None, 10)

    def test_file_in_its_place(self, tmp_path):
        (tmp_path / "file").write_text("")
        for shared in (False, True):
            with pytest.raises(ConfigurationError, match=r"blob_dir: .*file"):
                open_directory(str(tmp_path / "file"), shared, None, 10)

    def test_none(self):
        directory = open_directory(None, False, None, 10)
        with pytest.raises(Unsupported, match="without blob_dir"):
            directory.temporary()
        with pytest.raises(Unsupported, match="without blob_dir"):
            directory.load(OID, TID, Source())

    @pytest.mark.parametrize("size", [0, -1, 1.5, "10MB", True])
    def test_size_that_is_none(self, tmp_path, size):
        with pytest.raises(ConfigurationError, match="blob_cache_size: "):
            open_directory(str(tmp_path), False, size, 10)

    @pytest.mark.parametrize("check", [-1, 100, 1.5, None, "10"])
    def test_check_that_is_none(self, tmp_path, check):
        with pytest.raises(ConfigurationError, match="blob_cache_size_check: "):
            open_directory(str(tmp_path), False, 1000, check)

    def test_layout_is_zeos(self, open_cache, tmp_path):
        cache = open_cache()
        oid = p64(997 * 5 + 3)
        expected = tmp_path / "cache" / "3" / f"5.{TID.hex()}.blob"
        assert cache.load(oid, TID, Source()) == str(expected)
        assert (tmp_path / "cache" / ".layout").read_text() == "zeocache"
