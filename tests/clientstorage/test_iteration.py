"""Iterators over a server's transactions, and the connection that they belong to."""

import pytest
from ZODB.utils import p64

from zeolite.errors import ClientDisconnected

from .talking import OID, Background, settle

TRANSACTION = p64(3), " ", b"", b"", {}
RECORD = OID, p64(3), b"data", None


@pytest.fixture
def begun(connect):
    """A storage, its script, and an iterator of it."""
    storage, script = connect()
    begin = Background(storage.iterator)
    script.answer("iterator_start", 1)
    return storage, script, begin.result()


def test_iterator_ends_with_its_connection(fake, begun):
    """Another server may have other transactions."""
    storage, script, iterator = begun
    script.close()
    settle(storage, fake.accept())
    with pytest.raises(ClientDisconnected):
        Background(next, iterator).result()


def test_server_is_told_of_records_that_are_not_wanted_any_more(begun):
    storage, script, iterator = begun
    advance = Background(next, iterator)
    script.answer("iterator_next", TRANSACTION)
    records = iter(advance.result())
    first = Background(next, records)
    script.answer("iterator_record_start", 2)
    script.answer("iterator_record_next", RECORD)
    assert first.result().data == b"data"
    records.close()
    ask = Background(storage.history, OID)
    assert script.expect("iterator_gc")[1] == ([2],)
    script.answer("history", [])
    assert ask.result() == []
