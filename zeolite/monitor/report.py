"""The numbers of a server, as a dictionary for JSON.

Times are in seconds; `since` is how long ago something began.
"""

import os
import time

from ..storageserver.measures import COUNTS, KEYS, VERIFICATIONS
from ..tids import seconds_of

_COUNTS_BUT_LOADS = [key for key in COUNTS if key != "loads"]

#: How many clients are listed one by one.
MOST_CLIENTS = 500


def report(server):
    """Return what is known of a `StorageServer` and its storages."""
    return {
        "time": time.time(),
        "process": process(),
        "trouble": server.trouble(),
        "storages": [storage(served) for served in server.storages],
    }


def process():
    """Return what this process has used up to now."""
    times = os.times()
    return {
        "id": os.getpid(),
        "cpu_seconds": times.user + times.system,
        "memory_bytes": _resident(),
    }


def storage(served, with_clients=True):
    """Return the numbers of a `Served`; its clients are the longest part."""
    look = served.look()
    lock = served.commit_lock.look()
    now = time.monotonic()
    sessions = look.sessions
    end = served.log.end
    behind = {session: max(0, end - session.delivery.cursor) for session in sessions}
    stalled = {session for session in sessions if session.is_stalled}
    found = {
        "name": served.name,
        "started": served.started,
        "connections": len(sessions),
        "sessions": look.ever,
        **counts(look.total()),
        "transactions": sum(len(session.transactions) for session in sessions),
        "stalled": len(stalled),
        "invalidation_log": len(served.log),
        "behind": max(behind.values(), default=0),
        "last_tid": served.log.last_tid.hex(),
        "last_commit": _time_of(served.log.last_tid),
        "lock": _lock(lock, now),
        "lock_wait": _histogram(lock[2]),
        "lock_hold": _histogram(lock[3]),
        "load_times": _histogram(look.load_times),
        "commit_times": _histogram(served.commit_times),
        "names": [
            {"name": a.name, "connections": a.connections, **counts(a.past)}
            for a in look.accounts
            if a.connections or any(a.past.values())
        ],
    }
    if with_clients:
        clients = _clients(sessions, lock, behind, stalled, now)
        found["clients"] = clients[:MOST_CLIENTS]
        found["more_clients"] = max(0, len(clients) - MOST_CLIENTS)
    return found


def counts(tally):
    """Return a tally with loads of blobs among the loads, and kinds by themselves."""
    found = {key: tally[key] for key in KEYS if key not in VERIFICATIONS}
    found["loads"] += found["blob_loads"]
    found["verifications"] = {how: tally[how] for how in VERIFICATIONS}
    return found


def _clients(sessions, lock, behind, stalled, now):
    """Return the clients: who has the lock first, then who waits, then by age."""
    holder, queue, *_ = lock
    holding = holder and holder[0].session
    waiting = {who.session: since for who, since in reversed(queue)}
    places = {who.session: n for n, (who, _) in reversed(list(enumerate(queue)))}

    def place(session):
        return (session is not holding, places.get(session, len(places)))

    found = []
    for session in sorted(sessions, key=lambda s: (place(s), sessions[s][0])):
        number, began, tally = sessions[session]
        if session is holding:
            state, since = "holds the lock", now - holder[1]
        elif session in waiting:
            state, since = "waits for the lock", now - waiting[session]
        elif session in stalled:
            state, since = "takes nothing", None
        else:
            state, since = "idle" if session.delivery.is_idle else "busy", None
        found.append(
            {
                "number": number,
                "label": session.label,
                "address": session.address,
                "read_only": session.read_only,
                "since": now - began,
                "state": state,
                "state_since": since,
                "behind": behind[session],
                "transactions": len(session.transactions),
                "loads": tally["loads"] + tally["blob_loads"],
                **{key: tally[key] for key in _COUNTS_BUT_LOADS},
                "bytes_received": tally["bytes_received"],
                "bytes_sent": tally["bytes_sent"],
            }
        )
    return found


def _lock(lock, now):
    holder, queue, *_ = lock
    return {
        "holder": holder and _transaction(*holder, now),
        "waiting": len(queue),
        "queue": [_transaction(*entry, now) for entry in queue[:MOST_CLIENTS]],
    }


def _transaction(transaction, since, now):
    return {
        "label": transaction.session.label,
        "address": transaction.session.address,
        "state": transaction.state,
        "since": now - since,
    }


def _histogram(histogram):
    return {
        "bounds": histogram.bounds,
        "counts": list(histogram.counts),
        "sum": histogram.sum,
    }


def _time_of(tid):
    """Return when a tid was made (seconds since 1970), None for none at all."""
    return seconds_of(tid) if any(tid) else None


def _resident():
    """Return the bytes of memory that are in use, None where that is not told."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return None
