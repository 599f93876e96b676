"""Several servers, and users without a server, on one database in PostgreSQL.

The servers poll only when something asks for it, unless a test says otherwise.
"""

import contextlib
import threading

import pytest
import transaction
import ZODB
from persistent.TimeStamp import TimeStamp
from ZODB.blob import Blob
from ZODB.POSException import ConflictError, ReadConflictError
from ZODB.tests.ConflictResolution import PCounter
from ZODB.utils import maxtid, p64

import zeolite
from tests.support.blocking import Gate
from tests.support.rawclient import Failed, RawClient
from tests.support.waiting import wait_until
from zeolite.errors import ClientDisconnected, CommitInDoubt
from zeolite.storageserver.changes import RelStorageChanges


def opened(db):
    """Return a connection with a transaction manager of its own."""
    return db.open(transaction_manager=transaction.TransactionManager())


def put(connection, **values):
    connection.transaction_manager.begin()
    connection.root().update(values)
    connection.transaction_manager.commit()


def seen(connection, name="x"):
    connection.transaction_manager.begin()
    return connection.root().get(name)


def waits_for_a_lock(cluster, database):
    """Whether something does in PostgreSQL."""
    return cluster.execute(
        "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock' "
        f"AND datname = '{database.name}'"
    )


#: For what does not depend on the history.
with_history = pytest.mark.parametrize(
    "keep_history", [True], ids=["history"], indirect=True
)


class TestOrder:
    def test_commits_of_all_are_seen_after_a_ping(self, database):
        """By two servers' clients and by a program that uses RelStorage itself."""
        users = [
            opened(database.db(database.serve(), server_sync=True)),
            opened(database.db(database.serve(), server_sync=True)),
            opened(ZODB.DB(database.storage())),
        ]
        for number in range(30):
            writer = users[number % 3]
            seen(writer)
            put(writer, x=number)
            assert [seen(user) for user in users] == [number] * 3
        for user in users:
            user.close()

    def test_foreign_commits_come_in_order_before_an_own_one(self, database):
        one, two = database.serve(), database.serve()
        with contextlib.ExitStack() as stack:
            writer, other = RawClient(one), RawClient(two)
            stack.callback(writer.close)
            stack.callback(other.close)
            tids = [other.commit(n, oids=(n,)) for n in range(1, 6)]
            own = writer.commit(1, oids=(9,))
            if database.keep_history:
                assert writer.invalidations() == tids
            told = [m[2] for m in writer.seen if m[0] == "invalidateTransaction"]
            changed = {p64(n) for n in range(1, 6)}
            if not database.keep_history:
                changed.add(p64(9))  # Others may have changed that before.
            assert {oid for oids in told for oid in oids} == changed
            assert writer.invalidations() == sorted(set(writer.invalidations()))
            other.ask("ping")
            assert other.invalidations()[-1] == own

    def test_historical_connections_are_right(self, cluster, database):
        """An invalidation with too late a tid would make this one see too much."""
        if not database.keep_history:
            pytest.skip("there are no historical connections without a history")
        one, two = database.serve(), database.serve()
        writer, db = opened(database.db(one)), database.db(two)
        put(writer, x=1)
        reader = opened(db)
        db.storage.ping()
        assert seen(reader) == 1
        tids = []
        for number in (2, 3, 4):
            put(writer, x=number)
            tids.append(writer._storage.lastTransaction())
        db.storage.ping()
        assert seen(reader) == 4
        for number, tid in zip((1, 2, 3), tids):
            before = db.open(
                transaction_manager=transaction.TransactionManager(), before=tid
            )
            assert before.root()["x"] == number
            before.close()
        writer.close()
        reader.close()

    def test_commit_that_changes_nothing_is_known_to_all(self, database):
        """Its tid may be unknown to the database, and so to other servers."""
        one, two = database.serve(), database.serve()
        storage = database.client([one, two], disconnect_poll=0.01)
        root = p64(0)
        tid = storage.loadBefore(root, maxtid)[1] if len(storage) else None
        db = ZODB.DB(storage)
        tid = storage.loadBefore(root, maxtid)[1]
        txn = ZODB.Connection.TransactionMetaData()
        storage.tpc_begin(txn)
        storage.checkCurrentSerialInTransaction(root, tid, txn)
        storage.tpc_vote(txn)
        storage.tpc_finish(txn)
        last = storage.lastTransaction()
        other = RawClient(two)
        assert other.tid >= last
        other.close()
        del db

    def test_server_polls_by_itself(self, database):
        address = database.serve(poll_interval=0.02)
        reader = opened(database.db(address))
        writer = opened(ZODB.DB(database.storage()))
        put(writer, x="told")
        wait_until(lambda: seen(reader) == "told")
        reader.close()
        writer.close()


class TestFailover:
    def test_cache_is_kept_at_another_server(self, database, tmp_path):
        """The other server has seen nothing of what the first one logged."""
        stack = contextlib.ExitStack()
        address, stop = zeolite.server(storage_conf=database.section())
        stack.callback(stop)
        with stack:
            self.check_that_the_cache_is_kept(database, tmp_path, address, stack)

    def check_that_the_cache_is_kept(self, database, tmp_path, one, stack):
        two = database.serve()
        cache = {"cache": str(tmp_path / "cache.zec"), "disconnect_poll": 0.01}
        db = database.db([one, two], **cache)
        connection = opened(db)
        put(connection, x=0, kept=PCounter())
        oid = connection.root()["kept"]._p_oid
        other = opened(database.db(two))
        for number in range(110):  # More than a queue has.
            put(other, x=number)
        assert oid in dict(db.storage._cache.contents())
        stack.close()
        wait_until(lambda: db.storage.is_connected())
        db.storage.ping()
        assert seen(connection) == 109
        assert oid in dict(db.storage._cache.contents())
        connection.close()
        other.close()

    @pytest.mark.parametrize("committed", [True, False])
    @pytest.mark.parametrize("looks", [1, 2])
    def test_commit_in_doubt_is_looked_for_at_another_server(
        self, database, committed, looks, monkeypatch
    ):
        """Where the first look may fail because the database moves on meanwhile."""
        from relstorage.storage import RelStorage

        one, two = database.serve(), database.serve()
        db = database.db([one, two], disconnect_poll=0.01)
        connection = opened(db)
        put(connection, x=1)
        finish = RelStorage.tpc_finish

        def break_off(storage, *args):
            monkeypatch.undo()
            if looks > 1:
                monkeypatch.setattr(RelStorage, "tpc_vote", fail_once)
            if committed:
                finish(storage, *args)
            raise OSError("the test wants it")

        def fail_once(storage, *args):
            monkeypatch.undo()
            raise ReadConflictError("data from the future")

        monkeypatch.setattr(RelStorage, "tpc_finish", break_off)
        connection.transaction_manager.begin()
        connection.root()["x"] = 2
        with pytest.raises(CommitInDoubt if committed else ClientDisconnected) as error:
            connection.transaction_manager.commit()
        connection.transaction_manager.abort()
        assert error.type is (CommitInDoubt if committed else ClientDisconnected)
        db.storage.ping()
        assert seen(connection) == (2 if committed else 1)
        connection.close()

    def test_commit_in_doubt_is_looked_for_at_its_server_when_it_has_ended(
        self, cluster, database, monkeypatch
    ):
        """Another transaction could vote there while it is under way."""
        from relstorage.storage import RelStorage

        db = database.db(database.serve(), disconnect_poll=0.01)
        connection = opened(db)
        put(connection, x=1)
        gate, finish = Gate(), RelStorage.tpc_finish

        def stop_first(storage, *args):
            monkeypatch.undo()
            gate.stop_here()
            return finish(storage, *args)

        monkeypatch.setattr(RelStorage, "tpc_finish", stop_first)
        errors = []

        def commit():
            try:
                put(connection, x=2)
            except Exception as error:
                errors.append(error)

        commits = threading.Thread(target=commit)
        try:
            commits.start()
            gate.wait_until_reached()
            db.storage._connection.link().end()
            wait_until(lambda: waits_for_a_lock(cluster, database))
            assert errors == []
        finally:
            gate.open()
            commits.join()
        assert [type(error) for error in errors] == [CommitInDoubt]
        connection.transaction_manager.abort()
        db.storage.ping()
        assert seen(connection) == 2
        connection.close()


@with_history
class TestDatabaseTrouble:
    def test_restart_of_postgresql(self, cluster, database):
        db = database.db(database.serve(poll_interval=0.05), server_sync=True)
        connection = opened(db)
        put(connection, x=1)
        cluster.stop()
        try:
            with pytest.raises(ReadConflictError, match="cannot be used now"):
                db.storage.ping()
            with pytest.raises(ReadConflictError, match="cannot be used now"):
                db.storage.loadBefore(p64(77), maxtid)
            with pytest.raises((ConflictError, ReadConflictError)):
                put(connection, x=2)
            connection.transaction_manager.abort()
        finally:
            cluster.start()
        db.storage.ping()
        assert seen(connection) == 1
        # As frameworks do.
        for attempt in connection.transaction_manager.attempts(3):
            with attempt:
                connection.root()["x"] = 3
        assert seen(connection) == 3
        connection.close()

    @pytest.mark.parametrize(
        "call",
        [
            ("ping",),
            ("lastTransaction",),
            ("get_info",),
            ("loadBefore", p64(77), maxtid),
            ("loadSerial", p64(1), p64(5)),
            ("getTid", p64(77)),
            ("history", p64(1)),
            ("undoLog", 0, 5),
            ("undoInfo", 0, 5, None),
            ("new_oids", 3),
            ("iterator_start", None, None),
            ("pack", 1.0, True),
        ],
        ids=lambda call: call[0],
    )
    def test_whatever_is_called_may_be_tried_again(self, cluster, database, call):
        client = RawClient(database.serve())
        client.commit(1)
        cluster.stop()
        try:
            with pytest.raises(Failed, match="cannot be used now") as error:
                client.ask(*call)
        finally:
            cluster.start()
        assert error.value.args[0] == "ZODB.POSException.ReadConflictError"
        client.close()

    def test_restart_between_vote_and_finish(self, cluster, database):
        db = database.db(database.serve(), disconnect_poll=0.01)
        connection = opened(db)
        put(connection, x=1)
        storage = db.storage
        root = p64(0)
        data, tid, _ = storage.loadBefore(root, maxtid)
        txn = ZODB.Connection.TransactionMetaData()
        storage.tpc_begin(txn)
        storage.store(root, tid, data, "", txn)
        storage.tpc_vote(txn)
        cluster.restart()
        with pytest.raises(ClientDisconnected, match="not committed"):
            storage.tpc_finish(txn)
        storage.ping()
        assert storage.loadBefore(root, maxtid)[1] == tid
        connection.close()


@with_history
class TestConnections:
    def test_idle_clients_have_none(self, cluster, database):
        address = database.serve()
        with contextlib.ExitStack() as stack:
            clients = [RawClient(address) for _ in range(60)]
            for client in clients:
                stack.callback(client.close)
            clients[0].commit(1, oids=(1,))
            for client in clients:
                client.ask("ping")
                assert client.ask("loadBefore", p64(1), maxtid)[0] == b"data"
            # For loads, the feed, and two of the commit.
            assert cluster.connections(database.name) <= 5

    def test_iterators_are_bounded(self, cluster, database):
        address = database.serve(storage_instances=4)
        storage = database.client(address)
        opened(ZODB.DB(storage)).close()
        iterators = [storage.iterator() for _ in range(2)]
        for iterator in iterators:
            next(iterator)
        with pytest.raises(Exception, match="2 iterators are in use"):
            next(storage.iterator())
        for iterator in iterators:
            list(iterator)
        assert list(storage.iterator())


class TestFeatures:
    @pytest.mark.parametrize("servers", [1, 2])
    def test_conflicts_are_resolved_on_the_server(self, database, servers):
        """Without a history only where the revision that both know was committed."""
        one, two = self.incremented_by_two(database, servers)
        one.transaction_manager.commit()
        if servers > 1 and not database.keep_history:
            with pytest.raises(ConflictError):
                two.transaction_manager.commit()
            two.transaction_manager.abort()
        else:
            two.transaction_manager.commit()
            one.db().storage.ping()
            seen(one)
            assert one.root()["counter"]._value == 3
        one.close()
        two.close()

    def test_conflict_that_comes_behind_the_look_for_it(
        self, database, monkeypatch, cluster
    ):
        if not database.keep_history:
            pytest.skip("without a history nothing is looked for")
        one, two = self.incremented_by_two(database, servers=2)
        look = RelStorageChanges.prepare_to_resolve

        def commit_behind_it(changes, storage, serials):
            monkeypatch.undo()
            look(changes, storage, serials)
            one.transaction_manager.commit()

        monkeypatch.setattr(RelStorageChanges, "prepare_to_resolve", commit_behind_it)
        two.transaction_manager.commit()
        one.db().storage.ping()
        seen(one)
        assert one.root()["counter"]._value == 3
        one.close()
        two.close()

    def test_conflict_with_a_commit_that_is_under_way(
        self, database, monkeypatch, cluster
    ):
        """The next vote waits for it, in the database, and has what both began with."""
        from relstorage.storage import RelStorage

        gate, finish = Gate(), RelStorage.tpc_finish

        def stop_first(storage, *args):
            monkeypatch.undo()
            gate.stop_here()
            return finish(storage, *args)

        one, two = self.incremented_by_two(database, servers=1)
        monkeypatch.setattr(RelStorage, "tpc_finish", stop_first)
        commits = [
            threading.Thread(target=connection.transaction_manager.commit)
            for connection in (one, two)
        ]
        try:
            commits[0].start()
            gate.wait_until_reached()
            commits[1].start()
            wait_until(lambda: waits_for_a_lock(cluster, database))
        finally:
            gate.open()
            for commit in commits:
                if commit.ident is not None:
                    commit.join()
        for connection in (one, two):
            connection.db().storage.ping()
            seen(connection)
            assert connection.root()["counter"]._value == 3
            connection.close()

    def incremented_by_two(self, database, servers):
        """Return two connections that have incremented a counter to 2, each for itself."""
        addresses = [database.serve() for _ in range(servers)]
        one, two = (
            opened(database.db(address)) for address in (addresses[0], addresses[-1])
        )
        counter = PCounter()
        counter.inc()
        put(one, counter=counter)
        two.db().storage.ping()
        for connection in (one, two):
            seen(connection)
            connection.root()["counter"].inc()
        return one, two

    def test_blobs(self, database, tmp_path):
        one, two = [
            database.db(
                database.serve(
                    options={
                        "shared_blob_dir": "false",
                        "blob_dir": tmp_path / f"server{number}",
                    }
                ),
                blob_dir=str(tmp_path / f"client{number}"),
                server_sync=True,
            )
            for number in range(2)
        ]
        writer, reader = opened(one), opened(two)
        put(writer, blob=Blob(b"contents" * 50_000))
        seen(reader)
        with reader.root()["blob"].open() as file:
            assert file.read() == b"contents" * 50_000
        writer.close()
        reader.close()

    def test_pack_at_one_server_and_undo_at_another(self, database):
        one, two = [database.db(database.serve()) for _ in range(2)]
        connection = opened(one)
        for number in range(3):
            put(connection, x=number)
        two.storage.ping()
        if database.keep_history:
            undone = two.undoInfo(0, 1)[0]["id"]
            manager = transaction.TransactionManager()
            two.undo(undone, manager.get())
            manager.commit()
            one.storage.ping()
            assert seen(connection) == 1
        last = seen(connection)
        tids = [record.tid for record in one.storage.iterator()]
        two.storage.pack(TimeStamp(tids[-1]).timeTime(), None)
        left = [record.tid for record in two.storage.iterator()]
        assert left and (not database.keep_history or len(left) < len(tids))
        fresh = opened(database.db(database.serve()))
        assert seen(fresh) == last
        connection.close()
        fresh.close()

    def test_whether_to_collect_garbage_is_no_question(self, database):
        storage = database.client(database.serve())
        with pytest.raises(Exception, match="pack-gc"):
            storage.pack(1.0, None, gc=False)
