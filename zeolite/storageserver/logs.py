"""The log of a server process: where its lines go, and what if they cannot.

The log never stops the server.  A handler that cannot write, because a disk is
full or a socket is gone, says so on stderr, once a minute at most; once it can
again it logs how many lines may be missing.  Handlers that talk to another server
for each line (email, HTTP) work in a thread of their own.
"""

import contextlib
import logging
import logging.handlers
import queue
import sys
import threading
import time
import traceback

from ..wire.text import printable

logger = logging.getLogger(__name__)

FORMAT = "%(asctime)s %(levelname)s %(message)s"

#: Seconds between two complaints on stderr about the same handler.
_PAUSE = 60

#: How many lines may wait for a handler that is behind.
_MOST_BEHIND = 1000


class OneLineFormatter(logging.Formatter):
    """Makes one line of each event, an exception with its traceback included."""

    def format(self, record):
        record.message = record.getMessage()
        record.asctime = self.formatTime(record, self.datefmt)
        text = self.formatMessage(record)
        if record.exc_info and record.exc_info[1] is not None:
            text = f"{text}: {_in_one_line(record.exc_info[1])}"
        return printable(text)


def _in_one_line(error):
    """Return the exception and those before it, each with its calls, latest first."""
    found = traceback.TracebackException.from_exception(error, lookup_lines=False)
    parts = []
    while found is not None:
        calls = [f"{c.filename}:{c.lineno} {c.name}" for c in reversed(found.stack)]
        what = "".join(found.format_exception_only()).strip()
        parts.append(f"{what} [{' < '.join(calls)}]" if calls else what)
        hidden = found.__suppress_context__
        found = found.__cause__ or (None if hidden else found.__context__)
    return ", after ".join(parts)


class Log:
    """The handlers of the root logger, once they are made.

    `eventlog` is ZConfig's factory for them; None for lines on stderr.  Raises
    whatever opening them raises.  The methods are for the main thread.
    """

    def __init__(self, eventlog=None):
        self._root = logging.getLogger()
        if eventlog is not None:
            eventlog()
        else:
            handler = logging.StreamHandler()
            handler.setFormatter(OneLineFormatter(FORMAT))
            self._root.addHandler(handler)
            self._root.setLevel(logging.INFO)
        self._behind = []
        for handler in list(self._root.handlers):
            _Guard(handler)
            if isinstance(
                handler, (logging.handlers.SMTPHandler, logging.handlers.HTTPHandler)
            ):
                self._put_behind(handler)
        logging.captureWarnings(True)
        threading.excepthook = _log_thread_error

    def _put_behind(self, handler):
        behind = _Behind(handler)
        self._behind.append(behind)
        self._root.removeHandler(handler)
        self._root.addHandler(behind)

    def reopen(self):
        """Open all log files again, after somebody has renamed them.

        Returns the names of those that were opened (list of str).  What goes
        wrong is in the log, and those files are tried again with each line.
        """
        names, errors = [], []
        for handler in self._root.handlers:
            if not hasattr(handler, "reopen"):
                continue
            try:
                _reopen(handler)
                names.append(_name(handler))
            except Exception as error:
                errors.append(f"the log {_name(handler)} cannot be opened: {error}")
        for error in errors:
            logger.error("SIGUSR2: %s", error)
            _complain(error)
        return names

    def close(self, patience):
        """Wait up to `patience` seconds for handlers that are behind."""
        deadline = time.monotonic() + patience
        for behind in self._behind:
            behind.finish(max(0, deadline - time.monotonic()))


def _reopen(handler):
    # Between the two steps nobody else is to log.
    with handler.lock:
        try:
            handler.reopen()
            return
        except OSError:
            # A full disk does not take what was still to be written there, which is
            # no reason to stay with that file.
            pass
        try:
            handler.reopen()
        except Exception:
            handler.stream = None  # It opens the file when there is something to write.
            raise


class _Guard:
    """Wraps a handler's `emit`; all of it runs under the handler's own lock."""

    def __init__(self, handler):
        self._handler = handler
        self._emit = handler.emit
        self._lost = 0
        self._next_complaint = 0
        handler.emit = self.emit
        handler.handleError = self.failed

    def emit(self, record):
        before = self._lost
        try:
            self._emit(record)
        except Exception:
            self.failed(record)
        if before and self._lost == before:
            self._lost = 0
            self._emit(_record(f"log lines that may be missing here: {before}"))

    def failed(self, record):
        """Called, in place of `handleError`, with an exception on its way."""
        self._lost += 1
        now = time.monotonic()
        if now >= self._next_complaint:
            self._next_complaint = now + _PAUSE
            _complain(
                f"the log {_name(self._handler)} cannot be written: "
                f"{sys.exc_info()[1]}; the server goes on"
            )


class _Behind(logging.Handler):
    """Leaves the lines for a slow handler to a thread."""

    def __init__(self, handler):
        super().__init__(handler.level)
        self._handler = handler
        self._queue = queue.Queue(_MOST_BEHIND)
        self._thread = threading.Thread(
            target=self._run, name="zeolite-log", daemon=True
        )
        self._thread.start()

    def emit(self, record):
        record.msg, record.args = record.getMessage(), None
        try:
            self._queue.put_nowait(record)
        except queue.Full:
            _complain(f"the log {_name(self._handler)} is behind; a line is lost")

    def _run(self):
        while (record := self._queue.get()) is not None:
            self._handler.handle(record)

    def finish(self, patience):
        """Wait up to `patience` seconds until all lines are out."""
        try:
            self._queue.put_nowait(None)
        except queue.Full:
            return
        self._thread.join(patience)


def _record(text):
    return logging.LogRecord(__name__, logging.ERROR, __file__, 0, text, None, None)


def _name(handler):
    return getattr(handler, "baseFilename", None) or type(handler).__name__


def _complain(text):
    with contextlib.suppress(Exception):
        print(f"zeolite: {text}", file=sys.stderr, flush=True)


def _log_thread_error(args):
    if args.exc_type is not SystemExit:
        exc_info = args.exc_type, args.exc_value, args.exc_traceback
        name = args.thread.name if args.thread else "?"
        logger.critical("thread %s has ended with an error", name, exc_info=exc_info)
