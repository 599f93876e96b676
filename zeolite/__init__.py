"""Zeolite: serves one ZODB storage to many processes.

    address, stop = zeolite.server("Data.fs")     # a server in this process
    db = zeolite.DB(address)                      # a database on it, anywhere

An address is a port (int) on 127.0.0.1, a pair of host and port, the path (str)
of a Unix socket, or a list of these.
"""

import ZODB

from .clientstorage.storage import ClientStorage

__version__ = "0.1.dev0"

__all__ = ["DB", "ClientStorage", "client", "connection", "install_as_ZEO", "server"]


def client(addr, *args, **kwargs):
    """Return a `ClientStorage` for the server at `addr`.

    The arguments are those of `ClientStorage`, which tells what it raises.
    """
    return ClientStorage(addr, *args, **kwargs)


def DB(addr, *args, **kwargs):
    """Return a `ZODB.DB` on a client storage for the server at `addr`.

    The arguments are those of `ClientStorage`.
    """
    storage = client(addr, *args, **kwargs)
    try:
        return ZODB.DB(storage)
    except BaseException:
        storage.close()
        raise


def connection(addr, *args, **kwargs):
    """Return an open connection to the database at `addr`.

    Closing it closes the database, too.  The arguments are those of
    `ClientStorage`.
    """
    return DB(addr, *args, **kwargs).open_then_close_db_when_connection_closes()


def server(
    path=None,
    blob_dir=None,
    storage_conf=None,
    zeo_conf=None,
    port=0,
    host="127.0.0.1",
    ssl=None,
    monitor_address=None,
):
    """Serve a storage in this process; return (address, stop).

    `address` is for `client`, `DB` and `connection`; `stop()` ends the server
    and closes the storage.  The arguments:

    path
        Path (str) of a file storage.  Without it, and without `storage_conf`,
        the data are in memory.
    blob_dir
        Directory for the file storage's blobs.
    storage_conf
        A ZODB storage section as text, instead of `path`.
    zeo_conf
        Settings of the server: a dictionary with the keys of a `<zeolite>`
        section, or such keys as text, which may have an `<ssl>` section.
    port
        The port (int) on `host`, 0 for any that is free; or the path (str) of a
        Unix socket.
    host
        The host or address (str) to listen at.
    ssl
        An `ssl.SSLContext` for the server's side of TLS.  Without it there is no
        encryption.
    monitor_address
        Where to tell how the server is, over HTTP: a port (int) on 127.0.0.1, a pair
        of host and port, or text as in a configuration.  With port 0 the log has the
        real one.  Without it there is no such server.

    Raises `zeolite.errors.ConfigurationError` for settings that cannot work, and
    whatever opening the storage or the address raises.
    """
    from . import config
    from .storageserver.server import StorageServer

    options, settings = config.server_settings(zeo_conf)
    if monitor_address is not None:
        options = config.with_monitor(options, monitor_address)
    tls = config.server_context(ssl, settings)
    storage = config.open_storage(path, blob_dir, storage_conf)
    try:
        address = port if isinstance(port, str) else (host, port)
        running = StorageServer(address, {"1": storage}, options, tls)
    except BaseException:
        storage.close()
        raise
    try:
        running.start()
    except BaseException:
        running.stop()
        raise
    return running.address, running.stop


def install_as_ZEO():
    """Have `import ZEO` find Zeolite from now on, in this process.

    For ZODB's `<zeoclient>` section and other code that imports ZEO by name.
    Raises `RuntimeError` if the real ZEO is imported already.
    """
    from . import standin

    standin.install_as_ZEO()
