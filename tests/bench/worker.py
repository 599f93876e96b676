"""A client process: `python -m tests.bench.worker JOB PARAMETERS`.

A job is a function that prepares everything and returns another function, which
does what is measured and returns a result for JSON.  The process writes a line
when it is prepared, waits for a line, which has the arguments, and writes the
result; some jobs do that again for each line.  With the parameter `cpu` it stays on
one, which is for any job.

ZEO and Zeolite each have a thread of their own in a client.  A new process for
each measurement keeps them from sharing an interpreter lock with each other or
with the benchmark.
"""

import gc
import importlib
import json
import os
import sys

# Where the jobs are.  Only what is needed is imported.
_MODULES = {
    "answer": "floor",
    "ask": "floor",
    "cold_loads": "loads",
    "cold_transactions": "loads",
    "prefetched_loads": "loads",
    "warm_loads": "loads",
    "commits": "commits",
    "fill_cache": "caches",
    "open_cache": "caches",
    "copy": "blobs",
    "transfer": "blobs",
    "blob_loads": "blobs",
    "idle": "idle",
    "serve": "monitored",
    "busy": "monitored",
    "pack": "packing",
    "ping": "packing",
}


def main():
    job, parameters = sys.argv[1:]
    module = importlib.import_module(f".jobs.{_MODULES[job]}", __package__)
    parameters = json.loads(parameters)
    cpu = parameters.pop("cpu", None)
    if cpu is not None:
        os.sched_setaffinity(0, {cpu})
    measure = getattr(module, job)(**parameters)
    gc.collect()
    print("ready", flush=True)
    while line := sys.stdin.readline():
        print(json.dumps(measure(*json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
