"""What servers ask PostgreSQL, and what they do not need to."""

import functools
import re

import pytest
import ZODB
from ZODB.POSException import ReadConflictError
from ZODB.utils import maxtid, p64, z64

from tests.support.rawclient import Failed, RawClient
from zeolite.errors import ConfigurationError
from zeolite.storageserver.changes import RelStorageChanges


class TestPolls:
    def test_poll_is_one_query_and_keeps_no_transaction_open(self, cluster, database):
        cluster.log_statements(database.name)
        address = database.serve()
        writer, reader = RawClient(address), RawClient(database.serve())
        for number in range(3):
            tid = writer.commit(number, oids=(number,))
            before = len(cluster.statements())
            reader.ask("ping")
            assert len(cluster.statements()[before:]) == 1
            assert reader.invalidations()[-1] == tid
            assert "idle in transaction" not in cluster.states(database.name)
        writer.close()
        reader.close()

    def test_lost_connection_is_made_anew(self, cluster, database):
        writer, reader = (RawClient(database.serve()) for _ in range(2))
        reader.ask("ping")
        cluster.disconnect(cluster.connected(database.name))
        tid = writer.commit(1)
        reader.ask("ping")
        assert reader.invalidations()[-1] == tid
        writer.close()
        reader.close()

    def test_other_drivers_get_a_new_view_each_time(
        self, cluster, database, monkeypatch
    ):
        from relstorage.adapters.postgresql.drivers.psycopg2 import Psycopg2Driver

        monkeypatch.setattr(Psycopg2Driver, "__name__", "other")
        writer, reader = (RawClient(database.serve()) for _ in range(2))
        for number in range(3):
            tid = writer.commit(number, oids=(number,))
            reader.ask("ping")
            assert reader.invalidations()[-1] == tid
        writer.close()
        reader.close()


def test_replicas_that_may_be_behind_are_refused(cluster, database, tmp_path):
    replicas = tmp_path / "replicas"
    replicas.write_text(re.search("host='(.*?)'", cluster.dsn(database.name))[1])
    with pytest.raises(
        ConfigurationError, match="remove it from the relstorage section"
    ):
        database.serve({"ro_replica_conf": str(replicas)})


class TestLoads:
    def test_object_that_the_server_has_not_is_one_query(self, cluster, database):
        writer = RawClient(database.serve())
        for number in (1, 2):
            writer.commit(number, oids=(number,))
        cluster.log_statements(database.name)
        client = RawClient(database.serve())
        assert client.ask("loadBefore", p64(1), maxtid)[0] == b"data"
        before = len(cluster.statements())
        assert before
        assert client.ask("loadBefore", p64(2), maxtid)[0] == b"data"
        assert len(cluster.statements()[before:]) == 1
        assert client.ask("loadBefore", p64(2), maxtid)[0] == b"data"
        assert len(cluster.statements()[before:]) == 1
        writer.close()
        client.close()

    def test_database_that_has_gone_back_is_not_read(self, database, monkeypatch):
        """As after a failover to a replica that lacks the last commits."""
        from relstorage.cache.storage_cache import StorageCache

        def refuse(*args):
            raise ReadConflictError("the database has gone back")

        client = RawClient(database.serve())
        for number in (1, 2):
            client.commit(number, oids=(number,))
        assert client.ask("loadBefore", p64(1), maxtid)[0] == b"data"
        client.commit(3, oids=(3,))  # The next load needs a later view.
        monkeypatch.setattr(StorageCache, "poll", refuse)
        with pytest.raises(Failed, match="gone back"):
            client.ask("loadBefore", p64(2), maxtid)
        client.close()

    def test_wrapper_is_not_passed_by(self, database):
        """It may have to change the data, as `zc.zlibstorage` does."""

        class Wrapper:
            def __init__(self, base):
                self.base = base

            def __getattr__(self, name):
                return getattr(self.base, name)

        storage = database.storage()
        ZODB.DB(storage)
        changes = RelStorageChanges(database.keep_history)
        assert changes.current(storage, z64) == storage.loadBefore(z64, maxtid)[:2]
        assert changes.current(Wrapper(storage), z64) is None

    def test_earlier_revisions(self, database):
        if not database.keep_history:
            pytest.skip("there are no earlier revisions")
        client = RawClient(database.serve())
        tids = [client.commit(1)]
        tids.append(client.commit(2, serial=tids[0]))
        reader = RawClient(database.serve())
        load = functools.partial(reader.ask, "loadBefore", p64(1))
        for _ in range(2):  # The last one is in the server's cache then.
            assert load(tids[0]) is None
            assert load(tids[1])[1:] == (tids[0], tids[1])
            assert load(maxtid)[1:] == (tids[1], None)
        client.close()
        reader.close()
