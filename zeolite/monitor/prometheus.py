"""The numbers of a server in Prometheus' text format, version 0.0.4."""

from itertools import accumulate

from ..storageserver.measures import VERIFICATIONS
from . import report

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

#: (metric, key in the report, type, help).  One number for each storage.
STORAGE = (
    ("connections", "connections", "gauge", "Clients that are connected."),
    ("sessions_total", "sessions", "counter", "Clients that have registered."),
    ("loads_total", "loads", "counter", "Loads of objects and blobs."),
    ("blob_loads_total", "blob_loads", "counter", "Loads of blobs alone."),
    ("stores_total", "stores", "counter", "Objects that clients stored."),
    ("commits_total", "commits", "counter", "Transactions that were committed."),
    ("aborts_total", "aborts", "counter", "Transactions that were aborted."),
    ("conflicts_total", "conflicts", "counter", "Conflicts left to clients."),
    (
        *("conflicts_resolved_total", "conflicts_resolved", "counter"),
        "Objects whose conflict was resolved by the server.",
    ),
    ("received_bytes_total", "bytes_received", "counter", "Bytes from clients."),
    ("sent_bytes_total", "bytes_sent", "counter", "Bytes to clients."),
    ("transactions", "transactions", "gauge", "Transactions that have begun."),
    ("stalled_clients", "stalled", "gauge", "Clients that do not take what is sent."),
    (
        *("invalidation_log_entries", "invalidation_log", "gauge"),
        "Commits that are kept for clients.",
    ),
    (
        *("invalidation_lag_entries", "behind", "gauge"),
        "Commits that the client which is furthest behind was not told of yet.",
    ),
    (
        *("last_commit_timestamp_seconds", "last_commit", "gauge"),
        "When the last transaction was committed.",
    ),
)

#: The same for each name of clients.
CLIENT = (
    ("client_connections", "connections", "gauge", "Connected clients of a name."),
    *[
        (f"client_{metric}", key, "counter", f"{text[:-1]}, by name of client.")
        for metric, key, kind, text in STORAGE
        if kind == "counter" and key not in ("sessions", "blob_loads")
    ],
)

#: (metric, key in the report, help).
HISTOGRAMS = (
    (
        *("load_seconds", "load_times"),
        "Time to load an object in the server; one load in 16 is timed.",
    ),
    (
        *("commit_seconds", "commit_times"),
        "From the call of a vote to the end of its commit.",
    ),
    (
        *("commit_lock_wait_seconds", "lock_wait"),
        "How long those waited who got the commit lock.",
    ),
    ("commit_lock_hold_seconds", "lock_hold", "How long the commit lock was held."),
)


def metrics(server):
    """Return all metrics of a `StorageServer`, as text."""
    storages = [report.storage(served, False) for served in server.storages]
    lines = []
    for metric, key, kind, text in STORAGE:
        lines += _head(metric, kind, text)
        lines += [_line(metric, {"storage": s["name"]}, s[key]) for s in storages]
    lines += _lock(storages)
    for metric, key, text in HISTOGRAMS:
        lines += _head(metric, "histogram", text)
        for found in storages:
            lines += _histogram(metric, {"storage": found["name"]}, found[key])
    lines += _verifications(storages)
    for metric, key, kind, text in CLIENT:
        lines += _head(metric, kind, text)
        for found in storages:
            for client in found["names"]:
                labels = {"storage": found["name"], "client": client["name"]}
                lines.append(_line(metric, labels, client[key]))
    lines += _process()
    return "".join(f"{line}\n" for line in lines if line)


def _lock(storages):
    lines = _head("commit_lock_waiting", "gauge", "Transactions that wait for it.")
    for found in storages:
        labels = {"storage": found["name"]}
        lines.append(_line("commit_lock_waiting", labels, found["lock"]["waiting"]))
    text = "How long the present holder has had it; 0 without one."
    lines += _head("commit_lock_age_seconds", "gauge", text)
    for found in storages:
        holder = found["lock"]["holder"]
        age = holder["since"] if holder else 0
        lines.append(_line("commit_lock_age_seconds", {"storage": found["name"]}, age))
    return lines


def _verifications(storages):
    metric = "cache_verifications_total"
    text = "How clients' caches were brought up to date, from none needed to too old."
    lines = _head(metric, "counter", text)
    for found in storages:
        for how in VERIFICATIONS:
            labels = {"storage": found["name"], "kind": how}
            lines.append(_line(metric, labels, found["verifications"][how]))
    return lines


def _histogram(metric, labels, found):
    upto = list(accumulate(found["counts"]))
    bounds = [*map(repr, found["bounds"]), "+Inf"]
    for bound, count in zip(bounds, upto):
        yield _line(f"{metric}_bucket", {**labels, "le": bound}, count)
    yield _line(f"{metric}_sum", labels, found["sum"])
    yield _line(f"{metric}_count", labels, upto[-1])


def _process():
    found = report.process()
    for name, kind, value, text in (
        ("cpu_seconds_total", "counter", found["cpu_seconds"], "CPU time used."),
        ("resident_memory_bytes", "gauge", found["memory_bytes"], "Memory in use."),
    ):
        if value is not None:
            yield from _head(name, kind, text, "process")
            yield _line(name, {}, value, "process")


def _head(metric, kind, text, prefix="zeolite"):
    name = f"{prefix}_{metric}"
    return [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]


def _line(metric, labels, value, prefix="zeolite"):
    """Return one line, "" where there is no value."""
    if value is None:
        return ""
    inside = ",".join(f'{name}="{_escaped(text)}"' for name, text in labels.items())
    return f"{prefix}_{metric}{{{inside}}} {value!r}"


def _escaped(text):
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
