"""The subcommands of `python -m zeolite`, one file each.

Each is a module with `HELP` (one line), `DESCRIPTION`, `add_arguments(parser)` and
`run(arguments)`, which returns the exit status.  It is imported when it is wanted.
"""

import argparse
import importlib
import sys

from ..arguments import Parser
from ..errors import ConfigurationError

#: Their names, in the order in which they are listed.
NAMES = ("cache",)

#: The exit status if what was asked for makes no sense or cannot be had.
USAGE = 2


def main(name, argv):
    """Run a subcommand with `argv` (list of str); return the exit status (int)."""
    command = _module(name)
    parser = Parser(
        prog=f"python -m zeolite {name}",
        description=command.DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_arguments(parser)
    try:
        return command.run(parser.parse_args(argv))
    except ConfigurationError as error:
        print(f"zeolite: {error}", file=sys.stderr)
        return USAGE


def summary():
    """Return a list of all subcommands as text."""
    lines = [f"  {name:<20}  {_module(name).HELP}" for name in NAMES]
    return "\n".join(["subcommands (with -h for more):", *lines])


def _module(name):
    return importlib.import_module(f".{name}", __package__)
