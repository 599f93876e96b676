"""Storages without blobs, and calls about blobs that no client would make."""

import logging
import os

import pytest
from ZODB.blob import BlobStorage
from ZODB.FileStorage import FileStorage
from ZODB.MappingStorage import MappingStorage
from ZODB.utils import p64, z64

from tests.support.rawclient import Failed
from tests.support.waiting import wait_until

from .blobtalk import (
    CHUNK,
    OID,
    RECORD,
    commit,
    open_storage,
    received,
    refused,
    upload,
)


@pytest.fixture
def storage(tmp_path):
    return open_storage(tmp_path)


class TestWithoutBlobs:
    @pytest.fixture
    def client(self, serve):
        return serve(MappingStorage()).connect()

    def test_upload(self, client):
        upload(client, 1)
        refused(client, 1, "Unsupported", "this storage does not have blobs")

    def test_shared(self, client):
        client.begin(1, oids=())
        client.post("storeBlobShared", OID, z64, RECORD, "a.tmp", 1)
        refused(client, 1, "Unsupported", "this storage does not have blobs")

    def test_download(self, client):
        with pytest.raises(Failed, match="Unsupported"):
            client.ask("sendBlob", OID, p64(5))

    def test_file_storage_without_a_directory(self, serve, tmp_path):
        client = serve(FileStorage(str(tmp_path / "Data.fs"))).connect()
        upload(client, 1)
        refused(client, 1, "Unsupported", "this storage does not have blobs")

    def test_wrapped_storage(self, serve, tmp_path):
        storage = BlobStorage(str(tmp_path / "blobs"), MappingStorage())
        client = serve(storage).connect()
        tid = commit(client, 1)
        assert received(client, client.call("sendBlob", OID, tid)) == CHUNK


class TestHostile:
    @pytest.mark.parametrize(
        "name, args",
        [
            ("storeBlobStart", (1,)),
            ("storeBlobChunk", ("text",)),
            ("storeBlobChunk", ()),
            ("storeBlobEnd", (OID, z64, RECORD, "1")),
            ("storeBlobEnd", (b"short", z64, RECORD, 1)),
            ("storeBlobEnd", (b"\xff" * 8, z64, RECORD, 1)),
            ("storeBlobEnd", (OID, z64, None, 1)),
            ("storeBlobShared", (OID, z64, RECORD, b"a.tmp", 1)),
            ("storeBlobShared", (OID, z64, RECORD, None, 1)),
            ("restoreBlob", (OID, None, RECORD, None, None, 1)),
            ("sendBlob", (OID,)),
            ("sendBlob", (OID, "serial")),
            ("sendBlob", (OID, z64, "room")),
            ("blobReceived", (OID, z64, None)),
        ],
    )
    def test_wrong_types_close_the_connection(self, server, caplog, name, args):
        client = server.connect()
        with caplog.at_level(logging.WARNING):
            client.post(name, *args)
            assert client.is_closed()
            wait_until(lambda: not server.served.sessions())
        assert len(caplog.records) == 1
        assert name in caplog.records[0].getMessage()

    def test_absurd_numbers(self, server):
        client = server.connect()
        tid = commit(client, 1, os.urandom(200_000))
        download = client.call("sendBlob", OID, tid, -5)
        assert client.read()[0] == "receiveBlobStart"
        client.post("blobReceived", OID, tid, 10**30)
        client.wait_for(download)
