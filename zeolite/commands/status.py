"""`python -m zeolite status ADDRESS...`: how servers are."""

import concurrent.futures
import json
import shutil
import sys

from ..arguments import Parser
from ..errors import ConfigurationError
from ..wire.channel import format_address
from . import FAILED, complain, nagios, servers, statusscreen, statustable
from . import statussource as source

DESCRIPTION = """\
Show how servers of Zeolite or ZEO are: for each storage the clients that are
connected, what was done since the server started, the transactions that have
begun, those that wait for the commit lock, and for how long it is held.

An ADDRESS is HOST:PORT, PORT on 127.0.0.1, [IPV6]:PORT, or the path of a Unix
socket, with a slash in it or unix: before it.

--json prints an object: address -> {"storages": {name: status}, "seconds": how long
the answer took}, or address -> {"error": why there is none}.

--nagios prints what Nagios and its kin want of a plugin, for one server.  METRIC is
one of connections, active_txns, waiting, lock_seconds and, with a state file, the
rates of aborts, commits, conflicts, conflicts_resolved, loads and stores.

exit status:
  0  all servers have answered
  1  at least one has not; the others are shown
  2  wrong usage
exit status with --nagios:
  0 OK  1 WARNING: a threshold, a storage without data, no storages
  2 CRITICAL: a threshold, no answer  3 UNKNOWN: wrong usage, no server for ZODB
"""


def parser_class(argv):
    return nagios.NagiosParser if "--nagios" in argv else Parser


def add_arguments(parser):
    parser.add_argument("addresses", metavar="ADDRESS", nargs="+", type=servers.address)
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--json", action="store_true", help="print JSON")
    kind.add_argument(
        "-w",
        "--watch",
        nargs="?",
        type=servers.seconds,
        const=2,
        metavar="SECONDS",
        help="show a screen with rates, renewed every so many seconds (default: "
        "%(const)s), until q or Ctrl-C; put it behind the addresses",
    )
    kind.add_argument("--nagios", action="store_true", help="be a plugin of Nagios")
    nagios.add_arguments(parser)
    servers.add_arguments(parser)


def run(arguments):
    """Return the exit status."""
    if arguments.nagios:
        return nagios.run(arguments)
    given = nagios.given(arguments)
    if given:
        raise ConfigurationError(f"{given} is for --nagios")
    access = _access(arguments)
    if arguments.watch is not None:
        statusscreen.watch(
            lambda: ask_all(arguments.addresses, access), arguments.watch
        )
        return 0
    answers = ask_all(arguments.addresses, access)
    if arguments.json:
        print(json.dumps(_as_json(answers), indent=2, sort_keys=True))
    else:
        _print_table(answers)
    failed = any(isinstance(answer, Exception) for answer in answers.values())
    return FAILED if failed else 0


def ask_all(addresses, access):
    """Return {address as text: `Answer` or `NoStatus`}, asked for all at once."""

    def ask(address):
        try:
            return source.ask(address, access)
        except source.NoStatus as error:
            return error

    addresses = list(dict.fromkeys(addresses))
    with concurrent.futures.ThreadPoolExecutor(len(addresses)) as pool:
        answers = pool.map(ask, addresses)
        return {format_address(a): answer for a, answer in zip(addresses, answers)}


def _access(arguments):
    access = servers.Access(arguments)
    for address in arguments.addresses:
        access.check(address)
    return access


def _as_json(answers):
    return {
        address: {"error": str(answer)}
        if isinstance(answer, Exception)
        else {"storages": answer.storages, "seconds": answer.seconds}
        for address, answer in answers.items()
    }


def _print_table(answers):
    terminal = sys.stdout.isatty()
    columns = shutil.get_terminal_size().columns if terminal else None
    lines = statustable.lines(answers, columns=columns)
    if lines:
        print("\n".join(lines), flush=True)
    for address, answer in answers.items():
        if isinstance(answer, Exception):
            complain(f"{address}: {answer}")
