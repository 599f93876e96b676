"""The command line: `python -m tests.bench` measures and prints one table."""

import argparse
import re
import signal
import sys

from . import rounds, shootout, table
from .databases import Databases
from .processes import Scratch
from .sizes import QUICK, Bench, Sizes
from .workloads import WORKLOADS

_DESCRIPTION = """\
Compare Zeolite with ZEO, and both with what is possible.

Starts servers and clients of its own on this machine, measures all systems in
turns, and prints a table to stdout: medians, and how many times faster Zeolite
is than ZEO (the median of the ratios in each round).  Progress and notes go to
stderr.  Databases are made in a temporary directory; set TMPDIR to have them on
the disk that matters, because commits wait for it.
"""


def main():
    arguments = _arguments()
    wanted = re.compile(arguments.rows or "", re.IGNORECASE).search
    workloads = [work for work in WORKLOADS if any(map(wanted, work.rows))]
    shots = [
        shot for shot in shootout.SHOTS if arguments.zodbshootout and wanted(shot.title)
    ]
    if arguments.list:
        print(*filter(wanted, _titles(workloads, shots)), sep="\n")
        return 0
    if not workloads and not shots:
        print(f"no row matches {arguments.rows!r}; see --list", file=sys.stderr)
        return 2
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    count = arguments.rounds or (2 if arguments.quick else 7)
    with Scratch() as scratch:
        sizes = QUICK if arguments.quick else Sizes()
        bench = Bench(scratch, Databases(scratch), sizes)
        results = []
        for workload in workloads:
            results += rounds.measure(bench, workload, count)
        if shots:
            results += shootout.measure(scratch, shots, count, arguments.quick)
        results = [series for series in results if wanted(series.title)]
    print(table.heading(count))
    print(table.table(results))
    if scratch.notes:
        print("", "Notes:", *dict.fromkeys(scratch.notes), sep="\n", file=sys.stderr)
    return 0


def _arguments():
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--rounds", type=int, metavar="N", help="how often (default: 7, quick: 2)"
    )
    parser.add_argument(
        "--quick", action="store_true", help="small sizes, only to see that it works"
    )
    parser.add_argument(
        "--rows", metavar="PATTERN", help="only rows that match a regular expression"
    )
    parser.add_argument(
        "--zodbshootout", action="store_true", help="zodbshootout's benchmarks as well"
    )
    parser.add_argument("--list", action="store_true", help="list the rows and end")
    return parser.parse_args()


def _titles(workloads, shots):
    for workload in workloads:
        yield from workload.rows
    for shot in shots:
        yield shot.title


def _interrupt(number, frame):
    # Once is enough: a second one must not interrupt the cleaning up.
    for other in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(other, signal.SIG_IGN)
    raise SystemExit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
