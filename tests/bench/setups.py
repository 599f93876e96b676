"""What has to be there before something is measured.

A setup is a context manager, called with the bench and the name of a system, that
gives a target (see `systems.py`).  It is entered once for each system and row.
"""

import contextlib
import os

import psutil

from . import tls
from .processes import Failed, Worker, run_jobs
from .systems import FLOOR, answering, available, serving


@contextlib.contextmanager
def records(bench, system):
    """A database of records."""
    with available(bench.scratch, system, bench.records()) as target:
        yield target


@contextlib.contextmanager
def records_over_tls(bench, system):
    """A database of records, on a server that wants certificates of its clients."""
    encrypted = tls.make(bench.scratch)
    path = bench.records()
    with serving(bench.scratch, system, path, encrypted=encrypted) as (target, _):
        yield target


def records_on(cpus):
    """A database of records, where client and server share 1 CPU or have 2."""

    @contextlib.contextmanager
    def setup(bench, system):
        server_cpu, client_cpu = choose_cpus(cpus)
        if server_cpu is None:
            raise Failed("this system does not let a process stay on a CPU")
        with serving(bench.scratch, system, bench.records()) as (target, pid):
            for thread in psutil.Process(pid).threads():
                os.sched_setaffinity(thread.id, {server_cpu})
            yield {**target, "cpu": client_cpu}

    return setup


@contextlib.contextmanager
def name_only(bench, system):
    """Nothing but the name: for what needs a new server in each round."""
    yield system


@contextlib.contextmanager
def filled_cache(bench, system):
    """A client's cache file that is full of small objects, and closed."""
    path = str(bench.scratch.fresh("cache"))
    target = {"system": system, "path": path, "size": bench.sizes.cache_size}
    parameters = {"target": target, "count": bench.sizes.cached_objects}
    run_jobs(bench.scratch, ("fill_cache", parameters))
    yield target


@contextlib.contextmanager
def with_blobs(bench, system):
    """A database of records that can have blobs; for the floor, nothing."""
    if system == FLOOR:
        yield {"system": system}
        return
    path = bench.records()
    blob_dir = bench.scratch.fresh("blobs")
    with serving(bench.scratch, system, path, blob_dir=blob_dir) as (target, _):
        yield target


@contextlib.contextmanager
def with_blobs_over_tls(bench, system):
    """The same on a server that wants certificates of its clients."""
    encrypted = tls.make(bench.scratch)
    path, blob_dir = bench.records(), bench.scratch.fresh("blobs")
    with serving(
        bench.scratch, system, path, blob_dir=blob_dir, encrypted=encrypted
    ) as (target, _):
        yield target


def with_idle_clients(count):
    """A database of records, and so many clients that do nothing."""

    @contextlib.contextmanager
    def setup(bench, system):
        with records(bench, system) as target, idle(bench, target, count):
            yield target

    return setup


def with_floor_on(cpus):
    """A database of records, and a floor whose two ends share 1 CPU or have 2."""

    @contextlib.contextmanager
    def setup(bench, system):
        if system == FLOOR:
            with answering(bench.scratch, choose_cpus(cpus)) as target:
                yield target
        else:
            with records(bench, system) as target:
                yield target

    return setup


@contextlib.contextmanager
def idle(bench, target, count):
    """Connect `count` clients that only take what the server sends."""
    parameters = {"target": target, "count": count, "cpu": target.get("cpu")}
    with Worker(bench.scratch, "idle", **parameters) as worker:
        worker.wait_until_ready()
        worker.go()
        yield


def choose_cpus(number):
    """Return a CPU for each end of the floor, `number` different ones."""
    if not hasattr(os, "sched_getaffinity"):
        return None, None
    allowed = sorted(os.sched_getaffinity(0))[:number]
    return allowed[0], allowed[-1]
