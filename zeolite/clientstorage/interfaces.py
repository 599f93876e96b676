"""Which of ZODB's interfaces a client storage provides.

It is what the served storage provides, as far as clients can reach it, and what
a client storage adds by itself.
"""

import zope.interface
from ZODB import interfaces

from ..errors import ProtocolError

# What a server may name.  Other names are none of ours, and nothing is imported.
_KNOWN = {
    interface.__name__: interface
    for interface in (
        interfaces.IStorageRestoreable,
        interfaces.IStorageIteration,
        interfaces.IStorageUndoable,
        interfaces.IStorageCurrentRecordIteration,
        interfaces.IExternalGC,
        interfaces.ReadVerifyingStorage,
        interfaces.IBlobStorage,
        interfaces.IBlobStorageRestoreable,
    )
}

_ALWAYS = interfaces.IMultiCommitStorage, interfaces.IPrefetchStorage


def provide(storage, names):
    """Let `storage` provide what `names`, pairs of module and name, stand for."""
    if type(names) not in (tuple, list):
        raise ProtocolError("the server does not tell what its storage provides")
    found = [
        interface
        for name, interface in _KNOWN.items()
        if any(pair == (interfaces.__name__, name) for pair in names)
    ]
    zope.interface.directlyProvides(storage, *_ALWAYS, *found)
