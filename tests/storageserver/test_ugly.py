"""The ugliest that clients have sent: what a fuzzer found, and what is made by hand.

Each is a conversation in a `World`, which looks for what it has left behind.
"""

import gc
import itertools
import resource
import weakref

import pytest
from ZODB.utils import p64, z64

from tests.support.bombs import BOMBS
from tests.support.fuzzcalls import GREETING
from tests.support.fuzzpickles import dumps
from tests.support.fuzzworld import World
from zeolite.wire import messages
from zeolite.wire.frames import FrameReader


@pytest.fixture(params=["file", "mapping"])
def world(request):
    with World(request.param) as world:
        yield world


def call(name, *args, id=2):
    return "call", dumps((id, 0, name, args))


def post(name, *args):
    return "call", dumps((0, 1, name, args))


def say(world, *frames):
    """Have a conversation; return the replies, and errors, by message id."""
    reader, replies = FrameReader(1 << 30), {}
    for data in world.converse([*GREETING, *frames]):
        reader.feed(data)
        while (frame := reader.next()) is not None:
            if frame != messages.PROTOCOL:
                message_id, flag, _, result = messages.decode_reply(frame)
                replies[message_id] = result[0] if flag else result
    return replies


def begin(id=1, user=b""):
    return post("tpc_begin", id, user, b"", {})


@pytest.mark.parametrize("when", [float("nan"), float("inf"), 1e300, -1, 2**70])
def test_packing_to_no_time_is_an_error(world, when):
    replies = say(world, call("pack", when, True))
    assert replies[2] == "ZODB.POSException.StorageError"


def test_a_name_that_cannot_be_encoded_fails_the_vote(world):
    replies = say(world, begin(user="\ud800"), call("vote", 1))
    assert replies[2] == "ZODB.POSException.StorageError"


@pytest.mark.parametrize(
    "post_it",
    [
        post("restorea", p64(1), p64(2), b"data", None, 1),
        post("deleteObject", p64(1), p64(2), 1),
        post("undoa", b"id", 1),
    ],
    ids=["restorea", "deleteObject", "undoa"],
)
def test_what_a_storage_cannot_do_fails_the_vote(post_it):
    with World("mapping") as world:
        replies = say(world, begin(), post_it, call("vote", 1))
        assert replies[2] == "ZODB.POSException.Unsupported"


@pytest.mark.parametrize("id", [b"", b"x", b"!!!", b"AAAA", b"AAAAAAAAAAA=", b"\xff"])
def test_undoing_what_is_no_transaction_fails_the_vote(id):
    with World("file") as world:
        replies = say(world, begin(), post("undoa", id, 1), call("vote", 1))
        assert replies[2] == "ZODB.POSException.UndoError"


def test_there_is_no_record_after_the_last():
    with World("file") as world:
        replies = say(world, call("record_iternext", b"\xff" * 8))
        assert replies[2] == "ZODB.POSException.StorageError"


def test_a_transaction_in_every_order(world):
    names = ["begin", "store", "vote", "finish", "abort"]
    for number, order in enumerate(itertools.permutations(names)):
        calls = {
            "begin": begin(),
            # An object of its own, so that there are no conflicts.
            "store": post("storea", p64(100 + number), None, b".", 1),
            "vote": call("vote", 1, id=2),
            "finish": call("tpc_finish", 1, id=3),
            "abort": call("tpc_abort", 1, id=4),
        }
        replies = say(world, *[calls[name] for name in order])
        assert {2, 3, 4} <= set(replies)
        steps = [name for name in order if name != "store"]
        is_right = steps in (
            ["begin", "vote", "finish", "abort"],
            ["abort", "begin", "vote", "finish"],
        )
        # What is stored after the vote spoils it no more, and is not done.
        assert (type(replies[3]) is bytes) == is_right, order


def test_a_blob_in_every_order():
    calls = [
        begin(),
        post("storeBlobStart"),
        post("storeBlobChunk", b"chunk"),
        post("storeBlobEnd", p64(9), None, b".", 1),
        call("vote", 1),
    ]
    with World("file") as world:
        for order in itertools.permutations(calls):
            say(world, *order)
            say(world, *order, *order)


@pytest.mark.parametrize("registered", [False, True])
def test_bombs_go_off_nowhere(registered):
    greeting = GREETING if registered else GREETING[:1]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with World("mapping") as world:
        for data in BOMBS.values():
            world.converse([*greeting, ("bomb", data)])
        # All but the few that are harmless are refused with a line.
        assert sum(world.reasons.values()) > len(BOMBS) * 0.9
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert after - before < 64 * 1024  # KiB


def test_a_message_of_many_small_objects_is_refused():
    with World("mapping") as world:
        few = list(range(30_000))
        say(world, post("iterator_gc", few), call("ping"))
        assert not world.reasons
        data = dumps((0, 1, "iterator_gc", (list(range(300_000)),)))
        world.converse([*GREETING, ("call", data)])
        assert list(world.reasons) == ["too much in a pickle that is not bytes"]


def test_large_records_are_no_small_objects():
    message = 2, 0, "tpc_begin", (1, b"x" * 10**7, b"", {"a": "y" * 10**5})
    assert messages.decode_call(dumps(message)) == message


def test_who_has_committed_and_left_is_not_kept_in_memory(world, monkeypatch):
    sessions = weakref.WeakSet()
    discard = world._served.discard
    monkeypatch.setattr(
        world._served, "discard", lambda s: (sessions.add(s), discard(s))
    )
    store = post("storea", p64(9), z64, b".", 1)
    commit = [begin(), store, call("vote", 1, id=2), call("tpc_finish", 1, id=3)]
    assert type(say(world, *commit)[3]) is bytes
    world.converse([*GREETING, *commit[:3]], rival=True)
    assert sessions or not gc.collect()
    gc.collect()
    assert not sessions
