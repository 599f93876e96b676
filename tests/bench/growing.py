"""`python -m tests.bench.growing`: more servers than one, compared with one.

Starts a PostgreSQL of its own, which waits for the disk as it should, and Zeolite on
RelStorage with one server and with three; RelStorage without a server; Zeolite on a
file storage, alone and as the root of a tree with four middle servers.  All of them,
and PostgreSQL, are reached over TCP.  Prints the medians of all rounds.
"""

import argparse
import contextlib
import functools
import statistics
import sys

import psutil
import ZODB.config
from ZODB.utils import maxtid, p64, z64

from tests.support import postgres
from tests.support.rawclient import RawClient

from .databases import Databases, fill
from .jobs.loads import WARM_UP
from .processes import Scratch, run_jobs
from .systems import RELSTORAGE, ZEOLITE, configured, free_port, serving

ALONE, ONE, THREE, FILE, TREE = (
    "RelStorage",
    "1 server",
    "3 servers",
    "file",
    "file, tree",
)

#: Client processes where several work at once.
PROCESSES = 6

#: Clients where their number is what matters.
CLIENTS = 100

_MIDDLE = """\
%import zeolite
<zeolite>
  address 127.0.0.1:{port}
</zeolite>
<clientstorage>
  server 127.0.0.1:{root}
  cache-size 100MB
</clientstorage>
"""

_ON_DATABASE = """\
<zeolite>
  address 127.0.0.1:{port}
</zeolite>
"""


class Growing:
    """All systems, running, and where clients of each find it.

    `targets` has lists: the first client takes the first target, and so on.
    """

    def __init__(self, scratch, stack, loads):
        self._scratch = scratch
        self.loads = loads
        self._cluster = postgres.Cluster(is_durable=True, port=free_port())
        stack.callback(self._cluster.close)
        self.pids = {}
        self.targets = {ALONE: [{"system": RELSTORAGE, "section": self._database()[1]}]}
        for name, servers in ((ONE, 1), (THREE, 3)):
            section = self._database()[1]
            text = _ON_DATABASE + section
            self.targets[name] = [
                self._configured(stack, name, text) for _ in range(servers)
            ]
        path = Databases(scratch).records(WARM_UP + loads)
        target, pid = stack.enter_context(serving(scratch, ZEOLITE, path))
        self.targets[FILE], self.pids[FILE] = [target], pid
        middle = _MIDDLE.replace("{root}", str(target["port"]))
        self.targets[TREE] = [self._configured(stack, TREE, middle) for _ in range(4)]

    def _configured(self, stack, name, text):
        target, pid = stack.enter_context(configured(self._scratch, text))
        self.pids.setdefault(name, pid)
        return target

    def _database(self):
        """Return the name and the section of a new database with all records."""
        name = self._cluster.create()
        section = postgres.section(self._cluster.dsn(name))
        storage = ZODB.config.storageFromString(section)
        fill(storage, WARM_UP + self.loads)
        storage.close()
        return name, section

    def jobs(self, system, number, name, **parameters):
        """Run so many of a job at once, spread over the servers."""
        targets = self.targets[system]
        return run_jobs(
            self._scratch,
            *(
                (name, {"target": targets[n % len(targets)], **parameters})
                for n in range(number)
            ),
        )

    def connections(self, system, clients):
        """Return how many connections PostgreSQL has for clients that have loaded."""
        name = self._cluster.create()
        section = postgres.section(self._cluster.dsn(name))
        with contextlib.ExitStack() as stack:
            root = ZODB.config.storageFromString(section)
            stack.callback(root.close)
            ZODB.DB(root)  # Makes an object.
            if system == ALONE:
                for _ in range(clients):
                    instance = root.new_instance()
                    stack.callback(instance.release)
                    instance.loadBefore(z64, maxtid)
            else:
                target = self._configured(stack, "", _ON_DATABASE + section)
                for _ in range(clients):
                    client = RawClient(("127.0.0.1", target["port"]))
                    stack.callback(client.close)
                    client.ask("loadBefore", z64, maxtid)
            return self._cluster.connections(name)


def cold_load(bench, system):
    """Microseconds for a load, in a client with an empty cache."""
    [[start, end]] = bench.jobs(system, 1, "cold_loads", threads=1, count=bench.loads)
    return (end - start) / bench.loads * 1e6


def cold_loads(bench, system):
    """Loads a second of some processes together."""
    found = bench.jobs(system, PROCESSES, "cold_loads", threads=1, count=bench.loads)
    starts, ends = zip(*found)
    return PROCESSES * bench.loads / (max(ends) - min(starts))


def transaction(bench, system, **options):
    """Microseconds for a transaction that reads one object, as above."""
    [[start, end]] = bench.jobs(
        system, 1, "cold_transactions", count=bench.loads, **options
    )
    return (end - start) / bench.loads * 1e6


def synced_transaction(bench, system):
    """The same with all that was committed anywhere before it began."""
    return transaction(bench, system, server_sync=True)


def transactions(bench, system):
    """Such transactions a second of some processes together."""
    found = bench.jobs(system, PROCESSES, "cold_transactions", count=bench.loads)
    starts, ends = zip(*found)
    return PROCESSES * bench.loads / (max(ends) - min(starts))


def commit(bench, system, processes=1):
    """Milliseconds for a commit of one object."""
    found = bench.jobs(system, processes, "commits", objects=1, count=50, warm_up=5)
    return statistics.median(found) * 1e3


def commits(bench, system):
    """Commits a second of some processes together."""
    return PROCESSES * 1e3 / commit(bench, system, PROCESSES)


def memory(bench, system):
    """KiB that the server needs for each client that does nothing."""
    server = psutil.Process(bench.pids[system])
    with contextlib.ExitStack() as stack:
        port = bench.targets[system][0]["port"]

        def connect(number):
            for _ in range(number):
                client = RawClient(("127.0.0.1", port))
                stack.callback(client.close)
                client.ask("loadBefore", p64(1), maxtid)

        connect(CLIENTS)
        before = server.memory_info().rss
        connect(CLIENTS)
        return (server.memory_info().rss - before) / CLIENTS / 1024


ALL = ALONE, ONE, THREE, FILE

CONNECTIONS = f"database connections, {CLIENTS} clients"

#: Title, what measures it, systems.
ROWS = (
    ("cold load, us", cold_load, (*ALL, TREE)),
    (f"cold loads of {PROCESSES} processes, 1/s", cold_loads, (*ALL, TREE)),
    ("transaction, one cold load, us", transaction, (*ALL, TREE)),
    ("the same with server-sync, us", synced_transaction, (ONE, THREE, FILE, TREE)),
    (f"such of {PROCESSES} processes, 1/s", transactions, (*ALL, TREE)),
    ("commit of one object, ms", commit, (*ALL, TREE)),
    (f"commits of {PROCESSES} processes, 1/s", commits, (*ALL, TREE)),
    ("server memory per client, KiB", memory, (ONE, FILE, TREE)),
)


def main():
    parser = argparse.ArgumentParser(prog="python -m tests.bench.growing")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--loads", type=int, default=2000)
    arguments = parser.parse_args()
    why = postgres.why_missing()
    if why:
        print(why, file=sys.stderr)
        return 2
    found = {}
    with Scratch() as scratch, contextlib.ExitStack() as stack:
        bench = Growing(scratch, stack, arguments.loads)
        for system in (ONE, THREE, TREE):
            # A server has nothing in its cache yet; then all have everything.
            found["first cold load, us", system] = [cold_load(bench, system)]
            servers = len(bench.targets[system])
            bench.jobs(system, servers, "cold_loads", threads=1, count=bench.loads)
        for system in (ALONE, ONE):
            found[CONNECTIONS, system] = [bench.connections(system, CLIENTS)]
        for number in range(arguments.rounds):
            for title, measure, systems in ROWS:
                # In another order each time.
                shift = number % len(systems)
                for system in systems[shift:] + systems[:shift]:
                    values = found.setdefault((title, system), [])
                    values.append(measure(bench, system))
            print(f"round {number + 1}", file=sys.stderr)
    write = functools.partial(print, sep="")
    columns = (*ALL, TREE)
    write(" " * 36, *(name.rjust(12) for name in columns))
    for title in ("first cold load, us", *(row[0] for row in ROWS), CONNECTIONS):
        cells = (found.get((title, name)) for name in columns)
        texts = (f"{statistics.median(cell):.4g}" if cell else "" for cell in cells)
        write(title.ljust(36), *(text.rjust(12) for text in texts))
    print(*scratch.notes, sep="\n", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
