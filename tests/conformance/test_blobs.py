"""ZODB's suite for storages with blobs, on client storages of real servers."""

import doctest
import os
import unittest

import pytest
import ZODB.tests.testblob

import zeolite

try:
    import ZEO
except ImportError:
    ZEO = None

FILE_STORAGE = """
    <filestorage>
      path {path}
      blob-dir {blobs}
    </filestorage>
    """
BLOB_STORAGE = """
    <blobstorage>
      blob-dir {blobs}
      <filestorage>
        path {path}
      </filestorage>
    </blobstorage>
    """


def open_like_a_user(path, mode="r", *args):
    """What `open` does for anybody but root, who may write anything."""
    if "w" in mode and os.path.exists(path) and not os.stat(path).st_mode & 0o222:
        raise PermissionError(path)
    return open(path, mode, *args)


class Storages:
    """Makes servers and clients for one test, and ends what it has made."""

    def __init__(self, host):
        self._host = host
        self._opened = []

    def open(self, client, section, shared, name, blob_dir):
        blobs = os.path.abspath(blob_dir)
        section = section.format(
            path=os.path.abspath(name + ".fs"),
            blobs=blobs if shared else blobs + "-of-the-server",
        )
        running = self._host.start(section)
        package = zeolite if client == "zeolite" else ZEO
        storage = package.client(
            running.address,
            blob_dir=blob_dir,  # Relative, as the suite has it.
            shared_blob_dir=shared,
        )
        self._opened.append((storage, running))
        return storage

    def close(self):
        for storage, running in self._opened:
            storage.close()
            running.stop()


current: Storages = None  # Of the test that runs; the suite's factory has no argument.


@pytest.fixture
def storages(request, server):
    global current
    # Before the test changes into a directory that it removes.
    host = request.getfixturevalue("host" if server == "zeolite" else "zeo_host")
    current = Storages(host)
    yield
    current.close()


def _flat(suite):
    for test in suite:
        if isinstance(test, unittest.TestSuite):
            yield from _flat(test)
        else:
            yield test


SETUPS = {
    "cache": ("zeolite", "zeolite", FILE_STORAGE, False),
    "shared": ("zeolite", "zeolite", FILE_STORAGE, True),
    "adapter": ("zeolite", "zeolite", BLOB_STORAGE, False),
    "adapter-shared": ("zeolite", "zeolite", BLOB_STORAGE, True),
    "zeo-client": ("zeo", "zeolite", FILE_STORAGE, False),
    "zeo-client-shared": ("zeo", "zeolite", FILE_STORAGE, True),
    "zeo-server": ("zeolite", "zeo", FILE_STORAGE, False),
    "zeo-server-shared": ("zeolite", "zeo", FILE_STORAGE, True),
}


def _tests():
    for name, setup in SETUPS.items():
        client, server, section, shared = setup

        def factory(name, blob_dir, setup=(client, section, shared)):
            return current.open(*setup, name, blob_dir)

        both_ours = client == server
        suite = ZODB.tests.testblob.storage_reusable_suite(
            name,
            factory,
            test_blob_storage_recovery=both_ours,
            # It looks into the blob directory, which a client must share for that.
            test_packing=shared,
            test_undo=True,
        )
        for test in _flat(suite):
            yield pytest.param(server, test, id=f"{name}-{test.id().split('.')[-1]}")


@pytest.mark.usefixtures("storages")
@pytest.mark.parametrize("server, test", list(_tests()))
def test_blobs(test):
    if isinstance(test, doctest.DocTestCase):
        test._dt_test.globs["open"] = open_like_a_user
    result = unittest.TestResult()
    test.run(result)
    for _, text in result.errors + result.failures:
        pytest.fail(text, pytrace=False)
    if result.skipped:
        pytest.skip(result.skipped[0][1])
