"""What becomes of an open storage in the child of a fork.

A connection has one reader thread and one stream, neither of which two processes
can share.  So in the child, and only there, whatever was watched is told to let go
of what is the parent's.  That happens before the child runs anything else, in its
only thread, and takes no lock, because a thread that holds it may be missing.

In the parent, all of this costs nothing.
"""

import os
import weakref

from ..errors import ForkedStorageError

_watched = weakref.WeakSet()


def watch(thing):
    """Have `thing.after_fork()` called in children that are forked from now on."""
    _watched.add(thing)


def forked_error():
    """Return the error for those who use in this child what is the parent's."""
    return ForkedStorageError(
        f"this storage was opened in process {os.getppid()}, and this is its child "
        f"{os.getpid()}: a connection cannot be shared; open another storage after "
        "the fork"
    )


class Elsewhere:
    """Stands for something that is the parent's.  Only closing it is allowed."""

    is_connected = False

    def close(self):
        pass

    def __getattr__(self, name):
        raise forked_error()


def _tell():
    for thing in list(_watched):
        thing.after_fork()


os.register_at_fork(after_in_child=_tell)
