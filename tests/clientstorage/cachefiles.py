"""What tests of a cache's file have in common."""

import os
import shutil

from ZODB.utils import p64, u64

SIZE = 64 * 1024


def fill(cache, count=20, tid=5):
    for number in range(count):
        cache.store(p64(number), p64(tid), None, data(number))
    cache.setLastTid(p64(tid))


def data(number):
    return b"the data of %d" % number


def killed(cache, path):
    """Leave the file as if the process of the cache had been killed."""
    shutil.copyfile(path, path + ".copy")
    cache.close()
    os.replace(path + ".copy", path)


def write(path, place, data):
    with open(path, "r+b") as file:
        file.seek(place)
        file.write(data)


def place_of(cache, oid):
    return cache._current[u64(oid)]
