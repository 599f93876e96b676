"""ZODB's race tests, many times over, with threads that switch as often as they can."""

import os
import sys

import pytest
from ZODB.tests.racetest import RaceTests

from .suite import FILE_STORAGE, MAPPING_STORAGE, ConformanceTest

#: How often; `ZEOLITE_RACE_ROUNDS` says otherwise.
ROUNDS = int(os.environ.get("ZEOLITE_RACE_ROUNDS", "50"))


@pytest.fixture(autouse=True)
def switch_often(monkeypatch):
    """Let threads switch after a microsecond, whatever the suite sets."""
    interval = sys.getswitchinterval()
    set_interval = sys.setswitchinterval
    set_interval(1e-6)
    monkeypatch.setattr(sys, "setswitchinterval", lambda seconds: None)
    yield
    set_interval(interval)


class Races(ConformanceTest):
    def setUp(self):
        pass  # Each round has a server of its own.

    def tearDown(self):
        pass

    def rounds(self, name):
        for _ in range(ROUNDS):
            super().setUp()
            try:
                getattr(RaceTests, name)(self)
            finally:
                super().tearDown()


def _repeated(name):
    @pytest.mark.slow
    @pytest.mark.timeout(7200)
    def test(self):
        self.rounds(name)

    return test


RACES = {
    name: _repeated(name) for name in dir(RaceTests) if name.startswith("test_race")
}


class TestRacesOnFileStorage(Races, RaceTests):
    section = FILE_STORAGE
    locals().update(RACES)


class TestRacesOverTLS(TestRacesOnFileStorage):
    over_tls = True


class TestRacesOnMappingStorage(Races, RaceTests):
    section = MAPPING_STORAGE
    locals().update(RACES)
