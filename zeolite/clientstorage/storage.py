"""`ClientStorage`: a ZODB storage whose data are on a server.

Here are ZODB's storage interfaces, and nothing about sockets: `Connection` has
them.  What the server says by itself takes effect in `View`.
"""

from __future__ import annotations

import logging
import os
import ssl as ssl_module
import time
from collections.abc import Callable
from typing import IO, TYPE_CHECKING, Any

import ZODB.event
from ZODB.blob import BlobFile
from ZODB.POSException import Unsupported

from ..errors import ClientDisconnected
from ..interfaces import StaleCache
from ..wire.channel import MOST_KEEP_ALIVE, format_address
from . import addresses, forking, transfer
from .answers import checked, is_dictionary
from .arguments import check_id, check_time, function, number_of_seconds, text, tls
from .blobs import open_directory
from .committing import Committing
from .connecting import Request
from .connection import Connection
from .interfaces import provide
from .iteration import drop_iterators
from .opencache import open_cache
from .reading import Reading
from .view import View

if TYPE_CHECKING:
    from .cachestatistics import CacheStatistics

logger = logging.getLogger(__name__)

MB = 1024 * 1024

#: Called with "upload" or "download", the oid, bytes done and in all, or None.
BlobProgress = Callable[[str, bytes, int, int | None], object]

# Arguments whose features this version does not have.
_LATER = {
    "credentials": "authentication by credentials",
    "username": "authentication by password",
    "password": "authentication by password",
    "realm": "authentication by password",
}


class ClientStorage(Reading, Committing):
    """A storage on a server, shared with other processes.

    `addr` is the server's address: a port (int) on 127.0.0.1, a pair of host and
    port, the path of a Unix socket, or a list of addresses whose servers have the
    same content.  The other arguments:

    storage
        Name (str) of the storage on the server.
    cache_size
        Size (int, bytes) of the cache's file, at least 64 KB.
    cache
        Path (str) of the cache's file, which is used again by the next process; or
        an object that provides `zeolite.interfaces.IClientCache`, which is closed
        with the storage.  Without it the cache is a temporary file.
    client, var
        The older way to name the cache's file, if there is no `cache`: it is
        CLIENT-STORAGE.zec in the directory `var` (str), the current one by default.
    name
        Name (str) of this storage, for messages.
    wait_timeout
        Seconds to wait for a connection, at the start and later.
    disconnect_poll
        Seconds between attempts to connect to an address, about.
    wait
        Whether to wait for the first connection here.
    read_only
        Whether nothing is to be written.
    read_only_fallback
        Whether a server that allows no writing will do as long as there is no
        other.  `read_only` is ignored then.
    keep_alive
        Seconds of silence after which the server is asked for a sign of life.  If
        there is none for as long again, the connection is given up; if the server
        owes the answer to something that may take it long, ten times as long.  0
        for never.
    server_sync
        Whether `sync` asks the server, so that a transaction sees all that was
        committed anywhere before it began.
    ssl
        An `ssl.SSLContext` for the client's side of TLS.  Without it there is no
        encryption.
    ssl_server_hostname
        The host name (str) that the server's certificate is to be for, by default
        the host of its address; see `ssl.SSLContext.check_hostname`.
    client_label
        A text that the server's log shows for this client.
    blob_dir
        Directory (str) for blobs.  Without it there are none.
    shared_blob_dir
        Whether `blob_dir` is the server's own, by way of a shared file system.
        Otherwise it is a cache, which several processes may use.
    blob_cache_size
        Size (int, bytes) that the cache of blobs is to have, None for no limit.
    blob_cache_size_check
        How much may come in, in percent of that, before old blobs are removed: 0 to
        99.
    blob_progress
        Called as `blob_progress(kind, oid, done, total)` while a blob is sent or
        received, with "upload" or "download", and bytes; `total` is None where it
        is not known.  It runs in the thread that stores or opens the blob, and
        what it raises ends the transfer.
    min_disconnect_poll, max_disconnect_poll, drop_cache_rather_verify
        Accepted for old configurations and without effect.

    `credentials`, `username`, `password` and `realm`, which ZEO once had, raise
    `NotImplementedError` if they are used: certificates take their place, see `ssl`.

    Raises `zeolite.errors.ClientDisconnected` if `wait` is true and there is no
    connection in time, or, without waiting, if all servers refuse this client for
    good; `zeolite.errors.ProtocolError` if they are no servers for it; and
    `TypeError` or `ValueError` for arguments that make no sense; `CacheFileError` if
    the cache's file cannot be used, and `CacheFileInUse` if another storage has it;
    and `ConfigurationError` for a blob directory of the wrong kind, or of a size that
    makes no sense.

    In the child of a fork all that one can do with it is to close it; anything
    else raises `zeolite.errors.ForkedStorageError`.

    Any number of threads may use a storage.
    """

    def __init__(
        self,
        addr: addresses.Address,
        storage: str = "1",
        cache_size: int = 20 * MB,
        name: str | None = "",
        wait_timeout: float | None = 30,
        disconnect_poll: float | None = 1,
        read_only: bool = False,
        read_only_fallback: bool = False,
        blob_dir: str | os.PathLike[str] | None = None,
        shared_blob_dir: bool = False,
        blob_cache_size: int | None = None,
        blob_cache_size_check: int = 10,
        client_label: str | None = None,
        cache: Any = None,
        ssl: ssl_module.SSLContext | None = None,
        ssl_server_hostname: str | None = None,
        client: str | None = None,
        var: str | None = None,
        min_disconnect_poll: float | None = None,
        max_disconnect_poll: float | None = None,
        wait: bool = True,
        drop_cache_rather_verify: bool = True,
        credentials: None = None,
        server_sync: bool = False,
        username: None = None,
        password: None = None,
        realm: None = None,
        keep_alive: float | None = 30,
        blob_progress: BlobProgress | None = None,
    ) -> None:
        given = locals()
        for argument, feature in _LATER.items():
            if given[argument]:
                raise NotImplementedError(
                    f"{argument}: Zeolite does not have {feature}; use TLS and "
                    "certificates"
                )
        addrs = addresses.parse(addr)
        where = ", ".join(map(format_address, addrs))
        request = Request(
            text("storage", storage),
            bool(read_only and not read_only_fallback),
            bool(read_only_fallback),
            number_of_seconds("keep_alive", keep_alive, 30, most=MOST_KEEP_ALIVE),
            *tls("ssl", ssl, "ssl_server_hostname", ssl_server_hostname, addrs),
        )
        wait_timeout = number_of_seconds("wait_timeout", wait_timeout, 30)
        poll = number_of_seconds("disconnect_poll", disconnect_poll, 1, least=0.001)
        label = None if client_label is None else text("client_label", client_label)
        self.__name__ = where if name is None else text("name", name) or where
        # Clients may have the addresses in different orders.  Each is written as ZEO
        # writes it, whose clients may commit together with these.
        self._sort_key = f"{storage}:{', '.join(sorted(map(str, addrs)))}"
        self._is_read_only = request.read_only
        self._server_sync = server_sync
        self._begin_life()
        self._blob_progress = function("blob_progress", blob_progress)
        self._blobs = open_directory(
            blob_dir, shared_blob_dir, blob_cache_size, blob_cache_size_check
        )
        #: The directory for blobs, absolute, or None, and whose it is.
        self.blob_dir = os.path.abspath(blob_dir) if blob_dir else None
        self.shared_blob_dir = bool(shared_blob_dir)
        #: ZODB's helper for names in the blob directory, or None.
        self.fshelper = self._blobs.helper
        try:
            self._cache = open_cache(cache, client, var, storage, cache_size)
        except BaseException:
            self._blobs.close()
            raise
        self._view = View(self._cache, self.__name__, self._connected, self._stale)
        self._connection = Connection(
            self._view, addrs, request, wait_timeout, poll, label
        )
        forking.watch(self)
        self._connection.start()
        if wait:
            try:
                self._connection.first_link()
            except BaseException:
                self.close()
                raise

    def after_fork(self) -> None:
        """In the child: let go of what is the parent's."""
        elsewhere: Any = forking.Elsewhere()
        self._cache = self._view = self._connection = self._blobs = elsewhere
        self._begin_life()

    # What it is.

    def close(self) -> None:
        """Disconnect, and give the cache back."""
        self._connection.close()
        self._cache.close()
        self._blobs.close()

    def getName(self) -> str:
        """The name, and whether there is a connection."""
        state = "connected" if self.is_connected() else "disconnected"
        return f"{self.__name__} ({state})"

    def sortKey(self) -> str:
        """Return a text that orders storages that commit together, for all clients."""
        return self._sort_key

    def is_connected(self) -> bool:
        """Whether there is a connection to a server now."""
        return self._connection.is_connected

    def new_addr(self, addr: addresses.Address) -> None:
        """Look for servers at other addresses from now on; as the argument `addr`.

        A connection that works is kept; otherwise they are tried at once.
        """
        self._connection.set_addresses(addresses.parse(addr))

    def isReadOnly(self) -> bool:
        """Whether nothing can be written: at all, or on the server of the moment."""
        return self._is_read_only or self._connection.is_read_only

    def __len__(self) -> int:
        """Return the number of objects in the served storage, about."""
        return self._view.info["length"]

    def getSize(self) -> int:
        """Return the bytes that the served storage has on its disk, about."""
        return self._view.info["size"]

    def supportsUndo(self) -> bool:
        """Whether the served storage can undo transactions."""
        return self._view.info["supportsUndo"]

    def registerDB(self, database: Any) -> None:
        """Tell `database` of changes from now on; `ZODB.DB` calls this."""
        super().registerDB(database)
        self._view.register(database)

    def ping(self) -> None:
        """Wait for the server to answer, and for all that it said before."""
        self._ask("ping")

    def sync(self, force: bool = True) -> None:
        """Called when a transaction begins: see `server_sync`."""
        if self._server_sync:
            self.ping()

    def server_status(self) -> dict[str, Any]:
        """Return the server's statistics of this storage, a dictionary."""
        status = self._ask("server_status")
        return checked(status, is_dictionary, "its status")

    def cache_statistics(self) -> CacheStatistics | None:
        """Return the cache's `CacheStatistics`: hits, misses, bytes and more.

        They count from when the storage was opened.  None for a cache object that
        was given and has no method `statistics`.
        """
        statistics = getattr(self._cache, "statistics", None)
        return statistics and statistics()

    def pack(
        self,
        t: float | None = None,
        referencesf: Any = None,
        wait: bool = True,
        days: float = 0,
        gc: bool | None = None,
    ) -> None:
        """Have the server pack the storage as of `t`, a time in seconds.

        `days` are subtracted from it.  With `wait` false the server packs while
        this returns.  The server finds references by itself.  `gc` says whether
        objects that are not referenced are removed; None leaves it to the served
        storage.  Raises `Unsupported` for another `gc` if the server is a stock
        ZEO server.
        """
        if t is not None:
            check_time("t", t)
        check_time("days", days)
        t = (time.time() if t is None else t) - days * 86400
        arguments: tuple[object, ...] = t, bool(wait)
        if gc is not None:
            if not self._connection.link().is_zeolite:
                raise Unsupported(
                    "a ZEO server cannot be told whether to collect garbage; set "
                    "pack-gc for the storage that it serves"
                )
            arguments += (bool(gc),)
        self._call("pack", *arguments)

    # Blobs.

    def temporaryDirectory(self) -> str:
        """Return the directory for blobs that are not committed yet."""
        return self._blobs.temporary()

    def loadBlob(self, oid: bytes, serial: bytes) -> str:
        """Return the path of a blob, which is downloaded if it is not there.

        The file may be removed from a cache of limited size at any time: see
        `openCommittedBlobFile`.
        """
        return self._blob(self._blobs.load, oid, serial)

    def openCommittedBlobFile(
        self, oid: bytes, serial: bytes, blob: Any = None
    ) -> IO[bytes]:
        """Return an open file, a `BlobFile` of `blob` if that is given."""

        def opener(path):
            return open(path, "rb") if blob is None else BlobFile(path, "r", blob)

        return self._blob(self._blobs.open, oid, serial, opener)

    def _blob(self, find, oid, serial, *args):
        """Call a method of the directory: anew if this has left the server meanwhile."""
        check_id("oid", oid)
        check_id("serial", serial)
        progress = self._progress("download", oid, None)

        def connect():
            nonlocal link
            link = used = self._connection.link()
            return lambda write: transfer.download(used, oid, serial, write, progress)

        while True:
            link = None
            try:
                return find(oid, serial, connect, *args)
            except ClientDisconnected:
                if link is None or not link.is_retired:
                    raise

    def _progress(self, kind, oid, total):
        if self._blob_progress is None:
            return lambda done: None
        return lambda done: self._blob_progress(kind, oid, done, total)

    # The server.

    def _call(self, name, *args):
        link = self._connection.link()
        return link.call(name, args, drop_iterators(link)).wait()

    # The reader thread.

    def _connected(self, info):
        self._forget_new_oids()
        provide(self, info.get("interfaces", ()))

    def _stale(self):
        ZODB.event.notify(StaleCache(self))
