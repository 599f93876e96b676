"""Zeolite as ZEO, for what imports ZEO by name.  Each in a process of its own."""

import subprocess
import sys
import textwrap

import pytest


@pytest.fixture(scope="module")
def run():
    """Call it with a script; returns what it prints."""

    def run(script):
        start = "import zeolite\nzeolite.install_as_ZEO()\n"
        script = start + textwrap.dedent(script)
        return subprocess.check_output([sys.executable, "-c", script], text=True)

    return run


@pytest.mark.parametrize(
    "section",
    [
        "<zeoclient>\nserver {}\n</zeoclient>",
        "<clientstorage>\nserver {}\n</clientstorage>",
    ],
)
def test_configuration(run, section):
    script = f"""
        import ZEO, ZODB.config
        address, stop = ZEO.server()
        section = {section!r}.format("%s:%s" % address)
        if "clientstorage" in section:
            section = "%import ZEO\\n" + section
        storage = ZODB.config.storageFromString(section)
        print(type(storage) is zeolite.ClientStorage, storage.is_connected())
        storage.close()
        stop()
    """
    assert run(script) == "True True\n"


def test_every_key_of_zeoclient(run, tmp_path):
    script = """
        import ZODB.config
        address, stop = zeolite.server()
        storage = ZODB.config.storageFromString(
            '''<zeoclient>
            server %s:%s
            shared-blob-dir no
            blob-cache-size-check 10
            storage 1
            cache-size 5MB
            name app
            min-disconnect-poll 1
            max-disconnect-poll 10
            wait on
            read-only off
            read-only-fallback on
            drop-cache-rather-verify on
            client-label app
            </zeoclient>''' % address
        )
        print(storage.getName())
        storage.close()
        stop()
    """
    assert run(script) == "app (connected)\n"


def test_exceptions_are_the_same(run):
    script = """
        from ZEO.Exceptions import ClientDisconnected
        from zeolite.errors import ClientDisconnected as ours
        print(ClientDisconnected is ours)
    """
    assert run(script) == "True\n"


def test_stale_caches_are_told_of(run):
    script = """
        from ZEO.interfaces import IClientCache, StaleCache
        print(StaleCache is zeolite.interfaces.StaleCache, "store" in IClientCache)
    """
    assert run(script) == "True True\n"


def test_what_it_does_not_have_is_not_found(run):
    script = """
        try:
            import ZEO.cache
        except ImportError as error:
            print(error)
    """
    assert run(script) == "No module named 'ZEO.cache'\n"


def test_twice_is_once(run):
    assert run("import ZEO; zeolite.install_as_ZEO(); print(ZEO.DB is zeolite.DB)") == (
        "True\n"
    )


@pytest.mark.parametrize("module", ["ZEO", "ZEO.Exceptions"])
def test_real_one_is_not_replaced(module):
    script = textwrap.dedent(f"""
        import {module}, zeolite
        before = ZEO.server
        try:
            zeolite.install_as_ZEO()
        except RuntimeError as error:
            print(error, ZEO.server is before)
    """)
    output = subprocess.check_output([sys.executable, "-c", script], text=True)
    assert output.startswith("the real ZEO is imported already")
    assert output.endswith(" True\n")
