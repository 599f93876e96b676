"""Answers that make no sense: who asked is told so, and the connection goes on."""

import pytest
from ZODB.Connection import TransactionMetaData
from ZODB.utils import p64, z64

from zeolite.errors import CommitInDoubt, ProtocolError

from .talking import OID, Background, settle, voted

ID, LONG = p64(3), b"\xff" * 9


@pytest.fixture
def connected(connect):
    """A storage, and the script of its server."""
    return connect()


def lost_in_finish(fake, storage, script):
    """Lose the connection in a `tpc_finish`; return it and the script of the next one,
    where the client has begun to look.
    """
    finish = Background(storage.tpc_finish, voted(storage, script))
    script.expect("tpc_finish")
    script.close()
    script = fake.accept()
    script.expect("tpc_begin")
    return finish, script


#: method and arguments -> the call that it makes, and answers that are wrong.
WRONG = {
    ("loadSerial", OID, ID): ("loadSerial", [None, "text", 1]),
    ("getTid", OID): ("getTid", [None, LONG, 1, "12345678"]),
    ("getInvalidations", ID): (
        "getInvalidations",
        [1, ID, (ID,), (ID, 1), (LONG, []), (ID, [LONG]), (ID, [1])],
    ),
    ("history", OID): ("history", [1, {}, [1], [{}], [{"tid": LONG}], [{"tid": 1}]]),
    ("undoLog", 0, -20): ("undoLog", [1, {}, "text", [1], [[]]]),
    ("undoInfo", 0, -20): ("undoInfo", [1, {}, "text", [1], [[]]]),
    ("record_iternext",): (
        "record_iternext",
        [
            None,
            (ID, ID, b"data"),
            (LONG, ID, b"data", None),
            (ID, None, b"data", None),
            (ID, ID, "text", None),
            (ID, ID, b"data", 1),
        ],
    ),
    ("new_oid",): ("new_oids", [None, [], 1, [1], [LONG], [b"\x80" + bytes(7)]]),
    ("server_status",): ("server_status", [None, [], 1]),
    ("iterator",): ("iterator_start", [None, "1", 1.0, b""]),
}


@pytest.mark.parametrize(
    "method, name, answer",
    [(m, name, a) for m, (name, answers) in WRONG.items() for a in answers],
)
def test_who_asked_is_told(connected, method, name, answer):
    storage, script = connected
    method, *args = method
    asking = Background(getattr(storage, method), *args)
    script.answer(name, answer)
    with pytest.raises(ProtocolError, match="the server does not tell"):
        asking.result()
    settle(storage, script)


@pytest.mark.parametrize("method", ["history", "undoLog"])
def test_a_storage_may_have_no_history(connected, method):
    storage, script = connected
    asking = Background(getattr(storage, method), *([OID] * (method == "history")))
    script.answer(method, None)
    assert asking.result() == []


def test_new_oids_may_come_as_a_tuple(connected):
    storage, script = connected
    asking = Background(lambda: [storage.new_oid(), storage.new_oid()])
    script.answer("new_oids", (p64(8), p64(9)))
    assert asking.result() == [p64(8), p64(9)]


class TestIterating:
    TRANSACTION = ID, " ", b"user", b"description", {}

    @pytest.mark.parametrize(
        "answer",
        [
            1,
            (),
            TRANSACTION[:4],
            (LONG, *TRANSACTION[1:]),
            (ID, 1, *TRANSACTION[2:]),
            (ID, " ", None, b"", {}),
            (ID, " ", "\ud800", b"", {}),
            (ID, " ", b"", b"", []),
        ],
    )
    def test_transaction(self, connected, answer):
        storage, script = connected
        asking = Background(lambda: list(storage.iterator()))
        script.answer("iterator_start", 1)
        script.answer("iterator_next", answer)
        with pytest.raises(ProtocolError, match="the server does not tell"):
            asking.result()

    @pytest.mark.parametrize(
        "start, record",
        [
            (None, None),
            (b"1", None),
            (2, 1),
            (2, ()),
            (2, (ID, ID, b"data")),
            (2, (LONG, ID, b"data", None)),
            (2, (ID, ID, "text", None)),
            (2, (ID, ID, b"data", 1)),
        ],
    )
    def test_records(self, connected, start, record):
        storage, script = connected
        asking = Background(lambda: [list(t) for t in storage.iterator()])
        script.answer("iterator_start", 1)
        script.answer("iterator_next", self.TRANSACTION)
        script.answer("iterator_record_start", start)
        if type(start) is int:
            script.answer("iterator_record_next", record)
        with pytest.raises(ProtocolError, match="the server does not tell"):
            asking.result()

    def test_behind_the_last_tid_there_is_none(self, connected):
        storage, script = connected
        asking = Background(lambda: [t.tid for t in storage.iterator()])
        script.answer("iterator_start", 1)
        script.answer("iterator_next", (b"\xff" * 8, *self.TRANSACTION[1:]))
        script.answer("iterator_next", None)
        assert asking.result() == [b"\xff" * 8]


class TestCommitting:
    CONFLICT = {"oid": OID, "serials": (ID, z64), "data": b"data"}  # noqa: RUF012

    @pytest.mark.parametrize(
        "answer",
        [
            1,
            "text",
            {OID: 1},
            [1],
            [LONG],
            [[OID, ID]],
            [{}],
            [{**CONFLICT, "more": 1}],
            [{**CONFLICT, "oid": 1}],
            [{**CONFLICT, "serials": None}],
            [{**CONFLICT, "serials": (ID, 1)}],
            [{**CONFLICT, "data": None}],
        ],
    )
    def test_a_vote_that_makes_no_sense_is_none(self, connected, answer):
        storage, script = connected
        transaction = TransactionMetaData()
        storage.tpc_begin(transaction)
        storage.store(OID, None, b"data", "", transaction)
        vote = Background(storage.tpc_vote, transaction)
        script.expect_all("tpc_begin", "storea")
        script.answer("vote", answer)
        with pytest.raises(ProtocolError, match="the server does not tell how"):
            vote.result()
        abort = Background(storage.tpc_abort, transaction)
        script.answer("tpc_abort", None)
        abort.result()
        voted(storage, script)

    @pytest.mark.parametrize(
        "history",
        [
            (None,),
            (1,),
            ([{}],),
            ("ZODB.POSException.ConflictError", {}),
            ("builtins.KeyError", ()),
        ],
    )
    def test_a_commit_that_nobody_tells_of_is_in_doubt(self, fake, connected, history):
        storage, script = connected
        finish, script = lost_in_finish(fake, storage, script)
        script.answer("vote", [])
        script.answer("tpc_abort", None)
        if len(history) == 1:
            script.answer("history", *history)
        else:
            script.fail(script.expect("history")[0], *history)
        with pytest.raises(CommitInDoubt):
            finish.result()

    @pytest.mark.parametrize(
        "error",
        ["ZODB.POSException.ConflictError", "ZODB.POSException.POSKeyError", "a.b"],
    )
    def test_a_server_that_lets_nobody_look_leaves_a_commit_in_doubt(
        self, fake, connected, error
    ):
        storage, script = connected
        finish, script = lost_in_finish(fake, storage, script)
        script.fail(script.expect("vote")[0], error, ())
        script.answer("tpc_abort", None)
        # A conflict would be tried again, and maybe done twice.
        with pytest.raises(CommitInDoubt, match="it may have been committed"):
            finish.result()


class TestInfo:
    @pytest.mark.parametrize(
        "info",
        [
            {"length": -1, "size": -1},
            {"length": 2**63, "size": "x"},
            {"length": None, "size": None, "supportsUndo": "no"},
            {"length": 1.5, "size": [], "supportsUndo": {}},
        ],
    )
    def test_what_makes_no_sense_changes_nothing(self, connected, info):
        storage, script = connected
        script.call("info", {"length": 7, "size": 8, "supportsUndo": True})
        script.call("info", info)
        settle(storage, script)
        assert (len(storage), storage.getSize()) == (7, 8)
        assert storage.supportsUndo() is True

    def test_what_is_not_known_is_not_kept(self, connected):
        storage, script = connected
        before = dict(storage._view.info)
        script.call("info", {number: "x" for number in range(10)})
        settle(storage, script)
        assert storage._view.info == before
