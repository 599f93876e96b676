"""The server as a process: signals, and the file with its number."""

import os
import pathlib
import resource
import signal

import pytest
import transaction

import zeolite
from tests.support.gated import Gates
from tests.support.processes import free_port, running
from tests.support.rawclient import RawClient
from zeolite.errors import ServerException
from zeolite.storageserver.pidfile import PidFile

from .support.commandlines import store_and_read

FILE = """\
%import tests.support.gated
<zeolite>
  address 127.0.0.1:0
  {}
</zeolite>
<gatedstorage>
  directory .
</gatedstorage>
<gatedstorage packed>
  directory packed
</gatedstorage>
"""

#: More than the system keeps for a client that reads nothing.
LARGE = b"x" * 8_000_000


def test_end_with_a_full_disk(tmp_path):
    """What it cannot write any more was never committed; the rest is there."""
    with running("-a", "0", "-f", "Data.fs", cwd=tmp_path) as server:
        db = zeolite.DB(server.address())
        with db.transaction() as connection:
            connection.root().update(x=1, large=b"x" * 100_000)
        most = resource.prlimit(server.pid, resource.RLIMIT_FSIZE)[1]
        resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (200_000, most))
        connection = db.open()
        # The first does not fit into the file of what is not committed yet, the second
        # does not fit behind what is.
        for size in (150_000, 10):
            connection.root()["more"] = b"x" * size
            with pytest.raises(ServerException, match=r"OSError.*File too large"):
                transaction.commit()
            transaction.abort()
        db.close()
        assert server.kill() == 0
    said = "\n".join(server.lines)
    assert "storage 1: closing it failed: OSError: " in said
    assert "Traceback" not in said
    assert "stopped serving" in said
    with running("-a", "0", "-f", "Data.fs", cwd=tmp_path) as server:
        assert store_and_read(server.address()) == 2


@pytest.fixture
def busy(tmp_path, write):
    """A server all of whose clients are in the middle of something.

    One votes and the storage does not come back from it, one waits for the commit
    lock, one reads nothing, and one packs.
    """
    (tmp_path / "packed").mkdir()
    write(FILE.format("pid-filename pid\n slow-call 1"))
    voting, packing = Gates(tmp_path), Gates(tmp_path / "packed")
    with running(cwd=tmp_path) as server, voting.shut("tpc_vote"), packing.shut("pack"):
        address = server.address()
        clients = [RawClient(address) for _ in range(3)]
        packer = RawClient(address, register=False)
        packer.handshake()
        packer.ask("register", "packed", False)
        packer.commit(1, data=LARGE)
        reader = RawClient(address, register=False, receive_buffer=4096)
        reader.handshake()
        reader.ask("register", "packed", False)
        reader.load(1)
        for client in clients[:2]:
            client.begin(1)
            client.call("vote", 1)
            voting.wait_until_reached("tpc_vote")
        packer.call("pack", 0.0, True)
        packing.wait_until_reached("pack")
        yield server
        for client in (*clients, packer, reader):
            client.close()


@pytest.mark.parametrize("number, status", [(signal.SIGTERM, 0), (signal.SIGHUP, 1)])
def test_busy_clients_do_not_keep_it_from_stopping(busy, tmp_path, number, status):
    assert busy.kill(number) == status
    said = "\n".join(busy.lines)
    assert "storage 1: not closed: " in said
    assert "storage packed: not closed: zeolite-pack-packed is still at work" in said
    assert " ERROR " not in said
    assert not (tmp_path / "pid").exists()


def test_a_second_signal_ends_it_at_once(busy, tmp_path):
    # The first is followed by others that count as the same one for a moment.
    while True:
        os.kill(busy.pid, signal.SIGTERM)
        try:
            status = busy.wait(0.2)
        except TimeoutError:
            continue
        break
    assert status == 128 + signal.SIGTERM
    assert "SIGTERM: ending at once" in busy.lines[-1]
    assert not any("not closed" in line for line in busy.lines)
    assert not (tmp_path / "pid").exists()


@pytest.mark.parametrize(
    "number, status", [(signal.SIGTERM, 0), (signal.SIGINT, 0), (signal.SIGHUP, 1)]
)
def test_a_signal_while_a_storage_is_opened(tmp_path, write, number, status):
    """Here it waits for its own server; an index may take as long."""
    write(
        f"<zeolite>\naddress 127.0.0.1:0\n</zeolite>\n<clientstorage>\n"
        f"server {free_port()}\nwait-timeout 3600\n</clientstorage>\n"
    )
    with running(cwd=tmp_path) as server:
        server.wait_for("Connection refused")
        assert server.kill(number) == status
        assert "ending, before the storages were open" in server.lines[-1]


def test_hangup_is_a_restart(tmp_path):
    with running("-a", "0", "-f", "Data.fs", cwd=tmp_path) as server:
        assert store_and_read(server.address()) == 1
        assert server.kill(signal.SIGHUP) == 1
        assert any("SIGHUP: stopping" in line for line in server.lines)
        assert "stopped serving" in server.lines[-1]


def test_hangup_under_nohup_is_nothing(tmp_path):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        server = running("-a", "0", "-f", "Data.fs", cwd=tmp_path)
        with server as process:
            address = process.address()
            os.kill(process.pid, signal.SIGHUP)
            assert store_and_read(address) == 1
            assert process.kill() == 0
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_commit_that_has_begun_is_not_lost(tmp_path):
    """Clients commit while signals come; what was answered is there."""
    port = free_port()
    counted = 0
    for _ in range(3):
        with running("-a", str(port), "-f", "Data.fs", cwd=tmp_path) as server:
            server.address()
            connection = zeolite.connection(port, wait_timeout=5)
            number = connection.root().get("x", 0)
            assert number == counted
            for _ in range(20):
                connection.root()["x"] = counted + 1
                transaction.commit()
                counted += 1
            assert server.kill(signal.SIGHUP) == 1
            connection.close()


class TestPidFile:
    def test_is_there_while_it_serves(self, tmp_path, write):
        (tmp_path / "packed").mkdir()
        (tmp_path / "pid").write_text("999999999\n")  # A server that was killed.
        write(FILE.format("pid-filename pid"))
        with running(cwd=tmp_path) as server:
            server.address()
            assert (tmp_path / "pid").read_text() == f"{server.pid}\n"
            assert server.kill() == 0
        assert not (tmp_path / "pid").exists()

    def test_another_servers_stays(self, tmp_path, write):
        write(FILE.format("pid-filename pid"))
        with running(cwd=tmp_path) as server:
            server.address()
            (tmp_path / "pid").write_text("1\n")
            assert server.kill() == 0
        assert (tmp_path / "pid").read_text() == "1\n"

    def test_of_an_instance(self, tmp_path):
        (tmp_path / "var").mkdir()
        home = {"INSTANCE_HOME": str(tmp_path)}
        with running("-a", "0", "-f", "Data.fs", cwd=tmp_path, **home) as server:
            server.address()
            path = tmp_path / "var" / "ZEO.pid"
            assert path.read_text() == f"{server.pid}\n"
            assert server.kill() == 0
        assert not path.exists()

    def test_of_the_file_is_used_in_an_instance_too(self, tmp_path, write):
        (tmp_path / "var").mkdir()
        write(FILE.format("pid-filename pid"))
        with running(cwd=tmp_path, INSTANCE_HOME=str(tmp_path)) as server:
            server.address()
            assert (tmp_path / "pid").exists()
            assert not list((tmp_path / "var").iterdir())

    def test_planted_link_is_not_followed(self, tmp_path, caplog):
        precious = tmp_path / "precious"
        precious.write_text("precious")
        (tmp_path / "pid").symlink_to(precious)
        PidFile(str(tmp_path / "pid")).write()
        assert "the pid file cannot be written" in caplog.text
        assert precious.read_text() == "precious"
        assert (tmp_path / "pid").is_symlink()

    @pytest.mark.parametrize("path", ["none/pid", "/dev/full", "."])
    def test_one_that_cannot_be_written_ends_nothing(self, tmp_path, write, path):
        write(FILE.format(f"pid-filename {path}"))
        with running(cwd=tmp_path) as server:
            address = server.address()
            assert any("ERROR the pid file" in line for line in server.lines)
            client = RawClient(address)
            client.commit(1)
            client.close()
            assert server.kill() == 0
        assert pathlib.Path("/dev/full").is_char_device()


def test_an_error_is_one_line_with_its_traceback(tmp_path, write):
    write(FILE.format(""))
    Gates(tmp_path).fail("loadBefore", "two\nlines")
    with running(cwd=tmp_path) as server:
        client = RawClient(server.address())
        client.post("set_client_label", "app1")
        client.load(0)
        assert client.read()[0] == "error"
        said = server.wait_for("ERROR client app1 .*: loadBefore failed")[0]
        client.close()
        assert server.kill() == 0
    (line,) = [line for line in server.lines if said in line]
    assert r": RuntimeError: two\nlines [" in line
    assert "gated/__init__.py" in line
    assert "session.py" in line
    # Nothing else is in between.
    assert all(" INFO " in line or " ERROR " in line for line in server.lines)
