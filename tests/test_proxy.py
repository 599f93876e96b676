"""Clients behind a proxy that cuts, stalls, delays and trickles.

`ZEOLITE_PROXY_ROUNDS` says how many seeds the slow test tries.
"""

import collections
import os
import time

import pytest

import zeolite

from .support import accounts
from .support.proxy import CHAOS, CUTS, Proxy

ROUNDS = int(os.environ.get("ZEOLITE_PROXY_ROUNDS", "20"))
WORKERS = 4

#: Seconds in which somebody is to commit.
PATIENCE = 60


def work_through_a_proxy(host, seed, chaos, commits):
    """Work until there were so many commits; return (counts, problems)."""
    hosted = host.start("<mappingstorage/>")
    setting_up = zeolite.DB(hosted.address)
    accounts.set_up(setting_up, WORKERS)
    proxy = Proxy(hosted.address, seed, chaos)
    dbs = []
    workers = []
    try:
        for number in range(WORKERS):
            # Two workers share a storage.
            if number % 2 == 0:
                dbs.append(open_database(proxy.address))
            workers.append(accounts.Worker(dbs[-1], number, f"{seed} {number}"))
        for worker in workers:
            worker.start()
        done = 0
        while done < commits:
            # Whatever happens, there is a commit now and then.
            deadline = time.monotonic() + PATIENCE
            while (now := sum(worker.done for worker in workers)) == done:
                assert time.monotonic() < deadline, "it hangs"
                assert any(worker.is_alive() for worker in workers)
                time.sleep(0.01)
            done = now
        proxy.calm_down()
    finally:
        proxy.calm_down()
        for worker in workers:
            worker.stop()
        for worker in workers:
            worker.join()
        problems = [problem for worker in workers for problem in worker.problems]
        for db in dbs:
            problems += accounts.wrong_in_cache(db.storage, setting_up.storage)
            db.close()
        proxy.close()
        setting_up.storage.ping()
        with setting_up.transaction() as connection:
            root = connection.root()
            if accounts.total(root) != accounts.TOTAL:
                problems.append("the sum is wrong in the end")
            if accounts.counters(root, WORKERS) != [w.done for w in workers]:
                problems.append("commits were lost, or done twice")
        setting_up.close()
        hosted.stop()
    counts = sum((worker.counts for worker in workers), collections.Counter())
    return counts + proxy.counts, problems


def open_database(address):
    while True:
        try:
            return zeolite.DB(address, disconnect_poll=0.01, cache_size=100_000)
        except zeolite.errors.ClientDisconnected:
            pass  # Cut while the database made its root object.


@pytest.mark.parametrize("chaos", [CHAOS, CUTS], ids=["chaos", "cuts"])
def test_one_round(host, chaos):
    counts, problems = work_through_a_proxy(host, 1, chaos, commits=100)
    print(dict(counts))
    assert problems == []
    assert counts["cut"] and counts["trickle"] and counts["disconnected"]


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("chaos", [CHAOS, CUTS], ids=["chaos", "cuts"])
def test_many_rounds(host, chaos):
    counts = collections.Counter()
    for seed in range(2, 2 + ROUNDS):
        found, problems = work_through_a_proxy(host, seed, chaos, commits=150)
        assert problems == [], f"with seed {seed}"
        counts.update(found)
    print(ROUNDS, "rounds:", dict(counts))
