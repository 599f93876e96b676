"""What is measured: the rows of the table, and how each number comes about.

A workload is set up once for each system and then measured once in each round.
`setup` is one of `setups.py`; `measure(bench, target)` returns one number for each
of the workload's rows.
"""

import contextlib
import dataclasses
import math
import statistics
import time
from collections.abc import Callable

import psutil

from . import monitoring
from .processes import Failed, Worker, run_jobs
from .setups import (
    filled_cache,
    idle,
    name_only,
    records,
    records_on,
    records_over_tls,
    with_blobs,
    with_blobs_over_tls,
    with_floor_on,
    with_idle_clients,
)
from .sizes import QUICK
from .systems import FILE_STORAGE, FLOOR, SERVERS, SYSTEMS, ZEOLITE, serving

MILLI = 1e3
MICRO = 1e6


@dataclasses.dataclass(frozen=True)
class Workload:
    """One measurement, which gives a number for each of `rows` (tuple of str)."""

    rows: tuple
    systems: tuple
    setup: Callable
    measure: Callable


def _cold_loads(threads=1, processes=1):
    def measure(bench, target):
        sizes = bench.sizes
        count = sizes.loads if processes == 1 else sizes.shared_loads
        parameters = {"target": target, "count": count, "cpu": target.get("cpu")}
        if target["system"] == FLOOR:
            job = "ask", parameters
        else:
            job = "cold_loads", {"threads": threads, **parameters}
        spans = run_jobs(bench.scratch, *[job] * processes)
        seconds = max(end for _, end in spans) - min(start for start, _ in spans)
        return [seconds / (processes * count) * MICRO]

    return measure


def _round_trips(bench, target):
    count = bench.sizes.round_trips
    job = "ask", {"target": target, "count": count, "cpu": target["cpu"]}
    [[start, end]] = run_jobs(bench.scratch, job)
    return [(end - start) / count * MICRO]


def _prefetched_loads(bench, target):
    parameters = {"batches": bench.sizes.prefetch_batches, "size": 1000}
    job = "prefetched_loads", {"target": target, **parameters}
    [seconds] = run_jobs(bench.scratch, job)
    return [seconds * MILLI]


def _warm_loads(bench, target):
    parameters = {"count": 1000, "repeat": bench.sizes.warm_repeats}
    [seconds] = run_jobs(
        bench.scratch, ("warm_loads", {"target": target, **parameters})
    )
    return [seconds * MICRO]


def _opened_cache(bench, target):
    parameters = {"target": target, "count": bench.sizes.cached_objects}
    [[seconds, memory]] = run_jobs(bench.scratch, ("open_cache", parameters))
    return [seconds, memory and memory / 1e6]


def _commits(bench, target):
    parameters = {"objects": 1, "count": bench.sizes.commits, "warm_up": 20}
    [seconds] = run_jobs(bench.scratch, ("commits", {"target": target, **parameters}))
    return [seconds * MICRO]


def _large_commits(bench, target):
    parameters = {"objects": 1000, "count": bench.sizes.large_commits, "warm_up": 1}
    [seconds] = run_jobs(bench.scratch, ("commits", {"target": target, **parameters}))
    return [seconds * MILLI]


def _memory(bench, system):
    clients = 300
    with serving(bench.scratch, system, bench.records()) as (target, pid):
        # What the first clients make the server import is not theirs.
        with idle(bench, target, 3):
            pass
        before = _resident(bench, pid)
        with idle(bench, target, clients):
            return [(_resident(bench, pid) - before) / clients / 1024]


def _resident(bench, pid):
    time.sleep(bench.sizes.settle)
    try:
        return psutil.Process(pid).memory_info().rss
    except psutil.Error as error:
        raise Failed(str(error)) from None


def _pings_during_pack(bench, system):
    sizes = bench.sizes
    path = bench.databases.garbage(sizes.packed_objects, sizes.packed_revisions)
    with contextlib.ExitStack() as stack:
        target, _ = stack.enter_context(serving(bench.scratch, system, path))
        pinger, packer = [
            stack.enter_context(Worker(bench.scratch, job, target=target))
            for job in ("ping", "pack")
        ]
        for worker in (pinger, packer):
            worker.wait_until_ready()
        for worker in (pinger, packer):
            worker.go()
        start, end = packer.result()
        pinger.finish()
        pings = [
            seconds * MICRO
            for began, seconds in pinger.result()
            if began + seconds > start and began < end
        ]
    if sizes != QUICK and end - start < 1:
        bench.scratch.notes.append(f"{system}: a pack took {end - start:.2f} s only")
    return [statistics.median(pings), _percentile(pings, 99), end - start]


def _percentile(values, percent):
    """Return the smallest value that so many percent do not exceed."""
    return sorted(values)[math.ceil(len(values) * percent / 100) - 1]


def _blobs(bench, target):
    if target["system"] == FLOOR:
        [seconds] = run_jobs(bench.scratch, ("copy", {"size": bench.sizes.blob}))
        return [seconds * MILLI] * 2
    parameters = {"target": target, "size": bench.sizes.blob}
    [found] = run_jobs(bench.scratch, ("transfer", parameters))
    return [seconds * MILLI for seconds in found]


def _loads_beside_blobs(bench, target):
    sizes = bench.sizes
    parameters = {"target": target, "size": sizes.blob, "count": sizes.blob_loads}
    [found] = run_jobs(bench.scratch, ("blob_loads", parameters))
    return [seconds * MICRO for seconds in found]


WORKLOADS = [
    Workload(
        ("raw round trip on 1 CPU, µs",), (FLOOR,), with_floor_on(1), _round_trips
    ),
    Workload(
        ("raw round trip on 2 CPUs, µs",), (FLOOR,), with_floor_on(2), _round_trips
    ),
    Workload(
        ("cold loads, 1 thread, µs a load",),
        SYSTEMS,
        # On one CPU because that is the lower one, and varies least.
        with_floor_on(1),
        _cold_loads(),
    ),
    *[
        Workload(
            (f"cold loads, {threads} threads, µs a load",),
            (FILE_STORAGE, *SERVERS),
            records,
            _cold_loads(threads),
        )
        for threads in (2, 4, 8)
    ],
    Workload(
        ("cold loads, 4 processes, µs a load",),
        (FLOOR, *SERVERS),
        records,
        _cold_loads(processes=4),
    ),
    Workload(
        ("cold loads, 1 thread, all on one CPU, µs a load",),
        SERVERS,
        records_on(1),
        _cold_loads(),
    ),
    Workload(
        ("cold loads, 8 threads, a CPU for each process, µs a load",),
        SERVERS,
        records_on(2),
        _cold_loads(8),
    ),
    Workload(("1,000 prefetched loads, ms",), SERVERS, records, _prefetched_loads),
    Workload(("loads from the client cache, µs",), SERVERS, records, _warm_loads),
    Workload(
        (
            "opening a cache file of 1,000,000 objects, s",
            "memory for the index of that cache, MB",
        ),
        SERVERS,
        filled_cache,
        _opened_cache,
    ),
    Workload(("commit of 1 object, µs",), (FILE_STORAGE, *SERVERS), records, _commits),
    *[
        Workload(
            (f"commit of 1 object, {count} idle clients, µs",),
            SERVERS,
            with_idle_clients(count),
            _commits,
        )
        for count in (100, 500)
    ],
    Workload(
        ("commit of 1,000 objects, ms",),
        (FILE_STORAGE, *SERVERS),
        records,
        _large_commits,
    ),
    Workload(
        ("TLS: cold loads, 1 thread, µs a load",),
        SERVERS,
        records_over_tls,
        _cold_loads(),
    ),
    Workload(
        ("TLS: cold loads, 4 threads, µs a load",),
        SERVERS,
        records_over_tls,
        _cold_loads(4),
    ),
    Workload(
        ("TLS: 1,000 prefetched loads, ms",),
        SERVERS,
        records_over_tls,
        _prefetched_loads,
    ),
    Workload(("TLS: commit of 1 object, µs",), SERVERS, records_over_tls, _commits),
    Workload(
        ("TLS: commit of 1,000 objects, ms",),
        SERVERS,
        records_over_tls,
        _large_commits,
    ),
    *[
        Workload(
            (
                f"monitoring 200 clients: CPU time a {kind[:-1]}, % more",
                f"monitoring 200 clients: {kind} a second, % fewer",
                f"monitoring 200 clients: server's CPU time, after {kind}, ms",
            ),
            (ZEOLITE,),
            monitoring.comparing(kind),
            monitoring.cost,
        )
        for kind in ("loads", "commits")
    ],
    Workload(("server memory per idle client, KiB",), SERVERS, name_only, _memory),
    Workload(
        (
            "round trip during a pack, median, µs",
            "round trip during a pack, 99th percentile, µs",
            "that pack, s",
        ),
        SERVERS,
        name_only,
        _pings_during_pack,
    ),
    Workload(
        ("upload of a blob of 100 MB, ms", "download of a blob of 100 MB, ms"),
        (FLOOR, *SERVERS),
        with_blobs,
        _blobs,
    ),
    Workload(
        (
            "TLS: upload of a blob of 100 MB, ms",
            "TLS: download of a blob of 100 MB, ms",
        ),
        SERVERS,
        with_blobs_over_tls,
        _blobs,
    ),
    Workload(
        (
            "load by a client with blobs, median, µs",
            "load during uploads, median, µs",
            "load during downloads, median, µs",
        ),
        SERVERS,
        with_blobs,
        _loads_beside_blobs,
    ),
]
