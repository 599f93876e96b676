"""The scripts' command line: servers on this machine, and no others."""

import subprocess
import sys

import pytest

from tests.hostile import attacks
from tests.support.processes import running


def _run(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "tests.hostile", *arguments],
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("place", ["0.0.0.0:80", "192.0.2.1:80", "[::1]x", "8100"])
def test_other_hosts_are_refused(place):
    with pytest.raises(ValueError):
        attacks.loopback(place)
    found = _run("silent", place)
    assert found.returncode == 2
    assert "HOST:PORT" in found.stderr or "not this machine" in found.stderr


def test_crowds_and_bombs_say_what_happened(tmp_path):
    arguments = str(tmp_path / "Data.fs"), "handshake_timeout=1"
    with running(*arguments, cwd=tmp_path, module="tests.hostile.serving") as server:
        place = "{}:{}".format(*server.address())
        found = _run("silent", place, "--count", "3")
        assert "3 of 3 connected, 0 refused" in found.stdout
        assert "3 closed by the server" in found.stdout
        assert "0 still open" in found.stdout
        found = _run("large", place, "--count", "2")
        assert "2 closed by the server" in found.stdout
        found = _run("bombs", place, "--count", "2")
        assert "(stranger): closed" in found.stdout


def test_where_nobody_listens_it_says_so():
    found = _run("bombs", "127.0.0.1:1", "--count", "1")
    assert found.returncode == 1
    assert "refused" in found.stderr
