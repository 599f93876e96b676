"""What `zeolite.server()` does: from its arguments to a server that runs."""

from __future__ import annotations

import dataclasses
import logging
import os
import re
import ssl
import threading
from collections.abc import Mapping
from typing import Any

from ZODB.blob import BlobStorage
from ZODB.FileStorage import FileStorage
from ZODB.MappingStorage import MappingStorage

from .clientstorage.addresses import parse
from .config import KEYS, ServerConfiguration
from .datatypes import monitor_address
from .errors import ConfigurationError
from .storageserver.logs import FORMAT, OneLineFormatter
from .storageserver.options import ServerOptions
from .storageserver.server import StorageServer
from .wire.channel import format_address
from .wire.tlssettings import TLSSettings

#: The name of a storage that is nobody's.
_PLACEHOLDER = "zeolite-placeholder"

#: What begins with a section, and not with its keys.
_WHOLE_SECTION = re.compile(r"(\s|#.*\n|%.*\n)*<zeo(lite)?\s*>", re.IGNORECASE)


def server_settings(
    settings: Mapping[str, object] | str | None,
) -> tuple[ServerOptions, TLSSettings | None, tuple[str, int] | str | None]:
    """Return `ServerOptions`, `TLSSettings` or None, and an address or None.

    `settings` is a dictionary or text of keys, a whole `<zeolite>` or `<zeo>` section
    as text, which alone has an address, or None.
    """
    if not settings:
        return ServerOptions(), None, None
    text, is_whole = _section_text(settings)
    # The file's schema wants a storage, which is given elsewhere.
    text = f"{text}\n<mappingstorage {_PLACEHOLDER}/>\n"
    configuration = ServerConfiguration("zeo_conf" if is_whole else KEYS, text)
    if list(configuration.storages) != [_PLACEHOLDER] or configuration.eventlog:
        raise ConfigurationError(
            "zeo_conf: there is more than a <zeolite> section; a storage's section goes "
            "into storage_conf, and logs are the script's"
        )
    section = configuration.section
    if section.pid_filename is not None:
        raise ConfigurationError(
            "zeo_conf: pid-filename is for a server in a process of its own, started "
            "with python -m zeolite; leave it out"
        )
    return section.options, section.tls, section.address if is_whole else None


def _section_text(settings):
    """Return the text of a `<zeolite>` section, and whether it was given as one."""
    if isinstance(settings, str) and _WHOLE_SECTION.match(settings):
        return settings, True
    if isinstance(settings, Mapping):
        keys = {str(key).replace("_", "-"): value for key, value in settings.items()}
        settings = "".join(
            f"{key} {_value_text(key, value)}\n"
            for key, value in keys.items()
            if value is not None
        )
    elif not isinstance(settings, str):
        raise TypeError(
            f"zeo_conf is a dictionary of keys, or keys as text, not {settings!r}"
        )
    if re.search(r"^\s*address\s", settings, re.MULTILINE | re.IGNORECASE):
        raise ConfigurationError(
            "zeo_conf: the arguments port and host say where to listen; leave the "
            "address out, or write a whole <zeolite> section as text"
        )
    # The file's schema wants an address, which is given elsewhere.
    return f"<zeolite>\naddress 0\n{settings}\n</zeolite>", False


def _value_text(key, value):
    # ZEO takes 0 and 1 there.
    return str(bool(value) if key == "read-only" and value in (0, 1) else value)


def server_address(
    port: int | str | os.PathLike[str] | tuple[str, int], host: str
) -> tuple[str, int] | str:
    """Return where the arguments of `zeolite.server()` say to listen.

    Raises `TypeError` or `ValueError` for what is no address.
    """
    if isinstance(port, str | os.PathLike):
        path = parse(port)[0]
        assert isinstance(path, str)
        return path
    if isinstance(port, tuple) and len(port) == 2:
        host, port = port
    if type(port) is not int:
        raise TypeError(
            "port is a number, 0 for any that is free, or the path of a Unix socket, "
            f"not {port!r}"
        )
    if not 0 <= port < 65536:
        raise ValueError(f"{port} is no port; there are those up to 65535")
    if not isinstance(host, str):
        raise TypeError(f'host is a str, "" for all interfaces, not {host!r}')
    return host, port


def with_monitor(
    options: ServerOptions, address: int | str | tuple[str, int]
) -> ServerOptions:
    """Return `ServerOptions` with a monitor at `address`.

    That is a port (int) on this machine, a pair of host and port, or text as in a
    file.
    """
    if options.monitor_address is not None:
        raise ConfigurationError(
            "there is a monitor-address in zeo_conf, and the argument as well"
        )
    if not isinstance(address, tuple):
        address = monitor_address(str(address))
    return dataclasses.replace(options, monitor_address=address)


def server_context(
    context: ssl.SSLContext | None, settings: TLSSettings | None
) -> ssl.SSLContext | None:
    """Return the `ssl.SSLContext` of a server, or None.

    It is given, or there are `TLSSettings` for one, or neither.
    """
    if context is None:
        return settings.server_context() if settings else None
    if settings is not None:
        raise ConfigurationError(
            "there is an ssl section, and the argument ssl as well"
        )
    if not isinstance(context, ssl.SSLContext):
        raise TypeError(f"ssl is an ssl.SSLContext, not {context!r}")
    if context.protocol == ssl.PROTOCOL_TLS_CLIENT:
        raise ValueError(
            "ssl is a client's SSLContext; make one for "
            "ssl.Purpose.CLIENT_AUTH, or with ssl.PROTOCOL_TLS_SERVER"
        )
    return context


def open_storages(
    path: str | os.PathLike[str] | None,
    blob_dir: str | os.PathLike[str] | None,
    storage_conf: str | None,
) -> dict[str, Any]:
    """Return the storages that are meant, by their names.

    Raises `ConfigurationError` if the arguments contradict each other or make no
    sense, and whatever opening a storage raises.
    """
    if storage_conf is not None:
        if path is not None or blob_dir is not None:
            raise ConfigurationError(
                "storage_conf cannot be used together with path and blob_dir"
            )
        return _open_sections(_storage_sections(storage_conf))
    blobs = None if blob_dir is None else _file_path("blob_dir", blob_dir)
    if path is not None:
        return {"1": FileStorage(_file_path("path", path), blob_dir=blobs)}
    if blobs is not None:
        return {"1": BlobStorage(blobs, MappingStorage())}
    return {"1": MappingStorage()}


def _storage_sections(text):
    """Return the storages' sections in a text, by their names."""
    if not isinstance(text, str):
        raise TypeError(
            "storage_conf is a storage's section as text, such as "
            f"'<mappingstorage/>', not {text!r}"
        )
    # The file's schema wants an address, which is given elsewhere.
    text = f"{text}\n<zeolite>\naddress 0\n</zeolite>\n"
    configuration = ServerConfiguration("storage_conf", text)
    if configuration.eventlog:
        raise ConfigurationError(
            "storage_conf: there is a log's section, but logs are the script's; see the "
            "argument log"
        )
    return configuration.storages


def _open_sections(sections):
    storages = {}
    try:
        for name, section in sections.items():
            storages[name] = section.open()
    except BaseException:
        _close(storages)
        raise
    return storages


def _close(storages):
    """Close the storages of a server that has not come about."""
    for storage in storages.values():
        storage.close()


def start(
    address: tuple[str, int] | str,
    storages: Mapping[str, Any],
    options: ServerOptions,
    tls: ssl.SSLContext | None,
) -> StorageServer:
    """Return a running server.

    Closes the storages if that fails, and raises what that raises; where the address
    cannot be had, an `OSError` that names it.
    """
    try:
        running = StorageServer(address, storages, options, tls)
    except BaseException as error:
        _close(storages)
        if isinstance(error, OSError):
            where = format_address(address)
            raise OSError(error.errno, f"{error.strerror}: {where}") from error
        raise
    try:
        running.start()
    except BaseException:
        running.stop()
        raise
    return running


def _file_path(name, value):
    if isinstance(value, int | tuple):
        raise TypeError(
            f"{name} is the path of a file, not {value!r}; write port={value!r} for "
            "where to listen"
        )
    if not isinstance(value, str | os.PathLike):
        raise TypeError(f"{name} is a path (str), not {value!r}")
    if not os.fspath(value):
        raise ValueError(f"{name} is empty")
    return os.path.abspath(value)  # The process may go to another directory.


class ServerLog:
    """A file that has what the servers of this process say, until it is closed.

    `path` is where it is; without one there is none.  Any thread.  The file gets
    what is INFO and above.  Raises `OSError` where it cannot be written.
    """

    # Guards the two below.
    _lock = threading.Lock()
    _open: list[ServerLog] = []  # noqa: RUF012
    _level = logging.NOTSET

    def __init__(self, path: str | os.PathLike[str] | None) -> None:
        self._handler: logging.Handler = logging.NullHandler()
        if path is None:
            return
        self._handler = logging.FileHandler(_file_path("log", path), encoding="utf-8")
        self._handler.setFormatter(OneLineFormatter(FORMAT))
        logger = self._logger()
        with self._lock:
            if not self._open:
                ServerLog._level = logger.level
                if not logger.isEnabledFor(logging.INFO):
                    logger.setLevel(logging.INFO)
            self._open.append(self)
            logger.addHandler(self._handler)

    def close(self) -> None:
        """Write no more.  May be called again."""
        with self._lock:
            if self not in self._open:
                return
            self._open.remove(self)
            self._logger().removeHandler(self._handler)
            if not self._open:
                self._logger().setLevel(self._level)
        self._handler.close()

    @staticmethod
    def _logger():
        # What the clients of this process say is not the servers'.
        return logging.getLogger(f"{__package__}.storageserver")
