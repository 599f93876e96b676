"""Counting: what a client has done, what all have done, and how long things take.

Counting is cheap because every number has one writer at a time and no lock of its
own.  Whoever reads may find a number that is one behind, never a torn one.
"""

import time
from bisect import bisect_left
from collections import OrderedDict

#: What `server_status` shows of what sessions count.
COUNTS = ("loads", "stores", "commits", "aborts", "conflicts", "conflicts_resolved")

#: How a client's cache was brought up to date: it did not ask, because it was empty
#: or had all; it was told from the log, by the server that this one is a client of,
#: by the database that servers share, by iterating over the storage; or nobody could
#: tell.
VERIFICATIONS = ("none", "queue", "upstream", "database", "iterating", "too_old")

#: What `Session.counts` has.  Only the session's own thread writes them, but for
#: those that go through `Attendance.count`.
OWN = (*COUNTS, "blob_loads", *VERIFICATIONS)

#: What is kept of a session that has ended.
KEYS = (*OWN, "bytes_received", "bytes_sent")

#: Upper bounds in seconds.
LOAD_BOUNDS = (
    *(0.00001, 0.000025, 0.00005, 0.0001, 0.00025, 0.0005),
    *(0.001, 0.0025, 0.005, 0.01, 0.05, 0.25, 1.0),
)
COMMIT_BOUNDS = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05),
    *(0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0),
)

#: How many names of clients are told apart at a time.
MOST_NAMES = 64

#: Who all others are.
OTHERS = "(others)"


class Histogram:
    """How many durations were up to each of `bounds` (seconds), and their sum.

    One thread at a time observes.
    """

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds):
        self.bounds = bounds
        #: One number for each bound, and one for what is above all of them.
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, seconds):
        """Count one that took so long."""
        self.counts[bisect_left(self.bounds, seconds)] += 1
        self.sum += seconds

    def add(self, *others):
        """Add all that others with the same bounds have."""
        every = zip(self.counts, *[other.counts for other in others])
        self.counts = [sum(counts) for counts in every]
        self.sum += sum([other.sum for other in others])

    def copy(self):
        copied = Histogram(self.bounds)
        copied.add(self)
        return copied


class Account:
    """What the clients of one name have done whose sessions are over."""

    __slots__ = ("connections", "name", "past")

    def __init__(self, name):
        self.name = name
        self.connections = 0
        self.past = dict.fromkeys(KEYS, 0)

    def add(self, done, before=None):
        """Add the tally `done`, less what it was `before`."""
        past = self.past
        for key in KEYS:
            past[key] += done[key] - (before[key] if before else 0)

    def copy(self, connected):
        """Return what it is with `connected`, pairs of done and before, as in `add`.

        With hundreds of them this takes a fraction of what adding each would take.
        """
        copied = Account(self.name)
        copied.connections = self.connections
        dones = [done for done, _ in connected]
        befores = [before for _, before in connected if before]
        for key in KEYS:
            copied.past[key] = (
                self.past[key]
                + sum([done[key] for done in dones])
                - sum([before[key] for before in befores])
            )
        return copied


class Accounts:
    """An `Account` for each name of clients, as long as there are not too many.

    Names come from clients.  Beyond `most`, a new name gets the place of the one
    whose last client left the longest time ago, and what that one has done becomes
    the others'.  If all are connected, the new one belongs to the others.  So the
    sum over all names is what was done, whatever happens.

    Guarded by the lock of the `Attendance` that it belongs to.
    """

    def __init__(self, most=MOST_NAMES):
        self._most = most
        # Those without a client are in the order in which they lost it.
        self._named = OrderedDict()
        self._others = Account(OTHERS)

    def __iter__(self):
        yield self._others
        yield from self._named.values()

    def open(self, name):
        """Return the account of a client that has come, or changed its name."""
        account = self._named.get(name)
        if account is None:
            account = self._others
            if name != OTHERS and self._has_room():
                account = self._named[name] = Account(name)
        account.connections += 1
        return account

    def close(self, account, done, before=None):
        """The client has left, or has another name now; see `Account.add`."""
        account.add(done, before)
        account.connections -= 1
        if not account.connections and account is not self._others:
            self._named.move_to_end(account.name)

    def add(self, key):
        """Count for a client that is gone."""
        self._others.past[key] += 1

    def _has_room(self):
        if len(self._named) < self._most:
            return True
        for account in self._named.values():
            if not account.connections:
                del self._named[account.name]
                self._others.add(account.past)
                return True
        return False


class Seat:
    """A session's place among those of its storage.

    `account` is where what it has done belongs, less what it had done `before`.
    `is_settled` says that it is counted how its cache was brought up to date.
    """

    __slots__ = ("account", "before", "is_settled", "number", "since")

    def __init__(self, number, account):
        self.number = number
        self.account = account
        self.before = None
        self.is_settled = False
        self.since = time.monotonic()


class Look:
    """What has been done up to now.

    `ever` is how many sessions there were; `sessions` maps those that there are to
    (number, since when in `time.monotonic` seconds, tally); `accounts` is a list
    of `Account`, in which they are contained; `load_times` is a `Histogram`.
    """

    def __init__(self, ever, sessions, accounts, load_times):
        self.ever = ever
        self.sessions = sessions
        self.accounts = accounts
        self.load_times = load_times

    def total(self):
        """Return what all have done, a dictionary of `measures.KEYS`."""
        return {key: sum(a.past[key] for a in self.accounts) for key in KEYS}
