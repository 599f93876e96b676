"""ZODB's own tests of databases, on client storages of a server.

These tests make their storages themselves, so what they ask for is put in the place
of ZODB's classes.  And they make classes that no other process can import, for the
storage to resolve conflicts of, so the servers run in this process.
"""

import contextlib
import glob
import importlib
import os
import tempfile
import unittest

import pytest
import ZEO
import ZODB.FileStorage
import ZODB.MappingStorage

import zeolite
from tests.support.waiting import wait_until

PACKAGES = {"zeolite": zeolite, "zeo": ZEO}
PAIRINGS = ["zeolite-zeolite", "zeo-zeolite", "zeolite-zeo"]  # client-server
MODULES = [
    "test_doctest_files",
    "test_prefetch",
    "testConnection",
    "testConnectionSavepoint",
    "testDB",
    "testPersistentWeakref",
    "testZODB",
    "testconflictresolution",
    "testcrossdatabasereferences",
    "testhistoricalconnections",
    "testpersistentclass",
]

#: Tests that cannot hold for a client storage, and why.
LEFT_OUT = {
    "passing_a_file_name_to_DB": "looks for the file's name in the storage's",
    "open_convenience": "looks for the file's name in the storage's",
    "passing_None_to_DB": "looks for the storage's class",
    "synchronizers.txt": "makes a subclass of MappingStorage",
    "test_weakrefs_functional": "a client's cache keeps what a pack removed",
    "test_PersistentWeakKeyDictionary": "a client's cache keeps what a pack removed",
}

#: The same for single pairings.
STOCK_LEFT_OUT = {
    ("zeo-zeolite", "doctest_isReadOnly"): "ZEO's says 0, not False",
    ("zeo-zeolite", "testIsReadonly"): "ZEO's says 0, not False",
    ("zeolite-zeo", "connectionDebugInfo"): "ZEO's server moves the test's clock",
}


def find_tests(module):
    """Return new instances of a module's tests."""
    module = importlib.import_module(f"ZODB.tests.{module}")
    if hasattr(module, "test_suite"):
        return list(_flat(module.test_suite()))
    return list(_flat(unittest.defaultTestLoader.loadTestsFromModule(module)))


def _flat(suite):
    for test in suite:
        if isinstance(test, unittest.TestSuite):
            yield from _flat(test)
        else:
            yield test


def name_of(test):
    """A short name: of the function, or of the file."""
    return os.path.basename(str(test).split(" ")[0])


class StandIns:
    """Makes client storages, of new servers, where ZODB's storages are asked for."""

    def __init__(self, monkeypatch, stack, client, server):
        self._client = client
        self._server = server
        self._stack = stack
        self._is_starting = False
        #: How many were made.
        self.made = 0
        self._file_storage = ZODB.FileStorage.FileStorage
        self._mapping_storage = ZODB.MappingStorage.MappingStorage
        monkeypatch.setattr(ZODB.FileStorage, "FileStorage", self._file)
        monkeypatch.setattr(ZODB.MappingStorage, "MappingStorage", self._mapping)

    def _file(self, path, create=False, blob_dir=None, **settings):
        if self._is_starting:
            return self._file_storage(path, create, blob_dir=blob_dir, **settings)
        if blob_dir is not None:
            pytest.skip("blobs")
        if create and os.path.exists(path):
            os.remove(path)
        return self._connect(f"<filestorage>\npath {path}\n</filestorage>\n")

    def _mapping(self, name="MappingStorage"):
        if self._is_starting:
            return self._mapping_storage(name)
        return self._connect("<mappingstorage>\n</mappingstorage>\n")

    def _connect(self, section):
        self.made += 1
        self._is_starting = True
        try:
            address, stop = self._server.server(storage_conf=section)
            # ZEO's removes its configuration file behind the start, and would not end
            # if a quick test had removed its directory before.
            wait_until(lambda: not glob.glob("ZEO_forker*.conf"))
            ending = self._stack.enter_context(contextlib.ExitStack())
            ending.callback(stop)
            storage = self._client.client(address)
        finally:
            self._is_starting = False
        ending.callback(storage.close)
        storage.close = ending.close  # The server ends with its client.
        return storage


def cases():
    for module in MODULES:
        names = [name_of(test) for test in find_tests(module)]
        for number, name in enumerate(names):
            again = f"-{names[:number].count(name)}" if names.count(name) > 1 else ""
            reason = LEFT_OUT.get(name)
            marks = [pytest.mark.skip(reason=reason)] if reason else []
            yield pytest.param(
                module, number, id=f"{module}-{name}{again}", marks=marks
            )


@pytest.mark.parametrize("pairing", PAIRINGS)
@pytest.mark.parametrize("module, number", list(cases()))
def test_database(module, number, pairing, monkeypatch, tmp_path):
    # Some leave their directories behind.
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    client, server = pairing.split("-")
    if reason := STOCK_LEFT_OUT.get((pairing, name_of(find_tests(module)[number]))):
        pytest.skip(reason)
    with contextlib.ExitStack() as stack:
        stand_ins = StandIns(monkeypatch, stack, PACKAGES[client], PACKAGES[server])
        result = unittest.TestResult()
        find_tests(module)[number].run(result)
    for _, text in [*result.errors, *result.failures]:
        pytest.fail(text, pytrace=False)
    for _, reason in result.skipped:
        pytest.skip(reason)
    if not stand_ins.made:
        pytest.skip("it needs no storage")
