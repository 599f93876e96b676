"""ZODB's suites for storages, through a server process, in three pairings."""

import os

from ZODB.FileStorage import FileStorage
from ZODB.tests import (
    BasicStorage,
    ConflictResolution,
    HistoryStorage,
    IteratorStorage,
    MTStorage,
    PackableStorage,
    PersistentStorage,
    ReadOnlyStorage,
    RecoveryStorage,
    RevisionStorage,
    Synchronization,
    TransactionalUndoStorage,
)

from .suite import DEMO_STORAGE, FILE_STORAGE, MAPPING_STORAGE, ConformanceTest


class FileStorageSuites(
    ConformanceTest,
    BasicStorage.BasicStorage,
    ConflictResolution.ConflictResolvingStorage,
    ConflictResolution.ConflictResolvingTransUndoStorage,
    HistoryStorage.HistoryStorage,
    IteratorStorage.IteratorStorage,
    IteratorStorage.ExtendedIteratorStorage,
    MTStorage.MTStorage,
    PackableStorage.PackableStorage,
    PackableStorage.PackableUndoStorage,
    PersistentStorage.PersistentStorage,
    ReadOnlyStorage.ReadOnlyStorage,
    RevisionStorage.RevisionStorage,
    Synchronization.SynchronizedStorage,
    TransactionalUndoStorage.TransactionalUndoStorage,
):
    """What FileStorage's own tests have, as far as a client can reach it."""

    __test__ = False
    section = FILE_STORAGE
    use_extension_bytes = True

    # Its fake clock would be the client's only, not the server's.
    testPackUndoLog = PackableStorage.PackableUndoStorage.testPackUndoLog.__wrapped__


class TestFileStorage(FileStorageSuites):
    __test__ = True


class TestZEOClientOnFileStorage(FileStorageSuites):
    """A stock ZEO client on our server."""

    __test__ = True
    client = "zeo"
    use_extension_bytes = False  # It sends them as a dictionary.


class TestZEOServerWithFileStorage(FileStorageSuites):
    """Our client on a stock ZEO server."""

    __test__ = True
    server = "zeo"
    use_extension_bytes = False  # It sends them as a dictionary.


class ClientConflictResolutionSuites(
    ConformanceTest, ConflictResolution.ConflictResolvingStorage
):
    """The server leaves conflicts to its clients."""

    __test__ = False
    settings = {"client_conflict_resolution": "true"}  # noqa: RUF012


class TestClientConflictResolution(ClientConflictResolutionSuites):
    __test__ = True


class TestClientConflictResolutionOfZEOClient(ClientConflictResolutionSuites):
    __test__ = True
    client = "zeo"


class TestClientConflictResolutionOnZEOServer(ClientConflictResolutionSuites):
    __test__ = True
    server = "zeo"


class MemorySuites(
    ConformanceTest,
    BasicStorage.BasicStorage,
    HistoryStorage.HistoryStorage,
    IteratorStorage.ExtendedIteratorStorage,
    IteratorStorage.IteratorStorage,
    MTStorage.MTStorage,
    PackableStorage.PackableStorage,
    RevisionStorage.RevisionStorage,
    Synchronization.SynchronizedStorage,
):
    """What MappingStorage's own tests have."""

    __test__ = False

    # These storages have no undo.
    testLoadBeforeUndo = testUndoZombie = None


class TestMappingStorage(MemorySuites):
    __test__ = True
    section = MAPPING_STORAGE


class TestDemoStorage(MemorySuites):
    __test__ = True
    section = DEMO_STORAGE


class RecoverySuites(ConformanceTest, RecoveryStorage.RecoveryStorage):
    """Copies between two storages; subclasses say which of them is a client."""

    __test__ = False

    def setUp(self):
        super().setUp()
        self._other = self._host.start(
            FILE_STORAGE.format(directory=self._directory, number="other")
        )
        self._dst = self._new_destination()

    def tearDown(self):
        self._dst.close()
        self._other.stop()
        super().tearDown()

    def new_dest(self):
        self._dst.close()
        self._other.stop()
        number = len(os.listdir(self._directory))
        self._other = self._host.start(
            FILE_STORAGE.format(directory=self._directory, number=f"other{number}")
        )
        return self._new_destination()

    def _new_destination(self):
        import zeolite

        return zeolite.client(self._other.address)


class TestRecoveryFromClientToClient(RecoverySuites):
    __test__ = True


class TestRecoveryFromClientToFile(RecoverySuites):
    __test__ = True

    def _new_destination(self):
        number = len(os.listdir(self._directory))
        return FileStorage(os.path.join(self._directory, f"destination{number}.fs"))
