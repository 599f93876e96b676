"""ZODB's suites over FileStorage and MappingStorage, through a server process."""

from ZODB.tests import (
    BasicStorage,
    ConflictResolution,
    MTStorage,
    ReadOnlyStorage,
    RevisionStorage,
    Synchronization,
)

from .suite import FILE_STORAGE, MAPPING_STORAGE, ConformanceTest


class TestFileStorage(
    ConformanceTest,
    BasicStorage.BasicStorage,
    MTStorage.MTStorage,
    RevisionStorage.RevisionStorage,
    Synchronization.SynchronizedStorage,
    ReadOnlyStorage.ReadOnlyStorage,
    ConflictResolution.ConflictResolvingStorage,
):
    section = FILE_STORAGE


class TestMappingStorage(
    ConformanceTest,
    BasicStorage.BasicStorage,
    MTStorage.MTStorage,
    RevisionStorage.RevisionStorage,
    Synchronization.SynchronizedStorage,
):
    section = MAPPING_STORAGE
