"""Fixtures that all tests share."""

import contextlib
import itertools
import os
import pathlib
import signal
import tempfile

import hypothesis
import pytest
import transaction

import zeolite

from .support.hosting import Host
from .support.leftovers import Leftovers

# What tests start as processes of their own finds the tests from any directory.
_ROOT = str(pathlib.Path(__file__).parent.parent)
_PATHS = os.environ.get("PYTHONPATH", "").split(os.pathsep)
os.environ["PYTHONPATH"] = os.pathsep.join([_ROOT, *filter(None, _PATHS)])

# Under nohup a hangup is to be nothing here, but not for the servers that are started.
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, lambda number, frame: None)

_numbers = itertools.count()

# How long an example takes says nothing, where others use the machine as well.
hypothesis.settings.register_profile("zeolite", deadline=None)
hypothesis.settings.load_profile("zeolite")


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
    # A number that pytest finds by itself costs a look at all directories so far.
    temporary = tmp_path_factory.mktemp(f"tmp-{next(_numbers)}", numbered=False)
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    leftovers = Leftovers(temporary)
    yield
    transaction.abort()
    found = leftovers.found()
    assert not found, f"left behind: {found}"


@pytest.fixture
def stack():
    """Closes what is pushed onto it when the test ends."""
    with contextlib.ExitStack() as stack:
        yield stack


@pytest.fixture
def write(tmp_path):
    """Call it with a text to have a file of it, in `tmp_path`."""

    def write(text, name="zeolite.conf"):
        (tmp_path / name).write_text(text)

    return write


@pytest.fixture
def serve(stack):
    """Call it with arguments of `zeolite.server` to get an address."""

    def serve(*args, **kwargs):
        address, stop = zeolite.server(*args, **kwargs)
        stack.callback(stop)
        return address

    return serve
