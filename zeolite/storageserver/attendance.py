"""The sessions of one storage: who is there, and what they and those before did."""

import threading
import time

from .measures import (
    LOAD_BOUNDS,
    VERIFICATIONS,
    Accounts,
    Histogram,
    Look,
    Seat,
)

#: Seconds after which a client that has not asked what it missed is not going to.
_SETTLED = 5


class Attendance:
    """The sessions that a storage has, and the accounts of those it had.

    Any thread may call anything.  The lock guards all there is; nothing that may
    wait is done while it is held.
    """

    def __init__(self):
        self._lock = threading.Lock()
        self._seats = {}  # session -> its `Seat`
        self._accounts = Accounts()
        self._load_times = Histogram(LOAD_BOUNDS)  # Of those who are gone.
        self._ever = 0  # How many sessions there were.

    def sessions(self):
        """Return a list of the sessions that are there."""
        with self._lock:
            return list(self._seats)

    def add(self, session):
        """It has come."""
        with self._lock:
            self._ever += 1
            account = self._accounts.open(_host(session))
            self._seats[session] = Seat(self._ever, account)

    def discard(self, session):
        """It has left, if it was there."""
        with self._lock:
            seat = self._seats.pop(session, None)
            if seat is not None:
                if not seat.is_settled:
                    _settle(session, seat)
                self._accounts.close(seat.account, session.tally(), seat.before)
                if session.load_times is not None:
                    self._load_times.add(session.load_times)

    def rename(self, session):
        """It has another label now: what comes is of another account."""
        with self._lock:
            seat = self._seats[session]
            done = session.tally()
            self._accounts.close(seat.account, done, seat.before)
            seat.account = self._accounts.open(session.label or _host(session))
            seat.before = done

    def count(self, session, key):
        """Count for a session, which may be gone by now.

        For keys that the session's own thread does not write by itself.
        """
        with self._lock:
            session.counts[key] += 1
            if session not in self._seats:
                self._accounts.add(key)

    def look(self):
        """Return a `Look` at what has been done."""
        now = time.monotonic()
        with self._lock:
            sessions, load_times = {}, []
            connected = {account: [] for account in self._accounts}
            for session, seat in self._seats.items():
                if not seat.is_settled and now - seat.since > _SETTLED:
                    _settle(session, seat)
                tally = session.tally()
                sessions[session] = (seat.number, seat.since, tally)
                connected[seat.account].append((tally, seat.before))
                if session.load_times is not None:
                    load_times.append(session.load_times)
            accounts = [account.copy(those) for account, those in connected.items()]
            total = self._load_times.copy()
            total.add(*load_times)
            return Look(self._ever, sessions, accounts, total)


def _settle(session, seat):
    """Count a client that did not have to be told what it missed."""
    seat.is_settled = True
    if not any(session.counts[how] for how in VERIFICATIONS):
        session.counts["none"] += 1


def _host(session):
    """What a client without a label is called: where it comes from."""
    return session.address.rpartition(":")[0] or session.address
