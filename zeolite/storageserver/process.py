"""Running as a process: opens the storages, serves until a signal says stop.

SIGTERM, SIGINT  end the server, with status 0
SIGHUP           ends it with status 1, which supervisors take for "start again"
SIGUSR2          opens the log files again, and reads the files for TLS

A stop gives clients `PATIENCE` seconds to take the reply that they wait for, then
cuts them off, and gives the storages as long to return from what they do, a pack
for instance.  A storage that needs longer is left open, as a kill would.
"""

import logging
import os
import signal
import sys
import threading
import time

import zc.lockfile

from ..errors import ConfigurationError
from ..wire.channel import format_address
from .admission import raise_descriptor_limit
from .logs import Log
from .pidfile import PidFile, default_path
from .server import PATIENCE, StorageServer
from .systemd import Notifier, inherited_socket

logger = logging.getLogger(__name__)

#: Seconds.  A thread that computes, such as a pack, keeps the others from running
#: for up to this long each time.  Python's default of 5 ms shows in every load.
SWITCH_INTERVAL = 0.001

#: Seconds after a signal to stop in which another one says the same: a terminal and
#: a wrapper may both pass it on.  A later one ends the process at once.
GRACE = 1

#: The exit status that has supervisors start the server again.
RESTART = 1


def serve(configuration):
    """Serve what a `ServerConfiguration` says until a signal ends it.

    Returns the exit status (int).  For the main thread.  Raises
    `ConfigurationError` for what cannot work.
    """
    # They are waited for rather than handled: a handler could interrupt anything,
    # itself included.  All threads inherit this.
    signals = _signals()
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    sys.setswitchinterval(SWITCH_INTERVAL)
    raise_descriptor_limit()
    log = _start_log(configuration)
    notifier = Notifier()
    if configuration.has_runner:
        logger.info("the runner section is for zdaemon; it has no effect here")
    server = _open_server(configuration)
    pid_file = PidFile(configuration.section.pid_filename or default_path())
    pid_file.write()
    try:
        server.start()
        where = f"serving at {format_address(server.address)}"
        notifier.tell("READY=1", f"STATUS={where}")
        while (number := signal.sigwait(signals)) == signal.SIGUSR2:
            now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
            notifier.tell("RELOADING=1", f"MONOTONIC_USEC={now}")
            _reload(configuration, server, log)
            notifier.tell("READY=1", f"STATUS={where}")
        name = signal.Signals(number).name
        logger.info("%s: stopping", name)
        notifier.tell("STOPPING=1", f"STATUS={name}: stopping")
        _heed_impatience(signals, pid_file)
        return RESTART if number == signal.SIGHUP else 0
    finally:
        server.stop(PATIENCE)
        log.close(PATIENCE)
        # The last thing: whoever waits for this may start the next server.
        pid_file.remove()


def _signals():
    signals = {signal.SIGTERM, signal.SIGINT, signal.SIGUSR2}
    # Under nohup it is to be ignored.
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        signals.add(signal.SIGHUP)
    return signals


def _heed_impatience(signals, pid_file):
    """From now on, have another signal end the process at once."""
    start = time.monotonic()

    def watch():
        while True:
            number = signal.sigwait(signals)
            if number == signal.SIGUSR2 or time.monotonic() - start < GRACE:
                continue
            name = signal.Signals(number).name
            logger.warning("%s: ending at once, as a kill would", name)
            pid_file.remove()
            # What a shell says of a process that a signal has ended.
            os._exit(128 + number)

    threading.Thread(target=watch, name="zeolite-signals", daemon=True).start()


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
        raise configuration.error(
            f"cannot listen at {where}: {reason}; choose another address, or stop "
            "the program that uses it",
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
        return f"{error}; stop the process that has it open"
    return f"{type(error).__name__}: {error}"


def _close(storages):
    for storage in storages.values():
        storage.close()
