"""`%import tests.support.gated` has a storage for servers that are processes.

    <gatedstorage NAME>
      directory DIRECTORY
    </gatedstorage>

While DIRECTORY has a file with the name of one of its methods, who calls that
method leaves a file METHOD.reached and waits there; or, if the file has a text, it
raises `RuntimeError` with that text.
"""

import contextlib
import pathlib
import time

from ZODB.config import BaseConfig
from ZODB.MappingStorage import MappingStorage

from tests.support.waiting import wait_until


class Gates:
    """The test's side of it; `directory` is a `pathlib.Path`."""

    def __init__(self, directory):
        self._directory = directory

    @contextlib.contextmanager
    def shut(self, method):
        """Nobody passes until the end."""
        gate = self._directory / method
        gate.touch()
        try:
            yield
        finally:
            gate.unlink()

    def wait_until_reached(self, method):
        wait_until((self._directory / f"{method}.reached").exists)

    def fail(self, method, text):
        (self._directory / method).write_text(text)


class GatedStorage(MappingStorage):
    def __init__(self, name, directory):
        super().__init__(name or "gated")
        self._directory = pathlib.Path(directory)

    def _pass(self, method):
        gate = self._directory / method
        while gate.exists():
            if text := gate.read_text():
                raise RuntimeError(text)
            (self._directory / f"{method}.reached").touch()
            time.sleep(0.01)

    def loadBefore(self, oid, tid):
        self._pass("loadBefore")
        return super().loadBefore(oid, tid)

    def tpc_vote(self, transaction):
        self._pass("tpc_vote")
        return super().tpc_vote(transaction)

    def pack(self, *args, **kwargs):
        self._pass("pack")
        return super().pack(*args, **kwargs)


class GatedStorageSection(BaseConfig):
    def open(self):
        return GatedStorage(self.name, self.config.directory)
