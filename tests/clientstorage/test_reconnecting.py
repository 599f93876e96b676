"""Connections that break at any moment, while others commit.

`ZEOLITE_RECONNECT_ROUNDS` says how many seeds the slow test tries.
"""

import os
import random
import threading
import time

import pytest
from ZODB.Connection import TransactionMetaData
from ZODB.POSException import ConflictError
from ZODB.utils import maxtid, p64

from tests.support.accounts import wrong_in_cache
from tests.support.blocking import Gate
from zeolite.clientstorage.storage import ClientStorage
from zeolite.errors import ClientDisconnected

from .talking import Background, Database, loaded, settle

OID = p64(7)
ROUNDS = int(os.environ.get("ZEOLITE_RECONNECT_ROUNDS", "50"))


def handshake(script):
    script.read_frame()


def register(script):
    script.answer("register", p64(5))


def get_info(script):
    script.answer("get_info", {})


def early_commit(script):
    script.call("invalidateTransaction", p64(6), [p64(8)])


def ask_for_invalidations(script):
    script.expect("getInvalidations")


def half_a_frame(script):
    script._socket.sendall(b"\0\0\1\0\x80\x03(")


#: What happens between server and client before the connection breaks.
STEPS = {
    "before the handshake": [],
    "after the handshake": [handshake],
    "after register": [register],
    "after a commit": [register, early_commit],
    "after get_info": [register, get_info],
    "in the verification": [register, get_info, ask_for_invalidations],
    "in it, after a commit": [
        register,
        early_commit,
        get_info,
        ask_for_invalidations,
        early_commit,
    ],
    "in a frame": [register, half_a_frame],
    "in a frame of the verification": [
        register,
        get_info,
        ask_for_invalidations,
        half_a_frame,
    ],
}


class TestBreaking:
    """The connection breaks while it is being made; the next one is right."""

    @pytest.fixture
    def database(self):
        return Database()

    @pytest.mark.parametrize("steps", STEPS.values(), ids=STEPS)
    def test_nothing_is_missed(self, fake, connect, database, steps):
        storage, script = connect()
        storage.registerDB(database)
        loaded(storage, script, b"old", p64(1))
        script.close()
        for _ in range(2):
            script = fake.accept(register=False)
            for step in steps:
                step(script)
            script.close()
        script = fake.accept(register=False)
        script.answer("register", p64(6))
        script.answer("get_info", {})
        # Nothing of what was heard meanwhile counts.
        assert script.answer("getInvalidations", (p64(6), [OID, p64(8)])) == (p64(1),)
        settle(storage, script)
        assert database.told == [(p64(6), [OID, p64(8)])]
        assert storage.lastTransaction() == p64(6)
        assert storage._cache.loadBefore(OID, maxtid) is None

    def test_while_the_database_is_told_of_the_verification(
        self, fake, connect, database
    ):
        storage, script = connect()
        storage.registerDB(database)
        loaded(storage, script, b"old", p64(1))
        script.close()
        database.gate = Gate()
        script = fake.accept(register=False)
        register(script)
        get_info(script)
        script.answer("getInvalidations", (p64(5), [OID]))
        database.gate.wait_until_reached()
        assert storage.lastTransaction() == p64(1)
        script.close()
        database.gate.open()
        database.gate = None
        script = fake.accept(register=False)
        script.answer("register", p64(6))
        get_info(script)
        assert script.answer("getInvalidations", (p64(6), [p64(8)])) == (p64(5),)
        settle(storage, script)
        assert database.told == [(p64(5), [OID]), (p64(6), [p64(8)])]

    def test_while_the_database_is_told_of_a_commit(self, fake, connect, database):
        storage, script = connect()
        storage.registerDB(database)
        database.gate = Gate()
        script.call("invalidateTransaction", p64(2), [OID])
        # This one is told by a connection that is broken by then.
        script.call("invalidateTransaction", p64(3), [OID])
        database.gate.wait_until_reached()
        script.close()
        database.gate.open()
        database.gate = None
        script = fake.accept(register=False)
        script.answer("register", p64(4))
        get_info(script)
        (known,) = script.answer("getInvalidations", (p64(4), [OID]))
        assert known in (p64(2), p64(3))
        settle(storage, script)
        assert [tid for tid, _ in database.told][-1] == p64(4)

    def test_load_of_the_last_connection_does_not_enter_the_cache(self, fake, connect):
        """Its answer may be older than what the next connection has told."""
        storage, script = connect()
        load = Background(storage.loadBefore, OID, maxtid)
        script.expect("loadBefore")
        script.close()
        with pytest.raises(ClientDisconnected):
            load.result()
        settle(storage, fake.accept())
        assert storage._cache.loadBefore(OID, maxtid) is None


class Watcher:
    """A storage with a database that checks the order of what it is told."""

    def __init__(self, address, seed):
        self.problems = []
        self.told = {}  # oid -> the last tid that changed it
        self.last_told = bytes(8)
        self.breaks = 0
        self._random = random.Random(seed)
        self.storage = ClientStorage(
            address, disconnect_poll=0.005, cache_size=20_000, wait_timeout=30
        )
        self.first_tid = self.storage.lastTransaction()
        self.storage.registerDB(self)

    # What a database does.

    def invalidate(self, tid, oids):
        if tid < self.last_told:
            self.problems.append(f"{tid.hex()} after {self.last_told.hex()}")
        self.last_told = tid
        for oid in oids:
            self.told[oid] = tid

    def invalidateCache(self):
        self.told = AllOf(self.told)

    def transform_record_data(self, data):
        return data

    untransform_record_data = transform_record_data

    # What its thread does.

    def look(self, committed):
        """Load something, break the connection perhaps, compare what is shown."""
        try:
            if self._random.random() < 0.1:
                link = self.storage._connection.link()
                link.end()
                self.breaks += 1
            oid = p64(self._random.choice(OIDS))
            self.storage.prefetch([oid], maxtid)
            self.storage.loadBefore(oid, maxtid)
        except ClientDisconnected:
            pass
        before = list(committed)
        last = self.storage.lastTransaction()
        told = dict(self.told) if not isinstance(self.told, AllOf) else self.told
        for tid, oid in before:
            if self.first_tid < tid <= last and told.get(oid, bytes(8)) < tid:
                self.problems.append(f"{last.hex()} is shown, {tid.hex()} was not told")


class AllOf(dict):
    """What was told after all was told to be unknown: everything up to then."""

    def get(self, oid, default=None):
        return maxtid


#: What is committed and watched.
OIDS = range(1, 9)


def race(serve, seed, commits):
    """Return the number of broken connections."""
    server = serve(invalidation_queue_size=1000)
    setting_up = server.connect()
    setting_up.commit(1, oids=OIDS)
    committed = []
    done = threading.Event()
    watchers = [Watcher(server.address, f"{seed} {number}") for number in range(3)]
    committers = [ClientStorage(server.address) for _ in range(2)]
    errors = []

    def commit(storage, rng):
        for _ in range(commits):
            txn = TransactionMetaData()
            oid = p64(rng.choice(OIDS))
            for _ in range(50):
                serial = storage.getTid(oid)
                storage.tpc_begin(txn)
                storage.store(oid, serial, b"data" + os.urandom(90), "", txn)
                try:
                    storage.tpc_vote(txn)
                except ConflictError:
                    storage.tpc_abort(txn)
                    continue
                committed.append((storage.tpc_finish(txn), oid))
                break
            time.sleep(rng.random() * 0.002)

    def watch(watcher):
        while not done.is_set():
            watcher.look(committed[-20:])

    def guarded(function, *args):
        try:
            function(*args)
        except Exception as error:
            errors.append(repr(error))

    threads = [
        threading.Thread(target=guarded, args=(watch, watcher)) for watcher in watchers
    ]
    committing = [
        threading.Thread(
            target=guarded, args=(commit, storage, random.Random(f"{seed} {n} c"))
        )
        for n, storage in enumerate(committers)
    ]
    for thread in (*threads, *committing):
        thread.start()
    for thread in committing:
        thread.join()
    done.set()
    for thread in threads:
        thread.join()
    fresh = ClientStorage(server.address)
    for watcher in watchers:
        errors += watcher.problems + wrong_in_cache(watcher.storage, fresh)
        if watcher.storage.lastTransaction() != max(committed)[0]:
            errors.append("not all is known in the end")
        watcher.storage.close()
    for storage in (*committers, fresh):
        storage.close()
    assert errors == [], f"with seed {seed}"
    return sum(watcher.breaks for watcher in watchers)


def test_breaking_while_others_commit(serve):
    assert race(serve, 1, commits=100)


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_breaking_while_others_commit_many_times(serve):
    breaks = sum(race(serve, seed, commits=200) for seed in range(2, 2 + ROUNDS))
    print(ROUNDS, "rounds,", breaks, "broken connections,", ROUNDS * 400, "commits")
