"""Directories of caches into which somebody else has put links and pipes.

Whoever may write there may spoil the cache, but is not to have the client write to,
or remove, files elsewhere, and not to have it wait for ever.
"""

import contextlib
import os
import stat

import pytest
from ZODB.utils import p64

from zeolite.clientstorage.blobs import CacheDirectory
from zeolite.clientstorage.cache import ClientCache
from zeolite.errors import CacheFileError, ConfigurationError

from ..support.waiting import wait_until

OID, TID = p64(7), p64(5)
SIZE = 100_000


@pytest.fixture
def precious(tmp_path):
    """A file that is to stay as it is, in a directory with nothing else."""
    directory = tmp_path / "precious"
    directory.mkdir()
    path = directory / "1.05.blob"
    path.write_text("precious" * 10)
    yield path
    assert path.read_text() == "precious" * 10
    assert os.listdir(directory) == [path.name]
    assert path.stat().st_mode & stat.S_IWUSR


@pytest.fixture
def directory(tmp_path):
    path = tmp_path / "cache"
    path.mkdir()
    return path


@contextlib.contextmanager
def opened(directory, size=None):
    cache = CacheDirectory(str(directory), size, 10)
    try:
        yield cache
    finally:
        cache.close()


def download():
    return lambda write: write(b"content")


def blob(directory, ending=""):
    """Return the path of a blob, whose directory is there."""
    with opened(directory) as cache:
        path = cache.path(OID, TID) + ending
    os.makedirs(os.path.dirname(path))
    return path


def plant(path, target):
    """Make a symbolic link to `target`, or a pipe without one."""
    if target:
        os.symlink(target, path)
    else:
        os.mkfifo(path)


class TestBlobs:
    def test_temporary_directory_that_is_a_link(self, directory, precious):
        os.symlink(precious.parent, directory / "tmp")
        with pytest.raises(ConfigurationError, match="not a link"), opened(directory):
            pass

    @pytest.mark.parametrize("ending", ["", ".dl"])
    def test_link_in_place_of_a_blob(self, directory, precious, ending):
        path = blob(directory, ending)
        os.symlink(precious, path)
        self.is_downloaded(directory)

    @pytest.mark.parametrize("ending", ["", ".dl"])
    def test_pipe_in_place_of_a_blob(self, directory, ending):
        path = blob(directory, ending)
        os.mkfifo(path)
        self.is_downloaded(directory)

    def is_downloaded(self, directory):
        with opened(directory) as cache:
            path = cache.load(OID, TID, download)
            assert stat.S_ISREG(os.lstat(path).st_mode)
            with open(path) as file:
                assert file.read() == "content"

    def test_directory_of_blobs_that_is_a_link(self, directory, precious):
        os.symlink(precious.parent, directory / "8")
        with opened(directory, 10) as cache:
            cache.load(OID, TID, download)
            cache._check.check()

    def test_pipe_that_nobody_loads(self, directory):
        path = blob(directory, ".blob")
        os.mkfifo(path)
        with opened(directory, 1) as cache:
            loaded = cache.load(OID, TID, download)
            # One that is still being synced, or is checked by a thread, stays at first.
            wait_until(lambda: cache._check.check() or not os.path.exists(loaded))
        assert os.path.exists(path)

    @pytest.mark.parametrize("is_link", [True, False], ids=["link", "pipe"])
    @pytest.mark.parametrize("name", ["synced.boot", "check_size.added"])
    def test_what_is_written_to(self, directory, precious, name, is_link):
        plant(directory / name, is_link and precious)
        with (
            pytest.raises(OSError, match=r"link|not a file"),
            opened(directory, SIZE),
        ):
            pass


class TestCacheFile:
    def open(self, directory):
        ClientCache(str(directory / "x.zec"), SIZE).close()

    @pytest.mark.parametrize("is_link", [True, False])
    def test_new_file(self, directory, precious, is_link):
        plant(directory / "x.zec.new", is_link and precious)
        self.open(directory)
        assert sorted(os.listdir(directory)) == ["x.zec", "x.zec.lock"]

    @pytest.mark.parametrize("is_link", [True, False])
    def test_lock_that_is_no_file_is_refused(self, directory, precious, is_link):
        plant(directory / "x.zec.lock", is_link and precious)
        with pytest.raises(CacheFileError, match=r"link|not a file"):
            self.open(directory)

    def test_somebody_elses_where_everybody_may_write(self, directory, monkeypatch):
        self.open(directory)
        path = directory / "x.zec"
        if not os.geteuid():
            os.chown(path, 1, -1)
        user = path.stat().st_uid + 1
        monkeypatch.setattr(os, "geteuid", lambda: user)
        self.open(directory)  # Here the owner of the directory decides.
        directory.chmod(0o1777)
        with pytest.raises(CacheFileError, match="belongs to another user"):
            self.open(directory)
