"""Running as a process: opens the storages, serves until a signal says stop."""

import logging
import os
import signal
import sys

import zc.lockfile

from ..errors import ConfigurationError
from ..wire.channel import format_address
from .server import PATIENCE, StorageServer

logger = logging.getLogger(__name__)

#: Seconds.  A thread that computes, such as a pack, keeps the others from running
#: for up to this long each time.  Python's default of 5 ms shows in every load.
SWITCH_INTERVAL = 0.001


def serve(configuration):
    """Serve what a `ServerConfiguration` says until SIGTERM or SIGINT.

    SIGUSR2 has it read the files for TLS again.  For the main thread.  Raises `ConfigurationError` for what cannot work.
    """
    # They are waited for rather than handled: a handler could interrupt anything,
    # itself included.  All threads inherit this.
    signals = {signal.SIGTERM, signal.SIGINT, signal.SIGUSR2}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    sys.setswitchinterval(SWITCH_INTERVAL)
    _start_log(configuration)
    if configuration.has_runner:
        logger.info("the runner section is for zdaemon; it has no effect here")
    section = configuration.section
    tls = _tls_context(configuration)
    storages = _open_storages(configuration)
    try:
        server = StorageServer(section.address, storages, section.options, tls)
    except ConfigurationError as error:  # The monitor's.
        _close(storages)
        line = configuration.line_of_key("monitor-address")
        raise configuration.error(str(error), line) from error
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
    try:
        with _pid_file(configuration):
            server.start()
            while signal.sigwait(signals) == signal.SIGUSR2:
                _reload(configuration, server)
            logger.info("stopping")
    finally:
        server.stop(PATIENCE)


def _start_log(configuration):
    if configuration.eventlog is not None:
        try:
            configuration.eventlog()
        except Exception as error:
            raise configuration.error(
                f"the log cannot be opened: {_reason(error)}; look at its path and "
                "format",
                configuration.line_of_key("<logfile>"),
            ) from error
    else:
        logging.basicConfig(
            level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s"
        )


def _tls_context(configuration):
    """Return the `ssl.SSLContext` for clients, None for no encryption."""
    settings = configuration.section.tls
    if settings is None:
        return None
    try:
        return settings.server_context()
    except ConfigurationError as error:
        line = configuration.line_of_key("<ssl>")
        raise configuration.error(str(error), line) from error


def _reload(configuration, server):
    """Use the certificates that the files have by now, if they can be used."""
    if configuration.section.tls is None:
        logger.info("SIGUSR2: there is no ssl section whose files could be read again")
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


class _pid_file:
    """Writes the process's number to a file, and removes the file at the end."""

    def __init__(self, configuration):
        self._path = configuration.section.pid_filename
        self._configuration = configuration

    def __enter__(self):
        if self._path:
            try:
                with open(self._path, "w") as file:
                    file.write(f"{os.getpid()}\n")
            except OSError as error:
                raise self._configuration.error(
                    f"the pid file cannot be written: {error}",
                    self._configuration.line_of_key("pid-filename"),
                ) from error

    def __exit__(self, *_):
        if self._path:
            try:
                os.unlink(self._path)
            except OSError as error:
                logger.warning("the pid file cannot be removed: %s", error)
