"""ZODB's suites for storages, on RelStorage through a server process.

What RelStorage leaves out of them, or has to do in another way, is left out or done
so here: it does not resolve conflicts when it undoes, does not tell whose data an
undone revision has, and takes the time for a pack from the database's clock.

    python -m pytest -m slow tests/relstorage/test_conformance.py
"""

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
    testMVCCMappingStorage,
)

from tests.conformance.suite import WITHOUT_RACES, ConformanceTest
from tests.support import postgres

pytestmark = pytest.mark.slow


class RelStorageTest(ConformanceTest):
    """A client storage of a server on a database of its own."""

    keep_history = True

    @pytest.fixture(autouse=True)
    def _find_cluster(self, cluster):
        self._cluster = cluster

    def setUp(self):
        self._database = self._cluster.create()
        dsn = self._cluster.dsn(self._database)
        self.section = postgres.section(dsn, self.keep_history)
        super().setUp()

    def tearDown(self):
        super().tearDown()
        self._cluster.drop(self._database)


class Suites(
    RelStorageTest,
    BasicStorage.BasicStorage,
    ConflictResolution.ConflictResolvingStorage,
    MTStorage.MTStorage,
    PackableStorage.PackableStorage,
    PersistentStorage.PersistentStorage,
    ReadOnlyStorage.ReadOnlyStorage,
    RevisionStorage.RevisionStorage,
    Synchronization.SynchronizedStorage,
    testMVCCMappingStorage.MVCCTests,
):
    __test__ = False


class TestWithHistory(
    Suites,
    HistoryStorage.HistoryStorage,
    IteratorStorage.ExtendedIteratorStorage,
    IteratorStorage.IteratorStorage,
    PackableStorage.PackableUndoStorage,
    TransactionalUndoStorage.TransactionalUndoStorage,
):
    __test__ = True
    keep_history = True
    use_extension_bytes = True

    testUndoMultipleConflictResolution = None
    testUndoMultipleConflictResolutionReversed = None
    testTransactionalUndoIterator = None
    # Revisions that are packed away are still in RelStorage's cache.
    testPackAllRevisions = testPackJustOldRevisions = testPackOnlyOneObject = None
    testPackUndoLog = None  # It takes the time between two commits here.


class TestWithoutHistory(Suites):
    __test__ = True
    keep_history = False

    # They look at revisions that are not kept.
    testLoadBeforeUndo = testLoadSerial = None
    testPackAllRevisions = testPackJustOldRevisions = testPackOnlyOneObject = None

    # A client reads as of a transaction.  What another one has changed since cannot
    # be had any more, so reading fails with `ReadConflictError`, after which these
    # tests do not try again.
    locals().update(WITHOUT_RACES)
