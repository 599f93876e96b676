"""What the server says takes effect in the order in which it was said."""

from types import SimpleNamespace

import pytest
from zc.zlibstorage import ZlibStorage
from ZEO.StorageServer import StorageServerDB
from ZODB.Connection import TransactionMetaData
from ZODB.utils import maxtid, p64

from tests.support.blocking import Gate
from zeolite.errors import CommitInDoubt

from .talking import OID, Background, Database, loaded, settle, voted


@pytest.fixture
def database():
    return Database()


class TestInvalidations:
    def test_last_transaction_waits_for_the_database(self, connect, database):
        storage, script = connect()
        storage.registerDB(database)
        database.gate = Gate()
        script.call("invalidateTransaction", p64(2), [OID])
        script.call("invalidateTransaction", p64(3), [OID])
        database.gate.wait_until_reached()
        assert storage.lastTransaction() == p64(1)
        assert database.told == []
        database.gate.open()
        database.gate = None
        settle(storage, script)
        assert storage.lastTransaction() == p64(3)
        assert database.told == [(p64(2), [OID]), (p64(3), [OID])]

    def test_database_that_registers_with_a_wrapper_meanwhile(self, connect, database):
        """The change was not told to the wrapper, and is not shown yet."""
        storage, script = connect()
        wrapper = ZlibStorage(storage)
        set_tid = storage._cache.setLastTid

        def register_first(tid):
            wrapper.registerDB(database)
            set_tid(tid)

        storage._cache.setLastTid = register_first
        script.call("invalidateTransaction", p64(2), [OID])
        settle(storage, script)
        assert storage.lastTransaction() == p64(2)
        assert database.told == [(p64(2), [OID])]

    def test_cache_is_right_before_the_database_is_told(self, connect, database):
        storage, script = connect()
        storage.registerDB(database)
        loaded(storage, script, b"old", p64(1))
        database.gate = Gate()
        script.call("invalidateTransaction", p64(2), [OID])
        database.gate.wait_until_reached()
        assert storage._cache.loadBefore(OID, maxtid) is None
        assert storage._cache.loadBefore(OID, p64(2)) == (b"old", p64(1), p64(2))
        database.gate.open()

    def test_reply_and_invalidation_in_the_order_of_the_server(self, connect):
        storage, script = connect()
        load = Background(storage.loadBefore, OID, maxtid)
        message_id, _ = script.expect("loadBefore")
        script.reply(message_id, (b"old", p64(1), None))
        script.call("invalidateTransaction", p64(2), [OID])
        assert load.result() == (b"old", p64(1), None)
        settle(storage, script)
        again = Background(storage.loadBefore, OID, maxtid)
        script.answer("loadBefore", (b"new", p64(2), None))
        assert again.result() == (b"new", p64(2), None)

    def test_load_that_saw_a_commit_before_it_was_told(self, connect):
        storage, script = connect()
        loaded(storage, script, b"new", p64(2))
        script.call("invalidateTransaction", p64(2), [OID])
        settle(storage, script)
        assert storage.loadBefore(OID, maxtid) == (b"new", p64(2), None)


class TestFinishing:
    def test_cache_database_and_tid_change_together(self, connect, database):
        storage, script = connect()
        storage.registerDB(database)
        loaded(storage, script, b"old", p64(1))
        transaction = voted(storage, script)
        seen = []

        def callback(tid):
            seen.append((tid, storage.lastTransaction(), database.told[:]))
            seen.append(storage._cache.loadBefore(OID, maxtid))

        finish = Background(storage.tpc_finish, transaction, callback)
        message_id, _ = script.expect("tpc_finish")
        script.call("invalidateTransaction", p64(2), [p64(8)])
        script.reply(message_id, p64(3))
        script.call("invalidateTransaction", p64(4), [p64(9)])
        assert finish.result() == p64(3)
        assert seen == [(p64(3), p64(2), [(p64(2), [p64(8)])]), None]
        settle(storage, script)
        assert storage.lastTransaction() == p64(4)
        assert storage.loadBefore(OID, maxtid) == (b"mine", p64(3), None)
        assert storage.loadBefore(OID, p64(3)) == (b"old", p64(1), p64(3))

    def test_later_commit_waits_for_the_callback(self, connect, database):
        storage, script = connect()
        storage.registerDB(database)
        transaction = voted(storage, script)
        gate = Gate()
        finish = Background(
            storage.tpc_finish, transaction, lambda tid: gate.stop_here()
        )
        script.answer("tpc_finish", p64(3))
        script.call("invalidateTransaction", p64(4), [OID])
        gate.wait_until_reached()
        assert database.told == []
        assert storage.lastTransaction() == p64(1)
        gate.open()
        assert finish.result() == p64(3)
        settle(storage, script)
        assert storage.lastTransaction() == p64(4)
        assert storage._cache.loadBefore(OID, maxtid) is None

    def test_error_in_the_callback_reaches_the_committer(self, connect):
        storage, script = connect()
        transaction = voted(storage, script)

        def callback(tid):
            raise ValueError("my fault")

        finish = Background(storage.tpc_finish, transaction, callback)
        script.answer("tpc_finish", p64(3))
        with pytest.raises(ValueError, match="my fault"):
            finish.result()
        assert storage.lastTransaction() == p64(3)
        settle(storage, script)

    def test_database_whose_callback_fails_forgets_everything(self, connect, database):
        """It may be a server, whose clients have not heard of the commit."""
        storage, script = connect()
        storage.registerDB(database)
        transaction = voted(storage, script)

        def callback(tid):
            raise MemoryError

        finish = Background(storage.tpc_finish, transaction, callback)
        script.answer("tpc_finish", p64(3))
        with pytest.raises(MemoryError):
            finish.result()
        assert database.told == ["everything"]

    @pytest.mark.parametrize("tid", [p64(3), "no tid"])
    def test_commit_that_the_cache_has_not_heard_of_is_found_out(
        self, fake, connect, database, tid
    ):
        """A later one that came with the answer is not what the client is up to."""
        storage, script = connect()
        storage.registerDB(database)
        loaded(storage, script, b"old", p64(1))
        transaction = voted(storage, script)
        invalidate = storage._cache.invalidate

        def fail(oid, tid):
            storage._cache.invalidate = invalidate
            raise MemoryError

        if tid != "no tid":
            storage._cache.invalidate = fail
        finish = Background(storage.tpc_finish, transaction)
        message_id, _ = script.expect("tpc_finish")
        script.send_together(
            (message_id, 0, ".reply", tid),
            (0, 1, "invalidateTransaction", (p64(4), [p64(8)])),
        )
        with pytest.raises(CommitInDoubt):
            finish.result()
        script = fake.accept(p64(4))
        changed = p64(4), [OID, p64(8)]
        assert script.answer("getInvalidations", changed) == (p64(1),)
        settle(storage, script)
        assert database.told[-1] == changed
        assert storage._cache.loadBefore(OID, maxtid) is None

    def test_cache_that_fails_to_keep_a_commit_does_not_fail_it(self, connect):
        storage, script = connect()
        transaction = voted(storage, script)

        def fail(*args):
            raise MemoryError

        storage._cache.store = fail
        finish = Background(storage.tpc_finish, transaction)
        script.answer("tpc_finish", p64(3))
        assert finish.result() == p64(3)
        assert storage.lastTransaction() == p64(3)
        settle(storage, script)

    def test_what_the_server_resolved_is_not_cached(self, connect):
        storage, script = connect()
        transaction = TransactionMetaData()
        storage.tpc_begin(transaction)
        storage.store(OID, p64(1), b"mine", "", transaction)
        vote = Background(storage.tpc_vote, transaction)
        script.expect("tpc_begin")
        script.expect("storea")
        script.answer("vote", [OID])
        assert vote.result() == [OID]
        finish = Background(storage.tpc_finish, transaction)
        script.answer("tpc_finish", p64(3))
        finish.result()
        assert storage._cache.loadBefore(OID, maxtid) is None

    @pytest.mark.parametrize(
        ("name", "args"),
        [("restore", (p64(3), b"new", "", None)), ("deleteObject", (p64(1),))],
    )
    def test_what_was_there_before_is_not_current_any_more(self, connect, name, args):
        storage, script = connect()
        loaded(storage, script, b"old", p64(1))
        transaction = TransactionMetaData()
        storage.tpc_begin(transaction)
        getattr(storage, name)(OID, *args, transaction)
        vote = Background(storage.tpc_vote, transaction)
        script.expect_all("tpc_begin", "restorea" if name == "restore" else name)
        script.answer("vote", [])
        vote.result()
        finish = Background(storage.tpc_finish, transaction)
        script.answer("tpc_finish", p64(3))
        finish.result()
        assert storage._cache.loadBefore(OID, maxtid) is None


class TestVerifying:
    """After a connection was lost, before anybody uses the next one."""

    def reconnect(self, fake, script, tid):
        script.close()
        script = fake.accept(register=False)
        script.answer("register", tid)
        script.answer("get_info", {})
        return script

    def prepared(self, connect, database):
        storage, script = connect()
        storage.registerDB(database)
        loaded(storage, script, b"old", p64(1))
        return storage, script

    def test_nothing_happened(self, fake, connect, database):
        storage, script = self.prepared(connect, database)
        script = self.reconnect(fake, script, p64(1))
        settle(storage, script)
        assert storage.loadBefore(OID, maxtid)[0] == b"old"
        assert database.told == []

    def test_what_was_missed_is_replayed(self, fake, connect, database):
        storage, script = self.prepared(connect, database)
        script = self.reconnect(fake, script, p64(5))
        assert script.answer("getInvalidations", (p64(5), [OID])) == (p64(1),)
        settle(storage, script)
        assert database.told == [(p64(5), [OID])]
        assert storage.lastTransaction() == p64(5)
        assert storage._cache.loadBefore(OID, p64(2)) is None

    def test_stock_server_is_told_of_the_earliest_commit_it_may_be(self, fake, connect):
        """What its clients have ends there, and not with the last one."""
        told = []
        server = SimpleNamespace(invalidate=lambda *args: told.append(args[2:]))
        database = StorageServerDB(server, "1")
        storage, script = self.prepared(connect, database)
        script = self.reconnect(fake, script, p64(5))
        script.answer("getInvalidations", (p64(5), [OID]))
        settle(storage, script)
        assert told == [(p64(2), [OID]), (p64(5), [OID])]

    def test_commits_during_the_verification_come_behind_it(
        self, fake, connect, database
    ):
        storage, script = self.prepared(connect, database)
        script = self.reconnect(fake, script, p64(5))
        message_id, _ = script.expect("getInvalidations")
        script.call("invalidateTransaction", p64(6), [p64(8)])
        script.call("invalidateTransaction", p64(7), [p64(9)])
        # The server's answer knows of the first of the two.
        script.reply(message_id, (p64(6), [OID, p64(8)]))
        settle(storage, script)
        assert database.told == [(p64(6), [OID, p64(8)]), (p64(7), [p64(9)])]
        assert storage.lastTransaction() == p64(7)

    def test_away_for_too_long(self, fake, connect, database):
        storage, script = self.prepared(connect, database)
        script = self.reconnect(fake, script, p64(5))
        script.answer("getInvalidations", None)
        settle(storage, script)
        assert database.told == ["everything", (p64(5), []), "everything"]
        assert len(storage._cache) == 0
        assert storage.lastTransaction() == p64(5)

    def test_database_that_registers_with_a_wrapper_when_all_is_forgotten(
        self, fake, connect, database
    ):
        storage, script = connect()
        wrapper, view = ZlibStorage(storage), storage._view
        has_database = view._has_database

        def register_behind():
            found = has_database()
            wrapper.registerDB(database)
            return found

        view._has_database = register_behind
        script = self.reconnect(fake, script, p64(5))
        script.answer("getInvalidations", None)
        settle(storage, script)
        assert storage.lastTransaction() == p64(5)
        assert database.told == ["everything"]

    def test_cache_is_empty_before_the_database_forgets(self, fake, connect, database):
        """Whoever loads then must not get what was there before."""
        storage, script = self.prepared(connect, database)
        kept = []
        database.invalidateCache = lambda: kept.append(len(storage._cache))
        script = self.reconnect(fake, script, p64(5))
        script.answer("getInvalidations", None)
        settle(storage, script)
        assert kept == [0, 0]

    @pytest.mark.parametrize("is_used", [False, True])
    def test_wrapper_is_told_only_when_it_has_whom_to_tell(
        self, fake, connect, database, is_used
    ):
        """ZODB's keep that in `db`, as soon as somebody registers with them."""
        database.base = object()
        if is_used:
            database.db = object()
        storage, script = self.prepared(connect, database)
        script = self.reconnect(fake, script, p64(5))
        script.answer("getInvalidations", None)
        script.call("invalidateTransaction", p64(6), [OID])
        settle(storage, script)
        assert ("everything" in database.told) == is_used
        assert ((p64(6), [OID]) in database.told) == is_used
        assert storage.lastTransaction() == p64(6)

    def test_server_that_is_behind_is_refused(self, fake, connect, database):
        storage, script = self.prepared(connect, database)
        script.call("invalidateTransaction", p64(9), [OID])
        settle(storage, script)
        self.reconnect(fake, script, p64(5))
        second = self.reconnect(fake, script, p64(9))
        settle(storage, second)
        assert storage.lastTransaction() == p64(9)
