"""The ends of a copy: what an argument means, and the storage that it stands for."""

import argparse
import contextlib
import io
import os
import pathlib
import shutil
import stat
import tempfile

import zc.lockfile
import ZConfig
from ZODB.FileStorage import FileStorage

from ..clientstorage.copying import TEMPORARY
from ..errors import ConfigurationError
from ..wire.channel import format_address
from . import CommandError, servers

#: How the data of a file storage begin.
_MAGIC = b"FS"

#: Bytes of a server's blobs that are kept, and of its other data.
_BLOB_CACHE, _CACHE = 256_000_000, 1_000_000

SERVER, DATA, SECTION = "server", "data", "section"


class End:
    """One of source and destination, from an argument (str).

    Raises `ConfigurationError` for what can be neither.
    """

    def __init__(self, text, blobs, name):
        self._name = name
        self._blobs = blobs
        self.kind, self._what = _meaning(text)
        self.text = text
        if self.kind == SERVER:
            self.text = format_address(self._what[0])
        if blobs and self.kind != DATA:
            raise ConfigurationError(
                f"--{name}-blobs is for a file storage's data, which {text} is not"
            )

    @property
    def is_server(self):
        return self.kind == SERVER

    def is_same(self, other):
        """Whether both are the same storage, as far as one can see."""
        if self.kind != other.kind:
            return False
        if self.kind == SERVER:
            return self._what == other._what
        return os.path.realpath(self._what) == os.path.realpath(other._what)

    @contextlib.contextmanager
    def opened(self, access, read_only):
        """The storage, which is closed at the end.  Raises `CommandError`."""
        with contextlib.ExitStack() as stack:
            try:
                storage = self._open(stack, access, read_only)
            except (ConfigurationError, CommandError):
                raise
            except zc.lockfile.LockError as error:
                raise CommandError(
                    f"{self.text}: another process has it open; stop that, or copy "
                    "from or to its address"
                ) from error
            except Exception as error:
                if self.is_server:
                    raise CommandError(
                        servers.described(self._what[0], error)
                    ) from error
                raise CommandError(f"{self.text}: {servers.reason(error)}") from error
            stack.callback(storage.close)
            if not hasattr(storage, "iterator"):
                raise CommandError(
                    f"{self.text}: this kind of storage does not tell its transactions"
                )
            yield storage

    def _open(self, stack, access, read_only):
        if self.kind == SERVER:
            directory = tempfile.mkdtemp(prefix=TEMPORARY)
            stack.callback(shutil.rmtree, directory, ignore_errors=True)
            address, name = self._what
            return access.open(
                address,
                name or "1",
                read_only=read_only,
                cache_size=_CACHE,
                blob_dir=os.path.join(directory, "blobs"),
                blob_cache_size=_BLOB_CACHE,
            )
        if self.kind == DATA:
            return self._open_data(read_only)
        return _section(self._what).open()

    def _open_data(self, read_only):
        if read_only:
            for path in filter(None, (self._what, self._blobs)):
                if not os.path.exists(path):
                    raise CommandError(f"{path}: there is no such file")
            return FileStorage(self._what, read_only=True, blob_dir=self._blobs)
        _check_blobs_of_new_file(self._what, self._blobs)
        storage = FileStorage(self._what, blob_dir=self._blobs)
        if self._blobs:
            # The storage is locked, so these are of copies that were killed.
            for path in pathlib.Path(storage.temporaryDirectory()).glob(
                f"{TEMPORARY}*.tmp"
            ):
                path.unlink()
        return storage


def _check_blobs_of_new_file(path, blobs):
    """Raise where ZODB, as it makes a file storage, would empty a directory."""
    if not blobs or os.path.exists(path):
        return
    with contextlib.suppress(FileNotFoundError):
        if os.listdir(blobs):
            raise CommandError(
                f"{blobs}: is not empty, and a new file storage removes what is in its "
                "directory for blobs; name one of its own"
            )


def _meaning(text):
    """Return (kind, what)."""
    if text.startswith("unix:") or "/" not in text:
        try:
            return SERVER, servers.storage_address(text)
        except argparse.ArgumentTypeError as error:
            if text.startswith("unix:"):
                raise ConfigurationError(str(error)) from error
    try:
        mode = os.stat(text).st_mode
    except FileNotFoundError:
        return _absent(text)
    except OSError as error:
        raise ConfigurationError(f"{text}: {error.strerror}") from error
    if stat.S_ISSOCK(mode):
        return SERVER, (text if "/" in text else f"./{text}", None)
    if not stat.S_ISREG(mode):
        raise ConfigurationError(f"{text}: is neither a file nor a socket")
    try:
        with open(text, "rb") as file:
            beginning = file.read(len(_MAGIC))
    except OSError as error:
        raise ConfigurationError(f"{text}: {error.strerror}") from error
    if beginning == _MAGIC or (not beginning and text.endswith(".fs")):
        return DATA, text
    return SECTION, text


def _absent(text):
    if text.endswith(".fs"):
        return DATA, text
    if "/" in text:
        # Maybe a socket, with the name of a storage after it.
        try:
            address, name = servers.storage_address(text)
        except argparse.ArgumentTypeError as error:
            raise ConfigurationError(str(error)) from error
        if name:
            return SERVER, (address, name)
    raise ConfigurationError(
        f"{text}: is no address, and there is no such file; a new file storage's name "
        "ends in .fs"
    )


def _section(path):
    """Return the storage section of a file, which can be opened."""
    try:
        text = pathlib.Path(path).read_text(encoding="utf-8")
        return _load(text, path)
    except ZConfig.ConfigurationError as error:
        line = getattr(error, "lineno", None)
        where = f"{path}, line {line}" if line and line > 0 else path
        message = getattr(error, "message", None) or str(error)
        raise ConfigurationError(
            f"{where}: {message}; it is to have one section of a storage"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigurationError(f"{path}: cannot be read: {reason}") from error


def _load(text, path):
    # With an %import the file brings its own <clientstorage>, which may be ZEO's.
    package = __package__.rpartition(".")[0]
    own = "" if "%import" in text else f'<import package="{package}"/>'
    schema = ZConfig.loadSchemaFile(
        io.StringIO(
            f'<schema><import package="ZODB"/>{own}'
            '<section type="ZODB.storage" name="*" attribute="storage" required="yes"/>'
            "</schema>"
        )
    )
    url = pathlib.Path(path).absolute().as_uri()
    return ZConfig.loadConfigFile(schema, io.StringIO(text), url)[0].storage
