"""`zeolite://` URIs: by themselves, by way of zodburi, and in a Pyramid application."""

import os
import pathlib
import subprocess
import sys

import pytest
import transaction
import ZODB

import zeolite
from tests.support.certificates import Files, server_context
from tests.support.processes import free_port
from zeolite.errors import ConfigurationError
from zeolite.uri import resolve


def name_of(uri):
    """Open what a URI means; return its name, which has the addresses."""
    factory, database = resolve(uri)
    assert database == {}
    storage = factory()
    storage.close()
    return storage.__name__


@pytest.mark.parametrize(
    "uri, name",
    [
        ("zeolite://db1:1/", "db1:1"),
        ("zeolite://db1:1", "db1:1"),
        ("zeolite://:1", "127.0.0.1:1"),
        ("zeolite://[::1]:1/", "[::1]:1"),
        ("zeolite://127.0.0.1:1,[::1]:2,localhost:3/", None),
        ("zeolite:///run/zeolite/socket", "/run/zeolite/socket"),
        ("zeolite:///run/my%20socket%3F", "/run/my socket?"),
        ("zeolite://?server=127.0.0.1:1&server=./socket", "127.0.0.1:1, ./socket"),
        ("zeolite://127.0.0.1:1?server=[::1]:2", "127.0.0.1:1, [::1]:2"),
    ],
)
def test_addresses(uri, name):
    name = name or "127.0.0.1:1, [::1]:2, localhost:3"
    separator = "&" if "?" in uri else "?"
    assert name_of(f"{uri}{separator}wait=no") == name


def test_every_key_of_the_section(tmp_path):
    """What the keys mean is the section's business; here, that they arrive."""
    uri = (
        "zeolite://127.0.0.1:1/?storage=main&name=app%20$1&cache_size=5MB"
        f"&cache_path={tmp_path}/a.zec&client=x&var={tmp_path}&blob-dir={tmp_path}/b"
        "&shared_blob_dir=1&blob_cache_size=1GB&blob_cache_size_check=20&read_only=0"
        "&read_only_fallback=true&server_sync=on&wait_timeout=1.5&wait=0"
        "&client_label=me&disconnect_poll=0.5&keep_alive=20"
    )
    factory, _ = resolve(uri)
    section = factory.__self__.config
    keys = {
        key.replace("_", "-").partition("=")[0]
        for key in uri.partition("?")[2].split("&")
    }
    known = {
        key for key, info in section.getSectionDefinition() if not info.issection()
    }
    assert keys == known - {"server"}
    assert section.name == "app $1"
    assert section.cache_size == 5 * 1024**2
    assert section.blob_cache_size == 1024**3
    assert section.blob_cache_size_check == 20
    assert section.shared_blob_dir is section.server_sync is True
    assert section.read_only is section.wait is False
    assert section.wait_timeout == 1.5
    storage = factory()
    assert storage.__name__ == "app $1"
    assert (tmp_path / "a.zec").exists()
    storage.close()


def test_database_arguments_are_handed_on():
    _, database = resolve(
        "zeolite://:1?connection_pool_size=3&database_name=main"
        "&connection_cache_size_bytes=10MB"
    )
    assert database == {
        "connection_pool_size": "3",
        "database_name": "main",
        "connection_cache_size_bytes": "10MB",
    }


@pytest.mark.parametrize(
    "uri, text",
    [
        ("zeolite:db:1", "write zeolite://HOST:PORT/"),
        ("zeolite://db:1/#x", "write zeolite://HOST:PORT/"),
        ("zeolite://", "server"),
        ("zeolite://?storage=1", "server"),
        ("zeolite://db", "'db' is no address; write HOST:PORT"),
        ("zeolite://db:http", "is no address"),
        ("zeolite://::1:8100", "IPv6"),
        ("zeolite://db:1,", "is no address"),
        ("zeolite://me:secret@db:1", "no user names and passwords; use TLS"),
        ("zeolite://db:1/main", r"/main means nothing here; write \?storage=NAME"),
        ("zeolite://db:1?flavour=x", "unknown option 'flavour'; there are .*wait"),
        ("zeolite://db:1?username=x", "unknown option 'username'"),
        ("zeolite://db:1?ssl_flavour=x", "unknown option 'ssl_flavour'"),
        ("zeolite://db:1?wait_timeout=soon", "soon"),
        ("zeolite://db:1?wait=perhaps", "perhaps"),
        ("zeolite://db:1?cache_size=0", "is no size for a cache"),
        ("zeolite://db:1?storage=a&storage=b", "storage"),
        ("zeolite://db:1?database_name=a&database_name=b", "given twice"),
        ("zeolite://db:1?storage=a%0Aserver%20x:1", "a line break in storage"),
        ("zeolite://db:1?ssl=no&ssl_authenticate=x", "ssl is switched off"),
        ("zeolite://db:1?ssl=perhaps", "perhaps"),
    ],
)
def test_mistakes_are_said(uri, text):
    with pytest.raises(ConfigurationError, match=text) as error:
        resolve(uri)
    assert str(error.value).startswith(f"{uri}: ")
    assert "\n" not in str(error.value)


def test_tls(serve, tmp_path):
    host, port = serve(ssl=server_context())
    trusted = Files(tmp_path).authority()
    uri = f"zeolite://{host}:{port}/?ssl_authenticate={trusted}"
    factory, _ = resolve(uri)
    storage = factory()
    assert storage.is_connected()
    storage.close()
    factory, _ = resolve(f"zeolite://{host}:{port}/?ssl=1&wait_timeout=5")
    with pytest.raises(zeolite.errors.ClientDisconnected, match="certificate"):
        factory()


def test_setup_declares_the_entry_point(tmp_path):
    """As setup.py says it, whatever is installed at the moment."""
    pytest.importorskip("zodburi")
    pytest.importorskip("setuptools")
    root = pathlib.Path(zeolite.__file__).parent.parent
    subprocess.check_output(
        [sys.executable, "setup.py", "-q", "egg_info", "--egg-base", str(tmp_path)],
        cwd=root,
    )
    script = f"""
import sys, zeolite
assert "zodburi" not in sys.modules and "pyramid" not in sys.modules
import zodburi
factory, arguments = zodburi.resolve_uri(
    "zeolite://127.0.0.1:{free_port()}/?wait=0&connection_cache_size_bytes=10MB"
)
storage = factory()
print(type(storage) is zeolite.ClientStorage, arguments["cache_size_bytes"])
storage.close()
"""
    path = os.pathsep.join([str(tmp_path), str(root)])
    output = subprocess.check_output(
        [sys.executable, "-c", script],
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert output == f"True {10 * 1024**2}\n"


@pytest.fixture
def zodburi(monkeypatch):
    """zodburi, which knows the scheme, even if the metadata are not installed."""
    module = pytest.importorskip("zodburi")
    from importlib.metadata import EntryPoint

    ours = EntryPoint("zeolite", "zeolite.uri:resolve", "zodburi.resolvers")
    others = module.entry_points(group="zodburi.resolvers")
    found = [*(point for point in others if point.name != "zeolite"), ours]
    monkeypatch.setattr(module, "entry_points", lambda group: found)
    return module


def test_zodburi_refuses_arguments_of_databases_that_it_does_not_know(zodburi):
    with pytest.raises(KeyError, match="connection_flavour"):
        zodburi.resolve_uri("zeolite://:1?connection_flavour=x")


def test_demo_storage_over_a_client(zodburi, serve):
    host, port = serve()
    factory, _ = zodburi.resolve_uri(f"demo:(zeolite://{host}:{port})/(memory://)")
    db = ZODB.DB(factory())
    with db.transaction() as connection:
        connection.root()["x"] = 1
    db.close()
    with zeolite.DB((host, port)).transaction() as connection:
        assert "x" not in connection.root()
        db = connection.db()
    db.close()


def test_pyramid_application(zodburi, serve):
    """Two databases on two servers; views write, read, and give connections back."""
    zodbconn = pytest.importorskip("pyramid_zodbconn")
    from pyramid.config import Configurator
    from pyramid.request import Request
    from pyramid.response import Response

    (host, port), (_, other) = serve(), serve()
    settings = {
        "zodbconn.uri": f"zeolite://{host}:{port}/?connection_cache_size=123",
        "zodbconn.uri.sessions": f"zeolite://{host}:{other}/?client_label=web",
    }

    def count(request):
        root = zodbconn.get_connection(request).root()
        sessions = zodbconn.get_connection(request, "sessions").root()
        root["count"] = sessions["count"] = root.get("count", 0) + 1
        transaction.commit()
        return Response(str(root["count"]))

    with Configurator(settings=settings) as config:
        config.include("pyramid_zodbconn")
        config.add_route("count", "/")
        config.add_view(count, route_name="count")
        application = config.make_wsgi_app()
    databases = config.registry._zodb_databases
    for number in (1, 2, 3):
        assert Request.blank("/").get_response(application).text == str(number)
    assert databases[""].getCacheSize() == 123
    assert databases[""].connectionDebugInfo()[0]["opened"] is None
    for db in databases.values():
        db.close()
    for address in (port, other):
        connection = zeolite.connection(address)
        assert connection.root()["count"] == 3
        connection.close()


def test_zodburis_own_scheme_where_zeolite_stands_in_for_zeo(serve):
    pytest.importorskip("zodburi")
    host, port = serve()
    script = f"""
import zeolite
zeolite.install_as_ZEO()
import zodburi
factory, _ = zodburi.resolve_uri("zeo://{host}:{port}?wait_timeout=5&storage=1")
storage = factory()
print(type(storage) is zeolite.ClientStorage)
storage.close()
"""
    output = subprocess.check_output([sys.executable, "-c", script], text=True)
    assert output == "True\n"
