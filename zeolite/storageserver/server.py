"""A whole server: its storages, and the address at which it listens."""

import contextlib
import logging
import os
import ssl
import time

import ZODB.event

from ..errors import ConfigurationError
from ..interfaces import Closed, Serving
from ..wire.channel import format_address
from .admission import is_everywhere
from .housekeeping import Housekeeper
from .listener import Listener
from .options import ServerOptions
from .shared import serve
from .sparselog import SparseLog

logger = logging.getLogger(__name__)

#: Seconds that clients have at a stop to take the reply they wait for.
PATIENCE = 5


class StorageServer:
    """Serves storages until it is stopped.

    `address` is a pair of host (str) and port (int; 0 for any that is free) or
    the path of a Unix socket; `storages` maps names to ZODB storages, which the
    server closes when it stops; `options` is a `ServerOptions`; `tls` is the
    `ssl.SSLContext` that clients have to agree with, or None for no encryption;
    `sock` is a socket that listens at the address already, or None.

    Raises `OSError` where the address cannot be had, and `ConfigurationError` for
    options that do not fit it, an address that the monitor cannot have, or a storage
    that has two names; the storages are left open.
    """

    def __init__(self, address, storages, options=None, tls=None, sock=None):
        options = options or ServerOptions()
        options.check_fit(address)
        _check_different(storages)
        self._served = {
            name: serve(name, storage, options) for name, storage in storages.items()
        }
        self._log = SparseLog(logger)
        self._housekeeper = Housekeeper(
            self._served.values(), self._log, options.idle_transaction_timeout
        )
        self._stopping = False
        self._process = os.getpid()
        self._monitor = None
        if options.monitor_address is not None:
            # Not needed by who has no monitor.
            from ..monitor.pages import Monitor

            self._monitor = Monitor(options.monitor_address, self)
        try:
            self._listener = Listener(
                address, self._served, options, self._log, tls, sock
            )
        except BaseException:
            if self._monitor is not None:
                self._monitor.close()
            raise

    @property
    def address(self):
        """Where clients find it: (host, real port) or a path."""
        return self._listener.address

    @property
    def monitor_address(self):
        """Where the monitor listens: (host, real port), or None."""
        return self._monitor and self._monitor.address

    @property
    def storages(self):
        """What it serves, a list of `Served`."""
        return list(self._served.values())

    def trouble(self):
        """Return why it does not serve as it should, None if it does.  Any thread."""
        if self._stopping:
            return "the server stops"
        troubles = [served.trouble() for served in self.storages]
        return "; ".join(filter(None, troubles)) or None

    def start(self):
        """Begin to serve; returns at once.  Notifies `interfaces.Serving`."""
        for served in self._served.values():
            served.start()
        self._housekeeper.start()
        self._listener.start()
        logger.info(
            "serving %s at %s",
            ", ".join(f"storage {name}" for name in self._served),
            format_address(self.address),
        )
        tls = self._listener.tls
        if (
            tls is None
            and not isinstance(self.address, str)
            and (is_everywhere(self.address[0]))
        ):
            logger.warning(
                "whoever reaches port %d on any interface of this machine may read and "
                "write the storages; set address to 127.0.0.1:%d, or add an ssl section "
                "with authenticate",
                self.address[1],
                self.address[1],
            )
        if tls is not None and tls.verify_mode == ssl.CERT_NONE:
            logger.warning(
                "connections are encrypted, but clients are not authenticated: "
                "whoever reaches %s may connect; set authenticate to change that",
                format_address(self.address),
            )
        if self._monitor is not None:
            self._monitor.start()
        ZODB.event.notify(Serving(self, self.address))

    def use_tls(self, tls):
        """Have clients that connect from now on agree with another context.

        For a server that was made with one.  Connections that exist go on.
        """
        self._listener.tls = tls

    def stop(self, patience=None):
        """Stop: no new clients, running commits end, others are aborted.

        Closes the storages and returns when all is done.  A pack that is running,
        and what a storage still does for a client that is cut off, is waited for;
        with `patience` (seconds) for that long in all, and then its storage is left
        open for the end of the process.  Notifies `interfaces.Closed`.

        In the child of a fork it does nothing: the server is the parent's.
        """
        if os.getpid() != self._process:
            return
        self._stopping = True
        deadline = None
        if patience is not None:
            deadline = time.monotonic() + PATIENCE + patience
        self._listener.stop(PATIENCE, deadline)
        self._housekeeper.stop()
        for served in self._served.values():
            _close(served, deadline)
        if self._monitor is not None:
            self._monitor.close()
        logger.info("stopped serving at %s", format_address(self.address))
        ZODB.event.notify(Closed(self))


def _check_different(storages):
    """Raise `ConfigurationError` where one storage has two names.

    Clients that know it by one are not told of what is committed by the other.
    """
    names = {}
    for name, storage in storages.items():
        other = names.setdefault(id(storage), name)
        if other != name:
            raise ConfigurationError(
                f"storages {other!r} and {name!r} are one and the same; serve it under "
                "one name, which all its clients use"
            )


def _close(served, deadline):
    """Close a storage; what goes wrong with it keeps no other from being closed."""
    try:
        served.close(deadline)
    except Exception as error:
        # A file storage cannot, while its disk is full and it has a rest of an aborted
        # transaction to write.  The second time it gives back its lock and its files.
        logger.error(
            "storage %s: closing it failed: %s: %s",
            served.name,
            type(error).__name__,
            error,
        )
        with contextlib.suppress(Exception):
            served.storage.close()
