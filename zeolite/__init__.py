"""Zeolite: serves one ZODB storage to many processes.

    address, stop = zeolite.server("Data.fs")     # a server in this process
    db = zeolite.DB(address)                      # a database on it, anywhere

An address is a port (int) on 127.0.0.1, a pair of host and port, the path (str)
of a Unix socket, or a list of these.
"""

from __future__ import annotations

import inspect
import os
import ssl as ssl_module
from collections.abc import Callable, Mapping
from typing import Any, ParamSpec, TypeVar

try:
    import fcntl as _fcntl  # noqa: F401
except ImportError:
    raise ImportError(
        "Zeolite needs a POSIX system, such as Linux or macOS; on Windows run it in WSL "
        "or in a container"
    ) from None

import ZODB
from ZODB.Connection import Connection
from ZODB.POSException import ConflictError

from .clientstorage.addresses import Address
from .clientstorage.storage import ClientStorage

__version__ = "0.1.dev0"

__all__ = [
    "DB",
    "Address",
    "ClientStorage",
    "client",
    "connection",
    "install_as_ZEO",
    "server",
]

_P = ParamSpec("_P")
_T = TypeVar("_T")


def _takes(
    other: Callable[_P, object],
) -> Callable[[Callable[..., _T]], Callable[_P, _T]]:
    """Have a function shown, by `help` and by editors, with another's arguments."""

    def show(function: Callable[..., _T]) -> Callable[_P, _T]:
        result = inspect.signature(function).return_annotation
        shown = inspect.signature(other).replace(return_annotation=result)
        function.__signature__ = shown  # type: ignore[attr-defined]
        return function

    return show


@_takes(ClientStorage)
def client(addr: Address, *args: Any, **kwargs: Any) -> ClientStorage:
    """Return a `ClientStorage` for the server at `addr`.

    The arguments are those of `ClientStorage`, which tells what it raises.
    """
    return ClientStorage(addr, *args, **kwargs)


@_takes(ClientStorage)
def DB(addr: Address, *args: Any, **kwargs: Any) -> ZODB.DB:
    """Return a `ZODB.DB` on a client storage for the server at `addr`.

    The arguments are those of `ClientStorage`.
    """
    storage = client(addr, *args, **kwargs)
    try:
        try:
            return ZODB.DB(storage)
        except ConflictError:
            # Another client has made the root object of an empty storage first.
            return ZODB.DB(storage)
    except BaseException:
        storage.close()
        raise


@_takes(ClientStorage)
def connection(addr: Address, *args: Any, **kwargs: Any) -> Connection:
    """Return an open connection to the database at `addr`.

    Closing it closes the database, too.  The arguments are those of
    `ClientStorage`.
    """
    db = DB(addr, *args, **kwargs)
    try:
        return db.open_then_close_db_when_connection_closes()
    except BaseException:
        db.close()
        raise


def server(
    path: str | os.PathLike[str] | None = None,
    blob_dir: str | os.PathLike[str] | None = None,
    storage_conf: str | None = None,
    zeo_conf: Mapping[str, object] | str | None = None,
    port: int | str | os.PathLike[str] | tuple[str, int] = 0,
    host: str = "127.0.0.1",
    ssl: ssl_module.SSLContext | None = None,
    monitor_address: int | str | tuple[str, int] | None = None,
    log: str | os.PathLike[str] | None = None,
) -> tuple[tuple[str, int] | Any, Callable[[], None]]:
    """Serve a storage in this process; return (address, stop).

    `address` is a pair of host and port, or the path of a Unix socket, for `client`,
    `DB` and `connection`; `stop()` ends the server and closes the storage.  The
    arguments:

    path
        Path (str) of a file storage.  Without it, and without `storage_conf`,
        the data are in memory.
    blob_dir
        Directory for blobs.
    storage_conf
        A ZODB storage section as text, instead of `path`, or several with names.  A
        section's name is the storage's, and without one it is "1".
    zeo_conf
        Settings of the server: a dictionary with the keys of a `<zeolite>`
        section, or such keys as text, which may have an `<ssl>` section; or all of
        such a section as text, with its address.
    port
        The port (int) on `host`, 0 for any that is free; the path (str) of a Unix
        socket; or a pair of host and port, such as the address of an earlier server.
    host
        The host or address (str) to listen at; "" is for all interfaces.
    ssl
        An `ssl.SSLContext` for the server's side of TLS.  Without it there is no
        encryption.
    monitor_address
        Where to tell how the server is, over HTTP: a port (int) on 127.0.0.1, a pair
        of host and port, or text as in a configuration.  With port 0 the log has the
        real one.  Without it there is no such server.
    log
        Path of a file that has what the servers of this process log, at INFO and above,
        until `stop()`.  Without it the log is only the script's, by way of `logging`.

    Raises `zeolite.errors.ConfigurationError` for settings that cannot work,
    `TypeError` and `ValueError` for arguments that make no sense, and whatever
    opening the storage or the address raises.
    """
    from . import adhoc
    from .errors import ConfigurationError

    options, settings, address = adhoc.server_settings(zeo_conf)
    if address is None:
        address = adhoc.server_address(port, host)
    elif (port, host) != (0, "127.0.0.1"):
        raise ConfigurationError(
            "there is an address in zeo_conf, and the argument port or host as well"
        )
    if monitor_address is not None:
        options = adhoc.with_monitor(options, monitor_address)
    tls = adhoc.server_context(ssl, settings)
    server_log = adhoc.ServerLog(log)
    try:
        storages = adhoc.open_storages(path, blob_dir, storage_conf)
        running = adhoc.start(address, storages, options, tls)
    except BaseException:
        server_log.close()
        raise

    def stop() -> None:
        running.stop()
        server_log.close()

    return running.address, stop


def install_as_ZEO() -> None:
    """Have `import ZEO` find Zeolite from now on, in this process.

    For ZODB's `<zeoclient>` section and other code that imports ZEO by name.
    Raises `RuntimeError` if the real ZEO is imported already.
    """
    from . import standin

    standin.install_as_ZEO()
