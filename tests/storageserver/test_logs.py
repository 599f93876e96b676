"""Lines of the default log, and handlers that cannot keep up or fail."""

import logging
import threading

import pytest

from tests.support.blocking import Gate
from tests.support.waiting import wait_until
from zeolite.storageserver import logs


def record(message, error=None):
    exc_info = error and (type(error), error, error.__traceback__)
    return logging.LogRecord("x", logging.ERROR, __file__, 1, message, (), exc_info)


def formatted(message, error=None):
    return logs.OneLineFormatter(logs.FORMAT).format(record(message, error))


def raised(function):
    with pytest.raises(Exception) as info:
        function()
    return info.value


class TestOneLine:
    def test_line_breaks(self):
        assert formatted("a\r\nb").endswith(r"ERROR a\r\nb")

    def test_what_a_terminal_would_obey(self):
        line = formatted("a\x1b[2J\x9b2J\u2028\u202eb\x85\ud800 \xfc")
        seen = r"a\x1b[2J\x9b2J\u2028\u202eb\x85\ud800"
        assert line.endswith(f"ERROR {seen} \xfc")

    def test_calls_are_told_latest_first(self):
        def inner():
            raise ValueError("no\ngood")

        def outer():
            inner()

        line = formatted("it failed", raised(outer))
        assert r"ERROR it failed: ValueError: no\ngood [" in line
        assert line.index(" inner <") < line.index(" outer <")
        assert "\n" not in line

    def test_what_came_before_is_told(self):
        def fail():
            try:
                raise KeyError("first")
            except KeyError as error:
                raise ValueError("second") from error

        line = formatted("it failed", raised(fail))
        assert line.index("ValueError: second") < line.index(
            ", after KeyError: 'first'"
        )

    def test_what_is_hidden_is_not(self):
        def fail():
            try:
                raise KeyError("first")
            except KeyError:
                raise ValueError("second") from None

        assert "KeyError" not in formatted("it failed", raised(fail))

    def test_error_that_was_never_raised(self):
        assert formatted("it failed", ValueError("x")).endswith("failed: ValueError: x")


class Failing(logging.Handler):
    """Fails as long as it is told to, in the way that handlers must not."""

    error = None

    def __init__(self):
        super().__init__()
        self.lines = []

    def emit(self, record):
        if self.error:
            raise self.error
        self.lines.append(record.getMessage())


def test_handler_that_fails_raises_nothing_and_says_so_once(capsys):
    handler = Failing()
    logs._Guard(handler)
    handler.error = OSError("no room")
    for _ in range(3):
        handler.handle(record("lost"))
    handler.error = None
    for message in ("a", "b"):
        handler.handle(record(message))
    assert handler.lines == ["a", "log lines that may be missing here: 3", "b"]
    assert capsys.readouterr().err == (
        "zeolite: the log Failing cannot be written: no room; the server goes on\n"
    )


class TestBehind:
    def test_who_logs_does_not_wait_and_what_is_too_much_is_lost(
        self, capsys, monkeypatch
    ):
        monkeypatch.setattr(logs, "_MOST_BEHIND", 2)
        gate, lines, threads = Gate(), [], []

        class Slow(logging.Handler):
            def emit(self, record):
                threads.append(threading.current_thread())
                if not lines:
                    gate.stop_here()
                lines.append(record.getMessage())

        behind = logs._Behind(Slow())
        behind.handle(record("1"))
        gate.wait_until_reached()
        for message in "234":
            behind.handle(record(message))
        assert "the log Slow is behind; a line is lost" in capsys.readouterr().err
        behind.finish(0)  # No room for that either; it returns all the same.
        gate.open()
        wait_until(behind._queue.empty)
        behind.finish(20)
        assert lines == ["1", "2", "3"]
        assert threading.current_thread() not in threads
