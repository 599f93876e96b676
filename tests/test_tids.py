"""When a tid was made."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from persistent.timestamp import TimeStamp
from ZODB.utils import newTid, p64

from zeolite.tids import date_of, seconds_of, shown


def test_now():
    before, tid, after = time.time(), newTid(None), time.time()
    # A tid counts in units of 14 nanoseconds.
    assert before - 1e-6 <= seconds_of(tid) <= after + 1e-6


@given(st.datetimes(), st.floats(0, 59.99))
def test_all_times_that_a_tid_can_have(date, second):
    year, *parts = date.timetuple()[:5]
    stamp = TimeStamp(
        1900 + year % 8000, *parts[:1], min(parts[1], 28), *parts[2:], second
    )
    assert seconds_of(stamp.raw()) == pytest.approx(stamp.timeTime(), abs=1e-4)


@given(st.binary(min_size=8, max_size=8))
def test_any_eight_bytes(tid):
    """None of them is refused."""
    assert seconds_of(tid) <= seconds_of(b"\xff" * 8)
    assert shown(tid).startswith(f"{tid.hex()} (")


def test_a_day_that_no_month_has_is_of_the_next_month():
    day = 24 * 60 << 32
    last = int.from_bytes(TimeStamp(2026, 2, 28, 12, 0, 0.0).raw(), "big")
    assert date_of(seconds_of(p64(last + 2 * day))) == "2026-03-02 12:00:00.000000"


def test_text_for_people():
    tid = TimeStamp(2026, 11, 23, 20, 5, 0.5).raw()
    assert shown(tid) == f"{tid.hex()} (2026-11-23 20:05:00.500000 UTC)"
    assert date_of(0.25) == "1970-01-01 00:00:00.250000"
