"""Running commands in this process, and servers of all the kinds an operator meets."""

import contextlib

import pytest
import transaction
import ZODB
from ZODB.blob import Blob
from ZODB.FileStorage import FileStorage

import zeolite
from tests.support import deadservers
from tests.support.certificates import Files, issue
from zeolite.__main__ import main

FILE_STORAGE = """\
<filestorage>
path {0}/Data.fs
blob-dir {0}/blobs
</filestorage>
"""


@pytest.fixture
def run(capfd):
    """Call it to get (status, what it said on stdout, on stderr)."""

    def run(*arguments):
        try:
            status = main([str(argument) for argument in arguments])
        except SystemExit as end:
            status = end.code
        return (status, *capfd.readouterr())

    return run


def text(address):
    """An address as an argument."""
    return address if isinstance(address, str) else f"{address[0]}:{address[1]}"


@pytest.fixture
def start(request, tmp_path):
    """Call it to get the address of a server of a kind, as an argument.

    Kinds are zeolite, stock ZEO, read-only and TLS.  All have the file storage
    `tmp_path / "server"`, with blobs.
    """
    with contextlib.ExitStack() as stack:

        def start(kind="zeolite", storage=None):
            directory = tmp_path / "server"
            directory.mkdir(exist_ok=True)
            name = "zeo_host" if kind == "stock ZEO" else "host"
            settings, tls = {}, None
            if kind == "read-only":
                settings["read_only"] = "true"
            if kind == "TLS":
                certificate = Files(tmp_path).both(issue(), "server.pem")
                tls = {"certificate": str(certificate)}
            hosted = request.getfixturevalue(name).start(
                storage or FILE_STORAGE.format(directory), tls=tls, **settings
            )
            stack.callback(hosted.stop)
            return text(hosted.address)

        yield start


@pytest.fixture
def options(tmp_path):
    """The options that a server of some kind needs."""

    def options(kind):
        if kind != "TLS":
            return []
        return ["--ssl-authenticate", Files(tmp_path).authority()]

    return options


KINDS = "zeolite", "stock ZEO", "read-only", "TLS"


@contextlib.contextmanager
def of_no_use(kind):
    """The address of a server that is "down" or "slow", as an argument."""
    with deadservers.KINDS[{"down": "refused", "slow": "silent"}[kind]]() as address:
        yield text(address)


def fill(storage, count=5, blobs=True):
    """Commit so many transactions, with a blob in every second one; close it."""
    db = ZODB.DB(storage)
    for number in range(count):
        with db.transaction() as connection:
            connection.root()["value"] = f"{number}" * 1000
            if blobs and number % 2 == 0:
                connection.root()[f"blob{number}"] = Blob(b"%d" % number * 100_000)
            connection.transaction_manager.get().note(f"transaction {number}")
    db.close()
    transaction.abort()


def make(directory, name="Data.fs", count=5):
    """Make a file storage with blobs in `directory / "blobs"`; return its path."""
    directory.mkdir(exist_ok=True)
    path = directory / name
    fill(FileStorage(str(path), blob_dir=str(directory / "blobs")), count)
    return path


def client(address, **kwargs):
    """A client storage for an address that is an argument."""
    host, _, port = address.rpartition(":")
    return zeolite.client((host, int(port)), **kwargs)
