"""Errors of a storage, as they arrive at the clients of its server."""

import contextlib

import pytest
import ZEO
import ZEO.Exceptions
from ZODB import POSException
from ZODB.MappingStorage import MappingStorage
from ZODB.utils import p64, z64

import zeolite
from zeolite.errors import ClientDisconnected, CommitInDoubt, ServerException

OID, TID_1, TID_2 = p64(1), p64(2), p64(3)
UNDO = POSException.UndoError("non-undoable", OID)
ERRORS = [
    POSException.POSKeyError(OID),
    POSException.ConflictError(oid=OID, serials=(TID_1, TID_2)),
    POSException.ConflictError("a message"),
    POSException.ReadConflictError(oid=OID, serials=(TID_1, TID_2)),
    POSException.BTreesConflictError(1, 2, 3, 4),
    POSException.UndoError("some reason", OID),
    POSException.UndoError("some reason"),
    POSException.MultipleUndoErrors([(OID, UNDO)]),
    POSException.ReadOnlyError("no"),
    POSException.StorageTransactionError("a", "b"),
    POSException.StorageError("c"),
    KeyError("d"),
    ClientDisconnected("e"),
    CommitInDoubt("f"),
]

#: What ZEO's clients know by name; the rest is a `ServerException` to them.
KNOWN_TO_ZEO = (
    POSException.POSKeyError,
    POSException.ConflictError,
    POSException.MultipleUndoErrors,
    POSException.ReadOnlyError,
    POSException.StorageTransactionError,
    KeyError,
)


def test_error_without_details_is_readable():
    for details in ((), ("",), None):
        error = ServerException("builtins.AssertionError", details)
        assert str(error) == (
            "the server failed with builtins.AssertionError; its log says more"
        )


def name(error):
    return type(error).__name__


def raised(monkeypatch, error, client, server):
    """Return what a client raises when the storage of a server has raised."""

    def history(self, oid, size=1):
        raise error

    monkeypatch.setattr(MappingStorage, "history", history)
    with contextlib.ExitStack() as stack:
        address, stop = server.server(
            storage_conf="<mappingstorage>\n</mappingstorage>"
        )
        stack.callback(stop)
        storage = stack.enter_context(contextlib.closing(client.client(address)))
        with pytest.raises(Exception) as found:
            storage.history(z64)
    return found.value


def assert_same(found, error):
    assert type(found) is type(error)
    assert str(found) == str(error)
    assert _attributes(found).items() >= _attributes(error).items()
    if not vars(error):  # Otherwise these are what crosses the wire.
        assert found.args == error.args


def _attributes(error):
    """The attributes, with errors in them as texts."""
    return {key: repr(value) for key, value in vars(error).items()}


@pytest.mark.parametrize("server", [zeolite, ZEO], ids=["own server", "ZEO's server"])
@pytest.mark.parametrize("error", ERRORS, ids=name)
def test_type_and_attributes(monkeypatch, error, server):
    found = raised(monkeypatch, error, zeolite, server)
    assert_same(found, error)


@pytest.mark.parametrize("error", ERRORS, ids=name)
def test_stock_client(monkeypatch, error):
    found = raised(monkeypatch, error, ZEO, zeolite)
    if isinstance(error, KNOWN_TO_ZEO):
        assert type(found) is type(error)
        assert str(found) == str(error)
        assert _attributes(found) == _attributes(error)
    else:
        assert isinstance(found, ZEO.Exceptions.ServerException)
        assert name(error) in str(found)


class OutOfPaper(Exception):
    """Nobody else knows it."""

    def __init__(self, tray, printer):
        super().__init__(tray, printer)
        self.tray = tray
        self.printer = printer


@pytest.mark.parametrize("server", [zeolite, ZEO], ids=["own server", "ZEO's server"])
@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), OutOfPaper("tray 2", "LPT1")]
)
def test_unknown_ones_are_readable(monkeypatch, error, server):
    found = raised(monkeypatch, error, zeolite, server)
    assert type(found) is ServerException
    assert name(error) in str(found)
    for part in error.args:
        assert str(part) in str(found)
