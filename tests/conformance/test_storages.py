"""ZODB's suites for storages, through a server process, in three pairings."""

import pytest
from ZODB.tests import (
    BasicStorage,
    ConflictResolution,
    HistoryStorage,
    IteratorStorage,
    MTStorage,
    PackableStorage,
    PersistentStorage,
    ReadOnlyStorage,
    RevisionStorage,
    Synchronization,
    TransactionalUndoStorage,
    testFileStorage,
    testMVCCMappingStorage,
)

from .suite import (
    DEMO_STORAGE,
    FILE_STORAGE,
    MAPPING_STORAGE,
    ConformanceTest,
    in_all_pairings,
    mostly_slow,
    slow_race,
)


class Suites(
    ConformanceTest,
    BasicStorage.BasicStorage,
    HistoryStorage.HistoryStorage,
    IteratorStorage.ExtendedIteratorStorage,
    IteratorStorage.IteratorStorage,
    MTStorage.MTStorage,
    PackableStorage.PackableStorage,
    RevisionStorage.RevisionStorage,
    Synchronization.SynchronizedStorage,
    testMVCCMappingStorage.MVCCTests,
):
    """What every kind of storage that has a history can do."""

    __test__ = False


class InMemory(RevisionStorage.RevisionStorage):
    """What storages in memory cannot do, under one server or at all."""

    testLoadBeforeUndo = testUndoZombie = None  # They have no undo.

    def testLoadBeforeConsecutiveTids(self):
        if self.server == "zeo":
            self.skipTest("it begins with a status, which MappingStorage does not take")
        super().testLoadBeforeConsecutiveTids()


class OptionalGC(PackableStorage.PackableStorageWithOptionalGC):
    """`pack` without garbage collection, which a stock peer has no word for."""

    def testPackAllRevisionsNoGC(self):
        if "zeo" in (self.client, self.server):
            self.skipTest("ZEO has no word for it")
        super().testPackAllRevisionsNoGC()


@in_all_pairings
class FileStorageSuites(
    Suites,
    ConflictResolution.ConflictResolvingStorage,
    ConflictResolution.ConflictResolvingTransUndoStorage,
    OptionalGC,
    PackableStorage.PackableUndoStorage,
    PersistentStorage.PersistentStorage,
    ReadOnlyStorage.ReadOnlyStorage,
    TransactionalUndoStorage.TransactionalUndoStorage,
):
    """What FileStorage's own tests have, as far as a client can reach it."""

    section = FILE_STORAGE

    # Its fake clock would be the client's only, not the server's.
    testPackUndoLog = PackableStorage.PackableUndoStorage.testPackUndoLog.__wrapped__

    # What FileStorage adds to them, where no file is looked into.
    _own = testFileStorage.FileStorageTests
    testLongMetadata = _own.testLongMetadata
    test_record_iternext = _own.test_record_iternext
    testFlushAfterTruncate = _own.testFlushAfterTruncate

    @property
    def use_extension_bytes(self):
        # Stock peers send them as a dictionary.
        return self.client == self.server == "zeolite"


@mostly_slow
class MappingStorageSuites(InMemory, Suites, OptionalGC):
    section = MAPPING_STORAGE

    test_race_external_invalidate_vs_disconnect = slow_race(Suites)


@mostly_slow
class DemoStorageSuites(InMemory, Suites, ConflictResolution.ConflictResolvingStorage):
    section = DEMO_STORAGE

    test_race_external_invalidate_vs_disconnect = slow_race(Suites)


@in_all_pairings
class ClientConflictResolutionSuites(
    ConformanceTest, ConflictResolution.ConflictResolvingStorage
):
    """The server leaves conflicts to its clients."""

    __test__ = False
    settings = {"client_conflict_resolution": "true"}  # noqa: RUF012


@pytest.mark.slow
class TestFileStorageOverTLS(FileStorageSuites):
    """All of it again, encrypted."""

    __test__ = True
    over_tls = True
