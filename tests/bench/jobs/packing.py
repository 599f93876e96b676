"""One client packs, another one makes round trips meanwhile."""

import select
import sys
import time

from ..systems import open_storage

_WARM_UP = 100


def pack(target):
    """Pack the storage and wait; the result is start and end."""
    storage = open_storage(target)

    def measure():
        start = time.monotonic()
        storage.pack(time.time(), wait=True)
        end = time.monotonic()
        storage.close()
        return start, end

    return measure


def ping(target):
    """Ask and wait until there is no more input.

    The result is a list of start and seconds of each round trip.
    """
    storage = open_storage(target)
    for _ in range(_WARM_UP):
        storage.ping()
    pings = []

    def measure():
        while not select.select([sys.stdin], [], [], 0)[0]:
            start = time.monotonic()
            storage.ping()
            pings.append((start, time.monotonic() - start))
        storage.close()
        return pings

    return measure
