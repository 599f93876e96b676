"""The annotations of the public API, as editors and mypy use them."""

import inspect
import pathlib
import subprocess
import sys

import pytest

import zeolite
from zeolite.clientstorage.committing import Committing
from zeolite.clientstorage.reading import Reading

ROOT = pathlib.Path(zeolite.__file__).parent.parent

RIGHT = """\
import os
import ssl
from collections.abc import Callable

import zeolite
from zeolite.errors import ClientDisconnected, ConfigurationError
from zeolite.interfaces import Serving, StaleCache

address, stop = zeolite.server("Data.fs", zeo_conf={"read-only": True}, port=8100)
host, port = address
db = zeolite.DB(port, cache_size=2**20, blob_dir=os.curdir)
db = zeolite.DB([8100, ("db2", 8100), "/run/socket"], storage="main", wait=False)
connection = zeolite.connection(("db1", 8100), "main", ssl=ssl.create_default_context())
root = connection.root()


def progress(kind: str, oid: bytes, done: int, total: int | None) -> None:
    print(kind, done)


def where() -> zeolite.Address:
    return [("db1", 8100), 8200]


def heard(event: object) -> None:
    if isinstance(event, Serving):
        print(event.address)
    elif isinstance(event, StaleCache):
        storage: zeolite.ClientStorage = event.storage
        storage.close()


try:
    storage = zeolite.client(where(), blob_progress=progress, wait_timeout=0.5)
    last: bytes = storage.lastTransaction()
    found = storage.loadBefore(b"\\0" * 8, last)
    if found is not None:
        data, start, end = found
        size: int = len(data)
    storage.pack(days=3, gc=False)
    for transaction in storage.iterator(start=last):
        print(transaction.tid)
    statistics = storage.cache_statistics()
    if statistics is not None:
        print(statistics.hits)
    finish: Callable[[], None] = stop
    zeolite.install_as_ZEO()
except (ClientDisconnected, ConfigurationError) as error:
    print(error.args)
"""

#: Lines of a script that imports zeolite, and what is said of each.
WRONG = [
    ("zeolite.client(8100, cache_sise=5)", 'argument "cache_sise"'),
    ("zeolite.client()", 'argument "addr"'),
    ("zeolite.DB(8.5)", 'has incompatible type "float"'),
    ("zeolite.DB(8100, cache_size='20MB')", 'expected "int"'),
    ("zeolite.connection(8100, read_only='yes')", 'expected "bool"'),
    ("zeolite.client(8100, ssl=True)", 'expected "SSLContext | None"'),
    ("zeolite.client(8100, username='me')", "expected"),
    ("zeolite.client(8100, blob_progress=len)", "expected"),
    ("zeolite.ClientStorage(8100, wait_timeout='30')", 'expected "float | None"'),
    ("zeolite.server(path=5)", "expected"),
    ("zeolite.server(flavour=5)", 'argument "flavour"'),
    ("zeolite.client(8100).history('oid')", 'expected "bytes"'),
    ("zeolite.client(8100).pack(gc='no')", 'expected "bool | None"'),
    ("zeolite.client(8100).loadBefore(b'')", 'argument "tid"'),
    ("x: str = zeolite.client(8100).lastTransaction()", "Incompatible types"),
    ("zeolite.cleint(8100)", "has no attribute"),
]


def check(*arguments, cwd):
    pytest.importorskip("mypy")
    return subprocess.run(
        [sys.executable, "-m", "mypy", "--no-error-summary", *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
    )


def test_public_modules_are_consistent(tmp_path):
    """By the settings in pyproject.toml."""
    result = check("--cache-dir", tmp_path, cwd=ROOT)
    assert result.returncode == 0, result.stdout + result.stderr


def test_what_users_write_is_judged(tmp_path):
    """The right script is, as a whole, right; each wrong line is wrong."""
    right, wrong = tmp_path / "right.py", tmp_path / "wrong.py"
    right.write_text(RIGHT)
    wrong.write_text("\n".join(["import zeolite", *(line for line, _ in WRONG), ""]))
    result = check("--ignore-missing-imports", "--strict", right, wrong, cwd=tmp_path)
    said = {}
    for line in result.stdout.splitlines():
        place, _, text = line.partition(" error: ")
        if text:
            said[place] = said.get(place, "") + text
    assert [place for place in said if place.startswith("right")] == []
    for number, (line, words) in enumerate(WRONG, 2):
        assert words in said.pop(f"wrong.py:{number}:", ""), line
    assert said == {}


def test_all_that_is_public_is_annotated_and_explained():
    functions = [getattr(zeolite, name) for name in ("server", "install_as_ZEO")]
    functions += [zeolite.client, zeolite.DB, zeolite.connection]
    for cls in (zeolite.ClientStorage, Reading, Committing):
        functions += [
            value
            for name, value in vars(cls).items()
            if inspect.isfunction(value)
            and not name.startswith("_")
            and value.__module__.startswith("zeolite")
        ]
    for function in functions:
        assert function.__doc__, function
        signature = inspect.signature(function)
        assert signature.return_annotation is not inspect.Signature.empty, function
        for name, parameter in signature.parameters.items():
            assert name == "self" or parameter.annotation != parameter.empty, function


def test_functions_are_shown_with_the_arguments_that_they_take():
    wanted = inspect.signature(zeolite.ClientStorage).parameters
    for function in (zeolite.client, zeolite.DB, zeolite.connection):
        assert inspect.signature(function).parameters == wanted


def test_marker_and_schemas_are_packaged():
    text = (ROOT / "setup.py").read_text()
    for name in ("py.typed", "component.xml", "schema.xml", "as_zeo/component.xml"):
        assert (ROOT / "zeolite" / name).exists()
    assert '"zeolite": ["*.xml", "py.typed"]' in text
    assert '"zeolite.as_zeo": ["*.xml"]' in text
