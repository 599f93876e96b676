"""RelStorage alone, without a server: what its cache makes programs read.

    python -m tests.relstorage.alone [MB] [SECONDS]

Starts a PostgreSQL of its own, and four programs that move money between accounts with
RelStorage and nothing else.  The sum of all accounts must be the same in every
transaction.  With a cache (MB of `cache-local-mb`, 10 if none is given) it is not, in
RelStorage 4.3.0; with 0 it is.  Writes how often it was right and wrong.
"""

import random
import subprocess
import sys
import threading
import time

import transaction
import ZODB.config
from persistent.mapping import PersistentMapping
from ZODB.POSException import ConflictError

from tests.support import postgres

ACCOUNTS, BALANCE, PROGRAMS, THREADS = 30, 100, 4, 2


def work(db, seed, end, found):
    chance = random.Random(seed)
    manager = transaction.TransactionManager()
    connection = db.open(manager)
    while time.time() < end:
        try:
            manager.begin()
            accounts = [connection.root()[number] for number in range(ACCOUNTS)]
            found.append(sum(account["money"] for account in accounts))
            source, target = chance.sample(accounts, 2)
            source["money"] -= 1
            target["money"] += 1
            manager.commit()
        except ConflictError:
            manager.abort()
    connection.close()


def program(path, seed, end):
    with open(path) as file:
        db = ZODB.DB(ZODB.config.storageFromFile(file))
    found = []
    threads = [
        threading.Thread(target=work, args=(db, f"{seed} {n}", end, found))
        for n in range(THREADS)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    db.close()
    right = found.count(ACCOUNTS * BALANCE)
    print("found", right, len(found) - right)


def count(cluster, megabytes, seconds, directory):
    """Return how many sums were (right, wrong)."""
    path = f"{directory}/alone.conf"
    with open(path, "w") as file:
        dsn = cluster.dsn(cluster.create())
        file.write(postgres.section(dsn, cache_local_mb=megabytes))
    with open(path) as file:
        db = ZODB.DB(ZODB.config.storageFromFile(file))
    with db.transaction() as connection:
        for number in range(ACCOUNTS):
            connection.root()[number] = PersistentMapping(money=BALANCE)
    db.close()
    command = [sys.executable, "-m", "tests.relstorage.alone", "program", path]
    end = str(time.time() + seconds)
    programs = [
        subprocess.Popen([*command, str(seed), end], stdout=subprocess.PIPE, text=True)
        for seed in range(PROGRAMS)
    ]
    outputs = [program.communicate()[0] for program in programs]
    lines = [line for output in outputs for line in output.splitlines()]
    numbers = [line.split()[1:] for line in lines if line.startswith("found")]
    return tuple(sum(map(int, column)) for column in zip(*numbers))


def main(megabytes="10", seconds="10"):
    import tempfile

    cluster = postgres.Cluster()
    try:
        with tempfile.TemporaryDirectory() as directory:
            right, wrong = count(cluster, int(megabytes), float(seconds), directory)
    finally:
        cluster.close()
    print(f"cache-local-mb {megabytes}: {right} sums were right, {wrong} were wrong")


if __name__ == "__main__":
    if sys.argv[1:2] == ["program"]:
        program(sys.argv[2], sys.argv[3], float(sys.argv[4]))
    else:
        main(*sys.argv[1:])
