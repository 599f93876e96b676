"""What ZEO's manual, and buildout recipes, have applications say about their server.

Each configuration runs unchanged in a process in which Zeolite stands in for ZEO, but for
addresses and directories, or is refused by one line.  The texts are written anew from
their keys: those of the manual, and of plone.recipe.zope2instance 9.1.  A `zope.conf` is
read by a schema that has what such files use, and by Zope's own where Zope is installed.
"""

import importlib.util
import json
import re
import subprocess
import sys

import pytest

import zeolite

PLONE_CLIENT = """\
<zodb_db main>
    # Main database
    cache-size 30000
{database_keys}
    # Blob-enabled ZEOStorage database
    <zeoclient>
      read-only false
      read-only-fallback false
      blob-dir /var/tmp/blobcache
      shared-blob-dir no

      server 8100

      storage 1
      name zeostorage
      cache-size 128MB
{keys}
    </zeoclient>
    mount-point /
</zodb_db>
"""


def zope_conf(database):
    return f"""\
%define INSTANCEHOME /var/tmp
instancehome $INSTANCEHOME
%define CLIENTHOME /var/tmp
clienthome $CLIENTHOME
debug-mode off
security-policy-implementation C
verbose-security off
default-zpublisher-encoding utf-8
<environment>
    CHAMELEON_CACHE /var/tmp
</environment>
{database}
python-check-interval 1000
"""


def plone_client(keys="", database_keys=""):
    return zope_conf(PLONE_CLIENT.format(keys=keys, database_keys=database_keys))


def in_zope(text):
    return zope_conf(f"{text}\n".replace("<zodb>", "<zodb_db main>\nmount-point /"))


MANUAL_CLIENT = """
<zodb>
  cache-size-bytes 1000MB

  %import ZEO

  <clientstorage>
    server 8100
{keys}
  </clientstorage>
</zodb>
"""

EVERY_KEY = """\
    storage 1
    name
    cache-size 20MB
    cache-path /var/tmp/app.zec
    blob-dir /var/tmp/blobs
    shared-blob-dir no
    blob-cache-size 100MB
    blob-cache-size-check 10
    read-only off
    read-only-fallback off
    server-sync off
    wait-timeout 30
    client-label app1
    disconnect-poll 1
"""

PLONE_KEYS = """\
      blob-cache-size 1GB
      blob-cache-size-check 20
      var /var/tmp
      client instance1
      min-disconnect-poll 5
      max-disconnect-poll 30
      drop-cache-rather-verify true
"""

MOUNTED = in_zope(MANUAL_CLIENT.format(keys="").replace("</zodb>", "</zodb_db>"))

#: name -> (kind, text, None, or what the error says).
CLIENTS = {
    "manual": ("database", MANUAL_CLIENT.format(keys=""), None),
    "manual, every key": ("database", MANUAL_CLIENT.format(keys=EVERY_KEY), None),
    "zeoclient": (
        "database",
        "<zodb>\n<zeoclient>\nserver 127.0.0.1:8100\n</zeoclient>\n</zodb>",
        None,
    ),
    "manual, tls, with its misprint": (
        "database",
        "%import ZEO\n<zodb>\n<clientstorage>\n  server zeo.example.com8200\n"
        "  <ssl>\n  </ssl>\n</clientstorage>\n</zodb>",
        "'zeo.example.com8200' is no address; write HOST:PORT",
    ),
    "manual, tls": (
        "database",
        "%import ZEO\n<zodb>\n<clientstorage>\n  server 127.0.0.1:8100\n"
        "  <ssl>\n  </ssl>\n  wait-timeout 5\n</clientstorage>\n</zodb>",
        "127.0.0.1:8100: .*TLS",
    ),
    "manual, arguments as keys": (
        "database",
        MANUAL_CLIENT.format(keys="wait_timeout 30"),
        "'wait_timeout' is not a known key name",
    ),
    "plone": ("zope", plone_client(), None),
    "plone, every option": (
        "zope",
        plone_client(PLONE_KEYS, "    cache-size-bytes 300MB"),
        None,
    ),
    "plone, passwords": (
        "zope",
        plone_client("      realm ZEO\n      username me\n      password secret"),
        "username: Zeolite does not have authentication by password; use TLS",
    ),
    "zope.conf with %import ZEO": ("zope", MOUNTED, None),
    "zope.conf with %import zeolite": (
        "zope",
        MOUNTED.replace("%import ZEO", "%import zeolite"),
        None,
    ),
}


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """Have another process open all of them; return name -> list of outcomes."""
    tmp_path = tmp_path_factory.mktemp("clients")
    (_, port), stop = zeolite.server(
        str(tmp_path / "Data.fs"), blob_dir=str(tmp_path / "server-blobs")
    )
    kinds = {"database": ["database"], "zope": ["emulated"]}
    if importlib.util.find_spec("Zope2") and importlib.util.find_spec("tempstorage"):
        kinds["zope"].append("zope")
    rows = [
        (name, kind, text.replace("8100", str(port)).replace("/var/tmp", str(tmp_path)))
        for name, (family, text, _) in CLIENTS.items()
        for kind in kinds[family]
    ]
    output = subprocess.check_output(
        [sys.executable, "-m", "tests.support.clientfiles"],
        input=json.dumps([row[1:] for row in rows]),
        text=True,
    )
    stop()
    found = {}
    for (name, *_), outcome in zip(rows, json.loads(output), strict=True):
        outcome = (
            outcome if isinstance(outcome, int) else outcome.replace(str(port), "8100")
        )
        found.setdefault(name, []).append(outcome)
    return found


@pytest.mark.parametrize("name", CLIENTS)
def test_client_runs_unchanged_or_is_refused(outcomes, name):
    words = CLIENTS[name][2]
    for outcome in outcomes[name]:
        if words is None:
            assert isinstance(outcome, int), outcome
        else:
            assert re.search(words, str(outcome)), outcome


def test_zope_conf_by_as_zeo_alone(tmp_path):
    """One line in the file, and the program that reads it knows nothing of Zeolite."""
    address, stop = zeolite.server()
    script = f"""
import io, ZConfig
from tests.support import clientfiles
text = '''%import zeolite.as_zeo
{plone_client()}'''.replace("8100", "{address[1]}").replace("/var/tmp", {str(tmp_path)!r})
print(clientfiles._outcome("emulated", text))
"""
    output = subprocess.check_output([sys.executable, "-c", script], text=True)
    stop()
    assert output == "1\n"


def test_as_zeo_is_refused_in_one_line_where_zeo_is_imported():
    script = """
import ZEO, ZODB.config
ZODB.config.databaseFromString("%import zeolite.as_zeo\\n<zodb>\\n</zodb>")
"""
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True
    )
    assert (
        "could not load package zeolite.as_zeo: the real ZEO is imported already"
        in result.stderr
    )
