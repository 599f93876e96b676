"""Fixtures that all tests share."""

import tempfile

import pytest
import transaction

from .support.hosting import Host
from .support.leftovers import Leftovers


@pytest.fixture(scope="session")
def host():
    """A process that hosts Zeolite servers."""
    host = Host("zeolite")
    yield host
    host.close()


@pytest.fixture(scope="session")
def zeo_host():
    """A process that hosts ZEO servers."""
    host = Host("zeo")
    yield host
    host.close()


@pytest.fixture(autouse=True)
def clean(tmp_path_factory, monkeypatch):
    """Fail a test that leaves a thread, a process or a temporary file behind."""
    temporary = tmp_path_factory.mktemp("tmp")
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    leftovers = Leftovers(temporary)
    yield
    transaction.abort()
    found = leftovers.found()
    assert not found, f"left behind: {found}"
