"""Running as a process: opens the storages, serves until a signal says stop.

SIGTERM, SIGINT  end the server, with status 0
SIGHUP           ends it with status 1, which supervisors take for "start again"
SIGUSR2          opens the log files again, and reads the files for TLS

A stop gives clients `PATIENCE` seconds to take the reply that they wait for, then
cuts them off, and gives the storages as long to return from what they do, a pack
for instance.  A storage that needs longer is left open, as a kill would.
"""

import errno
import logging
import re
import signal
import sys
import time

import zc.lockfile
from ZODB.FileStorage.FileStorage import FileStorageFormatError

from ..errors import ConfigurationError
from ..files import lock_holder
from ..wire.channel import format_address
from .admission import raise_descriptor_limit
from .logs import Log
from .pidfile import PidFile, default_path
from .server import PATIENCE, StorageServer
from .signals import Signals, exit_status
from .systemd import Notifier, inherited_socket

logger = logging.getLogger(__name__)

#: Seconds.  A thread that computes, such as a pack, keeps the others from running
#: for up to this long each time.  Python's default of 5 ms shows in every load.
SWITCH_INTERVAL = 0.001

#: What to do where an address cannot be had.
_REMEDIES = {
    errno.EADDRINUSE: "choose another address, or stop the program that uses it",
    errno.EADDRNOTAVAIL: "choose an address that this machine has",
    errno.EACCES: "choose a port above 1023, or a directory in which this user may "
    "make a socket",
}


def serve(configuration):
    """Serve what a `ServerConfiguration` says until a signal ends it.

    Returns the exit status (int).  For the main thread.  Raises
    `ConfigurationError` for what cannot work.
    """
    signals = Signals()
    sys.setswitchinterval(SWITCH_INTERVAL)
    raise_descriptor_limit()
    log = _start_log(configuration)
    notifier = Notifier()
    if configuration.has_runner:
        logger.info("the runner section is for zdaemon; it has no effect here")
    server = _open_server(configuration)
    signals.keep()
    pid_file = PidFile(configuration.section.pid_filename or default_path())
    pid_file.write()
    try:
        server.start()
        where = f"serving at {format_address(server.address)}"
        notifier.tell("READY=1", f"STATUS={where}")
        while (number := signals.wait()) == signal.SIGUSR2:
            now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
            notifier.tell("RELOADING=1", f"MONOTONIC_USEC={now}")
            _reload(configuration, server, log)
            notifier.tell("READY=1", f"STATUS={where}")
        name = signal.Signals(number).name
        logger.info("%s: stopping", name)
        notifier.tell("STOPPING=1", f"STATUS={name}: stopping")
        signals.end_at_once(pid_file.remove)
        return exit_status(number)
    finally:
        server.stop(PATIENCE)
        log.close(PATIENCE)
        # The last thing: whoever waits for this may start the next server.
        pid_file.remove()


def _start_log(configuration):
    try:
        return Log(configuration.eventlog)
    except Exception as error:
        raise configuration.error(
            f"the log cannot be opened: {_reason(error)}; look at its path and format",
            configuration.line_of_key("<logfile>"),
        ) from error


def _open_server(configuration):
    """Return a `StorageServer` that has its address and its storages."""
    section = configuration.section
    tls = _tls_context(configuration)
    try:
        sock = inherited_socket(section.address)
    except ConfigurationError as error:
        line = configuration.line_of_key("address")
        raise configuration.error(str(error), line) from error
    storages = _open_storages(configuration)
    try:
        return StorageServer(section.address, storages, section.options, tls, sock)
    except ConfigurationError as error:
        _close(storages)
        keys = "monitor-address", "unix-socket-mode"
        key = next((key for key in keys if key in str(error)), "address")
        raise configuration.error(str(error), configuration.line_of_key(key)) from error
    except (OSError, UnicodeError) as error:
        _close(storages)
        where = format_address(section.address)
        reason = getattr(error, "strerror", None) or error
        remedy = _REMEDIES.get(getattr(error, "errno", None), "choose another address")
        raise configuration.error(
            f"cannot listen at {where}: {reason}; {remedy}",
            configuration.line_of_key("address"),
        ) from error
    except BaseException:
        _close(storages)
        raise


def _tls_context(configuration):
    """Return the `ssl.SSLContext` for clients, None for no encryption."""
    settings = configuration.section.tls
    if settings is None:
        return None
    try:
        return settings.server_context()
    except ConfigurationError as error:
        line = configuration.line_of_tls()
        raise configuration.error(str(error), line) from error


def _reload(configuration, server, log):
    """Open the log files again; use the certificates as they are, if they are good."""
    names = log.reopen()
    if names:
        logger.info("SIGUSR2: log files were opened again: %s", ", ".join(names))
    if configuration.section.tls is None:
        if not names:
            logger.info(
                "SIGUSR2: there is no ssl section whose files could be read again, "
                "and no log file"
            )
        return
    try:
        tls = _tls_context(configuration)
    except Exception as error:
        logger.error("SIGUSR2: going on with the certificates from before: %s", error)
        return
    server.use_tls(tls)
    logger.info("SIGUSR2: new connections use the certificates as they are now")


def _open_storages(configuration):
    storages = {}
    for name, section in configuration.storages.items():
        try:
            storages[name] = section.open()
        except Exception as error:
            _close(storages)
            raise configuration.error(
                f"storage {name!r} cannot be opened: {_reason(error)}",
                configuration.line_of_storage(name),
            ) from error
    return storages


def _reason(error):
    if isinstance(error, zc.lockfile.LockError):
        path = re.search("lock '(.*)'", str(error))
        holder = path and lock_holder(path[1])
        which = f", number {holder}" if holder else ""
        return f"{error}; stop the process that has it open{which}"
    if isinstance(error, FileStorageFormatError):
        return f"{error} is no file storage, or its beginning is damaged; look at path"
    return f"{type(error).__name__}: {error}"


def _close(storages):
    for storage in storages.values():
        storage.close()
