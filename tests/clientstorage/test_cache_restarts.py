"""A persistent cache from one process to the next, while servers come and go."""

import os
import subprocess
import sys

import pytest
import transaction

import zeolite
from zeolite.errors import ClientDisconnected

FILE_STORAGE = "<filestorage>\npath {}\n</filestorage>\n"

CLIENT = """
import sys, transaction, zeolite
port, path, change = int(sys.argv[1]), sys.argv[2], sys.argv[3]
db = zeolite.DB(port, cache=path)
connection = db.open()
root = connection.root()
if change == "make":
    for number in range(20):
        root[number] = type(root)()
        root[number]["x"] = 0
    transaction.commit()
print([root[number]["x"] for number in range(20)])
statistics = db.storage.cache_statistics()
print(statistics.hits, statistics.misses, len(db.storage._cache))
sys.stdout.flush()
if change == "kill":
    import os
    os.kill(os.getpid(), 9)
connection.close()
db.close()
"""


class TestRestarts:
    """Processes of a client that come and go, with a real server behind."""

    def client(self, server, path, what=""):
        process = subprocess.run(
            [sys.executable, "-c", CLIENT, str(server.address[1]), path, what],
            stdout=subprocess.PIPE,
            text=True,
            timeout=100,
        )
        assert process.returncode == (-9 if what == "kill" else 0)
        values, statistics = process.stdout.splitlines()
        return values, [int(number) for number in statistics.split()]

    def change(self, server):
        """Change one of the objects, from elsewhere."""
        manager = transaction.TransactionManager()
        db = zeolite.DB(server.address)
        connection = db.open(manager)
        connection.root()[7]["x"] += 1
        manager.commit()
        connection.close()
        db.close()

    @pytest.mark.parametrize("kind", ["host", "zeo_host"])
    @pytest.mark.parametrize("end", ["", "kill"])
    def test_objects_come_from_the_cache(self, request, tmp_path, path, kind, end):
        host = request.getfixturevalue(kind)
        section = FILE_STORAGE.format(tmp_path / "Data.fs")
        settings = {"invalidation_queue_size": 100}
        server = host.start(section, **settings)
        self.client(server, path, "make")
        for value in range(3):
            values, (hits, misses, _) = self.client(server, path, end)
            expected = [0] * 20
            expected[7] = value
            assert values == str(expected)
            assert hits >= 20
            # The one that was changed, and nothing else.
            assert misses == bool(value)
            self.change(server)
        server.stop()

    def test_restarted_server(self, host, tmp_path, path):
        section = FILE_STORAGE.format(tmp_path / "Data.fs")
        settings = {"invalidation_age": 3600}
        server = host.start(section, **settings)
        self.client(server, path, "make")
        server.stop()
        server = host.start(section, **settings)
        assert self.client(server, path)[1][1] == 0
        # Its queue does not know of this, its storage does.
        self.change(server)
        server.stop()
        server = host.start(section, **settings)
        values, (hits, misses, _) = self.client(server, path)
        assert values == str([0] * 7 + [1] + [0] * 12)
        assert (hits >= 20, misses) == (True, 1)
        server.stop()

    def test_restored_server(self, host, tmp_path, path):
        data = tmp_path / "Data.fs"
        server = host.start(FILE_STORAGE.format(data))
        self.client(server, path, "make")
        server.stop()
        length = data.stat().st_size
        server = host.start(FILE_STORAGE.format(data))
        self.change(server)
        self.client(server, path)
        server.stop()
        os.truncate(data, length)
        os.unlink(f"{data}.index")
        server = host.start(FILE_STORAGE.format(data))
        with pytest.raises(ClientDisconnected, match="restored from an older copy"):
            zeolite.client(server.address, cache=path)
        os.unlink(path)
        assert self.client(server, path)[0] == str([0] * 20)
        server.stop()
