"""Arguments and settings of `zeolite.server`, and those that cannot work."""

import dataclasses
import os
import pathlib
import re

import pytest
from ZODB.FileStorage import FileStorage

import zeolite
from tests.support.roots import store
from zeolite.adhoc import server_settings
from zeolite.errors import ClientDisconnected, ConfigurationError
from zeolite.storageserver.options import ServerOptions

WHOLE_FILE = "<zeo>\naddress 0\n</zeo>\n<filestorage>\npath Data.fs\n</filestorage>"
WHOLE_LOG = "<zeo>\naddress 0\n</zeo>\n<eventlog>\n</eventlog>"


@pytest.mark.parametrize(
    "value, is_read_only", [(1, True), (True, True), (0, False), (None, False)]
)
def test_settings_that_are_no_text(value, is_read_only):
    settings = {"read_only": value, "transaction_timeout": None, "client_timeout": 7}
    options, _, _ = server_settings(settings)
    assert options.read_only is is_read_only
    expected = dataclasses.replace(ServerOptions(), client_timeout=7)
    assert dataclasses.replace(options, read_only=False) == expected


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
        ("busy_polling", "false", False),
        ("storage_instances", "3", 3),
        ("storage_cache_size", "1MB", 2**20),
        ("poll_interval", "0.25", 0.25),
    ],
)
def test_each_limit_is_a_key(key, text, value):
    options, _, _ = server_settings({key: text})
    assert getattr(options, key) == value
    assert options == dataclasses.replace(ServerOptions(), **{key: value})


def test_lines_are_told_where_they_are_the_users():
    with pytest.raises(ConfigurationError, match=r"^the keys in zeo_conf: msgpack is"):
        zeolite.server(zeo_conf="msgpack true")
    with pytest.raises(ConfigurationError, match=r"^zeo_conf, line 3: msgpack is"):
        zeolite.server(zeo_conf="<zeolite>\naddress 0\nmsgpack true\n</zeolite>")


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


@pytest.mark.parametrize("value", ["-1", "x", "inf", "10001"])
def test_keep_alive_of_the_server(value):
    with pytest.raises(ConfigurationError):
        zeolite.server(zeo_conf={"keep_alive": value})
