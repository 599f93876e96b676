"""What the log says of the commit lock, of slow calls, and of clients."""

import logging
import pickle
import re

import pytest

from tests.support.blocking import Gate
from tests.support.rawclient import Failed
from tests.support.waiting import wait_until
from zeolite.storageserver import reports
from zeolite.storageserver.commit import Transaction


@pytest.fixture
def said(caplog):
    """Wait for lines that match; return the first and its level."""
    caplog.set_level(logging.DEBUG)

    def find(pattern):
        for record in caplog.records:
            if re.search(pattern, record.getMessage()):
                return record.getMessage(), record.levelno
        return None

    def said(pattern):
        wait_until(lambda: find(pattern))
        return find(pattern)

    said.lines = lambda pattern: [
        r for r in caplog.records if re.search(pattern, r.getMessage())
    ]
    return said


def label(client, text):
    client.post("set_client_label", text)
    client.ask("ping")
    return client


def address(client):
    return "{}:{}".format(*client.socket.getsockname())


def start_vote(server, client, oid=1):
    """Have a client vote; return when it has the lock or is in the queue."""
    lock = server.served.commit_lock
    before = lock.waiting, lock.since
    client.begin(1, [oid])
    number = client.call("vote", 1)
    wait_until(lambda: (lock.waiting, lock.since) != before)
    return number


class TestWaiting:
    @pytest.fixture
    def queue(self, serve):
        """Let clients wait one by one, the lock being somebody else's."""

        def queue(count, **options):
            server = serve(**options)
            holder = label(server.connect(), "holder")
            holder.wait_for(start_vote(server, holder))
            clients = [label(server.connect(), f"app{n}") for n in range(count)]
            for oid, client in enumerate(clients, 2):
                start_vote(server, client, oid)
            return server, holder, clients

        return queue

    def test_level_follows_the_number_of_those_that_wait(self, queue, said):
        queue(11)
        levels = {}
        for number in range(1, 12):
            line, levels[number] = said(rf"waits .* waiting: {number}(;|$)")
            assert f"client app{number - 1} (" in line
        assert [n for n in levels if levels[n] == logging.WARNING] == [4]
        assert [n for n in levels if levels[n] == logging.CRITICAL] == [10]
        # At most one line a second at each of these levels.
        assert {levels[n] for n in (1, 2, 3, 5, 9, 11)} == {logging.DEBUG}

    def test_who_has_just_got_the_lock_does_not_wait_for_it(
        self, queue, said, monkeypatch
    ):
        gate, run_vote = Gate(), Transaction.run_vote

        def gated(transaction):
            gate.stop_here()
            run_vote(transaction)

        server, holder, _ = queue(1)
        late = label(server.connect(), "late")
        monkeypatch.setattr(Transaction, "run_vote", gated)
        holder.ask("tpc_abort", 1)
        gate.wait_until_reached()
        start_vote(server, late, 3)
        line, _ = said("client late .* waits for the commit lock")
        assert re.search(r"client app0 .* had it for \d\.\d{3} s and is about", line)
        gate.open()

    def test_it_is_told_again_after_a_while(self, queue, said, monkeypatch):
        monkeypatch.setattr(reports, "_PAUSE", 0)
        queue(6)
        assert said(r"waiting: 5;")[1] == said(r"waiting: 6;")[1] == logging.WARNING

    @pytest.mark.parametrize(
        "warning, critical, levels",
        [
            (1, 2, [logging.WARNING, logging.CRITICAL]),
            (0, 2, [logging.DEBUG, logging.CRITICAL]),
            (2, 0, [logging.DEBUG, logging.WARNING]),
            (0, 0, [logging.DEBUG, logging.DEBUG]),
        ],
    )
    def test_thresholds_are_settings(self, queue, said, warning, critical, levels):
        queue(2, waiting_warning=warning, waiting_critical=critical)
        found = [said(rf"waits .* waiting: {number};")[1] for number in (1, 2)]
        assert found == levels

    def test_who_has_the_lock_is_told(self, queue, said):
        _, holder, (waiter,) = queue(1)
        line, _ = said("waits for the commit lock")
        assert re.fullmatch(
            rf"storage 1: client app0 \({address(waiter)}\) waits for the commit lock, "
            rf"transactions waiting: 1; client holder \({address(holder)}\) has had it "
            r"for \d\.\d{3} s and is (voting|voted)",
            line,
        )

    def test_a_long_wait_is_told_while_it_lasts(self, queue, said):
        queue(2, slow_call=0.01)
        line, level = said("has been waiting for")
        assert level == logging.WARNING
        assert re.search(
            r"client app0 .* has been waiting for \d+\.\d+ s for the commit lock, "
            r"transactions waiting: \d; client holder .* has had it for",
            line,
        )

    def test_nobody_watches_without_a_threshold(self, queue, said):
        server, holder, _ = queue(2, slow_call=0)
        names = [thread.name for thread in server.served._threads]
        assert not [name for name in names if "reports" in name]
        holder.ask("tpc_finish", 1)
        said("app0 .* got the commit lock after")
        assert not said.lines("has been waiting|slow call")

    def test_who_got_the_lock_is_told(self, queue, said):
        _, holder, _ = queue(1)
        tid = holder.ask("tpc_finish", 1)
        line, level = said(f"committed {tid.hex()} with 1 objects")
        assert re.search(
            r"client holder \(.*, with the commit lock for \d+\.\d+ s", line
        )
        assert level == logging.DEBUG
        assert said(r"client app0 .* got the commit lock after \d+\.\d{3} s")


class TestEndOfATransaction:
    def test_who_had_the_lock_for_long(self, serve, said):
        server = serve(slow_call=0.01)
        client = label(server.connect(), "app")
        gate = server.storage.gate("after tpc_vote")
        client.begin(1)
        vote = client.call("vote", 1)
        gate.wait_until_reached()
        since = server.served.commit_lock.since
        wait_until(lambda: reports.time.monotonic() > since + 0.01)
        gate.open()
        client.wait_for(vote)
        tid = client.ask("tpc_finish", 1)
        _, level = said(f"client app .* committed {tid.hex()}")
        assert level == logging.WARNING

    def test_abort(self, server, said):
        client = server.connect()
        client.begin(1)
        client.ask("vote", 1)
        client.ask("tpc_abort", 1)
        assert said("did not commit: its client asked for it")

    def test_conflict(self, server, said):
        client = server.connect()
        client.commit(1)
        client.begin(2)
        client.call("vote", 2)
        assert said("did not commit: ConflictError: ")

    def test_storage_that_fails(self, server, said):
        client = server.connect()
        client.begin(1)
        client.ask("vote", 1)
        server.storage.fail("before tpc_finish", RuntimeError("no disk"))
        client.call("tpc_finish", 1)
        assert said("did not commit: RuntimeError: no disk")


class TestSlowCalls:
    def is_slow(self, server, where, client, *call):
        """Have a call take longer than it should."""
        gate = server.storage.gate(where)
        number = client.call(*call)
        gate.wait_until_reached()
        start = reports.time.monotonic()
        wait_until(lambda: reports.time.monotonic() > start + 0.02)
        gate.open()
        client.wait_for(number)

    @pytest.mark.usefixtures("loads")
    def test_load(self, serve, said):
        server = serve(slow_call=0.01)
        client = label(server.connect(), "app")
        client.commit(1, [7])
        later = b"\x7f" + b"\xff" * 7
        self.is_slow(
            server, "before loadBefore", client, "loadBefore", b"\0" * 7 + b"\7", later
        )
        line, level = said("slow call: loadBefore")
        assert level == logging.WARNING
        assert re.fullmatch(
            rf"client app \({address(client)}\): slow call: loadBefore took "
            rf"0\.\d{{3}} s; arguments: 0000000000000007, {later.hex()}",
            line,
        )
        client.ask("ping")
        assert len(said.lines("slow call: loadBefore")) == 1

    def test_vote_in_the_storage(self, serve, said):
        server = serve(slow_call=0.01)
        client = server.connect()
        client.begin(12)
        self.is_slow(server, "before tpc_vote", client, "vote", 12)
        assert said(r"slow call: vote took 0\.\d+ s; arguments: 12$")
        assert len(said.lines("slow call: vote")) == 1

    def test_waiting_for_the_commit_lock_is_not_the_votes_fault(self, serve, said):
        server = serve(slow_call=0.2)
        holder, waiter = server.connect(), server.connect()
        holder.wait_for(start_vote(server, holder))
        number = start_vote(server, waiter, 2)
        said("has been waiting for")
        holder.ask("tpc_finish", 1)
        waiter.wait_for(number)
        assert not said.lines("slow call: vote")

    def test_nor_is_waiting_in_vain(self, serve, said):
        server = serve(slow_call=0.2)
        holder, waiter = server.connect(), server.connect()
        holder.wait_for(start_vote(server, holder))
        start_vote(server, waiter, 2)
        said("has been waiting for")
        waiter.ask("tpc_abort", 1)
        assert waiter.seen[-2][0] == "error"
        assert not said.lines("slow call: vote")

    def test_zero_is_never(self, serve, said):
        server = serve(slow_call=0)
        client = server.connect()
        client.begin(1)
        self.is_slow(server, "before tpc_vote", client, "vote", 1)
        assert not said.lines("slow call")

    @pytest.mark.parametrize(
        "value, text",
        [
            (b"x" * 8, "78" * 8),
            (b"x" * 5000, "5000 bytes"),
            ("text", "4 characters"),
            (7, "7"),
            pytest.param(10**5000, "a number of 16610 bits", id="huge"),
            (1.5, "1.5"),
            (None, "None"),
            (True, "True"),
            ([1, 2], "list of 2"),
            ({"a": 1}, "dict of 1"),
        ],
    )
    def test_arguments_are_shown_by_their_size(self, caplog, value, text):
        reports.report_slow_call("who", "name", (value,), 1)
        assert caplog.messages == [
            f"client who: slow call: name took 1.000 s; arguments: {text}"
        ]


class TestClients:
    def test_who_comes_and_goes(self, server, said):
        client = label(server.connect(), "app")
        name = address(client)
        assert (
            said(rf"client .*{name}\)?: registered for storage 1, read-write")[1] == 20
        )
        client.commit(1)
        client.wait_for(client.load(1))
        client.close()
        line, level = said(rf"client app \({name}\): left")
        assert re.search(
            r"left after \d+ s, 1 loads, 1 stores, 1 commits, 0 aborts$", line
        )
        assert level == logging.INFO

    def test_pack(self, server, said):
        client = label(server.connect(), "app")
        client.commit(1, [0], data=pickle.dumps(None, 3) * 2)
        client.ask("pack", 0.0, True)
        assert said(r"client app .*: pack of storage 1 begins")[1] == logging.INFO
        assert said(r"pack of storage 1 took \d+\.\d s, \d+ bytes before and \d+ after")

    def test_pack_that_fails(self, server, said):
        client = label(server.connect(), "app")
        client.commit(1)  # There is no root object.
        with pytest.raises(Failed):
            client.ask("pack", 0.0, True)
        assert said(r"client app .*: pack failed")[1] == logging.ERROR
