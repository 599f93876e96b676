"""How many chunks of a blob are on their way."""

from zeolite.clientstorage.pace import LEAST, LITTLE, MOST, START, Pace


def line(pace, way, rate, others_wait=False, chunks=500):
    """Send chunks over a line; return the room and the last delay that was seen.

    `way` is seconds there and back, `rate` chunks that it takes in a second.
    """
    pace.measured(way)
    for _ in range(chunks):
        delay = max(0, pace.room / rate - way)
        pace.took(way + delay, others_wait)
    return pace.room, delay


class TestRoom:
    def test_begins_with_a_few(self):
        assert Pace().room == START

    def test_long_line_is_filled(self):
        # 50 ms away, 100 chunks a second fit into it: 5 would be enough.
        room, delay = line(Pace(), 0.05, 100)
        assert room >= 5
        assert delay <= 0.1

    def test_very_long_line_has_the_most(self):
        room, delay = line(Pace(), 0.2, 10_000)
        assert room == MOST
        assert delay == 0

    def test_near_by_it_stays_small(self):
        # 10,000 chunks a second, no way to speak of.
        room, delay = line(Pace(), 0.0001, 10_000)
        assert LEAST <= room <= 3 * LITTLE * 10_000
        assert delay <= 3 * LITTLE

    def test_near_by_others_make_it_smaller_at_once(self):
        pace = Pace()
        before, _ = line(pace, 0.0001, 10_000)
        room, delay = line(pace, 0.0001, 10_000, others_wait=True, chunks=2)
        assert LEAST <= room < before
        assert delay <= 3 * 0.0001

    def test_others_do_not_empty_a_long_line(self):
        room, _ = line(Pace(), 0.2, 10_000, others_wait=True)
        assert room == MOST

    def test_slow_line_has_the_least(self):
        room, _ = line(Pace(), 0.01, 5)
        assert room == LEAST

    def test_first_measurement_that_was_too_long_does_no_harm(self):
        pace = Pace()
        pace.measured(5)
        pace.took(0.001)  # A chunk was faster than that.
        room, _ = line(pace, 5, 10)
        assert room == LEAST

    def test_without_a_measurement(self):
        pace = Pace()
        pace.took(0.01)
        for _ in range(100):
            pace.took(0.1)
        assert pace.room == LEAST
