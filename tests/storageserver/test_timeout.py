"""The end of a transaction that others decide: the timeout, and the server's stop."""

import sys
import threading
import time

import pytest
from ZODB.MappingStorage import MappingStorage
from ZODB.utils import p64

from tests.support.blocking import Gate
from tests.support.rawclient import RawClient
from tests.support.waiting import wait_until
from zeolite.storageserver.commit import State

from .voting import finishing, voting


class TestTimeout:
    def test_voted_transaction_is_aborted_and_its_client_cut_off(self, serve):
        server = serve(transaction_timeout=0.5)  # The second is in the queue by then.
        holder, waiter = voting(server, 2)
        assert holder.is_closed()
        waiter.wait_for(waiter.vote)
        waiter.ask("tpc_finish", 2)
        assert server.served.status()["commits"] == 1

    def test_finishing_transaction_is_never_aborted(self, serve):
        server = serve(transaction_timeout=0.1)
        client, finish, gate = finishing(server)
        holder = server.served.commit_lock._holder
        wait_until(lambda: time.monotonic() - server.served.commit_lock.since > 0.3)
        assert holder.abort("the test wants it") is False
        gate.open()
        tid = client.wait_for(finish)
        assert client.ask("lastTransaction") == tid

    def test_time_in_the_queue_does_not_count(self, serve):
        server = serve(transaction_timeout=0.5)
        holder, waiter = voting(server, 2)
        since = server.served.commit_lock.since
        assert holder.is_closed()
        waiter.wait_for(waiter.vote)
        assert server.served.commit_lock.since >= since + 0.5
        assert waiter.ask("tpc_finish", 2)

    def test_transaction_that_hangs_in_the_vote_is_aborted_by_its_thread(self, serve):
        server = serve(transaction_timeout=0.1)
        voted = server.storage.gate("after tpc_vote")
        client, other = server.connect(), server.connect()
        client.begin(1)
        client.call("vote", 1)
        voted.wait_until_reached()
        assert client.is_closed()
        voted.open()
        assert other.commit(2)
        assert server.served.status()["commits"] == 1

    def test_the_rest_of_a_large_transaction_is_not_stored_any_more(self, serve):
        """The others, who wait for the lock, have waited for long enough."""
        server = serve(transaction_timeout=0.1)
        store, stored, gate = server.storage.store, [], Gate()

        def slow(oid, *args):
            stored.append(oid)
            if oid == p64(2):
                gate.stop_here()
            return store(oid, *args)

        server.storage.store = slow
        client, other = server.connect(), server.connect()
        client.begin(1, oids=range(1, 100))
        client.call("vote", 1)
        gate.wait_until_reached()
        assert client.is_closed()
        gate.open()
        assert other.commit(2, oids=(200,))
        assert stored == [p64(1), p64(2), p64(200)]

    def test_either_the_timeout_or_the_finish_wins(self, server):
        """Both at once, many times: committed and told, or aborted and cut off."""
        interval = sys.getswitchinterval()
        sys.setswitchinterval(1e-6)
        outcomes = {"finished": 0, "aborted": 0}
        try:
            for id in range(60):
                self._race(server, id, outcomes)
        finally:
            sys.setswitchinterval(interval)
        assert server.served.status()["commits"] == outcomes["finished"]
        assert server.connect().commit(1)

    def _race(self, server, id, outcomes):
        client = server.connect()
        client.begin(id, oids=(id + 10,))
        client.ask("vote", id)
        transaction = server.served.commit_lock._holder
        start = threading.Barrier(2)

        def expire():
            start.wait()
            transaction.expire(0)

        watchdog = threading.Thread(target=expire)
        watchdog.start()
        start.wait()
        for _ in range(id % 20):
            pass
        try:
            tid = client.ask("tpc_finish", id)
        except Exception:
            tid = None
        watchdog.join()
        assert transaction._state is State.ENDED
        client.close()
        if tid is None:
            with pytest.raises(KeyError):
                server.storage.getTid(p64(id + 10))
        else:
            assert server.storage.getTid(p64(id + 10)) == tid
        outcomes["finished" if tid else "aborted"] += 1


class TestStop:
    def test_running_finish_ends_and_is_answered(self, serve):
        server = serve()
        client, finish, gate = finishing(server)
        stopper = threading.Thread(target=server.server.stop)
        stopper.start()
        session = server.session(client)
        wait_until(lambda: session._stopping)
        gate.open()
        tid = client.wait_for(finish)
        stopper.join()
        assert MappingStorage.lastTransaction(server.storage.reopened()) == tid

    def test_pack_is_waited_for(self, serve):
        server = serve()
        client = server.connect()
        client.commit(1)
        packing = Gate()
        original = server.storage.pack

        def pack(*args):
            packing.stop_here()
            original(*args)

        server.storage.pack = pack
        client.call("pack", time.time(), True)
        packing.wait_until_reached()
        stopper = threading.Thread(target=server.server.stop)
        stopper.start()
        assert client.is_closed()
        assert server.storage.opened()
        packing.open()
        stopper.join()
        assert not server.storage.opened()

    def test_others_are_aborted_and_nobody_gets_in(self, serve):
        server = serve()
        clients = voting(server, 3)
        server.server.stop()
        assert all(client.is_closed() for client in clients)
        with pytest.raises(OSError):
            RawClient(server.address)
        assert server.storage.reopened().lastTransaction() == b"\0" * 8
