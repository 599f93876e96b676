"""Measuring in turns: each round measures each system once.

The order rotates from round to round, so that whatever else happens on the
machine hits all systems alike.
"""

import contextlib
import sys
import time

from .processes import Failed


class Series:
    """What was measured for one row: a number, or None, for each system and round."""

    def __init__(self, title):
        self.title = title
        self._values = {}  # system -> list, one entry a round

    def add(self, system, value):
        """Add the number of the next round of a system."""
        self._values.setdefault(system, []).append(value)

    def of(self, system):
        """Return the numbers of all rounds in which there was one."""
        return [value for value in self._values.get(system, ()) if value is not None]

    def ratios(self, system, other):
        """Return `system` divided by `other`, of all rounds that have both."""
        pairs = zip(self._values.get(system, ()), self._values.get(other, ()))
        return [a / b for a, b in pairs if a is not None and b]


def measure(bench, workload, rounds):
    """Measure a workload; return a `Series` for each of its rows.

    A system that fails is left out from then on: it may take as long to fail again.
    """
    results = [Series(title) for title in workload.rows]
    began = time.monotonic()
    with contextlib.ExitStack() as stack:
        targets = {}
        for system in workload.systems:
            with _reported(bench, workload, system):
                setup = workload.setup(bench, system)
                targets[system] = stack.enter_context(setup)
        for number in range(rounds):
            for system in rotated(workload.systems, number):
                values = None
                if system in targets:
                    with _reported(bench, workload, system):
                        values = workload.measure(bench, targets[system])
                if values is None:
                    targets.pop(system, None)
                for series, value in zip(results, values or [None] * len(results)):
                    series.add(system, value)
    progress(workload.rows[0], began)
    return results


def _reported(bench, workload, system):
    return reported(bench.scratch.notes, f"{system}: {workload.rows[0]}")


def rotated(systems, number):
    """Return the systems in the order of round `number`."""
    first = number % len(systems)
    return systems[first:] + systems[:first]


@contextlib.contextmanager
def reported(notes, what):
    """Turn a failure into a note: the other rows are still worth having."""
    try:
        yield
    except Failed as error:
        notes.append(f"{what}: {error}")


def progress(what, began):
    """Say what has been measured since `began` (`time.monotonic`)."""
    seconds = time.monotonic() - began
    print(f"{seconds:5.1f} s  {what}", file=sys.stderr, flush=True)
