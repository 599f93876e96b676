"""zodbshootout's benchmarks, of ZEO and of Zeolite in turns.

Both packages call their section <clientstorage>, and a configuration can import
one of them only, so each system has a configuration and a run of its own.

zodbshootout 0.8 needs pyperf 2.0.0: a later one (2.10.0 was tried) has an option
--profile, as zodbshootout has, and argparse refuses that.  The two together run
on Python 3.11 and 3.13 as they are.
"""

import contextlib
import dataclasses
import json
import pathlib
import statistics
import subprocess
import time

from .processes import Failed, stop, tail
from .rounds import Series, progress, reported, rotated
from .systems import SERVERS, ZEO, ZEOLITE, serving

#: Objects in a transaction.  With up to 100 of them zodbshootout repeats everything
#: 100 times instead of 10 times.
_OBJECTS = 200

_CONCURRENCY = 1, 2

#: Seconds that one run of zodbshootout may take.
_PATIENCE = 600

# A benchmark that fails reports 666 seconds for all its repetitions, up to 10.
_FAILED = 60

_IMPORTS = {ZEO: "ZEO", ZEOLITE: "zeolite"}

_CONFIGURATION = """\
%import {package}
<zodb database>
  <clientstorage>
    server 127.0.0.1:{port}
  </clientstorage>
</zodb>
"""

_MILLI = 1e3, "ms"
_MICRO = 1e6, "µs"

# Name for zodbshootout, text for the row, unit.
_BENCHMARKS = [
    ("add", "add {n} objects", _MILLI),
    ("store", "store {n} records", _MILLI),
    ("update", "update {n} objects", _MILLI),
    ("cold", "read {n} cold objects", _MILLI),
    ("prefetch_cold", "prefetch and read {n} cold objects", _MILLI),
    ("warm", "write and read {n} objects", _MILLI),
    ("hot", "read {n} objects from the client cache", _MILLI),
    ("steamin", "read {n} objects in memory", _MICRO),
    ("tpc", "empty commit", _MICRO),
]


@dataclasses.dataclass(frozen=True)
class Shot:
    """One row: a benchmark of zodbshootout by so many processes at once."""

    title: str
    benchmark: str
    concurrency: int
    factor: float


def _shots():
    for concurrency in _CONCURRENCY:
        for benchmark, text, (factor, unit) in _BENCHMARKS:
            text = text.format(n=_OBJECTS)
            title = f"zodbshootout -c {concurrency}: {text}, {unit}"
            yield Shot(title, benchmark, concurrency, factor)


SHOTS = list(_shots())


def measure(scratch, shots, rounds, quick):
    """Run zodbshootout for the rows `shots`; return a `Series` for each."""
    results = [Series(shot.title) for shot in shots]
    with contextlib.ExitStack() as stack:
        ports = {}
        for system in SERVERS:
            server = serving(scratch, system, scratch.fresh("Data.fs"))
            target, _ = stack.enter_context(server)
            ports[system] = target["port"]
        for number in range(rounds):
            began = time.monotonic()
            for concurrency in sorted({shot.concurrency for shot in shots}):
                now = [shot for shot in shots if shot.concurrency == concurrency]
                for system in rotated(SERVERS, number):
                    found = {}
                    with reported(scratch.notes, f"{system}: zodbshootout"):
                        found = _run(scratch, system, ports[system], now, quick)
                    for shot, series in zip(shots, results):
                        if shot in now:
                            value = found.get(shot.benchmark)
                            series.add(system, value and value * shot.factor)
            progress(f"zodbshootout, round {number + 1}", began)
    return results


def _run(scratch, system, port, shots, quick):
    """Run zodbshootout once; return {benchmark: seconds}."""
    config = scratch.fresh("zodbshootout.conf")
    package = _IMPORTS[system]
    config.write_text(_CONFIGURATION.format(package=package, port=port))
    output = config.with_name("result.json")
    log = config.with_name("zodbshootout.log")
    arguments = [
        *("-m", "zodbshootout"),
        *("--include-mapping", "false"),
        *("--object-counts", _OBJECTS),
        *("--concurrency", shots[0].concurrency),
        *("--processes", 1, "--loops", 1),
        *("--warmups", 1, "--values", 1 if quick else 3),
        *("--output", output),
        config,
        *[shot.benchmark for shot in shots],
    ]
    process = scratch.start(arguments, log)
    try:
        if process.wait(_PATIENCE):
            raise Failed(f"exit code {process.returncode}\n{tail(log)}")
    except subprocess.TimeoutExpired:
        raise Failed(f"no result in {_PATIENCE} s\n{tail(log)}") from None
    finally:
        stop(process)
    return _read(scratch, system, output)


def _read(scratch, system, output):
    # Beside the output it leaves a file with short names.
    [path] = pathlib.Path(output).with_suffix(".d").glob("*.json")
    suite = json.loads(path.read_text())
    found = {}
    for benchmark in suite["benchmarks"]:
        # What all benchmarks have in common, such as the name of a single one,
        # stands with the suite.
        metadata = suite["metadata"] | benchmark.get("metadata", {})
        name = metadata["name"]
        values = [value for run in benchmark["runs"] for value in run.get("values", ())]
        if max(values) < _FAILED:
            found[name] = statistics.median(values)
        else:
            scratch.notes.append(f"{system}: zodbshootout's {name} failed")
    return found
