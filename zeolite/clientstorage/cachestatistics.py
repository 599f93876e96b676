"""What a cache tells about itself."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class CacheStatistics:
    """What a cache has done since it was opened."""

    #: Bytes of the file.
    size: int
    #: Bytes of it that records take up.
    bytes: int
    #: Revisions in the cache.
    records: int
    #: Loads that were answered by the cache, and those that were not.
    hits: int
    misses: int
    #: Revisions stored.
    stores: int
    #: Revisions forgotten to make room.
    evictions: int
    #: Revisions kept when it was their turn, because they had been read.
    moves: int

    @property
    def hit_rate(self):
        """The share of loads that were answered by the cache, a float up to 1."""
        loads = self.hits + self.misses
        return self.hits / loads if loads else 0.0
