"""What is looked after from time to time, in one thread a server.

Transactions that a client has begun and forgotten are aborted, and the log is told
how much was kept from it.
"""

import logging
import threading

logger = logging.getLogger(__name__)

#: Seconds between two looks, at most.
_INTERVAL = 60


class Housekeeper:
    """Looks after `served` (a list of `Served`) until it is stopped.

    A transaction that nothing was said about for `idle_timeout` seconds (0: for
    ever) is aborted; `log` is the server's `SparseLog`.
    """

    def __init__(self, served, log, idle_timeout):
        self._served = served
        self._log = log
        self._idle_timeout = idle_timeout
        self._interval = min(_INTERVAL, idle_timeout / 4 or _INTERVAL)
        self._stopped = threading.Event()
        self._thread = threading.Thread(
            target=self._run, name="zeolite-housekeeper", daemon=True
        )

    def start(self):
        self._thread.start()

    def stop(self):
        """End the thread.  What was kept from the log is told now."""
        self._stopped.set()
        if self._thread.ident is not None:
            self._thread.join()
        self._log.tell_suppressed(now=True)

    def _run(self):
        while not self._stopped.wait(self._interval):
            try:
                self.look()
            except Exception:
                logger.exception("looking after idle transactions failed")

    def look(self):
        """Do it all once."""
        self._log.tell_suppressed()
        if not self._idle_timeout:
            return
        for served in self._served:
            for session in served.sessions():
                self._abort_idle(session)

    def _abort_idle(self, session):
        upload = session.upload
        if upload is not None and not upload.is_idle(self._idle_timeout):
            return  # Nobody knows yet to which transaction the blob belongs.
        for transaction in session.transactions.copy().values():
            if transaction.abort_if_idle(self._idle_timeout):
                self._log.warning(
                    "an idle transaction",
                    "client %s: a transaction of its was aborted: nothing was said "
                    "about it for %g seconds",
                    session,
                    self._idle_timeout,
                )
