"""A log that a misbehaving client cannot fill.

What clients bring about is logged once a minute for each cause.  The others of the
same cause are counted, and the count is logged when the minute is over.
"""

import dataclasses
import logging
import re
import threading
import time

#: Seconds.
INTERVAL = 60

#: Causes that are told apart within one interval.  Peers can make them up.
_MOST_CAUSES = 50

#: What stands for all further ones.
_FURTHER = "further causes"

#: In a reason, where what a peer has chosen may begin.
_CHOSEN = re.compile(r"[^a-zA-Z ,;:.()_-]")


@dataclasses.dataclass
class _Cause:
    since: float
    level: int
    suppressed: int = 0


class SparseLog:
    """Logs to `logger`.  Any thread calls any method; logging is done outside the lock.

    `clock` returns seconds that only grow.
    """

    def __init__(self, logger, clock=time.monotonic):
        self._logger = logger
        self._clock = clock
        self._lock = threading.Lock()  # Guards `_causes`.
        self._causes = {}

    def warning(self, cause, message, *args):
        """Log a warning, unless one of the same `cause` (str) was just logged.

        Of a cause counts what stands before the first digit, quote or the like.
        """
        self._log(logging.WARNING, cause, message, args)

    def error(self, cause, message, *args, exc_info=None):
        """Log an error likewise."""
        self._log(logging.ERROR, cause, message, args, exc_info)

    def _log(self, level, cause, message, args, exc_info=None):
        if self._is_due(level, _CHOSEN.split(cause, maxsplit=1)[0]):
            self._logger.log(level, message, *args, exc_info=exc_info)

    def _is_due(self, level, cause):
        self.tell_suppressed()
        with self._lock:
            found = self._causes.get(cause)
            if found is None and len(self._causes) >= _MOST_CAUSES:
                cause = _FURTHER
                found = self._causes.get(cause)
            if found is None:
                self._causes[cause] = _Cause(self._clock(), level)
                return True
            found.suppressed += 1
            return False

    def tell_suppressed(self, now=False):
        """Log how many were suppressed, of the causes whose time is over, or of all."""
        before = self._clock() - INTERVAL
        over = []
        with self._lock:
            for name in [*self._causes]:
                if now or self._causes[name].since <= before:
                    over.append((name, self._causes.pop(name)))
        for name, cause in over:
            if cause.suppressed:
                self._logger.log(
                    cause.level,
                    "%d more like this were not logged: %s",
                    cause.suppressed,
                    name.strip() or "other causes",
                )
