"""A call to the server, and the wait for its reply."""

import threading

from ..errors import ProtocolError
from .answers import is_revision


class Call:
    """A call that waits for its reply.

    `on_reply` is called with the result in the reader thread, before whoever
    waits wakes up; what it returns is the call's result.  Several threads may
    wait.
    """

    __slots__ = (
        "_done",
        "_error",
        "_result",
        "is_answered",
        "is_done",
        "is_refused",
        "on_reply",
    )

    #: What `Link.load` shares it by.
    key: tuple[bytes, bytes] | None = None

    def __init__(self, on_reply=None):
        self._done = threading.Lock()
        self._done.acquire()
        self._result = self._error = None
        self.is_done = False
        #: Whether the server has answered with a result.
        self.is_answered = False
        #: Whether the server has answered with an error.
        self.is_refused = False
        self.on_reply = on_reply

    def wait(self):
        """Wait for the reply; return the result or raise the error."""
        # The next one may want to know as well, even if a signal's handler raises here.
        with self._done:
            pass
        if self._error is not None:
            raise self._error
        return self._result

    # The reader thread, once.

    def succeed(self, result):
        self.is_answered = True
        if self.on_reply is not None:
            try:
                result = self.on_reply(result)
            except Exception as error:
                self._error = error
        self._result = result
        self._finish()

    def refuse(self, error):
        self.is_refused = True
        self.fail(error)

    def fail(self, error):
        self._error = error
        self._finish()

    def _finish(self):
        self.is_done = True
        self._done.release()


class Load(Call):
    """A call of `loadBefore`; its `key` is the oid and the tid.

    `on_reply(oid, found)` is called in the reader thread.
    """

    __slots__ = ("key",)

    def __init__(self, key, on_reply):
        super().__init__(on_reply)
        self.key = key

    # The reader thread, once.

    def succeed(self, result):
        if result is None or is_revision(result):
            self.loaded(result)
        else:
            self.fail(ProtocolError("the server does not tell an object's revision"))

    def loaded(self, found):
        """Like `succeed`, for what can only be a revision."""
        self.is_answered = True
        try:
            self.on_reply(self.key[0], found)
            self._result = found
        except Exception as error:
            self._error = error
        self._finish()
