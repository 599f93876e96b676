"""Numbers that leave room for those that come after them.

A storage counts on from the largest oid and the latest tid that it has been given.
One that is near the last possible number would be the end of a database, so no
client can store one, although it may choose both.
"""

import time

from ZODB.POSException import StorageError

from ..tids import date_of, seconds_of

#: Seconds that a tid may be ahead of what it follows: of the clock, or of the
#: storage's last one.  A clock that is set to the wrong time zone is no more.
AHEAD = 24 * 3600

#: From where on an oid has to be near those that its storage gives out.  To count as
#: far takes centuries, and as much is left.
_LARGE = 0x40


def check_tid(last_tid, tid):
    """Raise `StorageError` if a recovered `tid` is of a time that is far off.

    `last_tid` is that of the storage's last commit.

    Whatever is committed later gets later tids: the database would not know any more
    what it had when, and a pack to some days ago would remove nothing.
    """
    seconds, now = seconds_of(tid), time.time()
    if seconds - AHEAD > max(now, seconds_of(last_tid)):
        raise StorageError(
            f"transaction {tid.hex()} is of {date_of(seconds)} (UTC), and here it is "
            f"{date_of(now)}; a server takes none that is more than a day ahead: look "
            "at both clocks, or copy into the storage's file while no server has it"
        )


def check_oid(storage, oid):
    """Raise `StorageError` if there would not be enough oids after `oid`."""
    if oid[0] >= _LARGE and oid > storage.new_oid():
        raise StorageError(f"oid {oid.hex()} was not given out by this storage")
