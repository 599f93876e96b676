"""The command line: `python -m zeolite` serves what a configuration file says.

With the name of a subcommand first, it does something else: see `commands`.
"""

import argparse
import importlib.metadata
import pathlib
import platform
import sys

from . import __version__, commands, config, standin
from .arguments import USAGE, Parser
from .errors import ConfigurationError
from .storageserver import process

DEFAULT_FILE = "zeolite.conf"

_DESCRIPTION = """\
Serve ZODB storages to other processes until SIGTERM or SIGINT.

Either a configuration file says what to serve, zeolite.conf in the current
directory by default, or an address and a file storage do.
"""


def main(argv=None):
    """Run the command with `argv` (list of str); return the exit status (int)."""
    argv = sys.argv[1:] if argv is None else argv
    standin.install_where_missing()  # For <zeoclient> in a file.
    if argv and argv[0] in commands.NAMES:
        return commands.main(argv[0], argv[1:])
    parser = _parser()
    if argv and not argv[0].startswith("-"):
        parser.error(
            f"there is no subcommand {argv[0]!r}, only {', '.join(commands.NAMES)}"
        )
    arguments = parser.parse_args(argv)
    try:
        configuration = _configuration(parser, arguments)
        if arguments.pid_file is not None:
            configuration.section.pid_filename = arguments.pid_file
        return process.serve(configuration)
    except ConfigurationError as error:
        commands.complain(error)
        return USAGE


def _parser():
    """Return the parser of a command line without a subcommand."""
    parser = Parser(
        prog=commands.program(),
        usage="%(prog)s [options], or %(prog)s SUBCOMMAND ...",
        description=_DESCRIPTION,
        epilog=commands.summary(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "-C",
        "--configuration",
        "--configure",
        metavar="FILE",
        help="the configuration file",
    )
    parser.add_argument(
        "-a",
        "--address",
        help="where to listen: HOST:PORT, PORT on 127.0.0.1, or a socket's path",
    )
    parser.add_argument("-f", "--filename", metavar="FILE", help="the file storage")
    parser.add_argument(
        "-t",
        "--timeout",
        metavar="SECONDS",
        help="how long a transaction may take to commit (default: 30)",
    )
    parser.add_argument(
        "--pid-file",
        metavar="FILE",
        help="where to write the process's number, in place of the file's pid-filename",
    )
    parser.add_argument("--version", action="version", version=_versions())
    return parser


def _versions():
    """Return what to say in a report of an error."""
    zodb = importlib.metadata.version("ZODB")
    return f"Zeolite {__version__} (ZODB {zodb}, Python {platform.python_version()})"


def _configuration(parser, arguments):
    ad_hoc = arguments.address, arguments.filename
    if arguments.configuration is None and any(ad_hoc):
        if not all(ad_hoc):
            parser.error("-a and -f belong together")
        return _ad_hoc_configuration(arguments)
    for option in ("address", "filename", "timeout"):
        if getattr(arguments, option) is not None:
            parser.error(
                f"--{option} is for a server without a configuration file; set it "
                "in the file"
            )
    path = arguments.configuration
    if path is None:
        path = DEFAULT_FILE
        if not pathlib.Path(path).exists():
            raise ConfigurationError(
                f"there is no {path} here; copy zeolite.conf.example to {path}, name "
                "a file with -C, or try -a 8100 -f Data.fs"
            )
    return config.read_server_file(path)


def _ad_hoc_configuration(arguments):
    for value in (arguments.address, arguments.filename, arguments.timeout or ""):
        if "\n" in value:
            raise ConfigurationError(f"a line break in {value!r}")
    address = arguments.address
    if address.isdigit():
        address = f"127.0.0.1:{address}"
    timeout = ""
    if arguments.timeout is not None:
        timeout = f"transaction-timeout {arguments.timeout}\n"
    # A dollar sign would begin a substitution.
    filename = arguments.filename.replace("$", "$$")
    return config.ServerConfiguration(
        config.COMMAND_LINE,
        f"<zeolite>\naddress {address}\n{timeout}</zeolite>\n"
        f"<filestorage>\npath {filename}\n</filestorage>\n",
    )


if __name__ == "__main__":
    sys.exit(main())
