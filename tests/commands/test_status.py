"""`python -m zeolite status`: table, JSON, Nagios, against every kind of server."""

import json
import os
import subprocess
import sys
import time

import pytest

import zeolite
from tests.support import deadservers

from .conftest import KINDS, client, make, of_no_use, text


@pytest.fixture
def empty():
    """The address of a server without data."""
    address, stop = zeolite.server()
    yield text(address)
    stop()


@pytest.fixture
def full(tmp_path, start):
    """The address of a server with data."""
    make(tmp_path / "server")
    return start()


@pytest.mark.parametrize("kind", KINDS)
def test_table(kind, start, options, run, tmp_path):
    make(tmp_path / "server")
    address = start(kind)
    status, out, err = run("status", address, *options(kind))
    assert (status, err) == (0, "")
    head, row = (line.split() for line in out.splitlines())
    assert head[:6] == ["server", "storage", "clients", "loads", "stores", "commits"]
    assert row[:6] == [address, "1", "0", "0", "0", "0"]
    assert row[-2].startswith(time.strftime("%Y-", time.gmtime()))


@pytest.mark.parametrize("kind", KINDS)
def test_json(kind, start, options, run):
    address = start(kind)
    status, out, err = run("status", "--json", address, *options(kind))
    assert (status, err) == (0, "")
    found = json.loads(out)[address]
    assert found["seconds"] > 0
    assert found["storages"]["1"]["commits"] == 0


def test_json_counts_connections_and_loads(full, run):
    storage = client(full)
    storage.loadBefore(bytes(8), b"\x7f" + b"\xff" * 7)
    _, out, _ = run("status", "--json", full)
    storage.close()
    found = json.loads(out)[full]["storages"]["1"]
    assert (found["connections"], found["loads"]) == (1, 1)


@pytest.mark.parametrize("kind", ["down", "slow"])
def test_server_of_no_use_and_another(kind, full, run):
    with of_no_use(kind) as dead:
        status, out, err = run("status", dead, full, "--timeout", 0.3)
        assert status == 1
        assert err.startswith(f"zeolite: {dead}: ") and err.count("\n") == 1
        assert full in out
        assert ("no answer within 0.3 seconds" in err) == (kind == "slow")
        status, out, err = run("status", dead, full, "--json", "--timeout", 0.3)
        assert (status, err) == (1, "")
        assert set(json.loads(out)[dead]) == {"error"}
        status, out, _ = run("status", dead, "--nagios", "--timeout", 0.3)
        assert status == 2
        assert out.startswith("Can't connect ") and out.count("\n") == 1


@pytest.mark.parametrize("kind", ["black hole", "SSH", "garbage", "closes"])
def test_what_is_no_server(kind, run):
    with deadservers.KINDS[kind]() as address:
        status, out, err = run("status", text(address), "--timeout", 0.3)
    assert (status, out) == (1, "")
    assert err.startswith(f"zeolite: {text(address)}: ") and err.count("\n") == 1


GOOD = {
    **dict.fromkeys(
        "loads stores commits aborts conflicts conflicts_resolved "
        "connections active_txns waiting".split(),
        0,
    ),
    "lock_time": None,
    "last-transaction": "0" * 16,
}


@pytest.mark.parametrize(
    "answer",
    [
        b"not json",
        b"[]",
        b'{"1": {}}',
        b'{"1": 5}',
        b"[" * 100_000,
        *(
            json.dumps({"1": {**GOOD, **wrong}}).encode()
            for wrong in ({"last-transaction": "abcd"}, {"waiting": None})
        ),
    ],
)
def test_answer_that_makes_no_sense(answer, run):
    frames = b"\0\0\0\2Z5" + len(answer).to_bytes(4, "big") + answer
    with deadservers.greeting(frames) as address:
        status, _, err = run("status", text(address))
        assert status == 1
        assert "its status makes no sense" in err and err.count("\n") == 1
        assert run("status", "--nagios", text(address))[0] == 3


def test_names_cannot_write_on_the_terminal(run):
    answer = json.dumps({"\x1b[2Jx\n": GOOD}).encode()
    frames = b"\0\0\0\2Z5" + len(answer).to_bytes(4, "big") + answer
    with deadservers.greeting(frames) as address:
        status, out, _ = run("status", text(address))
        assert (status, out.count("\n")) == (0, 2)
        assert "?[2Jx?" in out and "\x1b" not in out
        status, out, _ = run("status", "--nagios", "-m", text(address))
        assert "\x1b" not in out


def test_tls_that_is_not_wanted_or_missing(start, options, run):
    encrypted = start("TLS")
    status, _, err = run("status", encrypted)
    assert status == 1 and "the server wants TLS; use --ssl" in err
    plain = start("zeolite", "<mappingstorage>\n</mappingstorage>\n")
    status, _, err = run("status", plain, *options("TLS"))
    assert status == 1 and "TLS" in err and err.count("\n") == 1
    status, _, err = run("status", encrypted, "--ssl")
    assert status == 1 and "authority that is not known here" in err


def test_unix_socket(tmp_path, run):
    path = str(tmp_path / "socket")
    _, stop = zeolite.server(port=path)
    try:
        status, out, _ = run("status", f"unix:{path}", path)
        assert status == 0 and out.count(path) == 1
    finally:
        stop()


class TestNagios:
    def test_fine(self, full, run):
        assert run("status", "--nagios", full) == (0, "OK\n", "")

    @pytest.mark.parametrize(
        "arguments", [(), ("99999",), ("1", "-u", "weeks"), ("1", "--json")]
    )
    def test_options_that_make_no_sense(self, run, arguments):
        """Nagios reads stdout, and takes 2 for a server that is down."""
        status, out, err = run("status", *arguments, "--nagios")
        assert (status, err) == (3, "")
        assert out.startswith("UNKNOWN: ") and out.count("\n") == 1

    def test_metrics_are_those_of_zeos_plugin(self, start, run, tmp_path, capfd):
        """Both plugins say the same of the same server."""
        import ZEO.nagios

        make(tmp_path / "server")
        for address in (
            start(),
            start("stock ZEO", "<mappingstorage>\n</mappingstorage>"),
        ):
            status, out, _ = run("status", "--nagios", "-m", address)
            expected = ZEO.nagios.check(address, True, None, "minutes")
            assert (status, out) == (expected or 0, capfd.readouterr().out)

    def test_rates(self, full, run, tmp_path):
        state = tmp_path / "state"
        arguments = "status", "--nagios", "-m", "-s", state, "-u", "hours", full
        status, out, _ = run(*arguments)
        assert status == 0 and "loads" not in out
        storage = client(full)
        storage.loadBefore(bytes(8), b"\x7f" + b"\xff" * 7)
        storage.close()
        an_hour_ago = time.time() - 3600
        os.utime(state, (an_hour_ago, an_hour_ago))
        status, out, _ = run(*arguments)
        metrics = dict(
            line.split("|")[-1].strip().split("=") for line in out.split("\n")[:-1]
        )
        assert status == 0
        assert float(metrics["loads"]) == pytest.approx(1, rel=0.05)
        assert float(metrics["commits"]) == 0
        assert list(tmp_path.glob("state*")) == [state]

    def test_restart_in_between(self, full, run, tmp_path):
        """Rates would be negative."""
        state = tmp_path / "state"
        run("status", "--nagios", "-s", state, full)
        found = json.loads(state.read_text())
        found["1"]["loads"] += 5
        state.write_text(json.dumps(found))
        _, out, _ = run("status", "--nagios", "-m", "-s", state, full)
        assert "loads" not in out

    @pytest.mark.parametrize("content", ["", "[1]", "{", '{"1": {"start": 5}}'])
    def test_state_of_something_else_is_replaced(self, content, full, run, tmp_path):
        state = tmp_path / "state"
        state.write_text(content)
        assert run("status", "--nagios", "-s", state, full)[0] == 0
        assert "loads" in json.loads(state.read_text())["1"]

    def test_state_that_cannot_be_written(self, full, run, tmp_path):
        state = tmp_path / "none" / "state"
        status, out, _ = run("status", "--nagios", "-s", state, full)
        assert status == 3
        assert out.startswith("UNKNOWN: ") and "cannot be written" in out

    def test_thresholds(self, full, run):
        arguments = "status", "--nagios", full
        storage = client(full)
        status, out, _ = run(*arguments, "--warning", "connections=0")
        assert (status, out) == (1, "WARNING: connections is 1, above 0\n")
        status, out, _ = run(
            *arguments, "--warning", "connections=0", "--critical", "connections=0.5"
        )
        assert (status, out) == (2, "CRITICAL: connections is 1, above 0.5\n")
        assert run(*arguments, "--warning", "connections=1")[0] == 0
        storage.close()

    def test_empty(self, empty, run):
        status, out, _ = run("status", "--nagios", empty)
        assert (status, out) == (1, "Empty storage '1'\n")

    @pytest.mark.parametrize(
        "arguments, words",
        [
            (["--warning", "speed=1"], "'speed=1' is no threshold"),
            (["--warning", "waiting=x"], "'waiting=x' is no threshold"),
            (["--critical", "loads=1"], "the rate of loads needs --status-path"),
            (["9999"], "--nagios is for one server"),
        ],
    )
    def test_wrong_usage(self, arguments, words, empty, run):
        status, out, _ = run("status", "--nagios", empty, *arguments)
        assert status == 3 and out.startswith(f"UNKNOWN: {words}")


@pytest.mark.parametrize(
    "arguments, words",
    [
        ([], "ADDRESS"),
        (["8100", "--json", "--watch"], "not allowed with"),
        (["8100", "--warning", "waiting=1"], "--warning is for --nagios"),
        (["8100", "--watch"], "--watch needs a terminal"),
        (["8100", "--watch", "0"], "'0' is no number of seconds"),
    ],
)
def test_wrong_usage(arguments, words, run):
    status, out, err = run("status", *arguments)
    assert (status, out) == (2, "")
    assert words in err.splitlines()[-1]


def test_reader_that_has_enough(full):
    """As `status ... | true`: no traceback."""
    read, write = os.pipe()
    os.close(read)
    result = subprocess.run(
        [sys.executable, "-m", "zeolite", "status", full],
        stdout=write,
        stderr=subprocess.PIPE,
    )
    os.close(write)
    assert (result.returncode, result.stderr) == (1, b"")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_full_disk_under_stdout(full):
    with open("/dev/full", "w") as file:
        result = subprocess.run(
            [sys.executable, "-m", "zeolite", "status", full],
            stdout=file,
            stderr=subprocess.PIPE,
        )
    assert result.returncode == 1
    assert result.stderr == b"zeolite: [Errno 28] No space left on device\n"
