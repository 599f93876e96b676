"""Waiting for what another thread or process will do."""

import time


def wait_until(condition, patience=20):
    """Wait until `condition()` is true, up to `patience` seconds (float).

    Returns what it has returned.
    """
    deadline = time.monotonic() + patience
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.001)
    return found
