"""`python -m zeolite copy`: between all kinds of ends, interrupted, refused."""

import os
import re
import signal
import subprocess
import sys

import pytest
from ZODB.blob import is_blob_record
from ZODB.FileStorage import FileStorage

from .conftest import FILE_STORAGE, KINDS, client, fill, make, of_no_use

COPIED = re.compile(
    r"copied 6 transactions, 9 records, 3 blobs: [\d.]+ KB in [\d.:]+ s\n"
    r"complete up to [0-9a-f]{16} \(.* UTC\)\n"
)
SAME = "verified 6 transactions, 9 records, 3 blobs: the same\n"


def contents(path, blobs):
    """All that a file storage has: transactions, records, and blobs."""
    storage = FileStorage(str(path), read_only=True, blob_dir=str(blobs))
    found = []
    for transaction in storage.iterator():
        text = transaction.user, transaction.description, transaction.extension
        found.append((transaction.tid, transaction.status, *text))
        for record in transaction:
            blob = None
            if is_blob_record(record.data):
                with storage.openCommittedBlobFile(record.oid, record.tid) as file:
                    blob = file.read()
            found.append((record.oid, record.tid, record.data, blob))
    storage.close()
    assert os.listdir(storage.temporaryDirectory()) == []
    return found


@pytest.fixture
def source(tmp_path):
    return make(tmp_path / "source")


@pytest.fixture
def from_source(source):
    """The arguments for a copy from `source`."""
    return source, "--source-blobs", source.parent / "blobs"


@pytest.fixture
def target(tmp_path):
    """The path of a file storage that is not there yet."""
    (tmp_path / "target").mkdir()
    return tmp_path / "target" / "Data.fs"


@pytest.fixture
def to_target(target):
    return target, "--destination-blobs", target.parent / "blobs"


def all_of(path):
    return contents(path, path.parent / "blobs")


def test_file_to_file(source, target, from_source, to_target, run):
    status, out, err = run("copy", *from_source, *to_target, "--verify")
    assert (status, err) == (0, "")
    assert COPIED.match(out) and out.endswith(SAME)
    assert all_of(target) == all_of(source)
    assert target.read_bytes() == source.read_bytes()


def test_nothing_to_copy(target, run, tmp_path):
    FileStorage(str(tmp_path / "Empty.fs")).close()
    status, out, err = run("copy", tmp_path / "Empty.fs", target)
    assert (status, err) == (0, "")
    assert out.endswith("\ncomplete: the source is empty\n")


@pytest.mark.parametrize("kind", ["zeolite", "TLS"])
def test_file_to_server(kind, source, from_source, start, options, run, tmp_path):
    address = start(kind)
    status, out, err = run("copy", *from_source, address, "--verify", *options(kind))
    assert (status, err) == (0, "")
    assert COPIED.match(out) and out.endswith(SAME)


def test_file_to_stock_zeo(source, from_source, start, run, tmp_path):
    """Such a server has no way to take blobs with their tids."""
    address = start("stock ZEO")
    status, _, err = run("copy", *from_source, address)
    assert status == 1
    assert err == f"zeolite: {address}: the server cannot restore blobs\n"
    path = tmp_path / "plain.fs"
    fill(FileStorage(str(path)), blobs=False)
    address = start("stock ZEO", f"<filestorage>\npath {tmp_path}/o.fs\n</filestorage>")
    status, out, err = run("copy", path, address, "--verify")
    assert (status, err) == (0, "")
    assert out.endswith("verified 6 transactions, 6 records, 0 blobs: the same\n")


@pytest.mark.parametrize("kind", KINDS)
def test_server_to_file(kind, start, options, run, tmp_path, target, to_target):
    path = make(tmp_path / "server")
    status, out, err = run("copy", start(kind), *to_target, "--verify", *options(kind))
    assert (status, err) == (0, "")
    assert COPIED.match(out) and out.endswith(SAME)
    assert all_of(target) == all_of(path)


def test_sections(source, to_target, run, start, tmp_path):
    """A `<clientstorage>`, as it is and imported; and a section with a wrapper."""
    host, _, port = start().rpartition(":")
    (tmp_path / "file.conf").write_text(FILE_STORAGE.format(source.parent))
    for number, line in enumerate(["", "%import zeolite"]):
        conf = tmp_path / f"client{number}.conf"
        conf.write_text(
            f"{line}\n<clientstorage>\nserver {host}:{port}\n"
            f"blob-dir {tmp_path}/cache\n</clientstorage>\n"
        )
        status, out, err = run("copy", tmp_path / "file.conf", conf, "--verify")
        assert (status, err) == (0, "")
        assert out.endswith(SAME)
    status, _, err = run("copy", conf, *to_target)
    assert (status, err) == (0, "")


def test_directory_with_other_files_is_not_emptied(from_source, target, run):
    (target.parent / "precious").touch()
    status, out, err = run(
        "copy", *from_source, target, "--destination-blobs", target.parent
    )
    assert (status, out) == (1, "")
    assert "is not empty" in err
    assert os.listdir(target.parent) == ["precious"]


def test_read_only_server_is_no_destination(from_source, start, run):
    status, out, err = run("copy", *from_source, start("read-only"))
    assert (status, out) == (1, "")
    assert "read-only" in err and err.count("\n") == 1


@pytest.mark.parametrize("kind", ["down", "slow"])
def test_servers_of_no_use(kind, from_source, to_target, target, run):
    with of_no_use(kind) as dead:
        for arguments in [(dead, *to_target), (*from_source, dead)]:
            status, out, err = run("copy", *arguments, "--timeout", 0.3)
            assert (status, out) == (1, "")
            assert err.startswith(f"zeolite: {dead}: ")
            assert err.count("\n") == 1
    assert not target.exists()


# Again, and after an interruption.


def test_again_copies_what_is_new(source, from_source, target, to_target, run):
    run("copy", *from_source, *to_target)
    storage = FileStorage(str(source), blob_dir=str(source.parent / "blobs"))
    fill(storage, 1)
    status, out, _ = run("copy", *from_source, *to_target, "--verify")
    assert status == 0
    assert out.startswith("6 transactions are there already, up to ")
    assert "copied 1 transactions" in out
    assert all_of(target) == all_of(source)
    status, out, _ = run("copy", *from_source, *to_target)
    assert status == 0 and "copied 0 transactions" in out


#: Where a copy is killed: in the fourth call of a method, before or after it.
KILLED = """
import os, signal, sys
from ZODB.FileStorage import FileStorage
from zeolite.clientstorage.storage import ClientStorage
from zeolite.__main__ import main

name, when = sys.argv[1:3]
calls = []

def killing(original):
    def method(*args):
        calls.append(1)
        if len(calls) == CALL and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = original(*args)
        if len(calls) == CALL:
            os.kill(os.getpid(), signal.SIGKILL)
        return result
    return method

CALL = 2 if name == "restoreBlob" else 4
for storage in FileStorage, ClientStorage:
    setattr(storage, name, killing(getattr(storage, name)))
main(sys.argv[3:])
"""


def killed(tmp_path, name, when, *arguments):
    """Run a copy that kills itself."""
    arguments = ["copy", *map(str, arguments)]
    result = subprocess.run(
        [sys.executable, "-c", KILLED, name, when, *arguments],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        capture_output=True,
        timeout=60,
    )
    assert result.returncode == -signal.SIGKILL, result


POINTS = [
    ("restore", "before"),
    ("restore", "after"),
    ("restoreBlob", "before"),
    ("restoreBlob", "after"),
    ("tpc_vote", "before"),
    ("tpc_vote", "after"),
    ("tpc_finish", "before"),
    ("tpc_finish", "after"),
]


@pytest.mark.parametrize("name, when", POINTS)
def test_killed_copy_goes_on(
    name, when, source, from_source, target, to_target, run, tmp_path
):
    killed(tmp_path, name, when, *from_source, *to_target)
    assert target.read_bytes() != source.read_bytes()
    status, out, err = run("copy", *from_source, *to_target, "--verify")
    assert (status, err) == (0, "")
    assert "transactions are there already" in out and out.endswith(SAME)
    assert all_of(target) == all_of(source)
    assert target.read_bytes() == source.read_bytes()


@pytest.mark.parametrize("name, when", POINTS)
def test_killed_copy_to_a_server_goes_on(
    name, when, source, from_source, run, tmp_path, start
):
    address = start()
    killed(tmp_path, name, when, *from_source, address)
    status, out, err = run("copy", *from_source, address, "--verify")
    assert (status, err) == (0, "")
    assert "transactions are there already" in out and out.endswith(SAME)


@pytest.mark.parametrize("cut", [1, 10, 100, 1000])
def test_copy_torn_by_a_crash_goes_on(cut, source, from_source, target, to_target, run):
    """The last transaction is only half in the file."""
    run("copy", *from_source, *to_target)
    os.truncate(target, target.stat().st_size - cut)
    os.unlink(f"{target}.index")
    status, out, err = run("copy", *from_source, *to_target, "--verify")
    assert (status, err) == (0, "")
    assert out.startswith("5 transactions are there already")
    assert all_of(target) == all_of(source)


def test_failing_destination(from_source, to_target, target, source, run, monkeypatch):
    original = FileStorage.tpc_vote
    votes = []

    def full(*args):
        votes.append(1)
        if len(votes) == 3:
            raise OSError(28, "No space left on device")
        return original(*args)

    monkeypatch.setattr(FileStorage, "tpc_vote", full)
    status, out, err = run("copy", *from_source, *to_target)
    assert (status, out) == (1, "")
    assert "No space left on device; what was copied so far is right" in err
    assert err.count("\n") == 1
    status, out, _ = run("copy", *from_source, *to_target, "--verify")
    assert status == 0 and out.startswith("2 transactions are there already")
    assert all_of(target) == all_of(source)


def test_interrupted_by_the_user(from_source, to_target, run, monkeypatch):
    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(FileStorage, "tpc_vote", interrupt)
    status, out, err = run("copy", *from_source, *to_target)
    assert (status, out, err) == (130, "", "zeolite: interrupted\n")


# Refused.


def test_other_data(source, from_source, tmp_path, run):
    other = make(tmp_path / "other", count=3)
    before = all_of(other)
    status, out, err = run(
        "copy", *from_source, other, "--destination-blobs", other.parent / "blobs"
    )
    assert (status, out) == (1, "")
    assert "the destination has other data: " in err and err.count("\n") == 1
    assert all_of(other) == before


def test_more_than_the_source(source, from_source, to_target, target, run):
    run("copy", *from_source, *to_target)
    fill(FileStorage(str(target), blob_dir=str(target.parent / "blobs")), 1)
    status, _, err = run("copy", *from_source, *to_target)
    assert status == 1 and "has other data: only the destination has " in err


def test_last_transaction_with_other_records(
    source, from_source, to_target, target, run
):
    """All headers are the same."""
    run("copy", *from_source, *to_target)
    spoil(target, b"4" * 1000, b"5" * 1000)
    status, _, err = run("copy", *from_source, *to_target)
    assert status == 1
    assert "has other data: the data of object 0000000000000000 in " in err


def spoil(path, old, new):
    data = path.read_bytes()
    assert data.count(old) == 1
    path.write_bytes(data.replace(old, new))


def test_blobs_that_cannot_come_along(from_source, source, target, to_target, run):
    status, _, err = run("copy", *from_source, target)
    assert status == 1 and "is a blob, and not both ends have blobs; give" in err
    target.unlink()
    status, _, err = run("copy", source, *to_target)
    assert status == 1 and "is a blob, and not both ends have blobs; give" in err


def test_storage_without_ids_of_its_own(from_source, run, tmp_path):
    conf = tmp_path / "conf"
    conf.write_text("<demostorage>\n</demostorage>\n")
    status, _, err = run("copy", *from_source, conf)
    assert status == 1 and "cannot keep the ids of transactions" in err


def test_file_in_use(from_source, target, to_target, run):
    storage = FileStorage(str(target))
    status, _, err = run("copy", *from_source, *to_target)
    storage.close()
    assert status == 1 and "another process has it open" in err
    assert err.count("\n") == 1


# Verifying.


def test_verify_only_writes_nothing(from_source, source, to_target, target, run):
    status, _, err = run("copy", *from_source, *to_target, "--verify-only")
    assert status == 1 and "there is no such file" in err
    run("copy", *from_source, *to_target)
    before = sorted(target.parent.iterdir())
    status, out, err = run("copy", *from_source, *to_target, "--verify-only")
    assert (status, out, err) == (0, SAME, "")
    assert sorted(target.parent.iterdir()) == before


def test_verify_finds_data(from_source, to_target, target, run):
    run("copy", *from_source, *to_target)
    spoil(target, b"2" * 1000, b"3" * 1000)
    status, _, err = run("copy", *from_source, *to_target, "--verify-only")
    assert status == 1
    assert "source and destination differ: the data of object 0000000000000000" in err


def test_verify_finds_text(from_source, to_target, target, run):
    run("copy", *from_source, *to_target)
    spoil(target, b"transaction 2", b"transaction 7")
    status, _, err = run("copy", *from_source, *to_target, "--verify-only")
    assert status == 1 and "differ: the description of " in err


@pytest.mark.parametrize("missing", [True, False])
def test_verify_finds_blobs(missing, from_source, to_target, target, run):
    run("copy", *from_source, *to_target)
    path = max((target.parent / "blobs").rglob("*.blob"))
    content = path.read_bytes()
    path.unlink()
    if not missing:
        path.write_bytes(content[:-1] + b"!")
    status, _, err = run("copy", *from_source, *to_target, "--verify-only")
    assert status == 1 and "differ: the blob of object " in err


@pytest.mark.parametrize("end, word", [("source", "source"), ("target", "destination")])
def test_verify_finds_more(end, word, source, from_source, to_target, target, run):
    run("copy", *from_source, *to_target)
    path = source if end == "source" else target
    fill(FileStorage(str(path), blob_dir=str(path.parent / "blobs")), 1)
    status, _, err = run("copy", *from_source, *to_target, "--verify-only")
    assert status == 1 and f"differ: only the {word} has " in err


# Wrong usage.


@pytest.mark.parametrize(
    "source, destination, words",
    [
        ("none", "x.fs", "none: is no address, and there is no such file"),
        ("http://x:1", "x.fs", "'http://x' is a URL; write HOST:PORT"),
        ("/none/x", "x.fs", "/none/x: is no address, and there is no such file"),
        ("bad.conf", "x.fs", "it is to have one section of a storage"),
        ("two.conf", "x.fs", "it is to have one section of a storage"),
        ("x.fs", "x.fs", "x.fs is source and destination"),
        ("8100", "127.0.0.1:8100", "127.0.0.1:8100 is source and destination"),
        (".", "x.fs", ".: is neither a file nor a socket"),
    ],
)
def test_wrong_ends(source, destination, words, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.conf").write_text("<mappingstorage>\nwrong 1\n</mappingstorage>")
    (tmp_path / "two.conf").write_text("<mappingstorage>\n</mappingstorage>\n" * 2)
    status, out, err = run("copy", source, destination)
    assert (status, out) == (2, "")
    assert words in err and err.count("\n") == 1
    assert not (tmp_path / "x.fs").exists()


def test_options_for_other_ends(run, source, target):
    status, _, err = run("copy", "8100", target, "--source-blobs", "x")
    assert status == 2 and "8100 is not" in err
    status, _, err = run("copy", source, target, "--ssl")
    assert status == 2 and "TLS is for servers" in err


def test_missing_source(run, target, tmp_path):
    status, _, err = run("copy", tmp_path / "none.fs", target)
    assert status == 1 and "there is no such file" in err
    assert not target.exists()


def test_client_sees_the_copy(from_source, start, run):
    address = start()
    run("copy", *from_source, address)
    storage = client(address)
    assert len(storage) == 4
    storage.close()
