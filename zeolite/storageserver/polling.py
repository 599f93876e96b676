"""The feed: what is committed to a database, whoever commits it, enters the log.

One thread polls the database: at an interval, and whenever somebody wants to know
what there is now.  Only it writes to the invalidation log, so commits enter that in
the order of their tids, which is the order in which they become visible: the
database holds its commit lock while it chooses a tid, until the commit is done.

A commit of this server is visible before the server knows its tid, and there may be
several such.  Where a poll has found what may be one of them it waits for those that
were under way then, so that each enters the log once, as its client's own.  The commit
waits in turn for the poll that puts it there behind all earlier ones.
"""

import itertools
import logging
import threading
import time

from ZODB.utils import p64, u64

from ..wire.channel import ConnectionLost
from .instances import Instance
from .invalidation import Entry
from .storageerrors import comes_of_trouble, describe

logger = logging.getLogger(__name__)

#: Seconds that somebody waits for a poll.
PATIENCE = 60


class PollFailed(Exception):
    """The database did not answer.  The cause has the reason."""


class Feed:
    """Polls a database, and is where its commits are reserved and published.

    Any thread calls any method.  `root` is the storage, `changes` what knows its
    changes, `revisions` has what was read, `on_poll` is called in the feed's thread once an interval.
    """

    def __init__(self, name, root, log, changes, revisions, interval, on_news, on_poll):
        self._name = name
        self._root = root
        self._log = log
        self._changes = changes
        self._revisions = revisions
        self._interval = interval
        self._on_news = on_news
        self._on_poll = on_poll
        # The feed's thread only.
        self._instance = None
        self._known = log.last_tid
        self._next_rest = 0
        # Guards all of the below; the database is asked without it.
        self._condition = threading.Condition()
        self._started = 0  # The number of the last poll that has begun,
        self._done = 0  # that has ended,
        self._wanted = 0  # that is to be made at once.
        self._error = None  # Of the last poll.
        self._numbers = itertools.count()
        self._finishing = set()  # The numbers of commits that are about to be visible.
        self._own = {}  # tid -> (entry, number of the first poll that sees it)
        self._closed = False
        self._thread = threading.Thread(
            target=self._run, name=f"zeolite-poller-{name}", daemon=True
        )

    @property
    def error(self):
        """Why the last poll failed (str), or None."""
        return self._error and describe(self._error)

    def start(self):
        self._thread.start()

    def close(self, patience=None):
        """End the thread; waits for a poll, at most `patience` seconds."""
        with self._condition:
            self._closed = True
            self._condition.notify_all()
        if self._thread.ident is not None:
            self._thread.join(patience)
            if self._thread.is_alive():
                logger.warning("storage %s: its database does not answer", self._name)
                return
        if self._instance is not None:
            self._instance.release()

    # What sessions call.

    def poll(self):
        """Return when all that is committed by now is in the log.

        Raises `PollFailed`.
        """
        with self._condition:
            number = self._want()
            if not self._wait(lambda: self._done >= number):
                raise PollFailed("the database does not answer")
            if self._error is not None:
                raise PollFailed(describe(self._error)) from self._error

    # What commits do: the methods of `Journal` of the same names.

    def finishing(self, oids):
        """A commit is about to be visible; `publish` or `cancel` follows."""
        with self._condition:
            number = next(self._numbers)
            self._finishing.add(number)
            return number

    def reserve(self, tid, oids, origin=None):
        """Return the entry for a commit.  It gets its place when it is published."""
        return Entry(tid, oids, origin)

    def publish(self, entry, number=None):
        """Return when the commit is in the log, behind all earlier ones.

        Raises `ConnectionLost` if that took too long: then the connection that
        made the commit is to end, and gets to know of it like all the others.
        """
        with self._condition:
            self._finishing.discard(number)
            self._own[entry.tid] = entry, self._started + 1
            self._want()
            if not self._wait(lambda: entry.published):
                self._own.pop(entry.tid, None)
                raise ConnectionLost("the database did not answer after a commit")

    def cancel(self, entry, number=None):
        """The commit failed, or nobody knows what became of it."""
        with self._condition:
            self._finishing.discard(number)
            self._condition.notify_all()

    def aborted(self):
        """It was aborted: what can be read after that, a poll finds."""

    def _want(self):
        """Have a poll made that begins from now on; return its number."""
        self._wanted = self._started + 1
        self._condition.notify_all()
        return self._wanted

    def _wait(self, is_over):
        self._condition.wait_for(lambda: self._closed or is_over(), PATIENCE)
        return is_over()

    # The feed's thread.

    def _run(self):
        while True:
            with self._condition:
                self._condition.wait_for(
                    lambda: self._closed or self._wanted > self._started,
                    self._interval,
                )
                if self._closed:
                    return
                self._started += 1
                number = self._started
            try:
                self._enter(*self._ask(), number)
            except Exception as error:
                self._failed(error)
            else:
                self._succeeded()
            with self._condition:
                self._done = number
                self._condition.notify_all()
            self._rest()

    def _ask(self):
        if self._instance is not None:
            try:
                return self._changes.since(self._instance.storage, self._known)
            except Exception as error:
                if not comes_of_trouble(error):
                    raise
                # The connection may have been lost long ago.
                self._give_up_instance()
        self._instance = Instance(self._root.new_instance())
        return self._changes.since(self._instance.storage, self._known)

    def _failed(self, error):
        if self._error is None:
            logger.warning(
                "storage %s: its database cannot be polled: %s; trying again every "
                "%g seconds",
                self._name,
                describe(error),
                self._interval,
            )
        self._error = error
        self._give_up_instance()

    def _give_up_instance(self):
        instance, self._instance = self._instance, None
        if instance is not None:
            instance.release()

    def _succeeded(self):
        if self._error is not None:
            logger.info("storage %s: its database can be polled again", self._name)
        self._error = None

    def _enter(self, commits, is_exact, number):
        """Enter what was found into the log.  If that fails, the next poll does it."""
        own = self._seen_own(commits, is_exact, number)
        if own is None:
            return
        if commits is None:
            self._forget(own)
        elif entries := self._entries(commits, is_exact, own):
            for entry in entries:
                # Before any client is told.
                self._revisions.changed(entry.oids or ())
            self._log.put(entries)
            self._known = max(self._known, *(e.tid for e in entries))
            if any(entry.origin is None for entry in entries):
                self._on_news()
        with self._condition:
            for tid in own:
                self._own.pop(tid, None)

    def _seen_own(self, commits, is_exact, number):
        """Return {tid: entry} of this server's commits that a poll has seen."""
        last = max(commits or (), default=b"")
        with self._condition:
            if not is_exact or not self._own.keys() >= commits.keys():
                # Commits that have become visible may be among what was found.  Those
                # that begin from now on are not.
                under_way = self._finishing.copy()
                self._condition.wait_for(
                    lambda: self._closed or self._finishing.isdisjoint(under_way)
                )
            if self._closed:
                return None
            return {
                tid: entry
                for tid, (entry, first) in self._own.items()
                if first <= number or tid <= last
            }

    def _entries(self, commits, is_exact, own):
        """Return the entries for the log, in their order."""
        for tid, entry in own.items():
            if not entry.oids and tid not in commits:
                # It has left no trace in the database, so other servers will not
                # know its tid either: to the client it was the commit before.
                entry.tid = max([self._known, *(t for t in commits if t < tid)])
                entry.oids = None
        if is_exact:
            foreign = commits.items()
        else:
            foreign = self._vague(commits, own)
        entries = [Entry(tid, oids, None) for tid, oids in foreign if tid not in own]
        entries += own.values()
        return sorted(entries, key=lambda entry: (entry.tid, entry.void))

    def _vague(self, commits, own):
        """Yield (tid, oids) where it is not known which commit changed what.

        No client may come to stand between commits of others: what it has cached may
        have been changed there, too.  It goes from what it knows to what there is now,
        and at a commit of this server it has nothing of what others have changed.
        """
        oids = _foreign(commits, own)
        if not oids:
            return
        # What ours have changed as well: only the last change may be known.
        ours = (oid for entry in own.values() for oid in entry.oids or ())
        oids = list(dict.fromkeys((*oids, *ours)))
        after = {p64(u64(self._known) + 1), max(commits)}
        after.update(p64(u64(entry.tid) - 1) for entry in own.values())
        for tid in sorted(after):
            if tid > self._known:
                yield tid, oids

    def _forget(self, own):
        """Something was committed, and it cannot be known what."""
        tid = self._instance.storage.lastTransaction()
        logger.warning(
            "storage %s: unknown changes, all clients have to reconnect", self._name
        )
        self._known = max([self._known, tid, *own])
        self._revisions.forget()
        self._log.restart(self._known, is_known=False)
        self._log.put(own.values())
        self._on_news()

    def _rest(self):
        now = time.monotonic()
        if now < self._next_rest:
            return
        self._next_rest = now + self._interval
        try:
            if self._instance is not None:
                self._instance.rest()
            self._on_poll()
        except Exception as error:
            self._failed(error)


def _foreign(commits, own):
    """Return the oids that others have changed, maybe with the tid of our commit."""
    oids = {}
    for tid, changed in commits.items():
        ours = own[tid].oids if tid in own else ()
        oids.update((oid, None) for oid in changed if oid not in ours)
    return list(oids)
