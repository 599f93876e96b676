"""What users may listen to.

A server tells of its life through `ZODB.event`, which needs the package zope.event,
for instance so that a subscriber can announce the port which the system has chosen::

    import zope.event
    from zeolite.interfaces import Serving

    def announce(event):
        if isinstance(event, Serving):
            print(event.address)

    zope.event.subscribers.append(announce)
"""


class ServerEvent:
    """Something happened to `server`, a `StorageServer`."""

    def __init__(self, server):
        self.server = server


class Serving(ServerEvent):
    """A server accepts clients at `address`: (host, real port), or a path (str).

    Notified in the thread that starts the server, before starting returns.  If a
    subscriber raises, starting fails with that.
    """

    def __init__(self, server, address):
        super().__init__(server)
        self.address = address


class Closed(ServerEvent):
    """A server has stopped, and its storages are closed.

    Notified in the thread that stops the server, before stopping returns.
    """
