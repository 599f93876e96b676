"""The settings of a server, with their defaults."""

import dataclasses

from ..errors import ConfigurationError
from ..wire.channel import format_address
from ..wire.frames import DEFAULT_LIMIT, STRANGER_LIMIT


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

    #: How many bytes of what clients read of a storage are kept in memory; 0 for none.
    storage_cache_size: int = 32 * 1024 * 1024

    #: How many instances of a storage in a database may be in use at once by what
    #: reads; each has a connection to the database.  For no other storages.
    storage_instances: int = 16

    #: Seconds from asking such a database for others' commits to asking again.
    poll_interval: float = 0.5

    #: Look for the next message of a client that talks alone, and quickly, for a moment
    #: before waiting for it in the system.
    busy_polling: bool = True

    #: Seconds of silence after which the system asks a TCP client for a sign of
    #: life; after twice the time without one the client is cut off.  0: the
    #: system's own, much longer times.
    keep_alive: float = 30

    #: From how many transactions that wait for the commit lock on the log has
    #: warnings about it, and critical lines; 0 for never.
    waiting_warning: int = 4
    waiting_critical: int = 10

    #: Seconds from which on a call, holding the commit lock, and waiting for it are
    #: slow enough for a line in the log; 0 for never.
    slow_call: float = 5

    #: Where to tell people and programs how it goes, over HTTP: (host, port), or
    #: None for nowhere.
    monitor_address: tuple[str, int] | None = None

    #: Who may pack through this server: "all", "writers" (clients that may write),
    #: or "none".
    allow_pack: str = "all"

    #: Who may connect to a Unix socket: the mode of its file.  None: the owner.
    unix_socket_mode: int | None = None

    # What one client may use.

    #: Seconds from connecting to having registered.
    handshake_timeout: float = 30

    #: Seconds that a client may take nothing of what is sent to it, or say nothing
    #: in the middle of a message.
    client_timeout: float = 30

    #: Bytes in one message of a client that has not registered yet.
    max_register_size: int = STRANGER_LIMIT

    #: Bytes in one message of a client that has.
    max_message_size: int = DEFAULT_LIMIT

    #: Bytes that have arrived of messages which are not whole yet, of all clients
    #: together; 0 for no limit.
    max_unfinished_size: int = 512 * 1024 * 1024

    #: Connections, in all and from one address; 0 for no limit.
    max_connections: int = 5000
    max_connections_per_address: int = 2500

    #: Transactions that a client may have begun.
    max_transactions: int = 200

    #: Bytes that a transaction may have before its vote, with its blobs; 0 for no
    #: limit.
    max_transaction_size: int = 0

    #: Seconds without a message after which a transaction is aborted that was not
    #: voted; 0 for no limit.
    idle_transaction_timeout: float = 3600

    #: Iterators over transactions that a client may have.
    max_iterators: int = 100

    #: Calls of a client that run in threads of their own: downloads of blobs, packs,
    #: undoLog and undoInfo.
    max_background_calls: int = 100

    def check_fit(self, address):
        """Raise `ConfigurationError` for what makes no sense at a server's address."""
        if self.unix_socket_mode is not None and not isinstance(address, str):
            raise ConfigurationError(
                f"unix-socket-mode is for a Unix socket, but the address is "
                f"{format_address(address)}; leave it out"
            )
