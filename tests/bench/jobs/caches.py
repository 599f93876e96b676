"""The clients' cache files by themselves, without a server."""

import pathlib
import re
import time

from ZODB.utils import maxtid, p64

from ..databases import RECORD_SIZE
from ..systems import ZEO


def fill_cache(target, count):
    """Make a cache file with `count` current records, and close it."""

    def measure():
        cache = _open(target)
        for number in range(1, count + 1):
            data = str(number).encode().ljust(RECORD_SIZE, b".")
            cache.store(p64(number), p64(1), None, data)
        cache.setLastTid(p64(2))
        cache.close()

    return measure


def open_cache(target, count):
    """Open a cache file; the result is seconds, and bytes of memory or None."""
    _open({**target, "path": None, "size": 1_000_000}).close()

    def measure():
        before = _memory()
        start = time.perf_counter()
        cache = _open(target)
        seconds = time.perf_counter() - start
        after = _memory()
        for number in (1, count):
            if cache.loadBefore(p64(number), maxtid) is None:
                raise RuntimeError(f"object {number} is not in the cache")
        cache.close()
        return seconds, before and after - before

    return measure


def _open(target):
    if target["system"] == ZEO:
        from ZEO.cache import ClientCache
    else:
        from zeolite.clientstorage.cache import ClientCache
    return ClientCache(target["path"], target["size"])


def _memory():
    """Return the process's memory without mapped files (bytes), None if unknown."""
    try:
        status = pathlib.Path("/proc/self/status").read_text()
    except OSError:
        return None
    return int(re.search(r"RssAnon:\s*(\d+) kB", status)[1]) * 1024
