"""A Zeolite server with options that tests choose.

    python -m tests.hostile.serving FILE.fs [OPTION=NUMBER …]

serves on a free port of this machine, says which on stderr, and stops at SIGTERM.
"""

import logging
import resource
import signal
import sys
import threading

from ZODB.FileStorage import FileStorage

from zeolite.storageserver.options import ServerOptions
from zeolite.storageserver.server import StorageServer


def main(path, *settings):
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    options = dict(setting.split("=") for setting in settings)
    options = {name: float(value) for name, value in options.items()}
    stopped = threading.Event()
    signal.signal(signal.SIGTERM, lambda *args: stopped.set())
    storages = {"1": FileStorage(path)}
    server = StorageServer(("127.0.0.1", 0), storages, ServerOptions(**options))
    server.start()
    stopped.wait()
    server.stop()


if __name__ == "__main__":
    main(*sys.argv[1:])
