"""How much memory messages may take that clients have begun and not ended.

Nobody can know which of them will ever be whole.  Where they are too much together,
whose has been under way for the longest has to go: a client that stops in the middle,
or goes on as slowly as it may, cannot keep the others from sending theirs.
"""

import threading

_WHY = (
    "its message was under way for the longest of those that together have more than "
    "max-unfinished-size"
)


class Unfinished:
    """Adds up what has arrived.  Any thread.

    `most` is bytes, 0 for no limit.  One message alone may have more.
    """

    def __init__(self, most):
        self._most = most
        self._lock = threading.Lock()  # A leaf.  Guards both below.
        self._total = 0
        # Session -> bytes, in the order in which the messages have begun.
        self._sizes = {}

    @property
    def total(self):
        """What all have, in bytes."""
        return self._total

    def update(self, session, size):
        """Take note that `size` bytes of a session's message have arrived.

        0 is for when it is whole, or the session ends.  May end other sessions, or
        this one.
        """
        ended = []
        with self._lock:
            self._total += size - self._sizes.get(session, 0)
            if size:
                self._sizes[session] = size
            else:
                self._sizes.pop(session, None)
            while 0 < self._most < self._total and len(self._sizes) > 1:
                oldest = next(iter(self._sizes))
                self._total -= self._sizes.pop(oldest)
                ended.append(oldest)
        for session in ended:
            session.end(_WHY)
