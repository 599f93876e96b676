"""`zeolite.server`, as scripts use it."""

import logging
import os
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
from tests.support.roots import root, store
from zeolite.errors import ClientDisconnected, ConfigurationError


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
