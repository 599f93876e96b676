"""`python -m zeolite pack ADDRESS...`: remove old revisions from servers' storages."""

import argparse
import threading
import time

from ..arguments import USAGE
from ..errors import ClientDisconnected
from ..wire.channel import format_address
from . import FAILED, complain, servers, statussource
from .terminal import TICK, ProgressLine, duration, plain, size

DESCRIPTION = """\
Pack storages of servers: remove what nobody can see any more, and revisions that
were not current any more at a time in the past.  One storage after the other is
packed; its server goes on with loads and commits meanwhile.

An ADDRESS is HOST:PORT, PORT on 127.0.0.1, [IPV6]:PORT, or the path of a Unix
socket, with a slash in it or unix: before it.  The name of a storage may follow,
HOST:PORT:NAME.

exit status:
  0  all are packed
  1  at least one is not; the others are
  2  wrong usage
"""


def add_arguments(parser):
    parser.add_argument(
        "addresses", metavar="ADDRESS", nargs="+", type=servers.storage_address
    )
    parser.add_argument(
        "-S",
        "--storage",
        metavar="NAME",
        action="append",
        help="the storage to pack where the address does not say; may be repeated "
        "(default: 1)",
    )
    parser.add_argument(
        "-A",
        "--all",
        action="store_true",
        help="pack all storages of a server whose address does not name one",
    )
    parser.add_argument(
        "-d",
        "--days",
        type=_days,
        default=0,
        help="keep what was current at any time in the last so many days (default: 0)",
    )
    parser.add_argument(
        "-t",
        "--time",
        type=_time_of_day,
        metavar="HH[:MM[:SS]]",
        help="the time of the day, on this machine's clock, instead of now",
    )
    servers.add_arguments(parser)


def run(arguments):
    """Return the exit status."""
    if arguments.all and arguments.storage:
        complain("--all and --storage contradict each other")
        return USAGE
    access = servers.Access(arguments)
    for address, _ in arguments.addresses:
        access.check(address)
    when = pack_time(time.time(), arguments.days, arguments.time)
    failed = False
    for address, name in arguments.addresses:
        try:
            names = [name] if name else _names(address, arguments, access)
        except statussource.NoStatus as error:
            complain(servers.described(address, error))
            failed = True
            continue
        for name in names:
            failed |= not _pack(address, name, when, access)
    return FAILED if failed else 0


def pack_time(now, days, of_day):
    """Return the time in seconds to pack to; `of_day` is (h, m, s) or None."""
    if of_day is not None:
        date = time.localtime(now)[:3]
        # Midnight and the hours may be further apart than it seems: -1 for
        # "find out whether it is summer".
        return time.mktime((date[0], date[1], date[2] - days, *of_day, 0, 0, -1))
    return now - days * 86400


def _names(address, arguments, access):
    if arguments.all:
        return sorted(statussource.ask(address, access).storages)
    return arguments.storage or ["1"]


def _pack(address, name, when, access):
    """Pack one storage and say how it went; return whether it worked."""
    label = plain(f"{format_address(address)} storage {name}")
    with ProgressLine() as line:
        try:
            line.show(f"{label}: connecting")
            storage = access.open(address, name, read_only=True)
            try:
                before = storage.getSize()
                _wait(line, label, before, lambda: storage.pack(when, wait=True))
            finally:
                storage.close()
        except ClientDisconnected as error:
            problem = servers.described(address, error)
        except Exception as error:
            problem = f"{label}: {servers.reason(error)}"
        else:
            problem, elapsed = None, line.elapsed
            after = _size(address, name, access)
    if problem:
        complain(plain(problem))
        return False
    sizes = f"{size(before)}, now {size(after)}" if after is not None else size(before)
    print(f"{label}: packed in {duration(elapsed)}; it had {sizes}", flush=True)
    return True


def _wait(line, label, before, function):
    """Call a function in another thread while this one shows that time goes by."""
    errors = []

    def work():
        try:
            function()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=work, name="zeolite-pack", daemon=True)
    thread.start()
    try:
        while thread.is_alive():
            line.show(f"{label}: packing {size(before)}, {duration(line.elapsed)}")
            thread.join(TICK)
    except KeyboardInterrupt:
        line.show("")
        complain(f"{label}: the server goes on with the pack")
        raise
    if errors:
        raise errors[0]


def _size(address, name, access):
    """Return the size that the server tells a newcomer: not all tell those it has."""
    try:
        storage = access.open(address, name, read_only=True)
    except Exception:
        return None
    try:
        return storage.getSize()
    finally:
        storage.close()


def _days(text):
    try:
        days = int(text)
    except ValueError:
        days = -1
    if not 0 <= days <= 36500:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of days")
    return days


def _time_of_day(text):
    parts = text.split(":")
    limits = 23, 59, 59
    if len(parts) > 3 or not all(
        part.isascii() and part.isdigit() and int(part) <= limit
        for part, limit in zip(parts, limits)
    ):
        raise argparse.ArgumentTypeError(f"{text!r} is no time; write HH:MM:SS")
    return tuple(map(int, [*parts, 0, 0][:3]))
