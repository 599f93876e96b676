"""What the monitor's pages say, and where it listens."""

import base64
import hashlib
import http.client
import json
import logging
import re
import subprocess
import sys
import threading
import zipfile

import pytest
from ZODB.FileStorage import FileStorage

import zeolite
from tests.support.blocking import BlockingStorage
from tests.support.processes import free_port, running
from zeolite import datatypes
from zeolite.errors import ConfigurationError

FILE = """\
<zeolite>
  address 127.0.0.1:0
  monitor-address %s
</zeolite>
<filestorage>
  path Data.fs
</filestorage>
"""


def get(address, path):
    connection = http.client.HTTPConnection(*address, timeout=20)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


class TestHealth:
    def test_ok(self, server):
        status, headers, text = server.get("/healthz")
        assert (status, text) == (200, "ok\n")
        assert headers["Content-Type"].startswith("text/plain")
        assert server.get("/healthz", "HEAD")[::2] == (200, "")

    def test_with_objects(self, server):
        server.connect().commit(1, oids=(0,))
        assert server.get("/healthz")[0] == 200

    def test_storage_was_closed(self, serve, tmp_path):
        server = serve(FileStorage(str(tmp_path / "Data.fs")))
        server.connect().commit(1, oids=(0,))
        server.storage._file.close()
        server.storage._files.close()
        status, _, text = server.get("/healthz")
        assert status == 503
        assert text.startswith("storage 1 cannot be read: ")
        assert json.loads(server.get("/status.json")[2])["trouble"] == text.strip()

    def test_storage_fails(self, serve):
        server = serve(BlockingStorage())
        server.storage.fail("before loadBefore", OSError("the disk is gone"))
        text = "storage 1 cannot be read: the disk is gone\n"
        assert server.get("/healthz")[::2] == (503, text)
        assert server.get("/healthz")[0] == 200

    def test_storage_that_hangs_holds_one_thread(self, serve, monkeypatch):
        monkeypatch.setattr("zeolite.storageserver.probe.PATIENCE", 0.01)
        server = serve(BlockingStorage())
        gate = server.storage.gate("before loadBefore")
        first = []
        thread = threading.Thread(target=lambda: first.append(server.get("/healthz")))
        thread.start()
        gate.wait_until_reached()
        for _ in range(3):
            answer = server.get("/healthz")
            assert answer[::2] == (503, "storage 1 does not answer\n")
        gate.open()
        thread.join()
        assert first[0][0] == 200

    def test_stopping(self, serve):
        server = serve(BlockingStorage())
        client = server.connect()
        client.begin(1)
        client.ask("vote", 1)
        gate = server.storage.gate("before tpc_finish")
        client.call("tpc_finish", 1)
        gate.wait_until_reached()
        stopper = threading.Thread(target=server.server.stop)
        stopper.start()
        while not server.server._stopping:
            pass
        assert server.get("/healthz")[::2] == (503, "the server stops\n")
        gate.open()
        stopper.join()
        with pytest.raises(OSError):
            server.get("/healthz")

    def test_server_of_a_server_that_is_gone(self, host, serve):
        upstream = host.start("<mappingstorage/>")
        storage = zeolite.client(upstream.address, wait_timeout=1)
        server = serve(storage)
        assert server.get("/healthz")[0] == 200
        upstream.stop()
        while storage.is_connected():
            pass
        text = "storage 1 is not connected to its server\n"
        assert server.get("/healthz")[::2] == (503, text)


class TestPage:
    def test_allows_nothing_but_itself(self, server):
        status, headers, text = server.get("/")
        assert status == 200
        assert headers["Content-Type"] == "text/html; charset=utf-8"
        policy = dict(
            rule.split(" ", 1)
            for rule in headers["Content-Security-Policy"].split("; ")
        )
        assert policy["default-src"] == policy["form-action"] == "'none'"
        assert policy["connect-src"] == "'self'"
        for kind in ("style", "script"):
            (inside,) = re.findall(rf"<{kind}>(.*?)</{kind}>", text, re.DOTALL)
            digest = base64.b64encode(hashlib.sha256(inside.encode()).digest())
            assert policy[f"{kind}-src"] == f"'sha256-{digest.decode()}'"
        assert headers["X-Content-Type-Options"] == "nosniff"

    def test_has_no_outside_resource(self, server):
        text = server.get("/")[2]
        links = re.findall(r"(?:src|href|url)\s*[=(]\s*[\"']?([^\"'\s>)]+)", text)
        assert set(links) == {"data:,", "/status.json", "/metrics", "/healthz"}
        assert "innerHTML" not in text and "insertAdjacent" not in text

    def test_from_a_zip_file(self, tmp_path):
        """And under another name, as in a vendored copy."""
        import pathlib

        package = pathlib.Path(zeolite.__file__).parent
        archive = tmp_path / "app.zip"
        with zipfile.ZipFile(archive, "w") as zipped:
            zipped.writestr("app/__init__.py", "")
            for path in package.rglob("*"):
                if path.suffix in (".py", ".html", ".xml"):
                    zipped.write(path, f"app/zeolite/{path.relative_to(package)}")
        port = free_port()
        script = (
            "import urllib.request; from app import zeolite; "
            f"_, stop = zeolite.server(monitor_address={port}); "
            "print(zeolite.__file__, urllib.request.urlopen("
            f"'http://127.0.0.1:{port}/').read()[:15]); stop()"
        )
        output = subprocess.check_output(
            [sys.executable, "-c", script],
            text=True,
            cwd=tmp_path,
            env={"PYTHONPATH": str(archive)},
        )
        assert output.endswith("b'<!DOCTYPE html>'\n")
        assert "app.zip" in output


class TestAddress:
    @pytest.mark.parametrize(
        "text, address",
        [
            ("8101", ("127.0.0.1", 8101)),
            (":8101", ("127.0.0.1", 8101)),
            ("0.0.0.0:8101", ("0.0.0.0", 8101)),
            ("db.example.com:0", ("db.example.com", 0)),
            ("[::1]:8101", ("::1", 8101)),
        ],
    )
    def test_in_a_file(self, text, address):
        assert datatypes.monitor_address(text) == address

    @pytest.mark.parametrize("text", ["/tmp/socket", "", "x", "::1:80", "8101x"])
    def test_that_is_none(self, text):
        with pytest.raises(ValueError, match=r"HOST:PORT|IPv6"):
            datatypes.monitor_address(text)

    def test_as_argument_and_as_setting(self, caplog):
        caplog.set_level(logging.INFO)
        for settings in (
            {"monitor_address": 0},
            {"monitor_address": ("127.0.0.1", 0)},
            {"monitor_address": "localhost:0"},
            {"zeo_conf": {"monitor-address": 0}},
        ):
            caplog.clear()
            _, stop = zeolite.server(**settings)
            host, port = re.search(
                r"monitor at http://([\d.]+|\[::1\]):(\d+)/", caplog.text
            ).groups()
            # The first of what the system knows for "localhost".
            assert host == "127.0.0.1" or settings == {"monitor_address": "localhost:0"}
            assert get((host.strip("[]"), int(port)), "/healthz") == (200, "ok\n")
            stop()
            assert "all interfaces" not in caplog.text

    def test_given_twice(self):
        with pytest.raises(ConfigurationError, match="as well"):
            zeolite.server(zeo_conf={"monitor-address": 0}, monitor_address=0)

    def test_warning_for_all_interfaces(self, caplog):
        for host in ("0.0.0.0", "::"):
            caplog.clear()
            _, stop = zeolite.server(monitor_address=(host, 0))
            stop()
            assert "the monitor listens on all interfaces" in caplog.text

    def test_that_is_taken_leaves_the_storage_usable(self, tmp_path):
        taken = "127.0.0.1", free_port()
        _, stop = zeolite.server(monitor_address=taken)
        path = str(tmp_path / "Data.fs")
        for _ in range(2):
            with pytest.raises(ConfigurationError, match="the monitor cannot listen"):
                zeolite.server(path, monitor_address=taken)
        stop()

    def test_other_address_taken_closes_the_monitor(self):
        (host, port), stop = zeolite.server()
        monitor = host, free_port()
        with pytest.raises(OSError):
            zeolite.server(port=port, monitor_address=monitor)
        stop()
        _, stop = zeolite.server(monitor_address=monitor)
        stop()


def test_process_with_a_monitor(tmp_path):
    (tmp_path / "zeolite.conf").write_text(FILE % 0)
    with running("-C", "zeolite.conf", cwd=tmp_path) as server:
        match = server.wait_for(r"monitor at http://([\d.]+):(\d+)/")
        address = match[1], int(match[2])
        assert get(address, "/healthz") == (200, "ok\n")
        storages = json.loads(get(address, "/status.json")[1])["storages"]
        assert [found["name"] for found in storages] == ["1"]
        assert server.kill() == 0
    with pytest.raises(OSError):
        get(address, "/healthz")


def test_taken_port_is_one_line_and_status_2(tmp_path):
    port = free_port()
    _, stop = zeolite.server(monitor_address=port)
    (tmp_path / "zeolite.conf").write_text(FILE % port)
    result = subprocess.run(
        [sys.executable, "-m", "zeolite"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    stop()
    assert result.returncode == 2
    assert result.stderr == (
        f"zeolite: zeolite.conf, line 3: the monitor cannot listen at "
        f"127.0.0.1:{port}: Address already in use; choose another monitor-address, "
        "or stop the program that uses it\n"
    )


def test_several_storages_and_their_names():
    from ZODB.MappingStorage import MappingStorage

    from zeolite.storageserver.options import ServerOptions
    from zeolite.storageserver.server import StorageServer

    names = ["main", 'o"t\\her', "\u00e9t\u00e9"]
    server = StorageServer(
        ("127.0.0.1", 0),
        {name: MappingStorage() for name in names},
        ServerOptions(monitor_address=("127.0.0.1", 0)),
    )
    server.start()
    try:
        from prometheus_client.parser import text_string_to_metric_families

        families = text_string_to_metric_families(
            get(server.monitor_address, "/metrics")[1]
        )
        found = {
            sample.labels["storage"]
            for family in families
            if family.name.startswith("zeolite")
            for sample in family.samples
        }
        assert found == set(names)
    finally:
        server.stop()
