"""How many chunks of a blob may be on their way at a time.

What other threads ask for stands behind these.  So they are as few as keep the line
busy: near by that is a few, and to a server far away it is what the line holds while
an answer is under way.  Each chunk tells how long it took from being allowed to
having arrived, and a tiny message at the start how long the way alone takes.
"""

#: Chunks: the least, what one begins with, and the most.
LEAST, START, MOST = 2, 4, 64

#: Seconds of delay that are little enough on any line while nobody else waits.
LITTLE = 0.0005


class Pace:
    """`room` is how many chunks may be on their way.  For one thread at a time."""

    def __init__(self):
        self.room = START
        self._way = None

    def measured(self, seconds):
        """So long a message takes there and back when nothing is in its way."""
        if self._way is None or seconds < self._way:
            self._way = seconds

    def took(self, seconds, others_wait=False):
        """A chunk arrived so long after it was allowed: adjust the room.

        `others_wait` says whether somebody waits for a load at this time.
        """
        if self._way is None or seconds < self._way:
            self._way = seconds
        delay = seconds - self._way
        bearable = self._way if others_wait else max(self._way, LITTLE)
        if delay <= bearable:
            self.room = min(self.room + 1, MOST)
        elif delay > 2 * bearable:
            less = self.room // 2 if others_wait else self.room - 1
            self.room = max(less, LEAST)
