"""The table: medians of all rounds, and medians of the ratios in each round."""

import datetime
import importlib.metadata
import os
import platform
import statistics
import subprocess

from .processes import ROOT
from .systems import FILE_STORAGE, FLOOR, SYSTEMS, ZEO, ZEOLITE

_HEADINGS = {FLOOR: "floor", FILE_STORAGE: "FileStorage"}


def heading(rounds):
    """Return the lines that tell what was measured where, as text."""
    versions = [
        f"Python {platform.python_version()}",
        *[f"{name} {importlib.metadata.version(name)}" for name in ("ZODB", "ZEO")],
        f"Zeolite {_zeolite_version()}",
    ]
    now = datetime.datetime.now().astimezone()
    return (
        f"{now:%Y-%m-%d %H:%M %Z}\n"
        f"{', '.join(versions)}\n"
        f"{os.cpu_count()} CPUs, rounds: {rounds}; all on this machine's loopback\n"
    )


def table(results):
    """Return a list of `Series` as text."""
    head = [
        "",
        *[_HEADINGS.get(system, system) for system in SYSTEMS],
        f"{ZEO} / {ZEOLITE}",
        f"{ZEOLITE} / floor",
    ]
    rows = [head, *[_row(series) for series in results]]
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = []
    for first, *rest in rows:
        cells = [first.ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(rest, widths[1:])]
        lines.append("  ".join(cells))
    lines.insert(1, "-" * len(lines[0]))
    return "\n".join(lines)


def _row(series):
    return [
        series.title,
        *[_median(series.of(system)) for system in SYSTEMS],
        _median(series.ratios(ZEO, ZEOLITE), ratio=True),
        _median(series.ratios(ZEOLITE, FLOOR), ratio=True),
    ]


def _median(values, ratio=False):
    if not values:
        return "-"
    median = statistics.median(values)
    if ratio or abs(median) < 10:
        return f"{median:.2f}"
    return f"{median:,.1f}" if abs(median) < 100 else f"{median:,.0f}"


def _zeolite_version():
    # The servers run from this tree, whatever may be installed besides.
    described = _git("describe", "--always", "--dirty", "--tags")
    if described:
        return described
    try:
        return importlib.metadata.version("zeolite")
    except importlib.metadata.PackageNotFoundError:
        return "of unknown version"


def _git(*arguments):
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()
