"""The threads in which a storage's calls run that take long, such as a pack.

A client has a limit of such calls at once, and of replies to them that wait until it
takes them.
"""

import threading

from ZODB.POSException import StorageError

from .commit import DELAYED


class Helpers:
    """The helpers of one storage, for the sessions of all its clients.

    Sessions call `run` in threads of their own.  The lock guards the set of helpers,
    and of each session `background_calls` and `background_replies`; nothing is called
    while it is held.
    """

    def __init__(self, name, most):
        """`name` is the storage's, `most` how many calls of a client may run at once."""
        self._name = name
        self._most = most
        self._lock = threading.Lock()
        self._threads = set()

    def threads(self):
        """Return a list of the helpers that are at work now."""
        with self._lock:
            return list(self._threads)

    def run(self, session, name, respond, function, *args):
        """Call a function in a thread of its own; `respond` gets result or error.

        `name` is the call's.  Returns `DELAYED`.  Raises `StorageError` if the session
        has as many helpers as it may.
        """

        def run():
            try:
                answer = function(*args)
            except Exception as error:
                answer = error
            # Who has the reply may call again at once, but only so many replies may
            # wait until they are taken.
            with self._lock:
                is_over = session.background_replies < self._most
                if is_over:
                    session.background_calls -= 1
                    session.background_replies += 1
            try:
                respond(answer)
            finally:
                self._forget(helper, session, is_over)

        helper = threading.Thread(
            target=run, name=f"zeolite-{name}-{self._name}", daemon=True
        )
        self._enter(helper, session)
        try:
            helper.start()
        except RuntimeError as error:
            self._forget(helper, session)
            raise StorageError("the server cannot have more threads") from error
        return DELAYED

    def _enter(self, helper, session):
        with self._lock:
            if session.background_calls >= self._most:
                raise StorageError(
                    f"more than {self._most} calls at once that take long, which is "
                    "max-background-calls in the server's configuration"
                )
            session.background_calls += 1
            self._threads.add(helper)

    def _forget(self, helper, session, is_over=False):
        """A helper is at its end; `is_over` if only its reply was left to count."""
        with self._lock:
            if is_over:
                session.background_replies -= 1
            else:
                session.background_calls -= 1
            self._threads.discard(helper)
