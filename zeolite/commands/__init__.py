"""The subcommands of `python -m zeolite`, one file each; the others help them.

Each is a module with `DESCRIPTION`, `add_arguments(parser)` and `run(arguments)`,
which returns the exit status.  It is imported when it is wanted.  It may have
`parser_class(argv)`, for one that says in another way what is wrong.
"""

import argparse
import contextlib
import importlib
import logging
import os
import signal
import sys
import threading

from ..arguments import USAGE, Parser
from ..errors import ConfigurationError

#: Their names, in the order in which they are listed, and what they do.
NAMES = {
    "check": "say what a server would do with a configuration file",
    "status": "show how servers are: a table, JSON, a live screen, for Nagios",
    "pack": "pack storages of servers",
    "copy": "copy a database, or compare two",
    "cache": "show and verify a client's cache file",
}

#: The exit status if what was asked for was tried and failed.
FAILED = 1

#: The exit status after Ctrl-C, as shells have it.
INTERRUPTED = 130


class CommandError(Exception):
    """What was asked for did not work.  The message is one line."""


def main(name, argv):
    """Run a subcommand with `argv` (list of str); return the exit status (int)."""
    command = _module(name)
    kind = command.parser_class(argv) if hasattr(command, "parser_class") else Parser
    parser = kind(
        prog=f"{program()} {name}",
        description=command.DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_arguments(parser)
    arguments = parser.parse_args(argv)
    try:
        with _tidy_when_killed(), _quiet_logs():
            status = command.run(arguments)
        sys.stdout.flush()
        return status
    except ConfigurationError as error:
        complain(error)
        return USAGE
    except CommandError as error:
        complain(error)
        return FAILED
    except KeyboardInterrupt:
        complain("interrupted")
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever reads has enough.  Python would try once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except OSError as error:  # A full disk under stdout, for instance.
        complain(error)
        return FAILED


@contextlib.contextmanager
def _tidy_when_killed():
    """SIGTERM and SIGHUP raise `SystemExit` meanwhile, so that files are removed."""

    def end(number, _):
        sys.exit(128 + number)

    before = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) == signal.SIG_DFL:  # Not under nohup.
                before[number] = signal.signal(number, end)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _quiet_logs():
    """Errors are printed; without a handler Python would print log lines, too."""
    handler = logging.NullHandler()
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)


def complain(message):
    """Print one line on stderr."""
    print("zeolite:", " ".join(str(message).split()), file=sys.stderr)


def program():
    """Return what the user typed to get here: the script's name, or the module's."""
    name = os.path.basename(sys.argv[0])
    return name if name == "zeolite" else "python -m zeolite"


def summary():
    """Return a list of all subcommands as text."""
    lines = [f"  {name:<20}  {text}" for name, text in NAMES.items()]
    return "\n".join(["subcommands (with -h for more):", *lines])


def _module(name):
    return importlib.import_module(f".{name}", __package__)
