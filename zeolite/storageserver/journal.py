"""Where the commits of a storage are entered that only its server writes to.

Their places are in the invalidation log.  What was kept of the storage's revisions is
told of each commit twice: before it can be read, and before any client hears of it.
"""


class Journal:
    """Where commits reserve and publish, one at a time, with the commit lock held.

    `log` is the storage's `InvalidationLog`, `revisions` has what was read from it.
    """

    def __init__(self, log, revisions):
        self._log = log
        self._revisions = revisions

    def finishing(self, oids):
        """A commit that changes `oids` (dictionary) is about to be readable.

        `publish` follows, or `cancel` and `aborted`.  These get what this returns.
        """
        self._revisions.changing(oids)

    def reserve(self, tid, oids, origin=None):
        """Return the entry for that commit, in its place in the log."""
        return self._log.reserve(tid, oids, origin)

    def publish(self, entry, number=None):
        """The commit can be read: tell the clients."""
        try:
            self._revisions.changed(entry.oids)
        except BaseException:
            self._revisions.forget()
            raise
        finally:
            # Nobody hears of anything that comes behind it before.
            self._revisions.settled()
            self._log.publish(entry)

    def cancel(self, entry, number=None):
        """The commit failed; `entry` is its place, None if it had none."""
        if entry is not None:
            self._log.cancel(entry)

    def aborted(self):
        """What could be read of the commit that failed, if anything, is undone."""
        self._revisions.forget()
        self._revisions.settled()
