"""A call to the server, and the wait for its reply."""

import threading


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
        "key",
        "on_reply",
    )

    def __init__(self, on_reply=None, key=None):
        self._done = threading.Lock()
        self._done.acquire()
        self._result = self._error = None
        self.is_done = False
        #: Whether the server has answered with a result.
        self.is_answered = False
        #: Whether the server has answered with an error.
        self.is_refused = False
        self.on_reply = on_reply
        #: What `Link.load` shares it by.
        self.key = key

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
