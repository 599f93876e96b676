"""Client storages with a persistent cache, or with a cache object of their own."""

import logging
import os

import pytest
import ZODB.event
from ZODB.utils import maxtid, p64, u64
from zope.interface import implementer

import zeolite
from tests.support.processes import free_port
from zeolite.clientstorage.cache import ClientCache
from zeolite.clientstorage.storage import ClientStorage
from zeolite.errors import CacheFileError, CacheFileInUse, ClientDisconnected
from zeolite.interfaces import IClientCache, StaleCache

from .talking import OID, Background, Database, loaded, settle

FILE_STORAGE = "<filestorage>\npath {}\n</filestorage>\n"


@pytest.fixture
def filled(path):
    """A cache file with OID, as of transaction 5."""
    cache = ClientCache(path, 1024 * 1024)
    cache.store(OID, p64(3), None, b"old")
    cache.setLastTid(p64(5))
    cache.close()
    return path


def found_in(path):
    cache = ClientCache(path, 1024 * 1024)
    try:
        return cache.getLastTid(), sorted(cache.contents())
    finally:
        cache.close()


class TestNaming:
    @pytest.mark.parametrize(
        "arguments, name",
        [
            ({"cache": "{}/a.cache"}, "a.cache"),
            ({"client": "app", "var": "{}"}, "app-main.zec"),
            ({"cache": "{}/a.cache", "client": "app", "var": "{}"}, "a.cache"),
        ],
    )
    def test_file(self, connect, tmp_path, arguments, name):
        arguments = {k: v.replace("{}", str(tmp_path)) for k, v in arguments.items()}
        connect(storage="main", **arguments)
        assert sorted(os.listdir(tmp_path)) == [name, f"{name}.lock"]

    def test_in_the_current_directory(self, connect, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        connect(client="app")
        assert (tmp_path / "app-1.zec").exists()

    def test_path_object(self, connect, tmp_path):
        connect(cache=tmp_path / "cache")
        assert (tmp_path / "cache").exists()

    def test_directory_alone_names_no_file(self, connect, tmp_path):
        connect(var=str(tmp_path))
        assert os.listdir(tmp_path) == []

    @pytest.mark.parametrize("size", [0, -1, 2.5, "20MB", None, True])
    def test_size_that_is_none(self, path, size):
        with pytest.raises(ValueError, match=r"cache_size is .* number of bytes"):
            ClientStorage(free_port(), cache=path, cache_size=size)
        assert not os.path.exists(path)

    def test_file_in_use(self, connect, path):
        connect(cache=path)
        with pytest.raises(CacheFileInUse, match="another storage of this process"):
            ClientStorage(free_port(), cache=path)

    def test_file_is_given_back_if_there_is_no_server(self, path):
        for _ in range(2):
            with pytest.raises(ClientDisconnected):
                ClientStorage(free_port(), cache=path, wait_timeout=0)
        ClientCache(path, 1024 * 1024).close()

    @pytest.mark.parametrize(
        "lines, name",
        [("cache-path {}/app.cache", "app.cache"), ("client a\nvar {}", "a-1.zec")],
    )
    def test_section(self, host, tmp_path, lines, name):
        import ZODB.config

        server = host.start("<mappingstorage>\n</mappingstorage>\n")
        storage = ZODB.config.storageFromString(
            f"%import zeolite\n<clientstorage>\nserver {server.address[1]}\n"
            f"cache-size 3MB\n{lines.format(tmp_path)}\n</clientstorage>"
        )
        storage.close()
        server.stop()
        assert os.path.getsize(tmp_path / name) == 3 * 1024 * 1024

    @pytest.mark.parametrize("size", ["0", "-5MB", "lots"])
    def test_section_with_a_size_that_is_none(self, size):
        import ZConfig
        import ZODB.config

        with pytest.raises(ZConfig.ConfigurationError, match=f"'{size}'"):
            ZODB.config.storageFromString(
                f"%import zeolite\n<clientstorage>\nserver 1\ncache-size {size}\n"
                "</clientstorage>"
            )


class TestVerifying:
    """What is found when a client with a cache connects to its server."""

    def connected(self, fake, stack, path, tid, **answers):
        """Return (storage, script): `answers` are the server's."""
        storage = ClientStorage(
            fake.address, cache=path, wait=False, disconnect_poll=0.01
        )
        stack.callback(storage.close)
        script = fake.accept(tid)
        for name, answer in answers.items():
            assert script.answer(name, answer) == (p64(5),)
        return storage, script

    def test_up_to_date(self, fake, stack, filled):
        storage, script = self.connected(fake, stack, filled, p64(5))
        assert script.answer("getTid", p64(3)) == (OID,)
        settle(storage, script)
        assert storage.loadBefore(OID, maxtid) == (b"old", p64(3), None)
        assert storage.lastTransaction() == p64(5)
        statistics = storage.cache_statistics()
        assert (statistics.hits, statistics.misses) == (1, 0)
        assert statistics.hit_rate == 1.0

    def test_changes_are_replayed(self, fake, stack, filled):
        storage, script = self.connected(
            fake, stack, filled, p64(9), getInvalidations=(p64(9), [OID])
        )
        settle(storage, script)
        loaded(storage, script, b"new", p64(8))
        assert storage.lastTransaction() == p64(9)
        storage.close()
        assert found_in(filled) == (p64(9), [(OID, p64(8))])

    def test_empty(self, fake, stack, path):
        storage, script = self.connected(fake, stack, path, p64(9))
        settle(storage, script)  # Nothing was asked for.
        assert storage.lastTransaction() == p64(9)
        storage.close()
        assert found_in(path) == (p64(9), [])

    def test_too_old(self, fake, stack, filled, caplog, monkeypatch):
        events = []

        def subscriber(event):
            events.append((event, len(storage._cache)))
            raise ValueError("my fault")

        monkeypatch.setattr(ZODB.event, "notify", subscriber)
        storage = ClientStorage(fake.address, cache=filled, wait=False, name="app")
        stack.callback(storage.close)
        script = fake.accept(p64(9))
        script.answer("getInvalidations", None)
        settle(storage, script)
        [(event, length)] = events
        assert isinstance(event, StaleCache)
        assert event.storage is storage
        assert length == 1, "it was told too late"
        assert len(storage._cache) == 0
        assert storage.lastTransaction() == p64(9)
        [critical] = [r for r in caplog.records if r.levelno == logging.CRITICAL]
        for words in ("app: away for too long", p64(5).hex(), p64(9).hex()):
            assert words in critical.getMessage()
        assert "error in a subscriber of StaleCache" in caplog.text
        assert "my fault" in caplog.text

    @pytest.mark.parametrize(
        "tid, answers",
        [(p64(5), {}), (p64(9), {"getInvalidations": (p64(9), [p64(8)])})],
    )
    @pytest.mark.parametrize("found", [p64(2), p64(4)])
    def test_of_another_database(
        self, fake, stack, filled, caplog, monkeypatch, tid, answers, found
    ):
        """The server has not told that the object has changed, but has it otherwise."""
        events = []
        monkeypatch.setattr(ZODB.event, "notify", events.append)
        storage = ClientStorage(
            fake.address, cache=filled, wait=False, wait_timeout=20, name="app"
        )
        stack.callback(storage.close)
        database = Database()
        storage.registerDB(database)
        script = fake.accept(tid)
        for name, answer in answers.items():
            script.answer(name, answer)
        assert script.answer("getTid", found) == (OID,)
        settle(storage, script)
        assert "everything" in database.told
        loaded(storage, script, b"theirs", found)
        assert storage.lastTransaction() == tid
        assert [type(event) for event in events] == [StaleCache]
        [critical] = [r for r in caplog.records if r.levelno == logging.CRITICAL]
        for words in (filled, OID.hex(), p64(3).hex(), found.hex(), "another database"):
            assert words in critical.getMessage()
        script.close()
        script = fake.accept(tid)  # It is not asked again.
        settle(storage, script)

    def test_server_that_has_lost_its_own(self, fake, stack, filled):
        """It cannot say what it has; it is asked the next time."""
        storage, script = self.connected(fake, stack, filled, p64(5))
        message_id, _ = script.expect("getTid")
        script.fail(message_id, "zeolite.errors.ClientDisconnected", ("not now",))
        settle(storage, script)
        assert storage.loadBefore(OID, maxtid) == (b"old", p64(3), None)
        script.close()
        script = fake.accept(p64(5))
        script.answer("getTid", p64(3))
        settle(storage, script)

    def test_objects_that_are_gone_or_change_meanwhile(self, fake, stack, path):
        """What was packed away says nothing, nor does a commit of this moment."""
        cache = ClientCache(path, 1024 * 1024)
        for number in range(5):
            cache.store(p64(number), p64(3), None, b"old")
        cache.setLastTid(p64(5))
        cache.close()
        storage, script = self.connected(fake, stack, path, p64(5))
        message_id, args = script.expect("getTid")
        assert args == (p64(0),)
        script.fail(message_id, "ZODB.POSException.POSKeyError", (p64(0),))
        script.call("invalidateTransaction", p64(6), [p64(1)])
        assert script.answer("getTid", p64(6)) == (p64(1),)
        assert script.answer("getTid", p64(3)) == (p64(2),)
        settle(storage, script)  # No more than three.
        assert storage.loadBefore(p64(4), maxtid) == (b"old", p64(3), None)
        assert storage.loadBefore(p64(1), p64(6)) == (b"old", p64(3), p64(6))
        assert storage.lastTransaction() == p64(6)

    def test_newer_than_the_server(self, fake, stack, filled):
        opening = Background(
            lambda: ClientStorage(fake.address, cache=filled, wait_timeout=10)
        )
        fake.accept(p64(4))
        with pytest.raises(ClientDisconnected) as error:
            opening.result()
        text = str(error.value)
        assert f"the cache {filled} knows transaction {p64(5).hex()}" in text
        assert f"the last one of the server is {p64(4).hex()}" in text
        assert f"stop this client, remove {filled}, and start it again" in text
        # It was neither changed nor removed.
        assert found_in(filled) == (p64(5), [(OID, p64(3))])

    def test_reads_before_there_is_a_connection(self, fake, stack, filled):
        """As during an outage; what has changed is told when there is one."""
        storage = ClientStorage(free_port(), cache=filled, wait=False, wait_timeout=0)
        stack.callback(storage.close)
        assert storage.lastTransaction() == p64(5)
        assert storage.loadBefore(OID, p64(6)) == (b"old", p64(3), None)
        storage.close()
        database = Database()
        storage = ClientStorage(fake.address, cache=filled, wait=False)
        stack.callback(storage.close)
        storage.registerDB(database)
        script = fake.accept(p64(9))
        script.answer("getInvalidations", (p64(9), [OID]))
        settle(storage, script)
        assert database.told == [(p64(9), [OID])]

    def test_last_tid_is_not_ahead_of_the_invalidations(self, fake, stack, filled):
        storage, script = self.connected(fake, stack, filled, p64(5))
        script.answer("getTid", p64(3))
        settle(storage, script)
        written = []
        set_tid = storage._cache._file.set_tid

        def watch(tid):
            written.append((tid, storage._cache._current.get(u64(OID))))
            set_tid(tid)

        storage._cache._file.set_tid = watch
        script.call("invalidateTransaction", p64(6), [OID])
        settle(storage, script)
        assert written == [(p64(6), None)]


@implementer(IClientCache)
class NoCache:
    """The smallest that does."""

    closed = False

    def loadBefore(self, oid, tid):
        return None

    def store(self, oid, start_tid, end_tid, data):
        pass

    def invalidate(self, oid, tid):
        pass

    def getLastTid(self):
        return None

    def setLastTid(self, tid):
        pass

    def clear(self):
        pass

    def close(self):
        self.closed = True


class TestCacheObjects:
    def test_without_a_memory(self, fake, connect):
        """The database is told of all that was missed all the same."""
        database, cache = Database(), NoCache()
        storage, script = connect(cache=cache)
        storage.registerDB(database)
        for _ in range(2):
            loaded(storage, script, b"data", p64(1))
        storage.prefetch([OID], maxtid)
        script.answer("loadBefore", (b"data", p64(1), None))
        assert storage.cache_statistics() is None
        script.close()
        script = fake.accept(p64(9))
        assert script.answer("getInvalidations", (p64(9), [OID])) == (p64(1),)
        settle(storage, script)
        assert database.told == [(p64(9), [OID])]
        assert not cache.closed
        storage.close()
        assert cache.closed

    def test_cache_of_zeo(self, connect, tmp_path):
        from ZEO.cache import ClientCache as ZEOCache

        storage, script = connect(cache=ZEOCache(str(tmp_path / "zeo"), 1024 * 1024))
        loaded(storage, script, b"old", p64(1))
        script.call("invalidateTransaction", p64(2), [OID])
        settle(storage, script)
        assert storage.loadBefore(OID, p64(2)) == (b"old", p64(1), p64(2))
        storage.prefetch([OID], p64(2))
        loaded(storage, script, b"new", p64(2))
        assert storage.loadBefore(OID, maxtid) == (b"new", p64(2), None)

    @pytest.mark.parametrize("cache", [5, object(), {}])
    def test_object_that_is_none(self, cache):
        with pytest.raises(TypeError, match=r"path or an object.*IClientCache"):
            ClientStorage(free_port(), cache=cache)

    def test_own_cache_provides_the_interface(self, path):
        from zope.interface.verify import verifyObject

        cache = ClientCache(path, 1024 * 1024)
        assert verifyObject(IClientCache, cache)
        cache.close()


class TestAnotherDatabase:
    @pytest.mark.parametrize("kind", ["zeolite", "ZEO"])
    def test_nothing_of_it_is_read(self, path, tmp_path, kind, caplog):
        """One file for two applications, and both begin with the object 0."""
        import ZEO

        addresses, stops = [], []
        for number in (1, 2):
            module = zeolite if number == 1 or kind == "zeolite" else ZEO
            address, stop = module.server(str(tmp_path / f"Data{number}.fs"))
            addresses.append(address)
            stops.append(stop)
            db = zeolite.DB(address)
            with db.transaction() as connection:
                root = connection.root()
                root.update(number=number, child=type(root)())
            db.close()
        for number, address in enumerate(addresses, 1):
            db = zeolite.DB(address)
            with db.transaction() as connection:
                connection.root()["child"]["x"] = 1
            db.close()
            db = zeolite.DB(address, cache=path)
            with db.transaction() as connection:
                assert connection.root()["number"] == number
            db.close()
        assert "another database" in caplog.text
        for stop in stops:
            stop()


def test_file_that_cannot_be_used(tmp_path):
    with pytest.raises(CacheFileError, match="none/cache: cannot be used as a cache"):
        ClientStorage(free_port(), cache=str(tmp_path / "none" / "cache"))
