"""What tests of servers have in common that are started as users start them."""

import subprocess
import sys

import transaction

import zeolite


def fails(tmp_path, *arguments):
    """Run it; return what it says on stderr, which is to be one line."""
    result = subprocess.run(
        [sys.executable, "-m", "zeolite", *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 2, result
    assert result.stdout == ""
    lines = [line for line in result.stderr.splitlines() if " INFO " not in line]
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("zeolite: ")
    return lines[0]


def store_and_read(address):
    connection = zeolite.connection(address)
    connection.root()["x"] = connection.root().get("x", 0) + 1
    transaction.commit()
    value = connection.root()["x"]
    connection.close()
    return value
