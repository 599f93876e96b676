"""Blobs when clients and servers are killed, and when there is much of them.

`ZEOLITE_BLOB_SECONDS` and `ZEOLITE_BLOB_CACHE` (bytes) say how long processes are
killed and how large their cache is; `ZEOLITE_BLOB_MB` how large a large blob is;
`ZEOLITE_BLOB_ROUNDS` how often a process is killed in the middle of a transfer.
"""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time

import psutil
import pytest
from ZODB.utils import load_current, p64

import zeolite
from tests.support.waiting import wait_until
from zeolite.errors import ClientDisconnected

from .support.blobworker import MB, check, commit
from .support.processes import ServerProcess, free_port

SECONDS = int(os.environ.get("ZEOLITE_BLOB_SECONDS", "10"))
CACHE = int(os.environ.get("ZEOLITE_BLOB_CACHE", str(5 * MB)))
LARGE = int(os.environ.get("ZEOLITE_BLOB_MB", "200"))
ROUNDS = int(os.environ.get("ZEOLITE_BLOB_ROUNDS", "1"))

#: More than what may be on its way when somebody stops in the middle.
SIZE = 4 * MB

CONFIGURATION = """\
<zeolite>
  address 127.0.0.1:{}
</zeolite>
<filestorage>
  path Data.fs
  blob-dir blobs
</filestorage>
"""


class Server:
    """A server process that can be killed and started again."""

    def __init__(self, directory):
        self.directory = directory
        directory.mkdir(exist_ok=True)
        configuration = CONFIGURATION.format(free_port())
        (directory / "zeolite.conf").write_text(configuration)
        self.start()

    def start(self):
        self.process = ServerProcess("-C", "zeolite.conf", cwd=self.directory)
        self.address = self.process.address()

    def kill(self):
        self.process.kill(signal.SIGKILL)

    def uploads(self):
        return os.listdir(self.directory / "blobs" / "tmp")


@pytest.fixture
def server(tmp_path):
    server = Server(tmp_path / "server")
    yield server
    server.process.close()


class Worker:
    """One of the jobs of `blobworker`."""

    def __init__(self, job, **parameters):
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-m", "tests.support.blobworker"),
                *(job, json.dumps(parameters)),
            ],
            stdout=subprocess.PIPE,
            text=True,
        )
        self.lines = self._process.stdout

    def line(self):
        return self.lines.readline().strip()

    def kill(self):
        """Kill it; return the exit status, the signal unless it had ended before."""
        self._process.kill()
        return self._process.wait()

    def close(self):
        self.kill()
        self.lines.close()


@contextlib.contextmanager
def opened(server, path, **kwargs):
    storage = zeolite.client(server.address, blob_dir=str(path), **kwargs)
    try:
        yield storage
    finally:
        storage.close()


@pytest.mark.parametrize("number", range(ROUNDS))
class TestKills:
    def test_client_in_mid_upload(self, server, tmp_path, number):
        cache = tmp_path / "cache"
        worker = Worker(
            "stop_in_transfer",
            address=server.address,
            cache=str(cache),
            oid=1,
            content_size=SIZE,
        )
        assert worker.line() == "upload"
        assert len(server.uploads()) == 1
        assert worker.kill() == -signal.SIGKILL
        worker.close()
        wait_until(lambda: server.uploads() == [])
        with opened(server, cache) as storage:
            # What the killed one has left in the cache is gone as well.
            assert list((cache / "tmp").iterdir()) == []
            commit(storage, p64(1), b"content")
            assert check(storage, p64(1)) == 7

    def test_client_in_mid_download(self, server, tmp_path, number):
        cache = tmp_path / "cache"
        with opened(server, tmp_path / "other") as storage:
            commit(storage, p64(1), random.randbytes(SIZE))
        worker = Worker(
            "stop_in_transfer",
            address=server.address,
            cache=str(cache),
            oid=1,
            content_size=0,
        )
        assert worker.line() == "download"
        assert list(cache.glob("*/*.dl"))
        assert worker.kill() == -signal.SIGKILL
        worker.close()
        with opened(server, cache) as storage:
            assert check(storage, p64(1)) == SIZE
        assert not list(cache.glob("*/*.dl"))

    @contextlib.contextmanager
    def killing(self, server, cache):
        """A client during whose transfer the server is killed."""
        killed = []

        def progress(kind, oid, done, total):
            if done >= MB and not killed:
                killed.append(server.uploads())
                server.kill()

        with opened(
            server, cache, blob_progress=progress, disconnect_poll=0.1
        ) as storage:
            storage.killed = killed
            yield storage

    def test_server_in_mid_upload(self, server, tmp_path, number):
        with self.killing(server, tmp_path / "cache") as storage:
            with pytest.raises(ClientDisconnected):
                commit(storage, p64(1), random.randbytes(SIZE))
            assert len(storage.killed[0]) == 1
            assert server.uploads() == storage.killed[0]
            assert os.listdir(storage.temporaryDirectory()) == []
            server.start()
            assert server.uploads() == []
            commit(storage, p64(1), random.randbytes(SIZE))
            assert check(storage, p64(1)) == SIZE

    def test_server_in_mid_download(self, server, tmp_path, number):
        cache = tmp_path / "cache"
        with opened(server, tmp_path / "other") as storage:
            commit(storage, p64(1), random.randbytes(SIZE))
        with self.killing(server, cache) as storage:
            serial = load_current(storage, p64(1))[1]
            with pytest.raises(ClientDisconnected):
                storage.loadBlob(p64(1), serial)
            assert storage.killed
            assert not list(cache.glob("*/*.dl"))
            server.start()
            assert check(storage, p64(1)) == SIZE


@pytest.mark.slow
@pytest.mark.timeout(SECONDS + 300)
def test_processes_on_one_cache_are_killed_at_random(server, tmp_path):
    cache, count, largest = tmp_path / "cache", 80, CACHE // 10
    parameters = {
        "address": server.address,
        "cache": str(cache),
        "size": CACHE,
        "largest": largest,
        "count": count,
    }
    with opened(server, tmp_path / "first") as storage:
        for number in range(1, count + 1):
            commit(storage, p64(number), random.randbytes(random.randrange(largest)))
    done = {"read": 0, "written": 0, "again": 0}
    lock, threads, workers, kills, most = threading.Lock(), [], [], 0, 0

    def start():
        worker = Worker("use_cache", **parameters)

        def count_lines():
            for line in worker.lines:
                with lock:
                    key = line.split(":")[0].strip()
                    done[key] = done.get(key, 0) + 1

        thread = threading.Thread(target=count_lines)
        thread.start()
        threads.append(thread)
        workers.append(worker)

    try:
        for _ in range(4):
            start()
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            time.sleep(random.uniform(0.5, 3))
            victim = workers.pop(random.randrange(len(workers)))
            status = victim.kill()
            assert status == -signal.SIGKILL, "a process has failed"
            kills += 1
            most = max(most, _size(cache))
            start()
    finally:
        for worker in workers:
            worker.kill()
        for thread in threads:
            thread.join()
    assert set(done) == {"read", "written", "again"}
    assert done["read"] and done["written"]
    with opened(server, cache, blob_cache_size=CACHE) as storage:
        wait_until(lambda: storage._blobs._check._thread is None)
        assert _size(cache) <= CACHE
        for number in range(1, count + 1):
            check(storage, p64(number))
    assert list((cache / "tmp").iterdir()) == []
    wait_until(lambda: server.uploads() == [])
    # Each process may be bringing one in while another one removes.
    assert most <= CACHE * 1.1 + 4 * largest
    print(f"{kills} kills, {done}, at most {most / MB:.1f} MB")


def _size(cache):
    size = 0
    for path in cache.glob("*/*.blob*"):
        with contextlib.suppress(FileNotFoundError):
            size += path.stat().st_size
    return size


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_memory_does_not_grow_with_a_blob(server, tmp_path):
    worker = Worker(
        "measure_memory",
        address=server.address,
        cache=str(tmp_path / "cache"),
        megabytes=LARGE,
    )
    process = psutil.Process(server.process.pid)
    assert worker.line() == "begins"
    before = most = process.memory_info().rss
    lines = []
    reading = threading.Thread(target=lambda: lines.append(worker.line()))
    reading.start()
    while reading.is_alive():
        most = max(most, process.memory_info().rss)
        time.sleep(0.01)
    worker.close()
    client, in_server = int(lines[0]), most - before
    print(f"{LARGE} MB: client {client / MB:.1f} MB, server {in_server / MB:.1f} MB")
    assert client < 32 * MB
    assert in_server < 32 * MB
