"""How much of a blob may be on its way at a time.

It is counted in pieces: a download's chunks, or for an upload, whose chunks differ in
size, 64 KB.

What other threads ask for stands behind these.  So they are as few as keep the line
busy: near by that is a few, and to a server far away it is what the line holds while
an answer is under way.  Each chunk tells how long it took from being allowed to
having arrived, and a tiny message at the start how long the way alone takes.
"""

#: Pieces: the least, what one begins with, and the most.
LEAST, START, MOST = 2, 4, 64

#: The least while somebody else waits: who loads wants the processors, too.
LEAST_SHARED = 1

#: Seconds of delay that are little enough on any line while nobody else waits.
LITTLE = 0.0005


class Pace:
    """`room` is how many pieces may be on their way.  For one thread at a time.

    `little` is what delay (seconds) may always be while nobody else waits.
    """

    def __init__(self, little=LITTLE):
        self.room = START
        self._little = little
        self._way = None

    def measured(self, seconds):
        """So long a message takes there and back when nothing is in its way."""
        if self._way is None or seconds < self._way:
            self._way = seconds

    def took(self, seconds, others_wait=False, count=1):
        """A chunk of `count` pieces arrived so long after it was allowed.

        Adjusts the room.  `others_wait` says whether somebody waits for loads at
        this time.
        """
        if self._way is None or seconds < self._way:
            self._way = seconds
        delay = seconds - self._way
        bearable = self._way if others_wait else max(self._way, self._little)
        if delay <= bearable:
            self.room = min(self.room + count, MOST)
        elif delay > 2 * bearable:
            if others_wait:
                self.room = max(self.room // 2, LEAST_SHARED)
            else:
                self.room = max(self.room - count, LEAST)
