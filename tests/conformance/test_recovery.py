"""ZODB's recovery suite: copies from a client storage, to another one or to a file."""

import os

import ZEO
from ZODB.FileStorage import FileStorage
from ZODB.tests.RecoveryStorage import RecoveryStorage

import zeolite

from .suite import FILE_STORAGE, ConformanceTest, in_all_pairings


class Recovery(ConformanceTest, RecoveryStorage):
    """The suite; `_dst` is what is copied to."""

    __test__ = False

    def setUp(self):
        super().setUp()
        self._dst = self.new_dest()

    def new_dest(self):
        """Return a new, empty storage; `tearDown` closes it."""
        raise NotImplementedError

    def _number(self):
        return len(os.listdir(self._directory))


@in_all_pairings
class RecoveryToFileSuites(Recovery):
    """From a server to a file."""

    __test__ = False

    def new_dest(self):
        path = os.path.join(self._directory, f"copy{self._number()}.fs")
        self._clients.append(FileStorage(path))
        return self._clients[-1]


@in_all_pairings
class RecoveryToClientSuites(Recovery):
    """From a server to another one of the same pairing."""

    __test__ = False

    def setUp(self):
        self._others = []
        super().setUp()

    def tearDown(self):
        for client in self._clients:
            client.close()
        for other in self._others:
            other.stop()
        super().tearDown()

    def new_dest(self):
        section = FILE_STORAGE.format(
            directory=self._directory, number=f"copy{self._number()}"
        )
        self._others.append(self._host.start(section))
        package = zeolite if self.client == "zeolite" else ZEO
        self._clients.append(package.client(self._others[-1].address))
        return self._clients[-1]
