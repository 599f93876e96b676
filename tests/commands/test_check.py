"""`python -m zeolite check`: what it says, and that it touches nothing."""

import os
import socket

import pytest
from ZODB.FileStorage import FileStorage

from tests.support.certificates import Files, issue
from tests.support.processes import free_port

from .conftest import make

RELSTORAGE = (
    "%import relstorage\n<relstorage shared>\nkeep-history true\n"
    "<postgresql>\ndsn host='db'\n</postgresql>\n</relstorage>\n"
)


@pytest.fixture
def check(tmp_path, monkeypatch, run):
    """Call it with a file's text to get (status, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def check(text):
        (tmp_path / "zeolite.conf").write_text(text)
        before = listing(tmp_path)
        found = run("check", "zeolite.conf")
        assert listing(tmp_path) == before
        return found

    return check


def listing(directory):
    """All below a directory, with what changes when somebody writes."""
    return {
        path: (path.stat().st_mtime_ns, path.stat().st_size, path.stat().st_mode)
        for path in directory.rglob("*")
    }


def conf(zeolite="", storage="path Data.fs", rest="", address=None):
    address = address or f"127.0.0.1:{free_port()}"
    return (
        f"<zeolite>\naddress {address}\n{zeolite}\n</zeolite>\n"
        f"<filestorage>\n{storage}\n</filestorage>\n{rest}"
    )


def test_says_what_it_would_do(check, tmp_path):
    (tmp_path / "blobs").mkdir(mode=0o700)
    files = Files(tmp_path)
    files.both(issue(), "server.pem")
    port = free_port()
    status, out, err = check(
        conf(
            "transaction-timeout 60\nread-only false\npid-filename z.pid\n"
            "<ssl>\ncertificate server.pem\n</ssl>",
            "path Data.fs\nblob-dir blobs",
            "<mappingstorage temp>\n</mappingstorage>\n"
            "<demostorage demo>\n<filestorage base>\npath Base.fs\n</filestorage>\n"
            "</demostorage>\n"
            "<runner>\nprogram x\n</runner>\n"
            "<eventlog>\n<logfile>\npath z.log\n</logfile>\n</eventlog>\n",
            address=f"127.0.0.1:{port}",
        )
    )
    assert (status, err) == (0, "")
    assert out.startswith(
        f"zeolite.conf: listens at 127.0.0.1:{port}\n"
        "  TLS: encrypted; clients need no certificate\n"
    )
    assert "  transaction-timeout 60 (default: 30)\n" in out
    assert "  pid-filename z.pid\n" in out
    assert "  <ssl>\n    certificate server.pem\nstorage 1" in out
    assert "read-only" not in out
    assert "storage 1: filestorage\n  path Data.fs\n  blob-dir blobs\n" in out
    assert "storage demo: demostorage\n" in out and "    path Base.fs\n" in out
    assert "log: z.log\n" in out
    assert "ignored: the runner section" in out
    assert "warning: storage temp: mappingstorage: its data are gone" in out
    assert out.endswith("a server could start\n")


def test_existing_data(check, tmp_path):
    make(tmp_path / "data")
    os.chmod(tmp_path / "data" / "blobs", 0o700)
    status, out, _ = check(conf(storage="path data/Data.fs\nblob-dir data/blobs"))
    assert status == 0
    assert "warning" not in out
    assert "  data/Data.fs: " in out and " KB\n" in out


@pytest.mark.parametrize(
    "text, words",
    [
        (conf(zeolite="reed-only true"), "'reed-only' is not a known key name"),
        (conf(storage="path none/Data.fs"), "none/Data.fs does not exist"),
        (conf(zeolite="msgpack true"), "msgpack is not spoken"),
        ("<zeolite>\naddress 0\n</zeolite>", "it needs a section for a storage"),
        (conf(zeolite="<ssl>\ncertificate none\n</ssl>"), "none cannot be read"),
        (
            "<clientstorage a>\nserver 1\n<ssl>\n</ssl>\n</clientstorage>\n"
            + conf(zeolite="<ssl>\ncertificate none\n</ssl>"),
            "line 8: none cannot be read",
        ),
        (
            conf(zeolite="unix-socket-mode 0600"),
            "line 3: unix-socket-mode is for a Unix socket",
        ),
    ],
)
def test_wrong_files(check, text, words):
    """As the server says it."""
    status, _, err = check(text)
    assert status == 2
    assert err.startswith("zeolite: zeolite.conf") and words in err
    assert err.count("\n") == 1


def test_no_file(run, tmp_path):
    status, out, err = run("check", tmp_path / "none")
    assert (status, out) == (2, "")
    assert "none: cannot be read: No such file or directory" in err


@pytest.mark.parametrize(
    "text, words",
    [
        (conf(storage="path zeolite.conf"), "is no file storage's"),
        (conf(storage="path ."), "is no file"),
        (conf(storage="path new.fs\nread-only true"), "and read-only is set"),
        (conf(storage="path Data.fs\nblob-dir zeolite.conf"), "is no directory"),
        (
            conf(rest="<eventlog>\n<logfile>\npath .\n</logfile>\n</eventlog>"),
            "log .: is a directory",
        ),
        (
            conf(zeolite="monitor-address 192.0.2.1:8101"),
            "monitor-address: cannot listen at 192.0.2.1:8101: ",
        ),
        (conf(address="192.0.2.1:8100"), "cannot listen at 192.0.2.1:8100: "),
        (conf(address="./zeolite.conf"), "it is there, and no socket"),
    ],
)
def test_server_that_could_not_start(check, text, words):
    status, out, err = check(text)
    assert status == 1
    assert words in err and err.count("\n") == 1
    assert "could start" not in out


@pytest.mark.parametrize(
    "zeolite, relstorage, key",
    [
        ("client-conflict-resolution true", "", "client-conflict-resolution"),
        ("", "ro-replica-conf zeolite.conf\n", "ro-replica-conf"),
    ],
)
def test_what_a_storage_that_servers_share_cannot_do(check, zeolite, relstorage, key):
    pytest.importorskip("relstorage")
    status, _, err = check(
        conf(zeolite, rest=RELSTORAGE.replace("keep", f"{relstorage}keep"))
    )
    assert status == 1
    assert f"storage shared: {key} cannot be used" in err and err.count("\n") == 1


def test_address_that_is_in_use(check, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as sock:
        address = f"127.0.0.1:{sock.getsockname()[1]}"
        status, out, _ = check(conf(address=address))
        _, with_monitor, _ = check(conf(f"monitor-address {address}"))
    assert status == 0
    assert f"warning: address {address}: in use at the moment" in out
    assert f"warning: monitor-address {address}: in use at the moment" in with_monitor


def test_pid_file_that_cannot_be_written(check):
    """A server starts without it."""
    status, out, _ = check(conf(zeolite="pid-filename none/pid"))
    assert status == 0
    assert "warning: pid-filename none/pid: there is no directory " in out


def test_all_interfaces_without_tls(check, tmp_path):
    port = free_port()
    _, out, _ = check(conf(address=str(port)))
    assert f"warning: address :{port}: all interfaces, without TLS" in out
    _, out, _ = check(conf(address=f"[0::0]:{port}"))
    assert "all interfaces, without TLS" in out
    _, out, _ = check(conf(f"monitor-address 0.0.0.0:{port}"))
    assert f"warning: monitor-address 0.0.0.0:{port}: all interfaces" in out
    Files(tmp_path).both(issue(), "server.pem")
    _, out, _ = check(
        conf("<ssl>\ncertificate server.pem\n</ssl>", address=f"0.0.0.0:{port}")
    )
    assert "all interfaces" not in out


def test_blobs_that_others_may_read(check, tmp_path):
    (tmp_path / "blobs").mkdir(mode=0o755)
    _, out, _ = check(conf(storage="path Data.fs\nblob-dir blobs"))
    assert "others than its owner may enter it (mode 0755)" in out


def test_data_that_are_open(check, tmp_path):
    storage = FileStorage(str(tmp_path / "Data.fs"))
    status, out, _ = check(conf())
    storage.close()
    assert status == 0
    assert f"Data.fs: is open in process {os.getpid()} at the moment" in out
    assert "is open in process" not in check(conf())[1]


def test_values_are_shown_as_a_file_has_them(check):
    _, out, _ = check(
        conf("unix-socket-mode 0660", address="./socket")
        + "<clientstorage a>\nserver 1\nserver 2\nname app\n</clientstorage>"
    )
    assert "  unix-socket-mode 0660\n" in out
    assert "  server 127.0.0.1:1, 127.0.0.1:2\n  name app\n" in out


def test_timeout_of_zero(check):
    assert (
        "transaction-timeout 0: a client that"
        in check(conf("transaction-timeout 0"))[1]
    )
