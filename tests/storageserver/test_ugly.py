"""The ugliest that clients have sent: what a fuzzer found, and what is made by hand.

Each is a conversation in a `World`, which looks for what it has left behind.
"""

import gc
import itertools
import resource
import weakref

import pytest
from ZODB.utils import maxtid, p64, u64, z64

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


def test_an_undone_creation_is_restored_wherever_its_data_is_said_to_be():
    with World("file") as world:
        oid, before, tid = p64(1), world.tids[0], p64(u64(world.tids[-1]) + 2**40)
        replies = say(
            world,
            post("tpc_begin", 1, b"", b"", {}, tid),
            post("restorea", oid, tid, None, before, 1),
            call("vote", 1),
            call("tpc_finish", 1, id=3),
            call("loadSerial", oid, before, id=4),
            call("getTid", oid, id=5),
        )
        assert (replies[2], replies[3]) == ([], tid)
        assert replies[4].startswith(b"\x80")
        assert replies[5] == "ZODB.POSException.POSKeyError"


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


def shift(tid, days):
    return p64(u64(tid) + int(days * 24 * 60) * 2**32)


@pytest.mark.parametrize("kind", ["transaction", "record"])
def test_no_transaction_can_be_of_a_far_time(kind):
    """All later ones would have to follow it, the last possible one none."""
    with World("file") as world:
        last = world.storage.lastTransaction()
        for far in (shift(last, 2), p64(u64(maxtid) - 1)):
            tids = (far, far) if kind == "transaction" else (shift(last, 0.5), far)
            replies = say(
                world,
                post("tpc_begin", 1, b"", b"", {}, tids[0]),
                post("restorea", p64(1), tids[1], b"data", None, 1),
                call("vote", 1),
            )
            assert replies[2] == "ZODB.POSException.StorageError"


def test_a_transaction_can_be_of_another_time_zone():
    with World("file") as world:
        first = shift(world.storage.lastTransaction(), 0.6)
        # And one that is ahead is followed by others.
        for id, tid in ((1, first), (2, shift(first, 0.9))):
            replies = say(
                world,
                post("tpc_begin", id, b"", b"", {}, tid),
                post("restorea", p64(1), tid, b"data", None, id),
                call("vote", id),
                call("tpc_finish", id, id=3),
            )
            assert (replies[2], replies[3]) == ([], tid)


@pytest.mark.parametrize("method", ["storea", "restorea", "storeBlobEnd"])
def test_no_oid_is_the_last_one(method):
    """Storages count on from the largest that they have been given."""
    far = p64(2**63 - 1)
    with World("file") as world:
        near = world.storage.new_oid()
        tid = shift(world.storage.lastTransaction(), 0.5)
        stores = {
            "storea": [post("storea", far, z64, b"data", 1)],
            "restorea": [post("restorea", far, tid, b"data", None, 1)],
            "storeBlobEnd": [
                post("storeBlobStart"),
                post("storeBlobChunk", b"blob"),
                post("storeBlobEnd", far, z64, b"data", 1),
            ],
        }[method]
        begin_then = post("tpc_begin", 1, b"", b"", {}, tid)
        replies = say(world, begin_then, *stores, call("vote", 1))
        assert replies[2] == "ZODB.POSException.StorageError"
        assert u64(world.storage.new_oid()) < u64(near) + 10


def test_oids_that_were_given_out_can_be_stored_however_large_they_are():
    with World("file") as world:
        world.storage.set_max_oid(p64(2**62 + 5))
        oid = world.storage.new_oid()
        replies = say(
            world,
            begin(),
            post("storea", oid, z64, b"data", 1),
            call("vote", 1),
            call("tpc_finish", 1, id=3),
            call("getTid", oid, id=4),
        )
        assert replies[4] == replies[3]


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


def test_a_damaged_name_does_not_keep_the_server_busy():
    """Before registering; looking for the end of the name began anew for ever."""
    data = (
        b"\x80\x03(K\0K\x01X\x09\0\0\0Tpc_beginq\0(K\x03C\x02\xff\nq\x01c\x05aboutq\x02"
        b"}\0\0\0aq\x04K\x01sC\x08\x04\r1\xa1)\x80Uq\x05tq\x06tq\x07."
    )
    for greeting in (GREETING[:1], GREETING):
        with World("mapping") as world:
            world.converse([*greeting, ("damaged", data)])
            assert list(world.reasons) == ["a pickle that ends too early"]


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
