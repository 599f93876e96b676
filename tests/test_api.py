"""`zeolite.server`, `client`, `DB` and `connection`, as scripts use them."""

import dataclasses
import logging
import os
import pathlib
import re
import subprocess
import sys

import pytest
import transaction
import ZODB.blob
import ZODB.config
import ZODB.interfaces
from ZODB.FileStorage import FileStorage

import zeolite
from tests.support.processes import free_port
from zeolite.adhoc import server_settings
from zeolite.errors import ClientDisconnected, ConfigurationError
from zeolite.storageserver.options import ServerOptions

WHOLE_FILE = "<zeo>\naddress 0\n</zeo>\n<filestorage>\npath Data.fs\n</filestorage>"
WHOLE_LOG = "<zeo>\naddress 0\n</zeo>\n<eventlog>\n</eventlog>"


@pytest.fixture
def serve():
    stops = []

    def serve(*args, **kwargs):
        address, stop = zeolite.server(*args, **kwargs)
        stops.append(stop)
        return address

    yield serve
    for stop in stops:
        stop()


def store(address, **values):
    connection = zeolite.connection(address)
    connection.root().update(values)
    transaction.commit()
    connection.close()


def root(address):
    connection = zeolite.connection(address)
    try:
        return dict(connection.root())
    finally:
        connection.close()


def test_two_that_find_a_storage_empty(serve, monkeypatch):
    """Both make its root object, and one is later."""
    address = serve()
    tpc_begin = zeolite.ClientStorage.tpc_begin

    def later(storage, *args):
        monkeypatch.undo()
        store(address, x=1)
        return tpc_begin(storage, *args)

    monkeypatch.setattr(zeolite.ClientStorage, "tpc_begin", later)
    db = zeolite.DB(address)
    with db.transaction() as connection:
        assert connection.root()["x"] == 1
    db.close()


def test_connection_that_cannot_be_opened_leaves_nothing_open(serve, monkeypatch):
    address = serve()
    store(address, x=1)
    made = []

    def make_database(*args, database=zeolite.DB):
        db = database(*args)
        made.append(db.storage)
        return db

    def fail(*args):
        raise ClientDisconnected("lost meanwhile")

    monkeypatch.setattr(zeolite, "DB", make_database)
    open_name = "open_then_close_db_when_connection_closes"
    monkeypatch.setattr(ZODB.DB, open_name, fail)
    with pytest.raises(ClientDisconnected, match="lost meanwhile"):
        zeolite.connection(address)
    assert not made[0].is_connected()


def test_in_memory(serve):
    address = serve()
    store(address, x=1)
    assert root(address) == {"x": 1}


def test_from_another_process(serve):
    address = serve()
    store(address, x=1)
    script = (
        f"import zeolite; connection = zeolite.connection({address!r}); "
        "print(connection.root()['x']); connection.close()"
    )
    assert subprocess.check_output([sys.executable, "-c", script], text=True) == "1\n"


def test_file_storage_outlives_the_server(tmp_path):
    path = str(tmp_path / "Data.fs")
    for value in (1, 2):
        address, stop = zeolite.server(path)
        if value == 2:
            assert root(address) == {"x": 1}
        store(address, x=value)
        stop()


def test_storage_section(serve):
    address = serve(storage_conf="<demostorage>\n</demostorage>")
    store(address, x=1)
    assert root(address) == {"x": 1}


def test_storage_section_with_a_name(serve):
    """It is the storage's name, as in a server's file."""
    address = serve(storage_conf="<mappingstorage main>\n</mappingstorage>")
    storage = zeolite.client(address, storage="main")
    assert storage.is_connected()
    storage.close()
    with pytest.raises(ClientDisconnected, match="this server has 'main'"):
        zeolite.client(address)


def test_storage_sections(serve):
    address = serve(storage_conf="<mappingstorage a/>\n<demostorage b/>\n")
    for name in "ab":
        connection = zeolite.connection(address, name)
        connection.root()["x"] = name
        transaction.commit()
        connection.close()
    for name in "ab":
        connection = zeolite.connection(address, name)
        assert connection.root()["x"] == name
        connection.close()


def test_storages_of_a_server_that_does_not_start_are_closed(tmp_path):
    file = f"<filestorage a>\npath {tmp_path}/Data.fs\n</filestorage>\n"
    other = f"<filestorage b>\npath {tmp_path}\n</filestorage>\n"
    with pytest.raises(IsADirectoryError):
        zeolite.server(storage_conf=file + other)
    FileStorage(str(tmp_path / "Data.fs")).close()  # It is not locked.


@pytest.mark.parametrize("path", [None, "Data.fs"])
def test_blobs_of_a_server_that_goes_elsewhere(serve, path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    address = serve(path, blob_dir="blobs")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    connection = zeolite.connection(address, blob_dir="cache")
    connection.root()["x"] = ZODB.blob.Blob(b"data")
    transaction.commit()
    connection.close()
    connection = zeolite.connection(address, blob_dir="other")
    with connection.root()["x"].open() as blob:
        assert blob.read() == b"data"
    connection.close()
    assert sorted(os.listdir()) == ["cache", "other"]


@pytest.mark.parametrize(
    "value, is_read_only", [(1, True), (True, True), (0, False), (None, False)]
)
def test_settings_that_are_no_text(value, is_read_only):
    settings = {"read_only": value, "transaction_timeout": None, "client_timeout": 7}
    options, _, _ = server_settings(settings)
    assert options.read_only is is_read_only
    expected = dataclasses.replace(ServerOptions(), client_timeout=7)
    assert dataclasses.replace(options, read_only=False) == expected


def test_log_of_a_server(tmp_path):
    logger = logging.getLogger("zeolite.storageserver")
    before = logger.level, list(logger.handlers)
    paths = tmp_path / "a.log", tmp_path / "b.log"
    (address, stop), (_, stop_other) = (zeolite.server(log=path) for path in paths)
    stop_other()
    store(address, x=1)
    stop()
    stop()
    text = paths[0].read_text()
    assert re.search(
        rf"INFO serving storage 1 at {address[0]}:{address[1]}$", text, re.M
    )
    assert "registered for storage 1, read-write" in text
    assert re.search("INFO stopped serving at .*\n$", text)
    assert (logger.level, logger.handlers) == before
    _, stop = zeolite.server()
    stop()
    assert paths[0].read_text() == text


def test_log_of_a_server_that_does_not_start(tmp_path):
    handlers = list(logging.getLogger("zeolite.storageserver").handlers)
    with pytest.raises(OSError, match="nowhere"):
        zeolite.server(tmp_path / "nowhere" / "Data.fs", log=tmp_path / "log")
    assert logging.getLogger("zeolite.storageserver").handlers == handlers
    with pytest.raises(OSError, match="nowhere"):
        zeolite.server(log=tmp_path / "nowhere" / "log")


def test_integer_is_a_local_port(serve):
    host, port = serve()
    assert host == "127.0.0.1"
    store(port, x=1)
    assert root((host, port)) == {"x": 1}


def test_given_port(serve):
    port = free_port()
    assert serve(port=port) == ("127.0.0.1", port)


def test_list_of_addresses(serve):
    address = serve()
    store([free_port(), address], x=1)
    assert root([address]) == {"x": 1}


def test_unix_socket(serve, tmp_path):
    path = str(tmp_path / "socket")
    assert serve(port=path) == path
    store(path, x=1)
    assert root(path) == {"x": 1}
    assert (tmp_path / "socket").stat().st_mode & 0o777 == 0o600


def test_unix_socket_that_was_left_behind(tmp_path):
    import socket

    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
    address, stop = zeolite.server(port=str(path))
    with pytest.raises(OSError):
        zeolite.server(port=str(path))
    store(address, x=1)
    stop()
    assert not path.exists()


def test_file_is_not_taken_for_a_socket(tmp_path):
    path = tmp_path / "Data.fs"
    path.write_text("important")
    with pytest.raises(OSError, match="no socket"):
        zeolite.server(port=str(path))
    assert path.read_text() == "important"


def test_ipv6(serve):
    try:
        address = serve(host="::1")
    except OSError:
        pytest.skip("no IPv6 here")
    assert address[0] == "::1"
    store(address, x=1)
    assert root(address) == {"x": 1}


@pytest.mark.parametrize("conf", [{"read_only": "true"}, "read-only true\n"])
def test_server_settings(serve, conf):
    address = serve(zeo_conf=conf)
    with pytest.raises(ClientDisconnected, match="read-only"):
        zeolite.client(address, wait_timeout=1000)
    storage = zeolite.client(address, read_only=True)
    assert storage.isReadOnly()
    storage.close()


@pytest.mark.parametrize(
    "key, text, value",
    [
        ("allow_pack", "Writers", "writers"),
        ("unix_socket_mode", "0660", 0o660),
        ("unix_socket_mode", "660", 0o660),
        ("handshake_timeout", "2.5", 2.5),
        ("client_timeout", "90", 90),
        ("max_register_size", "8KB", 8192),
        ("max_message_size", "1GB", 2**30),
        ("max_unfinished_size", "0", 0),
        ("max_connections", "7", 7),
        ("max_connections_per_address", "0", 0),
        ("max_transactions", "2", 2),
        ("max_transaction_size", "10GB", 10 * 2**30),
        ("idle_transaction_timeout", "0", 0),
        ("max_iterators", "5", 5),
        ("max_background_calls", "4", 4),
        ("storage_instances", "3", 3),
        ("storage_cache_size", "1MB", 2**20),
        ("poll_interval", "0.25", 0.25),
    ],
)
def test_each_limit_is_a_key(key, text, value):
    options, _, _ = server_settings({key: text})
    assert getattr(options, key) == value
    assert options == dataclasses.replace(ServerOptions(), **{key: value})


def test_defaults_of_the_keys_are_those_of_the_options():
    assert server_settings("read-only false\n")[0] == ServerOptions()


def test_all_options_are_keys_that_the_documents_have():
    root = pathlib.Path(zeolite.__file__).parent.parent
    example = (root / "zeolite.conf.example").read_text()
    readme = (root / "README.txt").read_text()
    for field in dataclasses.fields(ServerOptions):
        key = field.name.replace("_", "-")
        assert re.search(rf"^  # {key} ", example, re.MULTILINE), key
        assert re.search(rf"^{key}\b.* \(", readme, re.MULTILINE), key


@pytest.mark.parametrize(
    "key, text",
    [
        ("allow_pack", "some"),
        ("unix_socket_mode", "rw-rw----"),
        ("unix_socket_mode", "0999"),
        ("unix_socket_mode", "1777"),
        ("unix_socket_mode", "-1"),
        ("handshake_timeout", "0"),
        ("client_timeout", "1e9"),
        ("max_register_size", "10"),
        ("max_message_size", "64KB"),
        ("max_message_size", "4096MB"),
        ("max_unfinished_size", "-1"),
        ("max_connections", "-1"),
        ("max_transactions", "0"),
        ("max_transaction_size", "-1"),
        ("idle_transaction_timeout", "-1"),
        ("max_iterators", "0"),
        ("max_background_calls", "none"),
    ],
)
def test_limits_that_cannot_work(key, text):
    with pytest.raises(ConfigurationError, match=f"{text}|invalid literal"):
        zeolite.server(zeo_conf={key: text})


def test_settings_may_open_a_unix_socket_to_others(serve, tmp_path):
    path = str(tmp_path / "socket")
    address = serve(port=path, zeo_conf={"unix_socket_mode": "0666"})
    assert os.stat(path).st_mode & 0o777 == 0o666
    store(address, x=1)


def test_mode_without_a_unix_socket_is_refused(tmp_path):
    with pytest.raises(ConfigurationError, match="unix-socket-mode is for a Unix"):
        zeolite.server(str(tmp_path / "Data.fs"), zeo_conf={"unix_socket_mode": "0660"})
    FileStorage(str(tmp_path / "Data.fs")).close()  # It is not locked.


@pytest.mark.parametrize(
    "arguments, text",
    [
        ({"zeo_conf": {"flavour": "x"}}, "flavour"),
        ({"zeo_conf": {"msgpack": "true"}}, "msgpack"),
        ({"zeo_conf": {"transaction_timeout": "soon"}}, "soon"),
        ({"path": "x", "storage_conf": "<mappingstorage/>"}, "storage_conf"),
        ({"storage_conf": "<mappingstorag/>"}, "storage_conf, line 1: .*mappingstorag"),
        ({"storage_conf": "<mappingstorage/>\n" * 2}, "two storages are called '1'"),
        ({"storage_conf": "<zeo>\naddress 1\n</zeo>"}, "storage_conf, line"),
        (
            {"storage_conf": "<mappingstorage/>\n<eventlog>\n</eventlog>"},
            "logs are the script's; see the argument log",
        ),
    ],
)
def test_settings_that_cannot_work(arguments, text):
    with pytest.raises(ConfigurationError, match=text):
        zeolite.server(**arguments)


@pytest.mark.parametrize("port", ["8100", "localhost:8100", "http://localhost", ""])
def test_text_that_is_no_path_of_a_socket(port, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError):
        zeolite.server(port=port)
    assert os.listdir() == []


@pytest.mark.parametrize(
    "arguments, error, text",
    [
        ({"path": 8100}, TypeError, "write port=8100"),
        ({"path": ("127.0.0.1", 0)}, TypeError, "write port=.'127.0.0.1', 0."),
        ({"path": b"Data.fs"}, TypeError, "path is a path .str., not b'Data.fs'"),
        ({"path": ""}, ValueError, "path is empty"),
        ({"path": "Data.fs", "blob_dir": 7}, TypeError, "blob_dir is the path"),
        ({"port": -1}, ValueError, "-1 is no port"),
        ({"port": 99999}, ValueError, "99999 is no port"),
        ({"port": None}, TypeError, "port is a number, .* not None"),
        ({"port": 8100.0}, TypeError, "port is a number, .* not 8100.0"),
        ({"port": True}, TypeError, "port is a number"),
        ({"port": ("127.0.0.1", "0")}, TypeError, "port is a number"),
        ({"port": ("127.0.0.1", 0, 0)}, TypeError, "port is a number"),
        ({"host": None}, TypeError, "host is a str"),
        ({"zeo_conf": ["read-only"]}, TypeError, "zeo_conf is a dictionary"),
        ({"storage_conf": 7}, TypeError, "storage_conf is a storage's section"),
        ({"zeo_conf": {"address": "1"}}, ConfigurationError, "port and host say"),
        ({"zeo_conf": "address 8100"}, ConfigurationError, "port and host say"),
        ({"zeo_conf": {"pid_filename": "x"}}, ConfigurationError, "pid-filename is"),
        ({"zeo_conf": WHOLE_FILE}, ConfigurationError, "goes into storage_conf"),
        ({"zeo_conf": WHOLE_LOG}, ConfigurationError, "logs are the script's"),
    ],
)
def test_arguments_that_make_no_sense(arguments, error, text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=text):
        zeolite.server(**arguments)
    assert os.listdir() == []


def test_paths_may_be_objects(serve, tmp_path):
    address = serve(tmp_path / "Data.fs", tmp_path / "blobs", port=tmp_path / "socket")
    assert address == str(tmp_path / "socket")
    store(address, x=1)
    assert (tmp_path / "Data.fs").stat().st_size > 100
    assert (tmp_path / "blobs").is_dir()


def test_server_at_the_address_of_an_earlier_one(serve):
    address, stop = zeolite.server()
    stop()
    assert serve(port=address) == address


@pytest.mark.parametrize("section", ["zeo", "zeolite"])
def test_whole_section_with_its_address(serve, section):
    port = free_port()
    conf = f"# Ours.\n<{section}>\naddress 127.0.0.1:{port}\nread-only true\n"
    conf += f"</{section}>"
    assert serve(zeo_conf=conf) == ("127.0.0.1", port)
    storage = zeolite.client(port, read_only=True)
    assert storage.isReadOnly()
    storage.close()


def test_address_with_a_space(serve):
    """As ZEO takes it; its own tests have it."""
    port = free_port()
    serve(zeo_conf=f"<zeo>\naddress 127.0.0.1: {port}\n</zeo>")
    storage = ZODB.config.storageFromString(
        f"%import zeolite\n<clientstorage>\nserver 127.0.0.1: {port}\n</clientstorage>"
    )
    assert storage.is_connected()
    storage.close()


def test_two_addresses(serve):
    conf = f"<zeo>\naddress {free_port()}\n</zeo>"
    with pytest.raises(ConfigurationError, match="there is an address in zeo_conf"):
        zeolite.server(zeo_conf=conf, port=free_port())


def test_address_in_use_is_named(serve):
    host, port = serve()
    with pytest.raises(OSError, match=f"in use: {host}:{port}"):
        zeolite.server(port=port)


def test_the_child_of_a_fork_leaves_the_server_alone(serve):
    address, stop = zeolite.server()
    try:
        child = os.fork()
        if not child:
            try:
                stop()
                os._exit(0)
            finally:
                os._exit(1)
        assert os.waitpid(child, 0)[1] == 0
        store(address, x=1)
        assert root(address) == {"x": 1}
    finally:
        stop()


def test_address_in_use_leaves_nothing_open(serve, tmp_path):
    _, port = serve()
    path = str(tmp_path / "Data.fs")
    with pytest.raises(OSError):
        zeolite.server(path, port=port)
    serve(path)  # It is not locked.


def test_stop_disconnects():
    address, stop = zeolite.server()
    db = zeolite.DB(address, wait_timeout=0.2)
    stop()
    with pytest.raises(ClientDisconnected):
        db.storage.ping()
    db.close()


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


def test_names(serve):
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


@pytest.mark.parametrize("value", ["-1", "x", "inf", "10001"])
def test_keep_alive_of_the_server(value):
    with pytest.raises(ConfigurationError):
        zeolite.server(zeo_conf={"keep_alive": value})


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
