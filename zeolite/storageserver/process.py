"""Running as a process: opens the storages, serves until a signal says stop."""

import logging
import os
import signal
import sys

import zc.lockfile

from ..wire.channel import format_address
from .server import PATIENCE, StorageServer

logger = logging.getLogger(__name__)

#: Seconds.  A thread that computes, such as a pack, keeps the others from running
#: for up to this long each time.  Python's default of 5 ms shows in every load.
SWITCH_INTERVAL = 0.001


def serve(configuration):
    """Serve what a `ServerConfiguration` says until SIGTERM or SIGINT.

    For the main thread.  Raises `ConfigurationError` for what cannot work.
    """
    # They are waited for rather than handled: a handler could interrupt anything,
    # itself included.  All threads inherit this.
    signals = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    sys.setswitchinterval(SWITCH_INTERVAL)
    _start_log(configuration)
    if configuration.has_runner:
        logger.info("the runner section is for zdaemon; it has no effect here")
    section = configuration.section
    storages = _open_storages(configuration)
    try:
        server = StorageServer(section.address, storages, section.options)
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
            signal.sigwait(signals)
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
