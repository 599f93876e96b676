"""One line a minute for each cause, and none of the others is forgotten."""

import logging
import threading

import pytest

from zeolite.storageserver.sparselog import _MOST_CAUSES, INTERVAL, SparseLog


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def log(clock):
    return SparseLog(logging.getLogger("test"), clock)


def lines(caplog):
    return [record.getMessage() for record in caplog.records]


def test_first_of_a_cause_is_logged_and_the_rest_is_counted(log, clock, caplog):
    for number in range(1000):
        log.warning("too large", "client %d: too large", number)
    log.warning("too slow", "client %d: too slow", 1)
    assert lines(caplog) == ["client 0: too large", "client 1: too slow"]
    clock.now += INTERVAL
    log.tell_suppressed()
    assert lines(caplog)[2:] == ["999 more like this were not logged: too large"]
    log.tell_suppressed()
    assert len(lines(caplog)) == 3


def test_next_minute_has_a_line_of_its_own(log, clock, caplog):
    for _ in range(3):
        for number in range(5):
            log.warning("too large", "client %d: too large", number)
        clock.now += INTERVAL
    assert lines(caplog) == [
        "client 0: too large",
        *["4 more like this were not logged: too large", "client 0: too large"] * 2,
    ]


def test_minute_begins_with_the_line(log, clock, caplog):
    log.warning("too large", "first")
    clock.now += INTERVAL - 1
    log.warning("too large", "second")
    log.tell_suppressed()
    assert lines(caplog) == ["first"]


def test_numbers_and_what_is_quoted_do_not_make_another_cause(log, caplog):
    log.warning("a frame of 70000 bytes", "one")
    log.warning("a frame of 80000 bytes", "two")
    log.warning("it speaks b'M5'", "three")
    log.warning("it speaks b'Z4'", "four")
    assert lines(caplog) == ["one", "three"]


def test_peers_cannot_make_up_causes_without_end(log, caplog):
    for number in range(1000):
        name = "".join(chr(97 + int(digit)) for digit in str(number))
        log.warning(f"the name {name} in a pickle", "name %s", name)
    assert len(lines(caplog)) == _MOST_CAUSES + 1
    assert len(log._causes) == _MOST_CAUSES + 1
    log.tell_suppressed(now=True)
    assert lines(caplog)[-1].startswith(f"{999 - _MOST_CAUSES} more like this")


def test_level_and_traceback(log, caplog):
    try:
        raise ValueError("broken")
    except ValueError as error:
        log.error("failed", "it failed", exc_info=error)
        log.error("failed", "it failed", exc_info=error)
    log.tell_suppressed(now=True)
    assert [r.levelno for r in caplog.records] == [logging.ERROR] * 2
    assert "ValueError: broken" in caplog.text


def test_threads_get_one_line_together(log, caplog):
    barrier = threading.Barrier(8)

    def complain():
        barrier.wait(20)
        for _ in range(200):
            log.warning("too large", "too large")

    threads = [threading.Thread(target=complain) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    log.tell_suppressed(now=True)
    assert lines(caplog) == [
        "too large",
        "1599 more like this were not logged: too large",
    ]
