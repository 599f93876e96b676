"""What a monitor costs: a server with one that is asked each second, and without.

What loads and commits take differs by 30 percent between two servers that are
alike, and from one second to the next, on a machine that others use.  So one
server has a monitor or has none in short turns, and what counts is the median of
the differences of neighbours, in the order 0 1 1 0 0 1 1 0 ...  All is on one CPU
but for who asks the monitor: no switch between CPUs hides what is looked for, and
what a monitor takes, loads and commits lose.

Even so a second differs from the next by 10 percent.  So the monitor is asked 20
times as often as it would be, and what that costs is divided by 20.
"""

import contextlib
import math
import statistics
import time
import urllib.request

from .processes import Failed, Worker
from .setups import choose_cpus, idle
from .systems import free_port

#: How often the monitor is asked in a second.
ASKED = 20

PATHS = "metrics", "status.json"


class Comparison:
    """A server, its clients, and what all pairs of turns have shown.

    `kind` is "loads" or "commits".
    """

    def __init__(self, bench, kind, server, client):
        self._sizes = bench.sizes
        self._kind = kind
        self._server = server
        self._client = client
        # Of each pair: what was measured without a monitor, and with.
        self._cpu = []
        self._rates = []

    def measure(self):
        """Measure some pairs; return two medians of theirs, in percent.

        How much more CPU time the server has used for each, and how much fewer there
        were in a second.
        """
        begin = len(self._cpu)
        for number in range(self._sizes.turns):
            order = (0, 1) if number % 2 == 0 else (1, 0)
            found = {which: self._turn(which) for which in order}
            cpu, rates = zip(found[0], found[1])
            self._cpu.append(cpu)
            self._rates.append(rates)
        return [
            statistics.median(_changes(self._cpu[begin:])),
            -statistics.median(_changes(self._rates[begin:])),
        ]

    def price(self):
        """Return the CPU seconds that the server takes to be asked once.

        While it has nothing else to do; the median of some.
        """
        port, _, before, _ = self._ask_server(True)
        prices = []
        for _ in range(5 * self._sizes.turns):
            _ask_monitor(port)
            _, after, now, _ = self._ask_server(True)
            prices.append(after - before)
            before = now
        return statistics.median(prices)

    def _turn(self, monitored):
        """Return the server's CPU seconds for each, and how many in a second."""
        seconds = self._sizes.turn
        port, _, before, done = self._ask_server(monitored)
        began = time.monotonic()
        self._client.go(seconds)
        if monitored:
            for number in range(round(seconds * ASKED)):
                time.sleep(max(0, began + number / ASKED - time.monotonic()))
                _ask_monitor(port)
        count, took = self._client.result()
        _, after, _, done_now = self._ask_server(monitored)
        if done_now[self._kind] - done[self._kind] != count:
            raise Failed(f"not all {self._kind} have reached the server")
        return (after - before) / count, count / took

    def _ask_server(self, monitored):
        self._server.go(bool(monitored))
        return self._server.result()

    def notes(self):
        """Return lines on the medians and their spread."""
        if not self._cpu:
            return
        each = self._kind.removesuffix("s")
        scaled = [[value * 1e6 for value in pair] for pair in self._cpu]
        yield _note(f"server's CPU time, µs a {each}", scaled)
        yield _note(f"{self._kind} a second", self._rates)


def _ask_monitor(port):
    for path in PATHS:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}") as page:
            page.read()


def _changes(pairs):
    """Return how much more the second is than the first, in percent.

    As it would be if the monitor was asked once a second.
    """
    return [(after / before - 1) * 100 / ASKED for before, after in pairs]


def _note(what, pairs):
    without, there = [statistics.median(column) for column in zip(*pairs)]
    changes = sorted(_changes(pairs))
    count = len(changes)
    # Between which the median is with a probability of 95 %, by order alone.
    least = max(0, math.floor(count / 2 - 0.98 * math.sqrt(count)))
    quarters = changes[count // 4], changes[-1 - count // 4]
    return (
        f"{what}: {without:,.1f} without a monitor, {there:,.1f} with one "
        f"that is asked {ASKED} times a second; for once a second, of {count} pairs, the  median is {statistics.median(changes):+.2f} %, "
        f"with 95 % certainty {changes[least]:+.2f} to {changes[-1 - least]:+.2f}; "
        f"half of them {quarters[0]:+.2f} to {quarters[1]:+.2f}"
    )


def comparing(kind):
    """Return a setup: a server with many clients, of which one is busy."""

    @contextlib.contextmanager
    def setup(bench, system):
        scratch, sizes = bench.scratch, bench.sizes
        cpu, _ = choose_cpus(1)
        target = {"system": system, "port": free_port(), "tls": None, "cpu": cpu}
        path = str(bench.records())
        with contextlib.ExitStack() as stack:

            def start(job, **parameters):
                worker = Worker(scratch, job, cpu=cpu, **parameters)
                stack.enter_context(worker)
                worker.wait_until_ready()
                return worker

            server = start("serve", path=path, port=target["port"])
            stack.enter_context(idle(bench, target, sizes.clients))
            client = start("busy", target=target, kind=kind, objects=sizes.loads)
            comparison = Comparison(bench, kind, server, client)
            yield comparison
            scratch.notes.extend(comparison.notes())

    return setup


def cost(bench, comparison):
    """Measure one round of a `Comparison`."""
    return [*comparison.measure(), comparison.price() * 1e3]
