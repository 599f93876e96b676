"""`python -m zeolite` with TLS: what is wrong at the start, new certificates later."""

import os
import re
import signal

import pytest

import zeolite
from tests.support.certificates import Files, client_context, issue, server_context
from tests.support.processes import running

from .support.commandlines import fails
from .support.refusals import refused

FILE = """\
<zeolite>
  address 127.0.0.1:0
  <ssl>
    certificate server.pem
    {}
  </ssl>
</zeolite>
<mappingstorage>
</mappingstorage>
"""


@pytest.fixture
def files(tmp_path):
    return Files(tmp_path)


def password():
    return "wrong"


@pytest.mark.parametrize(
    "certificate, more, said",
    [
        (None, "", "server.pem cannot be read: No such file"),
        (issue(age=1), "", "the certificate server.pem has expired; renew it"),
        (issue(), "key key.pem", "the key key.pem does not belong to server.pem"),
        (issue(), "key locked.pem", "locked.pem needs a password"),
        (
            issue(),
            "key locked.pem\npassword-function tests.test_commandline_tls.password",
            r"the password of \S+ does not open the key locked.pem",
        ),
        (issue(), "authenticate none.pem", "none.pem cannot be read: No such file"),
    ],
)
def test_what_cannot_work_ends_the_start(
    tmp_path,
    write,
    files,
    certificate,
    more,
    said,
):
    if certificate:
        files.both(certificate, "server.pem")
        files.key(issue("other"))
        files.key(certificate, "right", "locked.pem")
    write(FILE.format(more))
    line = fails(tmp_path)
    assert re.search(r"zeolite\.conf, line 3: .*" + said, line), line


class TestReloading:
    def test_new_certificate_for_new_connections(self, tmp_path, write, files):
        files.both(issue(), "server.pem")
        write(FILE.format(""))
        with running(cwd=tmp_path) as server:
            address = server.address()
            context = client_context()
            old = zeolite.client(address, ssl=context)
            lost = []
            old._connection._owner.disconnected = lambda: lost.append(True)
            files.both(issue("new.example"), "server.pem")
            os.kill(server.pid, signal.SIGUSR2)
            server.wait_for("SIGUSR2: new connections use the certificates as they")
            assert "new.example" not in refused(address, context)
            new = zeolite.client(
                address, ssl=context, ssl_server_hostname="new.example"
            )
            for client in (old, new):
                client.ping()
            assert not lost
            for client in (old, new):
                client.close()
            assert server.kill() == 0

    @pytest.mark.parametrize("what", ["expired", "gone", "nonsense"])
    def test_what_cannot_be_used_changes_nothing(self, tmp_path, write, files, what):
        files.both(issue(), "server.pem")
        write(FILE.format(""))
        with running(cwd=tmp_path) as server:
            address = server.address()
            if what == "expired":
                files.both(issue(age=1), "server.pem")
            elif what == "gone":
                (tmp_path / "server.pem").unlink()
            else:
                (tmp_path / "server.pem").write_text("nonsense")
            os.kill(server.pid, signal.SIGUSR2)
            server.wait_for(
                "ERROR SIGUSR2: going on with the certificates from before: .*server.pem"
            )
            zeolite.client(address, ssl=client_context()).close()
            assert server.kill() == 0
            assert sum("SIGUSR2" in line for line in server.lines) == 1

    def test_without_tls_it_is_harmless(self, tmp_path):
        with running("-a", "0", "-f", "Data.fs", cwd=tmp_path) as server:
            server.address()
            os.kill(server.pid, signal.SIGUSR2)
            server.wait_for("SIGUSR2: there is no ssl section")
            assert server.kill() == 0


def test_own_context_reloads_its_certificate():
    """A server in a script needs no signal: the context is the script's."""
    context = server_context()
    address, stop = zeolite.server(ssl=context)
    issue("new.example").configure_cert(context)
    new = zeolite.client(
        address, ssl=client_context(), ssl_server_hostname="new.example"
    )
    new.close()
    stop()
