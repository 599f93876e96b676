"""A client that must notice nothing of what another one does to the server."""

import contextlib

import pytest
from ZODB.blob import Blob
from ZODB.serialize import ObjectWriter

from .rawclient import Failed

#: The record of an object with a blob.
BLOB_RECORD = ObjectWriter().serialize(Blob())


@contextlib.contextmanager
def works_before_and_after(server):
    """A client that did nothing wrong notices nothing."""
    other = server.connect()
    other.commit(1, oids=(900,))
    yield other
    other.ask("ping")
    assert other.commit(2, oids=(901,))


def refused(client, id, words):
    with pytest.raises(Failed) as caught:
        client.ask("vote", id)
    assert words in str(caught.value.args)
    client.ask("tpc_abort", id)
