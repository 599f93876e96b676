"""Iterating over a storage's transactions while others are being committed."""

import time

#: How often to try again to find where to begin, and seconds between.
_TRIES = 100
_PAUSE = 0.01


def transactions(storage, start, stop, last):
    """Return an iterator over the transactions from tid `start` to tid `stop`.

    Both are bytes, or None for the first and the last.  `last` (bytes) is the tid of
    the last commit to go to: a file storage's iterator without an end goes on into
    what is being written, and logs that as damage.

    While a commit is being written to the file, that cannot find where to begin.  It
    raises `ValueError`, and `AttributeError` where the file is small.  For a moment at
    the end of a pack there is no file.
    """
    stop = last if stop is None else min(stop, last)
    for _ in range(_TRIES):
        try:
            return storage.iterator(start, stop)
        except (ValueError, AttributeError, FileNotFoundError):
            time.sleep(_PAUSE)
    return storage.iterator(start, stop)
