"""TLS with stock ZEO clients and servers, and what they make each other say."""

import pytest
import transaction
import ZEO
import ZODB.config
from ZODB.tests.MinPO import MinPO

import zeolite
from tests.support.certificates import Files, client_context, issue
from zeolite.errors import ClientDisconnected

PAIRS = [("zeo", "zeolite"), ("zeolite", "zeo")]
MAPPING = "<mappingstorage>\n</mappingstorage>\n"
PACKAGES = {"zeo": ZEO, "zeolite": zeolite}


@pytest.fixture
def files(tmp_path):
    return Files(tmp_path)


@pytest.fixture(params=PAIRS, ids="client-{0[0]}-server-{0[1]}".format)
def pair(request, files):
    """The client's package, and the address of a server that wants certificates."""
    client, server = request.param
    name = "host" if server == "zeolite" else "zeo_host"
    hosted = request.getfixturevalue(name).start(
        MAPPING,
        tls={
            "certificate": str(files.both(issue(), "server.pem")),
            "authenticate": str(files.authority("clients")),
        },
    )
    yield PACKAGES[client], hosted.address
    hosted.stop()


def use(db):
    manager = transaction.TransactionManager()
    connection = db.open(manager)
    connection.root()["large"] = MinPO(b"x" * 3_000_000)
    for number in range(100):
        connection.root()[number] = MinPO(number)
    manager.commit()
    connection.close()


def check(db):
    with db.transaction() as connection:
        root = connection.root()
        assert root["large"].value == b"x" * 3_000_000
        assert [root[n].value for n in range(100)] == list(range(100))


def test_client_with_an_ssl_context(pair):
    package, address = pair
    context = client_context(issue("client", by="clients"))
    for function in (use, check):
        db = package.DB(address, ssl=context)
        function(db)
        db.close()


def test_client_with_an_ssl_section(pair, files):
    package, address = pair
    db = ZODB.config.databaseFromString(
        f"""
        %import {package.__name__}
        <zodb>
          <clientstorage>
            server {address[0]}:{address[1]}
            <ssl>
              certificate {files.both(issue("client", by="clients"), "client.pem")}
              authenticate {files.authority()}
              server-hostname localhost
            </ssl>
          </clientstorage>
        </zodb>
        """
    )
    use(db)
    check(db)
    db.close()


@pytest.mark.parametrize(
    "tls, said",
    [
        (
            None,
            "the server closed the connection, without a word; perhaps it wants TLS",
        ),
        (
            client_context(trusted="theirs"),
            "the server's certificate is signed by an authority that is not known",
        ),
        (
            client_context(),
            "the server closed the connection, without a word; perhaps it does not "
            "accept this client's certificate",
        ),
    ],
    ids=["plain client", "unknown authority", "no certificate"],
)
def test_what_our_client_says_of_a_stock_server(zeo_host, files, tls, said):
    hosted = zeo_host.start(
        MAPPING,
        tls={
            "certificate": str(files.both(issue(), "server.pem")),
            "authenticate": str(files.authority("clients")),
        },
    )
    with pytest.raises(ClientDisconnected) as error:
        zeolite.client(hosted.address, ssl=tls, wait_timeout=2)
    assert said in str(error.value)
    hosted.stop()


def test_our_tls_client_on_a_plain_stock_server(zeo_host):
    hosted = zeo_host.start(MAPPING)
    with pytest.raises(ClientDisconnected, match="the server does not speak TLS"):
        zeolite.client(hosted.address, ssl=client_context(), wait_timeout=1000)
    hosted.stop()
