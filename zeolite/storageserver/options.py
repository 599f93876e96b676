"""The settings of a server, with their defaults."""

import dataclasses

from ..wire.frames import DEFAULT_LIMIT


@dataclasses.dataclass(frozen=True)
class ServerOptions:
    """What holds for all storages and clients of a server."""

    #: Refuse everything that writes.  Packing is not writing.
    read_only: bool = False

    #: How many commits are kept for clients that reconnect.
    invalidation_queue_size: int = 100

    #: Seconds; a client that was away for less is told what it missed by
    #: iterating over the storage.  None: it is not.
    invalidation_age: float | None = None

    #: Seconds from getting the commit lock to being done; 0 for no limit.
    transaction_timeout: float = 30

    #: Leave it to clients to resolve conflicts; the server then never makes
    #: instances of the application's classes.
    client_conflict_resolution: bool = False

    #: How many instances of a storage in a database may be in use at once by what
    #: reads; each has a connection to the database.  For no other storages.
    storage_instances: int = 16

    #: Seconds from asking such a database for others' commits to asking again.
    poll_interval: float = 0.5

    #: Seconds that a client may take nothing of what is sent to it.
    client_timeout: float = 30

    #: Seconds from connecting to having registered.
    handshake_timeout: float = 30

    #: Seconds of silence after which the system asks a TCP client for a sign of
    #: life; after twice the time without one the client is cut off.  0: the
    #: system's own, much longer times.
    keep_alive: float = 30

    #: Bytes that a registered client may send in one message.
    max_message_size: int = DEFAULT_LIMIT
