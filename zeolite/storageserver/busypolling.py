"""Busy polling: to look for a client's next message before going to sleep for it.

A processor without work sleeps, and to wake it takes longer than most calls do: tens
of microseconds, on virtual machines more.  A client that loads one object after the
other, or commits, has sent its next message by then.  So the thread of a client that
talks alone, and quickly, looks for a moment whether something has come, and only then
waits in the system.

That pays as long as there is a processor to spare.  Where others want it, such as the
client itself, it makes everything slower; so it is tried now and then, and done only
where messages come earlier with it than without.
"""

from time import perf_counter

#: Seconds that a thread looks for.
MOMENT = 150e-6

#: Seconds that are quick for who has slept: two processors were to be woken.
_QUICK_ASLEEP = 2 * MOMENT

# A client's waits are counted, quick ones up and others down, between 0 and the one;
# above the other it is a quick client.
_MOST = 8
_ENOUGH = 4

#: Seconds; who waits longer says nothing about processors.
_PAUSE = 1e-3


class BusyPolling:
    """What the clients of a server share: which of them was heard last.

    Any session's thread reads and writes that, without a lock, as it is a hint.
    """

    def __init__(self, is_wanted):
        self.is_wanted = is_wanted
        self.last = None


class Receiver:
    """Receives from one client's `channel`, for its session's own thread."""

    def __init__(self, channel, shared):
        self._channel = channel
        self._shared = shared
        self._quick = 0
        self._trials = Trials()

    def receive(self, deadline=None):
        """Return the channel's next bytes, as its `receive` does."""
        shared = self._shared
        if deadline is not None or not shared.is_wanted:
            return self._channel.receive(deadline)
        is_quick = self._quick > _ENOUGH
        looks = is_quick and self._trials.looks
        start = perf_counter()
        if looks:
            self._look_until(start + MOMENT)
        received = self._channel.receive()
        seconds = perf_counter() - start
        if shared.last is not self:
            # Not alone: the other's thread needs the interpreter.
            shared.last = self
            self._quick = 0
            return received
        if seconds <= (MOMENT if looks else _QUICK_ASLEEP):
            self._quick = min(self._quick + 1, _MOST)
        else:
            self._quick = max(self._quick - 1, 0)
        if is_quick and seconds < _PAUSE:
            self._trials.add(seconds)
        return received

    def _look_until(self, end):
        has_come, shared = self._channel.has_come, self._shared
        while shared.last is self and not has_come() and perf_counter() < end:
            pass


class Trials:
    """Finds out whether waits are shorter for who looks, and goes on finding out.

    A trial is some waits asleep and as many with looking, and what was better is done
    for a term.  A trial may err, so looking gets another chance soon, and a later one
    each time that it was not better.
    """

    #: How many waits are compared.
    SIZE = 32

    #: For how many waits looking is done.
    TERM = 2_000

    #: For how many it is not done, at least and at most.
    BREAKS = 250, 32_000

    #: How much less of the time looking has to take.
    LESS = 0.85

    def __init__(self):
        #: Whether to look.
        self.looks = False
        self._seconds = 0.0
        self._steps = self._run()
        self._left = next(self._steps)

    def add(self, seconds):
        """Count a wait of so many seconds, with or without looking, as `looks` says."""
        self._seconds += seconds
        self._left -= 1
        if not self._left:
            self._left = next(self._steps)

    def _run(self):
        """Set `looks` and yield for how many waits that holds, again and again."""
        least, most = self.BREAKS
        pause = least
        while True:
            asleep = yield from self._try(False)
            looking = yield from self._try(True)
            self.looks = looking < asleep * self.LESS
            if self.looks:
                pause = least
                yield self.TERM
            else:
                yield pause
                pause = min(pause * 2, most)

    def _try(self, looks):
        self.looks = looks
        self._seconds = 0.0
        yield self.SIZE
        return self._seconds
