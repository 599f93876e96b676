"""The signals of a server's process, and what each does in which phase of its life.

While the storages are opened, which may take minutes, a signal ends the process at
once: nobody was served yet, so nothing is lost.  Then the main thread takes one after
the other, and from the first one that says stop, another ends the process at once.

A thread waits for them, so that nothing is interrupted as a handler would do.
"""

import logging
import os
import queue
import signal
import threading
import time

logger = logging.getLogger(__name__)

#: Seconds after a signal to stop in which another one says the same: a terminal and
#: a wrapper may both pass it on.  A later one ends the process at once.
GRACE = 1

#: The exit status that has supervisors start the server again.
RESTART = 1


class Signals:
    """Waits for SIGTERM, SIGINT, SIGHUP and SIGUSR2.  For the main thread.

    It is made before other threads are, which inherit that they get no signals.
    """

    def __init__(self):
        self._numbers = _numbers()
        signal.pthread_sigmask(signal.SIG_BLOCK, self._numbers)
        self._arrived = queue.SimpleQueue()
        self._lock = threading.Lock()  # Guards `_react`, and is held while it runs.
        self._react = self._end_opening
        threading.Thread(target=self._run, name="zeolite-signals", daemon=True).start()

    def keep(self):
        """From now on, keep signals for `wait`: the storages are open."""
        with self._lock:
            self._react = self._arrived.put

    def wait(self):
        """Return the number of the next signal, which may have come earlier."""
        return self._arrived.get()

    def end_at_once(self, tidy):
        """From now on, have another signal to stop end the process after `tidy()`."""
        start = time.monotonic()

        def react(number):
            if number == signal.SIGUSR2 or time.monotonic() - start < GRACE:
                return
            name = signal.Signals(number).name
            logger.warning("%s: ending at once, as a kill would", name)
            tidy()
            # What a shell says of a process that a signal has ended.
            os._exit(128 + number)

        with self._lock:
            self._react = react

    def _run(self):
        while True:
            number = signal.sigwait(self._numbers)
            with self._lock:
                self._react(number)

    def _end_opening(self, number):
        if number == signal.SIGUSR2:
            self._arrived.put(number)
            return
        name = signal.Signals(number).name
        logger.info("%s: ending, before the storages were open", name)
        os._exit(exit_status(number))


def exit_status(number):
    """Return what a process exits with that such a signal has stopped."""
    return RESTART if number == signal.SIGHUP else 0


def _numbers():
    numbers = {signal.SIGTERM, signal.SIGINT, signal.SIGUSR2}
    # Under nohup it is to be ignored.
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.add(signal.SIGHUP)
    return numbers
