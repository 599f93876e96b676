"""Replies that would change what a client knows, and make no sense."""

import logging
import threading

import pytest
from ZODB.Connection import TransactionMetaData
from ZODB.utils import maxtid, p64, z64

import zeolite
from tests.support.waiting import wait_until
from zeolite.errors import ClientDisconnected, CommitInDoubt, ProtocolError


def in_thread(function, *args):
    """Return a list that gets what the function raises, and its thread."""
    raised = []

    def run():
        try:
            function(*args)
        except Exception as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return raised, thread


@pytest.mark.parametrize(
    "found", [1, (), (b"data", p64(1)), ("data", p64(1), None), (b"", p64(1), 5)]
)
def test_a_load_that_makes_no_sense_fails_and_is_not_cached(connect, found):
    storage, script = connect()
    raised, thread = in_thread(storage.loadBefore, p64(1), maxtid)
    script.answer("loadBefore", found)
    thread.join()
    assert isinstance(raised[0], ProtocolError)
    raised, thread = in_thread(storage.loadBefore, p64(1), maxtid)
    script.answer("loadBefore", (b"data", p64(1), None))
    thread.join()
    assert not raised


@pytest.mark.parametrize("tid", [None, {}, b"short", 1])
def test_a_commit_that_is_answered_with_no_tid_is_in_doubt(fake, connect, tid):
    storage, script = connect()
    transaction = TransactionMetaData()

    def commit():
        storage.tpc_begin(transaction)
        storage.store(p64(1), z64, b"data", "", transaction)
        storage.tpc_vote(transaction)
        storage.tpc_finish(transaction)

    raised, thread = in_thread(commit)
    script.expect_all("tpc_begin", "storea")
    script.answer("vote", [])
    script.answer("tpc_finish", tid)
    thread.join()
    assert isinstance(raised[0], CommitInDoubt)
    # It connects again, and what it believes to be the last transaction is a tid.
    script = fake.accept()
    raised, thread = in_thread(storage.ping)
    script.answer("ping", None)
    thread.join()
    assert not raised
    assert storage.lastTransaction() == p64(1)


@pytest.mark.parametrize(
    "info",
    [None, 5, [], {"interfaces": 5}, {"interfaces": None}],
)
def test_a_server_that_does_not_tell_of_its_storage_is_no_use(fake, info, caplog):
    script = None
    fake.info = info
    accepting = fake.accept_in_background()
    storage = zeolite.client(
        fake.address, wait=False, wait_timeout=0.1, disconnect_poll=60
    )
    try:
        accepting.join()
        script = accepting.script
        assert script.is_closed()
        wait_until(lambda: caplog.records)  # The client knows why.
        with pytest.raises((ClientDisconnected, ProtocolError), match="does not tell"):
            storage.ping()
    finally:
        storage.close()
    assert not [r for r in caplog.records if r.exc_info]


@pytest.mark.parametrize("pairs", [[5, ("a",), (1, 2, 3), ([], {})], [["os", "x"]]])
def test_interfaces_that_make_no_sense_are_none(fake, connect, pairs):
    fake.info = {**fake.info, "interfaces": pairs}
    storage, _ = connect()
    assert not zeolite.interfaces.IClientCache.providedBy(storage)


@pytest.mark.parametrize("error", [("builtins.KeyError", 0), ("a.b", ()), 5])
def test_a_refusal_that_makes_no_sense_is_one_line(fake, error, caplog):
    caplog.set_level(logging.WARNING)

    def refuse():
        script = fake.accept(register=False)
        message_id, _ = script.expect("register")
        script.send(message_id, 2, ".reply", error)
        assert script.is_closed()

    _, thread = in_thread(refuse)
    storage = zeolite.client(
        fake.address, wait=False, wait_timeout=0.1, disconnect_poll=60
    )
    thread.join()
    wait_until(lambda: caplog.records)  # The client knows why.
    with pytest.raises(ClientDisconnected, match="answers 'register' with an error"):
        storage.ping()
    storage.close()
    assert len(caplog.records) == 1
    assert not caplog.records[0].exc_info
