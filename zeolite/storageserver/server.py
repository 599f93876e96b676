"""A whole server: its storages, and the address at which it listens."""

import logging
import ssl

import ZODB.event

from ..interfaces import Closed, Serving
from ..wire.channel import format_address
from .listener import Listener
from .options import ServerOptions
from .shared import serve

logger = logging.getLogger(__name__)

#: Seconds that clients have at a stop to take the reply they wait for.
PATIENCE = 5


class StorageServer:
    """Serves storages until it is stopped.

    `address` is a pair of host (str) and port (int; 0 for any that is free) or
    the path of a Unix socket; `storages` maps names to ZODB storages, which the
    server closes when it stops; `options` is a `ServerOptions`; `tls` is the
    `ssl.SSLContext` that clients have to agree with, or None for no encryption.

    Raises `OSError` where the address cannot be had; the storages are left open.
    """

    def __init__(self, address, storages, options=None, tls=None):
        options = options or ServerOptions()
        self._served = {
            name: serve(name, storage, options) for name, storage in storages.items()
        }
        self._listener = Listener(address, self._served, options, tls)

    @property
    def address(self):
        """Where clients find it: (host, real port) or a path."""
        return self._listener.address

    def start(self):
        """Begin to serve; returns at once.  Notifies `interfaces.Serving`."""
        for served in self._served.values():
            served.start()
        self._listener.start()
        logger.info(
            "serving %s at %s",
            ", ".join(f"storage {name}" for name in self._served),
            format_address(self.address),
        )
        tls = self._listener.tls
        if tls is not None and tls.verify_mode == ssl.CERT_NONE:
            logger.warning(
                "connections are encrypted, but clients are not authenticated: "
                "whoever reaches %s may connect; set authenticate to change that",
                format_address(self.address),
            )
        ZODB.event.notify(Serving(self, self.address))

    def use_tls(self, tls):
        """Have clients that connect from now on agree with another context.

        For a server that was made with one.  Connections that exist go on.
        """
        self._listener.tls = tls

    def stop(self, patience=None):
        """Stop: no new clients, running commits end, others are aborted.

        Closes the storages and returns when all is done.  A pack that is running
        is waited for; with `patience` (seconds) for that long, and then its
        storage is left open for the end of the process.  Notifies
        `interfaces.Closed`.
        """
        self._listener.stop(PATIENCE)
        for served in self._served.values():
            served.close(patience)
        logger.info("stopped serving at %s", format_address(self.address))
        ZODB.event.notify(Closed(self))
