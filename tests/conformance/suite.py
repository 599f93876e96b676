"""ZODB's own test suites for storages, run on a client storage of a real server.

A pairing is a kind of client and a kind of server, "zeolite" or "zeo".  The
suites are written as mix-ins for a test case that has the storage in `_storage`.
"""

import functools
import importlib
import inspect
import itertools
import pathlib
import shutil
import sys
import tempfile

import pytest
from ZODB.tests.racetest import RaceTests
from ZODB.tests.StorageTestBase import StorageTestBase

from tests.support.certificates import Files, client_context, issue

FILE_STORAGE = "<filestorage>\npath {directory}/Data{number}.fs\n</filestorage>\n"
MAPPING_STORAGE = "<mappingstorage>\n</mappingstorage>\n"
DEMO_STORAGE = "<demostorage>\n</demostorage>\n"

#: ZODB's modules that have suites.
_MODULES = (
    "BasicStorage",
    "ConflictResolution",
    "HistoryStorage",
    "IteratorStorage",
    "MTStorage",
    "PackableStorage",
    "PersistentStorage",
    "ReadOnlyStorage",
    "RecoveryStorage",
    "RevisionStorage",
    "Synchronization",
    "TransactionalUndoStorage",
    "racetest",
    "testDemoStorage",
    "testFileStorage",
    "testMVCCMappingStorage",
)


def _rename_checks():
    """Give the tests of ZODB 5, which are called "check…", the names of ZODB 6."""
    for name in _MODULES:
        module = importlib.import_module(f"ZODB.tests.{name}")
        for _, class_ in inspect.getmembers(module, inspect.isclass):
            for old in [old for old in vars(class_) if old.startswith("check")]:
                new = "test" + old.removeprefix("check")
                if new not in vars(class_):
                    setattr(class_, new, vars(class_)[old])


_rename_checks()

#: What is behind the class's name -> client, server.
PAIRINGS = {
    "": ("zeolite", "zeolite"),
    "OfZEOClient": ("zeo", "zeolite"),
    "OnZEOServer": ("zeolite", "zeo"),
}

_numbers = itertools.count()


def in_all_pairings(suites, stock_is_slow=False):
    """Make test classes, one a pairing, of a class whose name ends in "Suites".

    With `stock_is_slow` those with stock peers run only where slow tests do.
    """
    name = "Test" + suites.__name__.removesuffix("Suites")
    module = sys.modules[suites.__module__]
    for ending, (client, server) in PAIRINGS.items():
        attributes = {
            "__module__": suites.__module__,
            "__doc__": suites.__doc__,
            "__test__": True,
            "client": client,
            "server": server,
        }
        if ending and getattr(suites, _LONG_RACE, None):
            attributes[_LONG_RACE] = slow_race(suites)
        made = type(name + ending, (suites,), attributes)
        if ending and stock_is_slow:
            made = pytest.mark.slow(made)
        setattr(module, name + ending, made)
    return suites


#: It takes half a minute, as long as a hundred other tests.
_LONG_RACE = "test_race_external_invalidate_vs_disconnect"


def slow_race(suites):
    """Return the longest race test of a class, to be run where slow tests are."""

    @pytest.mark.slow
    @functools.wraps(getattr(suites, _LONG_RACE))
    def test(self):
        getattr(suites, _LONG_RACE)(self)

    return test


def mostly_slow(suites):
    """`in_all_pairings`, where stock peers are unlikely to show anything new."""
    return in_all_pairings(suites, stock_is_slow=True)


#: For a class whose race tests would show nothing that others do not.
WITHOUT_RACES = dict.fromkeys(
    (name for name in dir(RaceTests) if name.startswith("test_race")), None
)


class ConformanceTest(StorageTestBase):
    """A client storage in `_storage`, of a server of its own."""

    client = "zeolite"
    server = "zeolite"
    section = FILE_STORAGE
    settings: dict = {}  # noqa: RUF012
    #: Whether the connections are encrypted, with certificates on both sides.
    over_tls = False

    @staticmethod
    def wrap(storage):
        """Return what the suites are to see of a client storage."""
        return storage

    @pytest.fixture(autouse=True)
    def _find_host(self, request):
        name = "host" if self.server == "zeolite" else "zeo_host"
        self._host = request.getfixturevalue(name)

    def setUp(self):
        super().setUp()
        self._directory = tempfile.mkdtemp()
        self._section = self.section.format(
            directory=self._directory, number=next(_numbers)
        )
        self._server = None
        self._clients = []
        self.open()

    def open(self, read_only=False, **_):
        """(Re)start the server and connect to it."""
        settings = dict(self.settings)
        if read_only:
            settings["read_only"] = "true"
        if self._server is not None:
            self._server.stop()
        tls = None
        if self.over_tls:
            files = Files(pathlib.Path(self._directory))
            tls = {
                "certificate": str(files.both(issue())),
                "authenticate": str(files.authority("clients")),
            }
        self._server = self._host.start(self._section, tls=tls, **settings)
        self._storage = self._new_storage_client(read_only)

    def _new_storage_client(self, read_only=False):
        if self.client == "zeolite":
            import zeolite as package
        else:
            import ZEO as package
        settings = {"read_only": read_only}
        if self.over_tls:
            settings["ssl"] = client_context(issue("client", by="clients"))
        client = package.client(self._server.address, **settings)
        self._clients.append(client)
        return self.wrap(client)

    def tearDown(self):
        for client in self._clients:
            client.close()
        self._storage = None
        self._server.stop()
        shutil.rmtree(self._directory)
        super().tearDown()
