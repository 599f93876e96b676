"""ZODB's own test suites for storages, run on a client storage of a real server.

A pairing is a kind of client and a kind of server, "zeolite" or "zeo".  The
suites are written as mix-ins for a test case that has the storage in `_storage`.
"""

import itertools
import shutil
import tempfile

import pytest
from ZODB.tests.StorageTestBase import StorageTestBase

FILE_STORAGE = "<filestorage>\npath {directory}/Data{number}.fs\n</filestorage>\n"
MAPPING_STORAGE = "<mappingstorage>\n</mappingstorage>\n"
DEMO_STORAGE = "<demostorage>\n</demostorage>\n"

_numbers = itertools.count()


class ConformanceTest(StorageTestBase):
    """A client storage in `_storage`, of a server of its own."""

    client = "zeolite"
    server = "zeolite"
    section = FILE_STORAGE
    settings: dict = {}  # noqa: RUF012

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
        self._server = self._host.start(self._section, **settings)
        self._storage = self._new_storage_client(read_only)

    def _new_storage_client(self, read_only=False):
        if self.client == "zeolite":
            import zeolite as package
        else:
            import ZEO as package
        client = package.client(self._server.address, read_only=read_only)
        self._clients.append(client)
        return client

    def tearDown(self):
        for client in self._clients:
            client.close()
        self._storage = None
        self._server.stop()
        shutil.rmtree(self._directory)
        super().tearDown()
