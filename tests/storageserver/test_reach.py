"""What a client can reach: who may write, who may pack, and whose storage it is.

The tests walk over the server's own table of methods, so that one that is added to
it is tested too, or fails for want of sample arguments.
"""

import pytest
from ZODB.blob import Blob
from ZODB.FileStorage import FileStorage
from ZODB.MappingStorage import MappingStorage
from ZODB.serialize import ObjectWriter
from ZODB.utils import maxtid, p64, z64

from tests.support.rawclient import Failed, RawClient
from tests.support.waiting import wait_until
from zeolite.storageserver.calls import METHODS
from zeolite.storageserver.options import ServerOptions
from zeolite.storageserver.server import StorageServer

OID = p64(1)
RECORD = ObjectWriter().serialize(Blob())

#: Arguments of all methods but `register`, for a storage in which object 1 is.
SAMPLES = {
    "ping": (),
    "set_client_label": ("label",),
    "server_status": (),
    "get_info": (),
    "lastTransaction": (),
    "getInvalidations": (z64,),
    "loadBefore": (OID, maxtid),
    "loadSerial": (OID, z64),
    "getTid": (OID,),
    "history": (OID, 5),
    "sendBlob": (OID, z64),
    "blobReceived": (OID, z64, 1),
    "record_iternext": (None,),
    "undoLog": (0, 10),
    "undoInfo": (0, 10, None),
    "pack": (0.0, True),
    "iterator_start": (None, None),
    "iterator_next": (1,),
    "iterator_record_start": (1, z64),
    "iterator_record_next": (2,),
    "iterator_gc": ([1, 2],),
    "new_oids": (10,),
    "tpc_begin": (1, b"", b"", {}, None, " "),
    "storea": (OID, z64, b"data", 1),
    "restorea": (OID, z64, b"data", None, 1),
    "storeBlobStart": (),
    "storeBlobChunk": (b"chunk",),
    "storeBlobEnd": (OID, z64, RECORD, 1),
    "shareBlob": (1,),
    "storeBlobShared": (OID, z64, RECORD, "shared.tmp", 1),
    "restoreBlob": (OID, z64, RECORD, "shared.tmp", None, 1),
    "deleteObject": (OID, z64, 1),
    "checkCurrentSerialInTransaction": (OID, z64, 1),
    "undoa": (b"id", 1),
    "vote": (1,),
    "tpc_finish": (1,),
    "tpc_abort": (1,),
}

#: What of a storage only looks at it.  Packing is named here because it is allowed.
LOOKS = {
    "getName",
    "getSize",
    "isReadOnly",
    "lastTransaction",
    "loadBefore",
    "loadSerial",
    "getTid",
    "history",
    "openCommittedBlobFile",
    "record_iternext",
    "undoLog",
    "undoInfo",
    "supportsUndo",
    "temporaryDirectory",
    "iterator",
    "pack",
    "__len__",
    "__class__",
    "__provides__",
    "__providedBy__",
}


class Watched:
    """A storage that tells which of its attributes were asked for."""

    def __init__(self, storage):
        self._storage = storage
        self.asked = []

    def __getattribute__(self, name):
        if name in ("_storage", "asked", "__dict__"):
            return object.__getattribute__(self, name)
        self.asked.append(name)
        return getattr(self._storage, name)

    def __len__(self):
        self.asked.append("__len__")
        return len(self._storage)


class Place:
    """A server of a storage "1" with blobs and of another one, "secret"."""

    def __init__(self, tmp_path):
        self.files = FileStorage(
            str(tmp_path / "Data.fs"), blob_dir=str(tmp_path / "blobs")
        )
        self.directory = self.files.fshelper.getPathForOID(OID, create=True)
        self.storage, self.secret = Watched(self.files), Watched(MappingStorage())
        storages = {"1": self.storage, "secret": self.secret}
        self.server = StorageServer(("127.0.0.1", 0), storages, ServerOptions())
        self.server.start()
        self.clients = []
        self.connect().commit(1)
        self.session_count = len(self.server._served["1"].sessions())

    def connect(self, **kwargs):
        client = RawClient(self.server.address, **kwargs)
        self.clients.append(client)
        return client

    def connect_read_only(self):
        client = self.connect(register=False)
        client.handshake()
        client.ask("register", "1", True)
        return client

    def forget(self):
        for storage in (self.storage, self.secret):
            storage.asked.clear()

    def close(self):
        for client in self.clients:
            client.close()
        self.server.stop()


@pytest.fixture
def place(tmp_path):
    place = Place(tmp_path)
    yield place
    place.close()


def call(client, name):
    """Call a method; return its result or the error."""
    try:
        return client.ask(name, *SAMPLES[name])
    except Failed as error:
        return error


def test_there_is_a_sample_of_each_method():
    assert set(SAMPLES) == set(METHODS) - {"register"}
    for name, args in SAMPLES.items():
        METHODS[name].check(name, args)


@pytest.mark.parametrize("name", [*SAMPLES])
def test_unregistered_client_reaches_nothing(place, name):
    for one_way in (False, True):
        client = place.connect(register=False)
        client.handshake()
        place.forget()
        if one_way:
            client.post(name, *SAMPLES[name])
        else:
            client.call(name, *SAMPLES[name])
        assert client.is_closed()
        assert client.seen == []
        assert place.storage.asked == place.secret.asked == []


@pytest.mark.parametrize("name", [*SAMPLES])
def test_read_only_client_only_looks(place, name):
    client = place.connect_read_only()
    last = place.files.lastTransaction()
    place.forget()
    answer = call(client, name)
    client.post(name, *SAMPLES[name])
    client.ask("ping")
    assert set(place.storage.asked) <= LOOKS
    if METHODS[name].writes:
        assert answer.args[0] == "ZODB.POSException.ReadOnlyError"
        assert set(place.storage.asked) <= {"isReadOnly"}
    assert place.files.lastTransaction() == last


def test_read_only_client_writes_nothing_with_all_methods_in_a_row(place, tmp_path):
    """What one method has done, the next may use."""
    shared = tmp_path / "blobs" / place.directory / "shared.tmp"
    shared.write_bytes(b"of a client that may write")
    client = place.connect_read_only()
    last = place.files.lastTransaction()
    place.forget()
    for _ in range(2):
        for name in METHODS:
            if name != "register":
                client.post(name, *SAMPLES[name])
                call(client, name)
    assert set(place.storage.asked) <= LOOKS
    assert place.files.lastTransaction() == last
    client.close()
    count = place.session_count
    wait_until(lambda: len(place.server._served["1"].sessions()) <= count)
    assert shared.read_bytes() == b"of a client that may write"


def test_what_writes_is_marked(place):
    """A client that may write, and each method alone: only marked ones change."""
    for name in METHODS:
        if name == "register" or METHODS[name].writes:
            continue
        client = place.connect()
        place.forget()
        call(client, name)
        assert set(place.storage.asked) <= LOOKS, name


def test_no_method_reaches_another_storage(place):
    for read_only in (False, True):
        client = place.connect(register=False)
        client.handshake()
        client.ask("register", "1", read_only)
        place.forget()
        for name in METHODS:
            if name != "register":
                call(client, name)
                client.post(name, *SAMPLES[name])
        client.ask("ping")
        assert place.secret.asked == []
        client.call("register", "secret", True)
        assert client.is_closed()
        assert place.secret.asked == []


class TestPack:
    def connect(self, server, read_only):
        client = server.connect(register=False)
        client.handshake()
        client.ask("register", "1", read_only)
        return client

    @pytest.mark.parametrize(
        "allowed, reader, writer",
        [
            ("all", None, None),
            ("writers", "ReadOnlyError", None),
            ("none", "Unsupported", "Unsupported"),
        ],
    )
    @pytest.mark.parametrize("wait", [True, False])
    def test_who_may(self, serve, allowed, reader, writer, wait):
        packs = []

        class Storage(MappingStorage):
            def pack(self, *args, **kwargs):
                packs.append(args)

        server = serve(Storage(), allow_pack=allowed)
        for read_only, error in ((True, reader), (False, writer)):
            client = self.connect(server, read_only)
            before = len(packs)
            if error is None:
                client.ask("pack", 0.0, wait)
                wait_until(lambda before=before: len(packs) == before + 1)
            else:
                with pytest.raises(Failed, match=error):
                    client.ask("pack", 0.0, wait)
                client.post("pack", 0.0, wait)
                client.ask("ping")
                assert len(packs) == before

    def test_read_only_server_has_no_writers(self, serve):
        server = serve(read_only=True, allow_pack="writers")
        client = self.connect(server, True)
        with pytest.raises(Failed, match="ReadOnlyError"):
            client.ask("pack", 0.0, True)


@pytest.mark.parametrize("seconds", [0, 30])
def test_status_tells_whether_a_timeout_is_watched(serve, seconds):
    status = serve(transaction_timeout=seconds).connect().ask("server_status")
    assert status["timeout-thread-is-alive"] is bool(seconds)


@pytest.mark.parametrize("can", [False, True])
def test_storage_says_whether_it_can_undo(serve, storage, can):
    storage.supportsUndo = lambda: can
    assert serve(storage).connect().ask("get_info")["supportsUndo"] is can
