"""How much is measured, and what a measurement works with."""

import dataclasses

from .databases import Databases
from .jobs.loads import WARM_UP
from .processes import Scratch


@dataclasses.dataclass(frozen=True)
class Sizes:
    """How much of everything."""

    round_trips: int = 5000
    loads: int = 2000
    #: Loads of each process where several load at once.
    shared_loads: int = 1000
    prefetch_batches: int = 3
    warm_repeats: int = 10
    commits: int = 200
    large_commits: int = 3
    #: How often each of two that differ little is measured in one round.
    turns: int = 5
    #: Seconds for a server to come to rest after clients have connected.
    settle: float = 0.5
    #: Bytes in the blobs that are measured, and loads while they travel.
    blob: int = 100 * 1024 * 1024
    blob_loads: int = 1000
    #: For the pack: it is to take more than a second.
    packed_objects: int = 30000
    packed_revisions: int = 3
    cached_objects: int = 1_000_000
    #: Bytes of a client's cache that has room for these.
    cache_size: int = 1 << 30


QUICK = Sizes(
    round_trips=500,
    loads=300,
    shared_loads=200,
    prefetch_batches=1,
    warm_repeats=2,
    commits=20,
    large_commits=1,
    turns=1,
    settle=0.1,
    packed_objects=3000,
    cached_objects=10_000,
    cache_size=16 << 20,
    blob=10 * 1024 * 1024,
    blob_loads=150,
)


@dataclasses.dataclass
class Bench:
    """What setups and measurements work with."""

    scratch: Scratch
    databases: Databases
    sizes: Sizes

    def records(self):
        """Return the path of a new file with enough records for any workload."""
        sizes = self.sizes
        most = max(sizes.loads, sizes.shared_loads, sizes.prefetch_batches * 1000)
        return self.databases.records(WARM_UP + most)
