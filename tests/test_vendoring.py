"""The folder `zeolite`, copied into another package, and imported by another name."""

import hashlib
import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest
import transaction

import zeolite
from tests.support.processes import running

SCRIPT = """
import sys
import transaction, ZODB.config
from app.vendor import zeolite
address, stop = zeolite.server(zeo_conf={"read-only": "false"})
connection = zeolite.connection(address)
connection.root()["x"] = 1
transaction.commit()
connection.close()
host, port = address
%s
stop()
assert not [name for name in sys.modules if name.split(".")[0] == "zeolite"]
"""

SECTIONS = """
for start, section in [
    ("%import app.vendor.zeolite", "clientstorage"),
    ("%import app.vendor.zeolite.as_zeo", "zeoclient"),
    ("%import ZEO", "clientstorage"),
]:
    db = ZODB.config.databaseFromString(
        f"{start}\\n<zodb>\\n<{section}>\\nserver {port}\\n</{section}>\\n</zodb>\\n"
    )
    assert type(db.storage) is zeolite.ClientStorage
    with db.transaction() as connection:
        print(connection.root()["x"])
    db.close()
"""

URI = """
from app.vendor.zeolite.uri import resolve
factory, _ = resolve(f"zeolite://{host}:{port}/")
factory().close()
print("opened")
"""


@pytest.fixture(params=["folder", "zip"])
def vendored(request, tmp_path):
    """Call it, with whether to change the prefix; returns what to put on the path."""

    def vendored(prefix=True):
        package = tmp_path / "src" / "app" / "vendor" / "zeolite"
        shutil.copytree(
            pathlib.Path(zeolite.__file__).parent,
            package,
            ignore=shutil.ignore_patterns("__pycache__"),
        )
        for directory in (package.parent, package.parent.parent):
            (directory / "__init__.py").touch()
        if prefix:
            component = package / "component.xml"
            text = component.read_text()
            changed = text.replace('prefix="zeolite"', 'prefix="app.vendor.zeolite"')
            assert changed != text
            component.write_text(changed)
        if request.param == "folder":
            return tmp_path / "src"
        return pathlib.Path(
            shutil.make_archive(str(tmp_path / "app"), "zip", tmp_path / "src")
        )

    return vendored


def run(path, cwd, script):
    environment = {
        **os.environ,
        "PYTHONPATH": str(path),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    return subprocess.check_output(
        [sys.executable, "-c", script], text=True, cwd=cwd, env=environment
    )


def fingerprint(path):
    files = [path] if path.is_file() else sorted(path.rglob("*"))
    return {f: hashlib.md5(f.read_bytes()).digest() for f in files if f.is_file()}


def test_works_with_one_line_changed(vendored, tmp_path):
    path = vendored()
    before = fingerprint(path)
    output = run(path, tmp_path, SCRIPT % (SECTIONS + URI))
    assert output == "1\n1\n1\nopened\n"
    assert fingerprint(path) == before


def test_only_import_needs_the_line(vendored, tmp_path):
    assert run(vendored(prefix=False), tmp_path, SCRIPT % URI) == "opened\n"


def test_as_a_process(vendored, tmp_path):
    path = vendored(prefix=False)
    (tmp_path / "zeolite.conf").write_text(
        "<zeolite>\naddress 127.0.0.1:0\n</zeolite>\n<filestorage>\npath Data.fs\n"
        "</filestorage>\n"
    )
    module = "app.vendor.zeolite"
    with running(
        module=module, cwd=tmp_path, PYTHONPATH=str(path), PYTHONDONTWRITEBYTECODE="1"
    ) as server:
        connection = zeolite.connection(server.address())
        connection.root()["x"] = 1
        transaction.commit()
        connection.close()
        assert server.kill() == 0


def test_only_relative_imports_inside():
    """Or the copy would use what else is installed by the name."""
    root = pathlib.Path(zeolite.__file__).parent
    absolute = re.compile(r"^\s*(from|import) zeolite\b", re.MULTILINE)
    for path in root.rglob("*.py"):
        text = path.read_text()
        docs = re.sub(r'""".*?"""', "", text, flags=re.DOTALL)
        assert not absolute.search(docs), path
