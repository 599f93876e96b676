"""Sessions with clients that send anything: nobody else notices, nothing stays behind.

`ZEOLITE_FUZZ_FRAMES` says how many frames the slow test sends, and
`ZEOLITE_FUZZ_SEED` where its seeds begin.  What each session is held against is in
`fuzzworld`.
"""

import collections
import itertools
import os
import random

import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.fuzzcalls import conversation, framed
from tests.support.fuzzworld import World

FRAMES = int(os.environ.get("ZEOLITE_FUZZ_FRAMES", "1000000"))
SEED = int(os.environ.get("ZEOLITE_FUZZ_SEED", "0"))

#: Sessions with one storage, before the next gets a new one.
_SESSIONS = 300

#: MB that the process may grow by during the slow test.
_GROWTH = 40

_WORLDS = [
    ("file", {}),
    ("mapping", {}),
    ("file", {"client_conflict_resolution": True}),
    ("file", {"read_only": True}),
]


def converse(world, rng):
    """Have one conversation, that may arrive in any pieces, or end early."""
    frames = conversation(rng, world.tids, world.blob)
    pieces, takes = None, 1 << 40
    if rng.randrange(4) == 0:
        pieces = _torn(rng, b"".join(framed(data) for _, data in frames))
    if rng.randrange(10) == 0:
        takes = rng.randrange(3000)
    world.converse(frames, pieces, rival=rng.randrange(5) == 0, takes=takes)


def _torn(rng, data):
    """Return `data` in pieces, of which the last may be missing."""
    places = sorted(rng.randrange(len(data)) for _ in range(rng.randrange(9)))
    places = [0, *places, len(data) - rng.choice([0, 0, 1, 9])]
    return [data[a:b] for a, b in itertools.pairwise(places) if a < b]


@settings(
    max_examples=10,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(rng=st.randoms(use_true_random=False))
@pytest.mark.parametrize("number", range(len(_WORLDS)))
def test_whatever_a_client_sends_only_its_own_session_ends(number, rng):
    kind, options = _WORLDS[number]
    with World(kind, **options) as world:
        converse(world, rng)


@pytest.mark.parametrize("number", range(len(_WORLDS)))
def test_many_sessions_leave_nothing_behind(number):
    kind, options = _WORLDS[number]
    with World(kind, **options) as world:
        for seed in range(100):
            converse(world, random.Random(f"{number} {seed}"))
        assert sum(world.counts.values()) > 200


@pytest.mark.slow
@pytest.mark.timeout(4 * 3600)
def test_a_million_frames():
    counts, reasons, answers = (collections.Counter() for _ in range(3))
    sessions, seed, first_size = 0, SEED, None
    while sum(counts.values()) < FRAMES:
        kind, options = _WORLDS[seed % len(_WORLDS)]
        with World(kind, counts, **options) as world:
            for number in range(_SESSIONS):
                try:
                    converse(world, random.Random(f"{seed} {number}"))
                except BaseException:
                    print("the seed is", repr(f"{seed} {number}"))
                    raise
            sessions += world.sessions
            answers += world.answers
            for reason, count in world.reasons.items():
                reasons[" ".join(reason.split()[:3])] += count
        seed += 1
        size = psutil.Process().memory_info().rss / 2**20
        if sum(counts.values()) > FRAMES / 10 and first_size is None:
            first_size = size
    print(sum(counts.values()), "frames in", sessions, "sessions")
    print(dict(counts.most_common()))
    print("answered with", dict(answers.most_common()))
    print(sum(reasons.values()), "closed, for", len(reasons), "kinds of reasons")
    print(f"memory: {first_size:.1f} MB after a tenth, {size:.1f} MB at the end")
    assert size - first_size < _GROWTH
