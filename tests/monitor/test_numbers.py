"""What the monitor tells is what clients did, exactly."""

import contextlib
import random
import threading

import pytest
from prometheus_client.parser import text_string_to_metric_families
from ZODB.blob import Blob
from ZODB.FileStorage import FileStorage
from ZODB.MappingStorage import MappingStorage
from ZODB.POSException import ConflictError
from ZODB.utils import maxtid, p64

import zeolite
from tests.support.blocking import BlockingStorage
from tests.support.rawclient import Failed, RawClient
from tests.support.waiting import wait_until
from zeolite.storageserver.measures import MOST_NAMES, OTHERS, Accounts, Histogram

KINDS = ("loads", "stores", "commits", "aborts", "conflicts")


def metrics(server):
    """Return {(sample, *labels in order of their names): value}."""
    status, headers, text = server.get("/metrics")
    assert status == 200
    assert headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    found = {}
    for family in text_string_to_metric_families(text):
        assert family.documentation and family.type != "unknown", family
        for sample in family.samples:
            labels = {**sample.labels}
            assert labels.pop("storage", "1") == "1"
            key = (sample.name, *[labels[name] for name in sorted(labels)])
            assert key not in found
            found[key] = sample.value
    return found


class Busy:
    """A client that loads and commits at random, and knows what it has done."""

    def __init__(self, server, number):
        self.client = server.connect()
        self.label = f"worker {number % 20}"
        self.client.post("set_client_label", self.label)
        self.random = random.Random(number)
        self.done = dict.fromkeys(KINDS, 0)
        self.base = 1000 * (number + 1)

    def step(self, id):
        done, client = self.done, self.client
        for _ in range(self.random.randrange(5)):
            done["loads"] += 1
            with contextlib.suppress(Failed):
                client.wait_for(client.load(self.random.randrange(5)))
        if self.random.random() < 0.5:
            return
        oids = [self.base + id * 10 + n for n in range(self.random.randrange(1, 4))]
        is_conflict = self.random.random() < 0.3
        client.begin(id, oids, serial=p64(7) if is_conflict else None)
        done["stores"] += len(oids)
        try:
            client.ask("vote", id)
        except Failed:
            done["conflicts"] += 1
        if is_conflict or self.random.random() < 0.2:
            done["aborts"] += 1
            client.ask("tpc_abort", id)
        else:
            done["commits"] += 1
            client.ask("tpc_finish", id)


class Picky(MappingStorage):
    """Objects that are new must be stored as such."""

    def store(self, oid, serial, data, version, transaction):
        if serial == p64(7):
            raise ConflictError(oid=oid)
        super().store(oid, serial, data, version, transaction)


def test_200_clients_that_come_and_go(serve):
    server = serve(Picky())
    workers = [Busy(server, number) for number in range(200)]
    staying = workers[:100]

    def run(mine):
        for id in range(1, 8):
            for worker in mine:
                worker.step(id)
        for worker in mine:
            if worker not in staying:
                worker.client.close()

    threads = [threading.Thread(target=run, args=(workers[n::20],)) for n in range(20)]
    done = threading.Event()

    def scrape():
        while not done.is_set():
            for key, value in metrics(server).items():
                if key[0].endswith("_total") or "_bucket" in key[0]:
                    assert value >= seen.get(key, 0), key
                    seen[key] = value

    seen = {}
    scraper = threading.Thread(target=scrape)
    for thread in (scraper, *threads):
        thread.start()
    for thread in threads:
        thread.join()
    done.set()
    scraper.join()
    assert seen["zeolite_loads_total",]
    wait_until(lambda: server.status()["connections"] == 100)

    total = {kind: sum(worker.done[kind] for worker in workers) for kind in KINDS}
    assert all(total.values()), total
    status, found = server.status(), metrics(server)
    asked = staying[0].client.ask("server_status")
    for kind in KINDS:
        assert status[kind] == asked[kind] == total[kind]
        assert found[f"zeolite_{kind}_total",] == total[kind]
        for label in {worker.label for worker in workers}:
            its = sum(w.done[kind] for w in workers if w.label == label)
            assert found[f"zeolite_client_{kind}_total", label] == its
    for worker in staying:
        address = "{}:{}".format(*worker.client.socket.getsockname())
        (its,) = [c for c in status["clients"] if c["address"] == address]
        assert its["label"] == worker.label
        assert {kind: its[kind] for kind in KINDS} == worker.done
    assert found["zeolite_sessions_total",] == 200
    assert found["zeolite_connections",] == 100
    assert found["zeolite_client_connections", "worker 1"] == 5
    assert found["zeolite_commit_seconds_count",] == total["commits"]
    votes = total["commits"] + total["aborts"]
    assert found["zeolite_commit_lock_hold_seconds_count",] == votes
    assert found["zeolite_commit_lock_wait_seconds_count",] == votes
    timed = sum(-(-worker.done["loads"] // 16) for worker in workers)
    assert found["zeolite_load_seconds_count",] == timed
    assert found["zeolite_load_seconds_bucket", "+Inf"] == timed


def test_bytes_are_what_went_over_the_wire(server):
    client = server.connect()
    first = server.status()
    for _ in range(10):
        client.ask("ping")
    second = server.status()
    # A frame of a call, as `RawClient` pickles it, and one of a reply.
    assert second["bytes_received"] > first["bytes_received"]
    assert second["bytes_received"] == second["clients"][0]["bytes_received"]
    sent = second["bytes_sent"] - first["bytes_sent"]
    client.close()
    wait_until(lambda: not server.status()["connections"])
    third = server.status()
    assert third["bytes_sent"] - first["bytes_sent"] == sent
    assert third["bytes_received"] == second["bytes_received"]


def test_bytes_exactly(server, monkeypatch):
    """Compared with what the client's socket has seen."""
    client = server.connect(register=False)
    seen = [0, 0]
    monkeypatch.setattr(
        client,
        "socket",
        _Counting(client.socket, seen),
    )
    client.handshake()
    client.ask("register", "1", False)
    client.commit(1, oids=range(50), data=b"x" * 3000)
    client.wait_for(client.load(3))
    client.ask("ping")

    def counted():
        status = server.status()
        return [status["bytes_received"], status["bytes_sent"]]

    # The client may have the last reply before the server has counted it.
    wait_until(lambda: counted() == seen)


class _Counting:
    def __init__(self, sock, seen):
        self._socket, self._seen = sock, seen

    def sendall(self, data):
        self._seen[0] += len(data)
        self._socket.sendall(data)

    def recv(self, size):
        data = self._socket.recv(size)
        self._seen[1] += len(data)
        return data

    def __getattr__(self, name):
        return getattr(self._socket, name)


def test_transactions_of_a_client_that_vanishes_are_aborts(server):
    client = server.connect()
    client.begin(1)
    client.ask("vote", 1)
    client.begin(2, oids=(2,))
    client.ask("ping")
    assert server.status()["transactions"] == 2
    client.close()
    wait_until(lambda: not server.status()["connections"])
    status = server.status()
    assert (status["aborts"], status["commits"]) == (2, 0)
    assert sum(status["lock_hold"]["counts"]) == 1


def test_conflict_of_a_client_that_has_left_meanwhile(serve):
    """Its vote had to wait, so another thread runs it, and counts."""
    storage = BlockingStorage()
    server = serve(storage)
    first, second = server.connect(), server.connect()
    first.begin(1)
    first.ask("vote", 1)
    second.post("set_client_label", "leaves")
    second.begin(1, oids=(2,))
    second.call("vote", 1)
    wait_until(lambda: server.served.commit_lock.waiting == 1)
    gate = storage.gate("before tpc_vote")
    first.ask("tpc_finish", 1)
    gate.wait_until_reached()
    second.close()
    wait_until(lambda: server.status()["connections"] == 1)
    before = server.status()
    assert (before["conflicts"], before["aborts"]) == (0, 1)
    gate.open(ConflictError())
    wait_until(lambda: server.status()["conflicts"] == 1)
    found = metrics(server)
    names = [v for k, v in found.items() if k[0] == "zeolite_client_conflicts_total"]
    assert sum(names) == 1
    assert first.ask("server_status")["conflicts"] == 1


def test_blobs(serve, tmp_path):
    data, blobs = str(tmp_path / "Data.fs"), str(tmp_path / "blobs")
    server = serve(FileStorage(data, blob_dir=blobs))
    for number in range(2):
        cache = str(tmp_path / f"cache{number}")
        db = zeolite.DB(server.address, blob_dir=cache, client_label="b")
        with db.transaction() as connection:
            if number == 0:
                connection.root()["blobs"] = [Blob(b"x" * 100_000) for _ in range(5)]
            else:
                for blob in connection.root()["blobs"]:
                    with blob.open() as file:
                        assert len(file.read()) == 100_000
        db.close()
    wait_until(lambda: not server.status()["connections"])
    found = metrics(server)
    assert found["zeolite_blob_loads_total",] == 5
    assert found["zeolite_loads_total",] > 5
    loads = [v for k, v in found.items() if k[0] == "zeolite_client_loads_total"]
    assert sum(loads) == found["zeolite_loads_total",]
    assert found["zeolite_stores_total",] == 7  # And the root, twice.
    assert found["zeolite_received_bytes_total",] > 500_000
    assert found["zeolite_sent_bytes_total",] > 500_000


def test_who_holds_the_lock_and_who_waits(server):
    clients, votes = [server.connect() for _ in range(4)], []
    for number, client in enumerate(clients):
        client.post("set_client_label", f"c{number}")
        client.begin(1, oids=(number + 1,))
        votes.append(client.call("vote", 1))
        wait_until(lambda n=number: server.served.commit_lock.waiting == n)
        if not number:
            client.wait_for(votes[0])
    status = server.status()
    assert status["lock"]["holder"]["label"] == "c0"
    assert status["lock"]["holder"]["state"] == "voted"
    assert [entry["label"] for entry in status["lock"]["queue"]] == ["c1", "c2", "c3"]
    assert [(c["label"], c["state"]) for c in status["clients"]] == [
        ("c0", "holds the lock"),
        ("c1", "waits for the lock"),
        ("c2", "waits for the lock"),
        ("c3", "waits for the lock"),
    ]
    found = metrics(server)
    assert found["zeolite_commit_lock_waiting",] == 3
    assert found["zeolite_commit_lock_age_seconds",] > 0
    assert found["zeolite_commit_lock_wait_seconds_count",] == 1
    clients[0].ask("tpc_finish", 1)
    clients[1].wait_for(votes[1])
    status = server.status()
    assert status["lock"]["holder"]["label"] == "c1"
    assert status["lock"]["waiting"] == 2
    assert sum(status["lock_wait"]["counts"]) == 2


def test_client_that_takes_nothing_is_stalled_until_it_does(server):
    stalled = server.connect(receive_buffer=4096)
    stalled.post("set_client_label", "sleepy")
    other = server.connect()
    other.commit(1, data=b"x" * 5_000_000)
    for _ in range(3):
        stalled.load(1)
    wait_until(lambda: server.status()["stalled"] == 1)
    assert metrics(server)["zeolite_stalled_clients",] == 1
    (its,) = [c for c in server.status()["clients"] if c["label"] == "sleepy"]
    assert its["state"] == "takes nothing"
    for number in range(3):
        stalled.wait_for(number + 2)
    wait_until(lambda: server.status()["stalled"] == 0)


def test_invalidation_log(serve):
    server = serve(invalidation_queue_size=5)
    client = server.connect()
    for number in range(1, 9):
        client.commit(number, oids=(number,))
    wait_until(lambda: server.status()["invalidation_log"] == 5)
    assert metrics(server)["zeolite_invalidation_log_entries",] == 5
    assert metrics(server)["zeolite_invalidation_lag_entries",] == 0


def test_kinds_of_cache_verification(serve, tmp_path):
    storage = FileStorage(str(tmp_path / "Data.fs"))
    server = serve(storage, invalidation_queue_size=2, invalidation_age=3600)
    client = server.connect()
    tids = [client.commit(number, oids=(number,)) for number in range(1, 6)]
    again = server.connect()
    assert again.ask("getInvalidations", tids[-2])[0] == tids[-1]  # From the queue.
    assert again.ask("getInvalidations", tids[0])[0] == tids[-1]  # By iterating.
    assert again.ask("getInvalidations", p64(1)) is None  # Too old.
    for one in (client, again):
        one.close()
    wait_until(lambda: not server.status()["connections"])
    wanted = {
        "none": 1,
        "queue": 1,
        "iterating": 1,
        "too_old": 1,
        "upstream": 0,
        "database": 0,
    }
    assert server.status()["verifications"] == wanted
    found = metrics(server)
    for kind, count in wanted.items():
        assert found["zeolite_cache_verifications_total", kind] == count


def test_labels_do_not_grow_and_lose_nothing(server):
    """More names than there is room for, one after the other."""
    keeps = server.connect()
    keeps.post("set_client_label", "stays")
    keeps.commit(1)
    for number in range(3 * MOST_NAMES):
        client = server.connect()
        client.post("set_client_label", f"passing {number}")
        client.ask("server_status")
        with contextlib.suppress(Failed):
            client.wait_for(client.load(1))
        client.close()
    wait_until(lambda: server.status()["connections"] == 1)
    found = metrics(server)
    loads = {k[1]: v for k, v in found.items() if k[0] == "zeolite_client_loads_total"}
    assert len(loads) <= MOST_NAMES + 1
    assert sum(loads.values()) == found["zeolite_loads_total",] == 3 * MOST_NAMES
    assert loads[OTHERS] >= 2 * MOST_NAMES - 1
    assert found["zeolite_client_commits_total", "stays"] == 1
    assert found["zeolite_client_connections", "stays"] == 1


def test_client_that_changes_its_label_all_the_time(server):
    client = server.connect()
    client.commit(1)
    for number in range(3 * MOST_NAMES):
        client.post("set_client_label", f"name {number}")
        client.wait_for(client.load(1))
    found = metrics(server)
    loads = {k[1]: v for k, v in found.items() if k[0] == "zeolite_client_loads_total"}
    assert len(loads) <= MOST_NAMES + 1
    assert sum(loads.values()) == 3 * MOST_NAMES
    connections = [
        v for k, v in found.items() if k[0] == "zeolite_client_connections" and v
    ]
    assert connections == [1]


@pytest.mark.parametrize(
    "label", ['a"b\\c', "new\nline", "<script>", "{}", "é\u2028\ud800", OTHERS, "+Inf"]
)
def test_strange_labels(server, label):
    client = server.connect()
    client.post("set_client_label", label.encode("utf-8", "replace").decode())
    client.ask("ping")
    (its,) = server.status()["clients"]
    assert metrics(server)["zeolite_client_connections", its["label"]] == 1


class TestAccounts:
    def test_one_without_clients_makes_room_for_a_new_one(self):
        accounts = Accounts(2)
        zero = dict.fromkeys(accounts.open("a").past, 0)
        b = accounts.open("b")
        assert accounts.open("c").name == OTHERS
        accounts.close(b, {**zero, "loads": 3})
        assert accounts.open("d").name == "d"
        names = {account.name: account.past["loads"] for account in accounts}
        assert names == {OTHERS: 3, "a": 0, "d": 0}

    def test_the_one_that_was_left_first_goes_first(self):
        accounts = Accounts(3)
        opened = [accounts.open(name) for name in "abc"]
        for account in (opened[1], opened[0], opened[2]):
            accounts.close(account, dict.fromkeys(account.past, 1))
        accounts.open("b")
        accounts.open("d")
        assert {account.name for account in accounts} == {OTHERS, "b", "c", "d"}


def test_histogram_counts_what_is_up_to_a_bound():
    histogram = Histogram((1, 2))
    for seconds in (0, 1, 1.5, 2, 2.1, 99):
        histogram.observe(seconds)
    assert histogram.counts == [2, 2, 2]
    histogram.add(histogram)
    assert histogram.counts == [4, 4, 4]
    assert histogram.sum == 2 * 105.6


def test_without_a_monitor_loads_are_not_timed():
    from zeolite.storageserver.options import ServerOptions
    from zeolite.storageserver.server import StorageServer

    server = StorageServer(("127.0.0.1", 0), {"1": MappingStorage()}, ServerOptions())
    server.start()
    client = RawClient(server.address)
    with contextlib.suppress(Failed):
        client.wait_for(client.call("loadBefore", p64(1), maxtid))
    (session,) = server.storages[0].look().sessions
    assert session.load_times is None
    assert client.ask("server_status")["loads"] == 1
    client.close()
    server.stop()
    assert server.monitor_address is None
