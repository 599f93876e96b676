"""The status of servers as a table of text, with counts or with rates."""

import time

from ..tids import date_of, seconds_of
from .statussource import COUNTERS
from .terminal import duration, plain

_HEADINGS = {
    "loads": "loads",
    "stores": "stores",
    "commits": "commits",
    "aborts": "aborts",
    "conflicts": "conflicts",
    "conflicts_resolved": "resolved",
}


def lines(answers, before=None, columns=None):
    """Return the lines of a table, with a row for each storage; or a column for each
    if the rows do not fit into so many `columns` of a terminal.

    `answers` and `before` map addresses (str) to `Answer` or an exception.  With
    `before`, an earlier sample, the counters become rates per second.
    """
    rows = [_head(before is not None)]
    for address, answer in answers.items():
        if isinstance(answer, Exception):
            continue
        for name, status in sorted(answer.storages.items()):
            earlier = before.get(address) if before is not None else None
            numbers = (
                [f"{status[key]:,}" for key in COUNTERS]
                if before is None
                else _rates(answer, earlier, name)
            )
            rows.append([plain(address), plain(name), *_row(status, numbers)])
    if len(rows) == 1:
        return []
    found = _aligned(rows)
    if columns is not None and len(found[0]) > columns:
        found = _aligned(zip(*rows), names=1)
    return found


def lock_seconds(status):
    """Return for how long the commit lock has been held (float), 0 if it is free."""
    since = status["lock_time"]
    return 0.0 if since is None else max(0.0, time.time() - since)


def rates(status, earlier, seconds):
    """Return {counter: number per second}, None after a restart in between."""
    if seconds <= 0 or earlier.get("start") != status.get("start"):
        return None
    differences = {key: status[key] - earlier[key] for key in COUNTERS}
    if min(differences.values()) < 0:
        return None
    return {key: difference / seconds for key, difference in differences.items()}


def _head(with_rates):
    counters = [_HEADINGS[key] + ("/s" if with_rates else "") for key in COUNTERS]
    return [
        "server",
        "storage",
        "clients",
        *counters,
        "begun",
        "waiting",
        "lock held",
        "last commit (UTC)",
    ]


def _row(status, numbers):
    held = "-" if status["lock_time"] is None else duration(lock_seconds(status))
    return [
        f"{status['connections']:,}",
        *numbers,
        f"{status['active_txns']:,}",
        f"{status['waiting']:,}",
        held,
        _last_commit(status["last-transaction"]),
    ]


def _rates(answer, earlier, name):
    found = None
    if earlier is not None and not isinstance(earlier, Exception):
        if name in earlier.storages:
            found = rates(
                answer.storages[name],
                earlier.storages[name],
                answer.time - earlier.time,
            )
    if found is None:
        return ["-"] * len(COUNTERS)
    return [_rate(found[key]) for key in COUNTERS]


def _rate(number):
    return f"{number:,.0f}" if number >= 100 or number == 0 else f"{number:.1f}"


def _last_commit(tid):
    if not tid.strip("0"):
        return "none"
    return date_of(seconds_of(bytes.fromhex(tid))).split(".")[0]


def _aligned(rows, names=2):
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*rows)]
    return ["  ".join(_cells(row, widths, names)) for row in rows]


def _cells(row, widths, names):
    for index, (cell, width) in enumerate(zip(row, widths)):
        # Names begin at the left, numbers end at the right.
        yield cell.ljust(width) if index < names else cell.rjust(width)
