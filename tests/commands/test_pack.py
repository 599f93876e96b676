"""`python -m zeolite pack`, against every kind of server."""

import contextlib
import re
import threading
import time

import pytest
from ZODB.MappingStorage import MappingStorage
from ZODB.POSException import POSKeyError
from ZODB.utils import maxtid

import zeolite
from tests.support.fakeserver import FakeServer
from zeolite.commands.pack import pack_time
from zeolite.storageserver.options import ServerOptions
from zeolite.storageserver.server import StorageServer

from .conftest import KINDS, client, make, of_no_use


@pytest.mark.parametrize("kind", KINDS)
def test_packs(kind, start, options, run, tmp_path):
    path = make(tmp_path / "server")
    before = path.stat().st_size
    address = start(kind)
    status, out, err = run("pack", address, *options(kind))
    assert (status, err) == (0, "")
    after = path.stat().st_size
    assert after < before / 2
    sizes = f"it had {before / 1000:.1f} KB, now {after / 1000:.1f} KB"
    assert re.fullmatch(
        rf"{address} storage 1: packed in [\d.:]+ s; {re.escape(sizes)}\n", out
    )


@pytest.mark.parametrize("kind", ["down", "slow"])
def test_server_of_no_use_delays_the_others_but_does_not_stop_them(
    kind, start, run, tmp_path
):
    path = make(tmp_path / "server")
    before = path.stat().st_size
    with of_no_use(kind) as dead:
        status, out, err = run("pack", dead, start(), "--timeout", 0.3)
    assert status == 1
    assert err.startswith(f"zeolite: {dead}: ")
    assert err.count("\n") == 1
    assert out.count("packed in") == 1
    assert path.stat().st_size < before


def test_tls_that_is_not_wanted_or_missing(start, options, run):
    status, _, err = run("pack", start("TLS"), "--timeout", 3)
    assert status == 1
    assert "TLS" in err and err.count("\n") == 1
    plain = start("zeolite", "<mappingstorage>\n</mappingstorage>\n")
    status, _, err = run("pack", plain, *options("TLS"), "--timeout", 3)
    assert status == 1
    assert "TLS" in err and err.count("\n") == 1


def test_storages_that_are_packed(start, run):
    """By the address, by option, and all that there are."""
    with zeolite_with_two() as address:
        status, out, _ = run("pack", f"{address}:other", address)
        assert (status, names(out)) == (0, ["other", "1"])
        status, out, _ = run("pack", address, "-S", "other", "-S", "1")
        assert (status, names(out)) == (0, ["other", "1"])
        status, out, _ = run("pack", "-A", address)
        assert (status, names(out)) == (0, ["1", "other"])
        status, out, err = run("pack", f"{address}:none", address)
        assert (status, names(out)) == (1, ["1"])
        assert err == (
            f"zeolite: {address}: unknown storage 'none'; this server has '1', "
            "'other'\n"
        )


@contextlib.contextmanager
def zeolite_with_two():
    storages = {"1": MappingStorage(), "other": MappingStorage()}
    server = StorageServer(("127.0.0.1", 0), storages, ServerOptions())
    server.start()
    try:
        yield "{}:{}".format(*server.address)
    finally:
        server.stop()


def names(out):
    return re.findall(r"storage (\S+): packed", out)


def test_unix_socket(tmp_path, run):
    path = str(tmp_path / "socket")
    _, stop = zeolite.server(port=path)
    try:
        for argument in path, f"unix:{path}", f"{path}:1", f"unix:{path}:1":
            status, out, _ = run("pack", argument)
            assert (status, names(out)) == (0, ["1"])
    finally:
        stop()


def test_days_keep_what_is_young(start, run, tmp_path):
    make(tmp_path / "server")
    address = start()

    def revisions():
        storage = client(address)
        found = len(list(storage.iterator()))
        storage.close()
        return found

    before = revisions()
    assert run("pack", address, "--days", 1)[0] == 0
    assert revisions() == before
    assert run("pack", address)[0] == 0
    assert revisions() < before


def test_pack_time():
    now = time.mktime((2026, 11, 22, 15, 30, 0, 0, 0, -1))
    assert pack_time(now, 2, None) == now - 2 * 86400
    assert time.localtime(pack_time(now, 0, (3, 15, 1)))[:6] == (2026, 11, 22, 3, 15, 1)
    assert time.localtime(pack_time(now, 30, (3, 0, 0)))[:6] == (2026, 10, 23, 3, 0, 0)


def test_server_that_vanishes_in_mid_pack(run):
    fake = FakeServer()

    def serve():
        script = fake.accept()
        while script.read()[2] != "pack":
            pass
        fake.close_listener()
        script.close()

    thread = threading.Thread(target=serve)
    thread.start()
    status, out, err = run("pack", "{}:{}".format(*fake.address), "--timeout", 2)
    thread.join()
    fake.close()
    assert (status, out) == (1, "")
    assert err.count("\n") == 1 and "the server closed the connection" in err


def test_loads_go_on(run):
    """The pack cannot end before another client's load has."""
    storage = MappingStorage()
    loaded = threading.Event()

    def pack(*args, **kwargs):
        assert loaded.wait(20)

    storage.pack = pack
    server = StorageServer(("127.0.0.1", 0), {"1": storage}, ServerOptions())
    server.start()
    packing = threading.Thread(target=load_and_tell, args=(server.address, loaded))
    packing.start()
    status, out, _ = run("pack", "{}:{}".format(*server.address))
    packing.join()
    server.stop()
    assert (status, names(out)) == (0, ["1"])


def load_and_tell(address, loaded):
    storage = zeolite.client(address)
    with pytest.raises(POSKeyError):  # It has no objects.
        storage.loadBefore(bytes(8), maxtid)
    loaded.set()
    storage.close()


@pytest.mark.parametrize(
    "arguments, words",
    [
        ([], "ADDRESS"),
        (["nonsense"], "'nonsense' is no address"),
        (["8100", "--days", "-1"], "'-1' is no number of days"),
        (["8100", "--time", "25:00"], "'25:00' is no time; write HH:MM:SS"),
        (["8100", "--timeout", "0"], "'0' is no number of seconds"),
        (["8100", "--timeout", "nan"], "'nan' is no number of seconds"),
        (["8100", "-A", "-S", "x"], "--all and --storage contradict each other"),
        (["8100", "--ssl-key", "x"], "of no use without --ssl-certificate"),
        (["8100", "--ssl-authenticate", "/none"], "/none cannot be read"),
        (["/socket", "--ssl"], "give --ssl-server-hostname"),
    ],
)
def test_wrong_usage(arguments, words, run):
    status, out, err = run("pack", *arguments)
    assert (status, out) == (2, "")
    assert words in err.splitlines()[-1]
