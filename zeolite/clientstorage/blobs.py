"""Where a client keeps blobs: nowhere, in the server's directory, or in a cache.

A cache directory has ZEO's layout, `zeocache`, and may be shared by any number of
processes on one machine:

    .layout                     its name, "zeocache"
    N/M.TID.blob                a blob; its oid is M * 997 + N, TID is in hexadecimal
    N/M.TID.blob.dl             one that is being downloaded, locked by who does it
    check_size.lock             locked by who removes what was not used for long
    check_size.added            bytes that came in since that was done, as a number
    synced.boot                 see `blobsync`
    tmp/                        uncommitted files; locked by all storages that are open

All locks are the kernel's (`flock`) and end with their process.  So whatever is
not locked and not whole was left behind by a process that is gone.  A child that was
forked meanwhile shares them, so they are unlocked and not only closed.
"""

import contextlib
import fcntl
import logging
import os
import shutil
import stat
import tempfile
import time

import ZODB.blob
from ZODB.POSException import POSKeyError, Unsupported
from ZODB.utils import u64

from ..errors import ConfigurationError, ProtocolError
from ..files import open_file, write_all
from . import blobsync, forking
from .blobcheck import Arriving, SizeCheck, is_at, unlock

logger = logging.getLogger(__name__)

_CACHE = "zeocache"
_BUCKETS = 997
_PARTIAL = ".dl"
_OWN = "zeolite-"

#: How often a blob is fetched again that is removed before it could be opened.
_ATTEMPTS = 10


class CacheLayout:
    """ZEO's layout of a cache directory, for ZODB's `FilesystemHelper`."""

    def oid_to_path(self, oid):
        return str(u64(oid) % _BUCKETS)

    def getBlobFilePath(self, oid, tid):
        number, bucket = divmod(u64(oid), _BUCKETS)
        name = f"{number}.{tid.hex()}{ZODB.blob.BLOB_SUFFIX}"
        return os.path.join(str(bucket), name)


ZODB.blob.LAYOUTS.setdefault(_CACHE, CacheLayout())


def open_directory(path, shared, size, check):
    """Return the directory for a storage's blobs.

    `path` (str) may be None; `shared` says whether it is the server's own; `size`
    (bytes or None) and `check` (percent of it) are for a cache.  Raises
    `ConfigurationError` for a directory of the wrong kind, and for such numbers.
    """
    if size is not None and not (type(size) is int and size > 0):
        raise ConfigurationError(
            f"blob_cache_size: {size!r} is not a number of bytes, at least 1"
        )
    if not (type(check) is int and 0 <= check < 100):
        raise ConfigurationError(
            f"blob_cache_size_check: {check!r} is not a percentage from 0 to 99"
        )
    if path is None or path == "":  # As with ZEO: a setting that was left empty.
        return NoDirectory()
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"blob_dir is the path of a directory (str), not {path!r}")
    path = os.path.abspath(path)  # The process may go to another directory.
    return SharedDirectory(path) if shared else CacheDirectory(path, size, check)


class NoDirectory:
    """What a storage has that was not given a directory."""

    helper = None
    sends_names = False

    def close(self):
        pass

    def committed(self, blobs, tid):
        pass

    def temporary(self):
        raise Unsupported(
            "no place for blobs: this storage was opened without blob_dir; give it "
            "a directory"
        )

    def load(self, *args):
        self.temporary()

    open = take = load


class _Directory:
    """What both kinds share: ZODB's helper for names and directories."""

    def __init__(self, path, layout, hint):
        try:
            os.makedirs(os.path.join(path, "tmp"), exist_ok=True)
            _mark(path, layout)
            self.helper = ZODB.blob.FilesystemHelper(path, layout)
            self.helper.create()
        except ValueError as error:
            raise ConfigurationError(f"blob_dir: {error}; {hint}") from None
        except OSError as error:
            raise ConfigurationError(f"blob_dir: {error}") from None

    def temporary(self):
        """Return the directory (str) for files that are not committed yet."""
        return self.helper.temp_dir

    def path(self, oid, serial):
        return self.helper.getBlobFilename(oid, serial)

    def _take(self, path, directory):
        handle, own = tempfile.mkstemp(".tmp", _OWN, directory)
        os.close(handle)
        return self._move(path, own)

    def _move(self, path, own):
        try:
            ZODB.blob.rename_or_copy_blob(path, own)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(own)
            raise
        return own


class SharedDirectory(_Directory):
    """The server's own directory, by way of a file system that both can reach.

    Any thread.
    """

    #: What the server is to be told is a name, not the contents.
    sends_names = True

    def __init__(self, path):
        hint = "name the server's directory, or leave shared_blob_dir out"
        super().__init__(path, "automatic", hint)
        if self.helper.layout_name == _CACHE:
            raise ConfigurationError(f"blob_dir: {path} is a cache of blobs; {hint}")

    def close(self):
        pass

    def take(self, path, oid):
        """Take over an uncommitted file; return its path from now on."""
        return self._take(path, self.helper.getPathForOID(oid, create=True))

    def take_as(self, path, name):
        """Like `take`, but the server wants the file to be called `name`.

        Raises `ProtocolError` for what is no name.
        """
        is_name = type(name) is str and name == os.path.basename(name)
        if not is_name or name.startswith(".") or not name:
            raise ProtocolError("the server wants a file to be called what it cannot")
        return self._move(path, os.path.join(self.helper.temp_dir, name))

    def committed(self, blobs, tid):
        pass  # The server has moved them.

    def load(self, oid, serial, download):
        """Return the path of a blob; raise `POSKeyError` if it is not there."""
        path = self.path(oid, serial)
        if not os.path.exists(path):
            raise POSKeyError(f"No blob file at {path}", oid, serial)
        return path

    def open(self, oid, serial, download, opener):
        """Return the file that `opener(path)` opens."""
        return opener(self.load(oid, serial, download))


class CacheDirectory(_Directory):
    """A cache of blobs, which other processes may use at the same time.

    Any thread.  `download()` gets ready, and returns a function that is called with
    another one, `write`, and calls `write(bytes)` until all is there.
    """

    sends_names = False

    def __init__(self, path, size=None, check=10):
        hint = "name another directory, or set shared_blob_dir if it is the server's"
        super().__init__(path, _CACHE, hint)
        self._lock = _lock_uncommitted(self.helper.temp_dir)
        self._disk = blobsync.DiskSync()
        try:
            blobsync.remove_doubtful(path)
            self._check = SizeCheck(path, size, check)
        except BaseException:
            self._leave()
            raise
        forking.watch(self)

    def after_fork(self):
        """In the child: the directory is in use for as long as the parent uses it."""
        lock, self._lock = self._lock, None
        if lock is not None:
            os.close(lock)  # Not unlocked: it is the parent's lock.

    def close(self):
        """Say that the directory is not used any more."""
        self._check.close()
        self._disk.close()
        self._leave()

    def _leave(self):
        lock, self._lock = self._lock, None
        if lock is not None:
            unlock(lock)
            os.close(lock)

    def take(self, path, oid):
        """Take over an uncommitted file; return its path from now on."""
        return self._take(path, self.helper.temp_dir)

    def committed(self, blobs, tid):
        """The files of `blobs`, a list of (oid, path), were committed as `tid`."""
        try:
            for oid, path in blobs:
                target = self.path(oid, tid)
                os.makedirs(os.path.dirname(target), exist_ok=True)
                self._check.added(os.stat(path).st_size)
                with open(path, "rb") as file:
                    blobsync.begin(file.fileno())
                    blobsync.make_safe(file.fileno())
                self._enter(path, target)
        except OSError as error:
            # They can be had from the server.
            logger.warning("blobs of a commit are not in the cache: %s", error)

    def load(self, oid, serial, download):
        """Return the path of a blob, which is downloaded if it is not there."""
        path = self.path(oid, serial)
        while not _touch(path):
            self._fetch(path, download)
        return path

    def open(self, oid, serial, download, opener):
        """Return the file that `opener(path)` opens; as long as it is, it stays."""
        for _ in range(_ATTEMPTS):
            path = self.load(oid, serial, download)
            try:
                file = opener(path)
            except FileNotFoundError:
                continue
            # Waits only for somebody who is about to remove it.
            fcntl.flock(file.fileno(), fcntl.LOCK_SH)
            return file
        raise POSKeyError(f"{path} is removed as soon as it is there", oid, serial)

    def _fetch(self, path, download):
        """Download a blob unless somebody else has done so meanwhile."""
        receive = download()  # May wait for a connection, and keeps nobody waiting.
        partial = path + _PARTIAL
        os.makedirs(os.path.dirname(path), exist_ok=True)
        _remove_unless_file(partial)
        with open(partial, "ab", buffering=0, opener=open_file) as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # Waits for who is downloading it.
            if not is_at(file.fileno(), partial):
                return
            if os.path.exists(path):
                os.unlink(partial)  # It was there just before this one was made.
                return
            try:
                file.truncate(0)  # What a process has left that was killed.
                blobsync.begin(file.fileno())
                self._receive(file, receive)
                blobsync.make_safe(file.fileno())
                self._enter(partial, path)
            except BaseException:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(partial)
                raise
            finally:
                unlock(file.fileno())

    def _receive(self, file, receive):
        arriving = Arriving(self._check)

        def write(data):
            try:
                write_all(file, data)
            except OSError as error:
                error.filename = file.name  # Which disk it is that is full.
                raise
            arriving.add(len(data))

        receive(write)
        arriving.end()

    def _enter(self, path, target):
        """Give a whole file its name."""
        os.replace(path, target)
        with contextlib.suppress(OSError):  # It is there already.
            ZODB.blob.set_not_writable(target)
        self._disk.later(target)


def _lock_uncommitted(directory):
    """Lock a directory of uncommitted files, with others; return the descriptor.

    Who is alone removes what processes have left that are gone.
    """
    try:
        # All that is there may be removed, so it had better be ours.
        handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError as error:
        raise ConfigurationError(
            f"blob_dir: {directory} has to be a directory itself, not a link to one, "
            f"because what was left there is removed: {error.strerror}"
        ) from error
    try:
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _empty(directory)
        fcntl.flock(handle, fcntl.LOCK_SH)
    except BaseException:
        os.close(handle)
        raise
    return handle


def _empty(directory):
    for entry in os.scandir(directory):
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                os.unlink(entry.path)


def _mark(path, layout):
    """Write the layout's name into a directory that has none, all at once."""
    marker = os.path.join(path, ZODB.blob.LAYOUT_MARKER)
    if layout == "automatic" or os.path.exists(marker):
        return
    handle, name = tempfile.mkstemp(prefix=".layout-", dir=path)
    try:
        with open(handle, "w") as file:
            file.write(layout)
        os.link(name, marker)
    except FileExistsError:
        pass  # Another process was faster.
    finally:
        os.unlink(name)


def _touch(path):
    """Note that a file was used; return False if it is not there."""
    try:
        status = os.lstat(path)
        if not stat.S_ISREG(status.st_mode):
            _remove_unless_file(path)
            return False
        os.utime(path, (time.time(), status.st_mtime))
    except FileNotFoundError:
        return False
    except OSError:
        pass  # Somebody else's file.
    return True


def _remove_unless_file(path):
    """Remove a symbolic link or a pipe, which is nothing that a cache has."""
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISREG(os.lstat(path).st_mode):
            logger.warning("%s: it is no file, and is removed", path)
            os.unlink(path)
