"""Runs all suites and prints how many tests passed, the tables of README.txt.

    python -m tests.conformance [arguments for pytest]

An entry is a number of tests; "+2s" behind it are those that were skipped, and
"+2f" those that failed.
"""

import collections
import importlib
import pathlib
import sys

import pytest

from .suite import PAIRINGS
from .test_databases import PAIRINGS as DATABASE_PAIRINGS

STORAGES = "FileStorage", "MappingStorage", "DemoStorage"
HERE = pathlib.Path(__file__).parent
FILES = [
    HERE / f"test_{name}.py"
    for name in ("storages", "recovery", "wrappers", "databases")
]


class Counter:
    """A plugin that counts outcomes by (file, suite, test class or pairing)."""

    def __init__(self):
        self.counts = collections.defaultdict(collections.Counter)

    def pytest_runtest_logreport(self, report):
        if report.when == "call" or report.outcome != "passed":
            self.counts[_key(report.nodeid)][report.outcome] += 1

    def entry(self, *wanted):
        """Return the text for all keys that begin like `wanted`, None for any."""
        total = collections.Counter()
        for key, counts in self.counts.items():
            if all(part in (None, found) for part, found in zip(wanted, key)):
                total.update(counts)
        text = str(total["passed"])
        for outcome in ("skipped", "failed"):
            if total[outcome]:
                text += f"+{total[outcome]}{outcome[0]}"
        return text if total else "-"

    def suites(self, file):
        return sorted({suite for found, suite, _ in self.counts if found == file})


def _key(nodeid):
    path, *names = nodeid.split("::")
    file = pathlib.Path(path).stem
    if len(names) == 1:
        module, _, rest = names[0].partition("[")[2].rstrip("]").partition("-")
        (pairing,) = [p for p in DATABASE_PAIRINGS if rest.endswith(p)]
        return file, module, pairing
    module = importlib.import_module(f"{__package__}.{file}")
    test_class = getattr(module, names[0])
    for class_ in test_class.__mro__:
        if names[1] in vars(class_) and class_.__module__.startswith("ZODB.tests"):
            return file, class_.__name__, names[0]
    return file, "FileStorageTests", names[0]  # Assigned to the class itself.


def _print(title, columns, rows):
    table = [[title, *columns], *rows]
    widths = [max(map(len, column)) for column in zip(*table)]
    rule = "  ".join("=" * width for width in widths)
    table = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in table]
    print("", rule, table[0], rule, *table[1:], rule, sep="\n")


def main():
    counter = Counter()
    status = pytest.main(
        ["-q", "-m", "", "-p", "no:cacheprovider", *map(str, FILES), *sys.argv[1:]],
        plugins=[counter],
    )
    for storage in STORAGES:
        classes = [f"Test{storage}{ending}" for ending in PAIRINGS]
        rows = [
            [suite, *(counter.entry("test_storages", suite, name) for name in classes)]
            for suite in counter.suites("test_storages")
        ]
        rows = [row for row in rows if set(row[1:]) != {"-"}]
        rows.append(
            ["all", *(counter.entry("test_storages", None, name) for name in classes)]
        )
        _print(storage, ["own", "ZEO's client", "ZEO's server"], rows)
    others = {name for _, _, name in counter.counts if name.startswith("Test")}
    plain = sorted(
        name
        for name in others
        if not name.endswith(("OfZEOClient", "OnZEOServer"))
        and name.removeprefix("Test") not in STORAGES
    )
    rows = [
        [
            name.removeprefix("Test"),
            *(counter.entry(None, None, name + ending) for ending in PAIRINGS),
        ]
        for name in plain
    ]
    _print("others", ["own", "ZEO's client", "ZEO's server"], rows)
    rows = [
        [
            suite,
            *(counter.entry("test_databases", suite, p) for p in DATABASE_PAIRINGS),
        ]
        for suite in counter.suites("test_databases")
    ]
    _print("databases", ["own", "ZEO's client", "ZEO's server"], rows)
    return status


if __name__ == "__main__":
    sys.exit(main())
