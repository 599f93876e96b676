"""`python -m zeolite cache FILE`, and how subcommands are found."""

import importlib
import os
import pathlib
import re
import subprocess
import sys

import pytest
from ZODB.utils import maxtid, p64

import zeolite
from tests.clientstorage import keeping
from zeolite import commands
from zeolite.__main__ import main
from zeolite.clientstorage import cacheowner
from zeolite.clientstorage.cache import ClientCache

SIZE = 64 * 1024


@pytest.fixture
def path(tmp_path):
    """A cache with 9 current, 1 earlier and 1 forgotten record."""
    path = str(tmp_path / "app.cache")
    cache = ClientCache(path, SIZE)
    for number in range(11):
        cache.store(p64(number), p64(5), None, b"the data of %d" % number)
        cache.loadBefore(p64(number // 2), maxtid)
    cache.loadBefore(p64(99), maxtid)
    cache.invalidate(p64(1), p64(6))
    cache.invalidate(p64(2), None)
    cache.setLastTid(p64(6))
    cache.close()
    return path


@pytest.fixture
def run(capfd):
    """Call it to get (status, what it said on stdout, on stderr)."""

    def run(*arguments):
        status = main(["cache", *arguments])
        return (status, *capfd.readouterr())

    return run


def spoil(path, place=2000, data=b"spoilt"):
    with open(path, "r+b") as file:
        file.seek(place)
        file.write(data)


def content(path):
    with open(path, "rb") as file:
        return file.read()


def test_good_file(path, run):
    before = content(path)
    status, out, err = run(path)
    assert (status, err) == (0, "")
    assert out.startswith(f"{path}: cache of 65,536 bytes\nstate: closed\n")
    assert f"last transaction: {p64(6).hex()} (19" in out
    assert "in use: 640 bytes (1.0%) for 10 records\n" in out
    assert "loads of the last session: 12, hits: 11 (91.7%)\n" in out
    assert "stores: 11, evictions: 0, moved forward: 0\n" in out
    assert "records: 9 current, 1 earlier, 1 forgotten\n" in out
    assert out.endswith("verified: every record checks\n")
    assert content(path) == before


def test_new_file(tmp_path, run):
    path = str(tmp_path / "new")
    ClientCache(path, SIZE).close()
    status, out, _ = run(path)
    assert status == 0
    assert "last transaction: none\n" in out
    assert "loads of the last session: 0, hits: 0\n" in out


def test_copy_without_a_lock_file(path, run):
    os.unlink(path + ".lock")
    assert run(path)[0] == 0
    assert not os.path.exists(path + ".lock")


def test_damaged_record(path, run):
    spoil(path, 128 + 40)
    before = content(path)
    status, out, _ = run(path)
    assert status == 1
    assert out.endswith("damaged: the block at 128 of 65,536 does not check\n")
    assert content(path) == before


def test_damaged_header(path, run):
    spoil(path, 10)
    status, out, _ = run(path)
    assert (status, out) == (1, f"{path}: damaged: its header does not check\n")


def test_truncated_file(path, run):
    os.truncate(path, 5000)
    status, out, _ = run(path)
    assert status == 1
    assert "it has 5000 bytes instead of 65536" in out


def test_file_of_a_killed_process(path, run):
    with keeping.keeper(path):
        pass
    status, out, _ = run(path)
    assert status == 0
    assert (
        "state: not closed; its process was killed, or ended without closing it\n"
        in out
    )


def test_reader_that_has_enough(path):
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "zeolite", "cache", path],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    process.stdout.close()
    with process.stderr:
        assert process.stderr.read() == ""
    assert process.wait() == 1


def test_file_of_another_boot(path, run, monkeypatch):
    with keeping.keeper(path):
        pass
    monkeypatch.setattr(cacheowner, "boot_id", lambda: b"another boot's i")
    assert "machine went down; the next client will empty it" in run(path)[1]


def test_file_in_use(path, run):
    with keeping.keeper(path) as process:
        status, out, _ = run(path)
    assert status == 3
    assert f"state: in use by process {process.pid} on " in out
    assert re.search(r"^in use: [\d,]+ bytes", out, re.MULTILINE)
    assert out.endswith("verified: no, because a client is writing it\n")


def test_client_that_comes_while_it_is_verified(path, run, monkeypatch):
    """It may have overwritten what was just read."""
    owners = iter([None, "process 5 on here"])
    monkeypatch.setattr(cacheowner, "holder", lambda path: next(owners))
    spoil(path, 128 + 40)
    assert run(path)[0] == 3


@pytest.mark.parametrize(
    "content, words",
    [
        (None, "cannot be read: No such file or directory"),
        (b"", "is empty"),
        (b"ZEC3" + bytes(1000), "is a cache of ZEO's"),
        (b"%!PS", "is not a cache file"),
        (b"ZLC9" + bytes(1000), "has version '9' of the cache's format"),
    ],
)
def test_no_cache(tmp_path, run, content, words):
    path = tmp_path / "file"
    if content is not None:
        path.write_bytes(content)
    status, out, err = run(str(path))
    assert (status, out) == (2, "")
    assert err.startswith(f"zeolite: {path}: {words}")
    assert err.count("\n") == 1


def test_directory_is_no_cache_file(tmp_path, run):
    status, _, err = run(str(tmp_path))
    assert (status, err) == (
        2,
        f"zeolite: {tmp_path}: cannot be read: Is a directory\n",
    )


class TestSubcommands:
    def ends(self, capfd, *arguments):
        with pytest.raises(SystemExit) as status:
            main(list(arguments))
        return (status.value.code, *capfd.readouterr())

    def test_are_listed(self, capfd):
        status, out, _ = self.ends(capfd, "-h")
        assert status == 0
        assert re.search(r"^  cache +show and verify", out, re.MULTILINE)

    def test_have_help_of_their_own(self, capfd):
        status, out, _ = self.ends(capfd, "cache", "-h")
        assert status == 0
        assert "usage: python -m zeolite cache" in out
        assert "3  a client has the file open" in out

    def test_unknown(self, capfd):
        status, _, err = self.ends(capfd, "cash", "x")
        assert status == 2
        assert (
            "there is no subcommand 'cash', only check, status, pack, copy, cache"
            in err
        )

    def test_console_script(self, capfd, monkeypatch):
        root = pathlib.Path(zeolite.__file__).parent.parent
        entry = re.search(r'"zeolite = (.*):(.*)"', (root / "setup.py").read_text())
        assert getattr(importlib.import_module(entry[1]), entry[2]) is main
        monkeypatch.setattr(sys, "argv", ["/usr/bin/zeolite"])
        assert "usage: zeolite cache" in self.ends(capfd, "cache", "-h")[1]
        assert self.ends(capfd, "-h")[1].startswith("usage: zeolite [options]")

    @pytest.mark.parametrize("name", commands.NAMES)
    def test_say_their_statuses(self, capfd, name):
        status, out, _ = self.ends(capfd, name, "-h")
        assert status == 0
        assert "exit status" in out

    def test_missing_argument(self, capfd):
        status, _, err = self.ends(capfd, "cache")
        assert status == 2
        assert "FILE" in err
