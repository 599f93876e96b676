"""`zeolite.client`, `DB` and `connection`, and sections for them, as scripts use them."""

import pytest
import transaction
import ZODB.blob
import ZODB.config
import ZODB.interfaces

import zeolite
from tests.support.processes import free_port
from tests.support.roots import store
from zeolite.errors import ConfigurationError


def test_class_and_interfaces(serve):
    storage = zeolite.ClientStorage(serve())
    assert ZODB.interfaces.IStorage.providedBy(storage)
    storage.close()


def test_two_databases_see_each_other(serve):
    address = serve()
    first, second = zeolite.DB(address), zeolite.DB(address, server_sync=True)
    manager = transaction.TransactionManager()
    reader = second.open(manager)
    assert "x" not in reader.root()
    with first.transaction() as connection:
        connection.root()["x"] = 1
    manager.begin()
    assert reader.root()["x"] == 1
    first.close()
    second.close()


def test_clientstorage_section(serve):
    import ZODB.config

    _, port = serve()
    store(port, x=1)
    db = ZODB.config.databaseFromString(
        f"""
        %import zeolite
        <zodb>
          <clientstorage>
            server {port}
            server 127.0.0.1:{port}
            storage 1
            cache-size 5MB
            name app
            client-label app
            wait on
            wait-timeout 10
            disconnect-poll 0.5
            keep-alive 20
            read-only off
            read-only-fallback on
            shared-blob-dir no
            blob-cache-size-check 10
            server-sync on
          </clientstorage>
        </zodb>
        """
    )
    with db.transaction() as connection:
        assert connection.root()["x"] == 1
    assert db.storage.getName() == "app (connected)"
    db.close()


@pytest.mark.parametrize(
    "line, text",
    [
        ("wait-timeout soon", "soon"),
        ("wait-timeout -1", "-1"),
        ("wait-timeout nan", "nan"),
        ("disconnect-poll 0", "greater than 0"),
        ("disconnect-poll -1", "-1"),
        ("keep-alive -1", "-1"),
        ("keep-alive 20000", "more than 10000 seconds"),
        ("read-only-fallback perhaps", "perhaps"),
        ("flavour sweet", "flavour"),
    ],
)
def test_clientstorage_section_that_cannot_work(line, text):
    import ZConfig
    import ZODB.config

    with pytest.raises(ZConfig.ConfigurationError, match=text):
        ZODB.config.storageFromString(
            f"%import zeolite\n<clientstorage>\nserver 1\n{line}\n</clientstorage>"
        )


def test_clientstorage_section_without_waiting():
    import ZODB.config

    storage = ZODB.config.storageFromString(
        "%import zeolite\n<clientstorage>\n"
        f"server {free_port()}\nwait off\n</clientstorage>"
    )
    assert not storage.is_connected()
    storage.close()


def test_name_and_sort_key_tell_storages_apart(serve):
    """What a transaction and its log know the storage by."""
    address = serve()
    unnamed = zeolite.client(address, name=None)
    named = zeolite.client(address, name="app")
    other = zeolite.client(serve(), name="app")
    host, port = address
    assert unnamed.getName() == f"{host}:{port} (connected)"
    assert unnamed.__name__ == f"{host}:{port}"
    assert named.getName() == "app (connected)"
    # Where they commit together, the order is one that all clients agree on.
    assert named.sortKey() == unnamed.sortKey() == f"1:('{host}', {port})"
    assert other.sortKey() != named.sortKey()
    before = named.sortKey()
    named.new_addr(other._connection._addresses)
    assert named.sortKey() == before
    for storage in (unnamed, named, other):
        storage.close()
    assert named.getName() == "app (disconnected)"


def keys(*addresses):
    storages = [zeolite.client(address, wait=False) for address in addresses]
    try:
        return [storage.sortKey() for storage in storages]
    finally:
        for storage in storages:
            storage.close()


def test_clients_that_spread_over_servers_commit_in_one_order():
    """Otherwise two could wait for each other's commit locks."""
    one, other = keys([("::1", 1), ("::1", 2), "/a"], ["/a", ("::1", 2), ("::1", 1)])
    assert one == other


def test_clients_of_zeo_commit_in_the_same_order():
    """ZEO's key is the text of a pair, which puts a host before those it begins."""
    hosts = "127.0.0.1", "127.0.0.10", "127.0.0.1-x", "127.0.0.x"
    pairs = [(host, 1) for host in hosts]
    found = keys(*pairs)
    assert sorted(pairs, key=str) == sorted(pairs, key=lambda p: found[pairs.index(p)])


def test_where_the_blobs_are(tmp_path, serve):
    address = serve(tmp_path / "Data.fs", tmp_path / "blobs")
    for shared, name in (False, "cache"), (True, "blobs"):
        storage = zeolite.client(
            address, blob_dir=tmp_path / name, shared_blob_dir=shared
        )
        assert (storage.blob_dir, storage.shared_blob_dir) == (
            str(tmp_path / name),
            shared,
        )
        storage.close()
    storage = zeolite.client(address)
    assert (storage.blob_dir, storage.shared_blob_dir) == (None, False)
    storage.close()


def test_clientstorage_section_with_blobs(tmp_path, serve):
    import ZODB.config

    address = serve(str(tmp_path / "Data.fs"), blob_dir=str(tmp_path / "blobs"))
    section = f"""
        %%import zeolite
        <clientstorage>
          server {address[0]}:{address[1]}
          blob-dir {tmp_path / "cache"}
          blob-cache-size 1MB
          blob-cache-size-check %s
        </clientstorage>
        """
    storage = ZODB.config.storageFromString(section % 20)
    assert storage.temporaryDirectory().startswith(str(tmp_path / "cache"))
    assert storage._blobs._check._share == 1024 * 1024 // 5
    storage.close()
    with pytest.raises(ConfigurationError, match="from 0 to 99"):
        ZODB.config.storageFromString(section % 100)
