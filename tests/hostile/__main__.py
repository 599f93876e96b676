"""The command line; see the package."""

import argparse
import resource
import sys

from . import attacks, table


def main():
    parser = argparse.ArgumentParser(prog="python -m tests.hostile")
    parser.add_argument("name", choices=[*attacks.ATTACKS, "table"])
    parser.add_argument("address", nargs="?", metavar="HOST:PORT")
    parser.add_argument("--count", type=int, help="how many connections")
    parser.add_argument(
        "--patience", type=float, default=60, help="seconds to wait for the server"
    )
    options = parser.parse_args()
    _raise_limit()
    if options.name == "table":
        table.main()
        return
    if options.address is None:
        parser.error("HOST:PORT is missing")
    try:
        address = attacks.loopback(options.address)
    except ValueError as error:
        parser.error(str(error))
    attack = attacks.ATTACKS[options.name]
    kwargs = {"count": options.count} if options.count else {}
    try:
        report = attack(address, patience=options.patience, **kwargs)
    except OSError as error:
        sys.exit(f"{options.address}: {error}")
    for line in report.lines():
        print(line)


def _raise_limit():
    """A thousand connections need a thousand descriptors, and some."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


if __name__ == "__main__":
    main()
