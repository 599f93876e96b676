"""The call of a vote, and what a conflict tells about the cache."""

from ZODB.POSException import ConflictError

from .answers import checked, is_vote_or_none
from .call import Call


class Vote(Call):
    """A call of `vote`, whose result is a list.

    A conflict may come of a cache that is wrong, because of a failing disk or of a
    server's data that were replaced.  Then it would come again each time the
    transaction is tried; so `view.conflicted(oid, serials)` is called, in the reader
    thread, before whoever waits wakes up.
    """

    __slots__ = ("_view",)

    def __init__(self, view):
        super().__init__()
        self._view = view

    # The reader thread.

    def succeed(self, result):
        try:
            result = checked(result, is_vote_or_none, "how it has voted") or ()
        except Exception as error:
            self.fail(error)
            return
        for item in result:
            if isinstance(item, dict):
                self._view.conflicted(item["oid"], item["serials"])
        super().succeed(result)

    def refuse(self, error):
        if isinstance(error, ConflictError) and error.oid is not None:
            self._view.conflicted(error.oid, error.serials)
        super().refuse(error)
