"""The servers that ZEO's manual shows, and those that buildout recipes make.

Each configuration runs unchanged, but for the addresses and directories that are not to
be had here, or is refused by one line.  The files are written anew from their keys: those
of the manual, of plone.recipe.zeoserver 4.0, of zc.zodbrecipes 3.1 and of the file that
ZEO itself makes for an instance.
"""

import io
import os
import pathlib
import re
import subprocess
import sys

import pytest
import transaction
import ZConfig
import ZODB
import ZODB.blob

import zeolite
from tests.support.certificates import Files, issue
from tests.support.processes import (
    ServerProcess,
    free_port,
    running,
)
from tests.support.waiting import wait_until
from zeolite.schemas import server_schema

STORAGE = """
<filestorage>
  path /var/tmp/Data.fs
</filestorage>
"""

LOG = """
<eventlog>
  <logfile>
    path /var/tmp/zeo.log
    format %(asctime)s %(message)s
  </logfile>
</eventlog>
"""

PLONE = """\
%define INSTANCE /var/tmp

<zeo>
  address 8090
  read-only false
  invalidation-queue-size 100
  pid-filename /var/tmp/zeoserver.pid
{keys}
</zeo>

<filestorage 1>
  path /var/tmp/filestorage/Data.fs
{storage_keys}
</filestorage>

<eventlog>
  level info
  <logfile>
      path /var/tmp/log/zeoserver.log
      format %(asctime)s %(message)s
{log_keys}
  </logfile>
</eventlog>

<runner>
  program $INSTANCE/bin/runzeo
  socket-name /var/tmp/zeo.zdsock
  daemon true
  forever false
  backoff-limit 10
  exit-codes 0, 2
  directory $INSTANCE
  default-to-interactive true
{runner_keys}

  # The same file as above.
  logfile /var/tmp/log/zeoserver.log
</runner>
{more}
"""


def plone(keys="", storage_keys="", log_keys="", runner_keys="", more=""):
    return PLONE.format(
        keys=keys,
        storage_keys=storage_keys,
        log_keys=log_keys,
        runner_keys=runner_keys,
        more=more,
    )


#: name -> what a server is to serve.
SERVERS = {
    "manual": f"<zeo>\n  address zeo.example.com:8090\n</zeo>\n{STORAGE}{LOG}",
    "manual, without a host": f"<zeo>\n  address :8090\n</zeo>\n{STORAGE}",
    "manual, tls": f"""
        <zeo>
          address zeo.example.com:8090
          <ssl>
            certificate /var/tmp/server_certificate.pem
            key /var/tmp/server_certificate_key.pem
          </ssl>
        </zeo>
        {STORAGE}{LOG}
        """,
    "manual, every key": f"""
        %import zc.zlibstorage
        <zeo>
          address zeo.example.com:8090
          read-only false
          invalidation-queue-size 100
          invalidation-age 3600
          transaction-timeout 30
          client-conflict-resolution false
          msgpack false
          pid-filename /var/tmp/zeo.pid
          <ssl>
            certificate /var/tmp/server_certificate.pem
            key /var/tmp/server_certificate_key.pem
            authenticate /var/tmp/authority-ours.pem
          </ssl>
        </zeo>
        <zlibstorage>
          compress true
          <filestorage>
            path /var/tmp/Data.fs
            blob-dir /var/tmp/blobs
          </filestorage>
        </zlibstorage>
        <runner>
          program runzeo
        </runner>
        {LOG}
        """,
    "the file of a ZEO instance": """
        # ZEO configuration file
        %define INSTANCE /var/tmp

        <zeo>
          address 8090
          read-only false
          invalidation-queue-size 100
          # pid-filename $INSTANCE/var/ZEO.pid
          # monitor-address PORT
          # transaction-timeout SECONDS
        </zeo>
        <filestorage 1>
          path $INSTANCE/Data.fs
        </filestorage>
        <eventlog>
          level info
          <logfile>
            path $INSTANCE/log/zeo.log
          </logfile>
        </eventlog>
        <runner>
          program $INSTANCE/bin/runzeo
          socket-name $INSTANCE/var/zeo.zdsock
          daemon true
          forever false
          backoff-limit 10
          exit-codes 0, 2
          directory $INSTANCE
          default-to-interactive true
          python /usr/bin/python3
          zdrun /usr/lib/zdaemon/zdrun.py
          logfile $INSTANCE/log/zeo.log
        </runner>
        """,
    "zc.zodbrecipes": """
        <zeo>
          address 127.0.0.1:8090
        </zeo>
        <filestorage 1>
          path /var/tmp/Data.fs
        </filestorage>
        <filestorage main>
          path /var/tmp/main.fs
        </filestorage>
        <eventlog>
          <logfile>
            path STDOUT
          </logfile>
        </eventlog>
        """,
    "plone": plone(storage_keys="blob-dir /var/tmp/blobstorage"),
    "plone, every option": plone(
        keys="monitor-address 127.0.0.1:0",
        storage_keys="blob-dir /var/tmp/blobs\npack-gc false\npack-keep-old false",
        log_keys="max-size 5 MB\nold-files 3",
        runner_keys="user plone",
    ),
    "plone, another log": plone(
        more="""
        # zeo-log-custom and zeo-conf-additional are text of one's own.
        <mappingstorage temporary>
        </mappingstorage>
        """
    ),
    "plone, a file of one's own": "%include /var/tmp/own.conf\n",
}

#: name -> (text, what the one line says).
REFUSED = {
    "manual, msgpack": (
        f"<zeo>\n  address 8090\n  msgpack true\n</zeo>\n{STORAGE}",
        "line 3: msgpack is not spoken by Zeolite, only pickles; set it to false",
    ),
    "plone, passwords": (
        plone(
            keys="authentication-protocol digest\n"
            "authentication-database /var/tmp/users.db\n"
            "authentication-realm ZEO"
        ),
        "line 8: .*authentication-protocol.* known key name; there are no passwords; .* certificates",
    ),
    "plone, zrs": (
        "%import zc.zrs\n<zeo>\n address 8090\n</zeo>\n<zrs 1>\n"
        f" replicate-to :9000\n keep-alive-delay 60\n{STORAGE}</zrs>\n",
        "could not load package zc.zrs",
    ),
}


def local(text, tmp_path):
    """The text, with what can be had here in place of addresses and directories."""
    text = re.sub(r"(?m)^(\s*address) \S*8090$", r"\1 127.0.0.1:0", text)
    if "monitor_address" not in _names() and "monitor-address" in text:
        text = re.sub(r"(?m)^monitor-address.*$", "", text)
    # Where `ServerProcess` reads it.
    text = text.replace("STDOUT", "STDERR")
    return text.replace("/var/tmp", str(tmp_path))


def _names():
    return {info.attribute for _, info in server_schema().gettype("zeo")}


@pytest.fixture
def directory(tmp_path):
    """What the files speak of: a directory with certificates, and one for logs."""
    files, certificate = Files(tmp_path), issue()
    files.authority()
    files.certificate(certificate, "server_certificate.pem")
    files.key(certificate, name="server_certificate_key.pem")
    for name in ("log", "filestorage"):
        (tmp_path / name).mkdir()
    (tmp_path / "own.conf").write_text(local(SERVERS["manual"], tmp_path))
    return tmp_path


@pytest.mark.parametrize("name", SERVERS)
def test_server_runs_unchanged(directory, name):
    text = local(SERVERS[name], directory)
    (directory / "zeo.conf").write_text(text)
    log = next(iter(re.findall(r"path (\S+\.log)", text)), None)
    log = log and log.replace("$INSTANCE", str(directory))
    if "%include" in text:
        log = str(directory / "zeo.log")
    server = ServerProcess("-C", "zeo.conf", cwd=directory)
    try:
        match = _wait_for_address(server, log)
        if "<ssl>" not in text:
            connection = zeolite.connection(("127.0.0.1", int(match[1])))
            connection.root()["x"] = 1
            transaction.commit()
            connection.close()
        assert server.kill() == 0
    finally:
        server.close()


def _wait_for_address(server, log):
    """Wait until it serves, by the log on stderr or the file `log`."""
    pattern = r"serving .* at \S+:(\d+)$"
    if log is None:
        return server.wait_for(pattern)
    wait_until(lambda: os.path.exists(log))
    return wait_until(
        lambda: re.search(pattern, pathlib.Path(log).read_text(), re.MULTILINE)
    )


@pytest.mark.parametrize("name", REFUSED)
def test_server_refuses_in_one_line(directory, name):
    text, words = REFUSED[name]
    (directory / "zeo.conf").write_text(local(text, directory))
    result = subprocess.run(
        [sys.executable, "-m", "zeolite", "-C", "zeo.conf"],
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert re.search(words, line), line


def test_every_key_of_zeo_is_known():
    """Of its server's section, and of `<clientstorage>`."""
    theirs = ZConfig.loadSchemaFile(
        io.StringIO('<schema><import package="ZEO" file="server.xml"/></schema>')
    )
    client = ZConfig.loadSchemaFile(
        io.StringIO('<schema><import package="ZEO"/></schema>')
    )
    ours = server_schema()
    for schema, section in [
        (theirs, "zeo"),
        (theirs, "ssl"),
        (client, "clientstorage"),
        (client, "ssl"),
    ]:
        wanted = {key for key, _ in schema.gettype(section)}
        assert wanted <= {key for key, _ in ours.gettype(section)}


@pytest.mark.parametrize("section", ["<clientstorage>", "<zeoclient>"])
@pytest.mark.parametrize("start", ["", "%import zeolite\n"])
def test_server_of_another_servers_storage(tmp_path, section, start):
    """With `%import zeolite` in the file or without; `<zeoclient>` without ZEO."""
    address, stop = zeolite.server()
    (tmp_path / "zeo.conf").write_text(
        f"{start}<zeo>\naddress 127.0.0.1:0\n</zeo>\n"
        f"{section}\nserver 127.0.0.1:{address[1]}\n{section.replace('<', '</')}\n"
    )
    (tmp_path / "sitecustomize.py").write_text(WITHOUT_ZEO)
    path = {"PYTHONPATH": f"{tmp_path}:{_root()}"}
    with running("-C", "zeo.conf", cwd=tmp_path, **path) as server:
        connection = zeolite.connection(server.address())
        connection.root()["x"] = 1
        transaction.commit()
        connection.close()
        assert server.kill() == 0
    connection = zeolite.connection(address)
    assert connection.root()["x"] == 1
    connection.close()
    stop()


WITHOUT_ZEO = """
import importlib.machinery
find = importlib.machinery.PathFinder.find_spec
def find_spec(name, path=None, target=None):
    return None if name == "ZEO" else find(name, path, target)
importlib.machinery.PathFinder.find_spec = find_spec
"""


def _root():
    return pathlib.Path(zeolite.__file__).parent.parent


def test_moving_there_and_back(tmp_path):
    """One file, one set of data, and both kinds of clients, on three servers."""
    zeo_client = pytest.importorskip("ZEO").client
    port = free_port()
    (tmp_path / "zeo.conf").write_text(
        f"<zeo>\naddress 127.0.0.1:{port}\n</zeo>\n"
        f"<filestorage>\npath {tmp_path}/Data.fs\nblob-dir {tmp_path}/blobs\n"
        "</filestorage>\n"
    )
    written = []
    for module in ("ZEO.runzeo", "zeolite", "ZEO.runzeo"):
        with running("-C", "zeo.conf", cwd=tmp_path, module=module) as server:
            for kind, open_client in (("zeolite", zeolite.client), ("zeo", zeo_client)):
                cache = str(tmp_path / f"{kind}-blobs")
                db = ZODB.DB(open_client(("127.0.0.1", port), blob_dir=cache))
                with db.transaction() as connection:
                    root = connection.root()
                    assert [root[key].open().read() for key in written] == [
                        key.encode() for key in written
                    ]
                    written.append(f"{kind} {len(written)}")
                    root[written[-1]] = ZODB.blob.Blob(written[-1].encode())
                db.close()
            server.kill()
    assert len(written) == 6
