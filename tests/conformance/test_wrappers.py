"""ZODB's suites for storages that wrap a client storage, or that a server serves.

What the wrapper of a client's storage does to records, the server has to undo where
it looks into them: to resolve conflicts and to find references.  The packages have
counterparts for that, which are served here.
"""

from zc.zlibstorage import ZlibStorage
from ZODB.DemoStorage import DemoStorage
from ZODB.tests import testDemoStorage  # Its test case by its own name would be run.
from ZODB.tests.hexstorage import HexStorage

from .suite import (
    FILE_STORAGE,
    WITHOUT_RACES,
    ConformanceTest,
    mostly_slow,
)
from .test_storages import FileStorageSuites


def section(package, name, base=FILE_STORAGE):
    return f"%import {package}\n<{name}>\n{base}</{name}>\n"


class WrapperSuites(FileStorageSuites):
    __test__ = False
    locals().update(WITHOUT_RACES)


@mostly_slow
class HexStorageUnderServerSuites(WrapperSuites):
    section = section("ZODB.tests", "hexstorage")


@mostly_slow
class HexStorageOverClientSuites(WrapperSuites):
    section = section("ZODB.tests", "serverhexstorage")
    wrap = HexStorage
    testPackAllRevisionsNoGC = None  # It gives `gc` where clients take `wait`.


@mostly_slow
class ZlibStorageUnderServerSuites(WrapperSuites):
    section = section("zc.zlibstorage", "zlibstorage")


@mostly_slow
class ZlibStorageOverClientSuites(WrapperSuites):
    section = section("zc.zlibstorage", "serverzlibstorage")
    wrap = ZlibStorage
    testPackAllRevisionsNoGC = None  # It gives `gc` where clients take `wait`.


@mostly_slow
class DemoStorageOverClientSuites(ConformanceTest, testDemoStorage.DemoStorageTests):
    __test__ = False
    locals().update(WITHOUT_RACES)

    # It does not collect garbage when its base has something.
    testPackAllRevisions = testPackOnlyOneObject = None
    testPackWithMultiDatabaseReferences = None

    @staticmethod
    def wrap(storage):
        return DemoStorage(base=storage)
