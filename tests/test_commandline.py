"""`python -m zeolite`, as a user runs it."""

import os
import re
import signal
import socket

import pytest

import zeolite
from tests.support.commandlines import fails, store_and_read
from tests.support.processes import ServerProcess, free_port, running

FILE = """\
<zeolite>
  address 127.0.0.1:0
</zeolite>
<filestorage>
  path Data.fs
</filestorage>
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_serves_until_a_signal(tmp_path, write, number):
    write(FILE)
    for value in (1, 2):
        with running("-C", "zeolite.conf", cwd=tmp_path) as server:
            assert store_and_read(server.address()) == value
            assert server.kill(number) == 0
            assert not any("ERROR" in line for line in server.lines)


def test_impatient_signals(tmp_path):
    """Several at once, and as soon as it serves."""
    with running("-a", "0", "-f", "Data.fs", cwd=tmp_path) as server:
        server.address()
        for _ in range(20):
            server._process.send_signal(signal.SIGINT)
            server._process.send_signal(signal.SIGTERM)
        assert server.wait() == 0


def test_file_of_the_current_directory(tmp_path, write):
    write(FILE)
    with running(cwd=tmp_path) as server:
        store_and_read(server.address())


def test_says_what_it_serves_and_where(tmp_path, write):
    write(
        FILE.replace(
            "<filestorage>", "<mappingstorage a>\n</mappingstorage>\n<filestorage main>"
        )
    )
    with running(cwd=tmp_path) as server:
        match = server.wait_for(r"serving (.*) at 127\.0\.0\.1:(\d+)$")
        assert match[1] == "storage a, storage main"
        assert int(match[2]) > 0
        for name in ("a", "main"):
            zeolite.client(("127.0.0.1", int(match[2])), storage=name).close()


def test_without_a_file(tmp_path):
    line = fails(tmp_path)
    assert "zeolite.conf" in line
    assert "zeolite.conf.example" in line
    assert "-a 8100 -f Data.fs" in line


def test_ad_hoc(tmp_path):
    arguments = "-a", "127.0.0.1:0", "-f", "Data.fs", "-t", "5"
    with running(*arguments, cwd=tmp_path) as server:
        store_and_read(server.address())
    assert (tmp_path / "Data.fs").exists()


@pytest.mark.parametrize(
    "arguments", [("-a", "127.0.0.1:0", "-f", "x"), ("--configure", "zeolite.conf")]
)
def test_options_of_runzeo(tmp_path, write, arguments):
    write(FILE.replace("</zeolite>", "pid-filename other.pid\n</zeolite>"))
    with running(*arguments, "--pid-file", "zeo.pid", cwd=tmp_path) as server:
        server.address()
        assert (tmp_path / "zeo.pid").read_text().strip() == str(server.pid)
        assert not (tmp_path / "other.pid").exists()
        assert server.kill() == 0
    assert not (tmp_path / "zeo.pid").exists()


def test_ad_hoc_port_is_on_loopback(tmp_path):
    with running("-a", "0", "-f", "Data.fs", cwd=tmp_path) as server:
        assert server.address()[0] == "127.0.0.1"


def test_all_interfaces_without_tls_are_warned_of(tmp_path, write):
    write("<zeolite>\naddress 0\n</zeolite>\n<mappingstorage/>\n")
    with running("-C", "zeolite.conf", cwd=tmp_path) as server:
        server.address()
        line = server.wait_for("whoever reaches port .*").string
        assert "set address to 127.0.0.1:" in line
        assert "add an ssl section with authenticate" in line
        assert server.kill() == 0


def test_mode_without_a_unix_socket(tmp_path, write):
    write(
        "<zeolite>\naddress 127.0.0.1:0\nunix-socket-mode 0660\n</zeolite>\n"
        "<filestorage>\npath Data.fs\n</filestorage>\n"
    )
    with running("-C", "zeolite.conf", cwd=tmp_path) as server:
        assert server.wait() == 2
    (line,) = server.lines
    assert "unix-socket-mode is for a Unix socket" in line


def test_server_allows_itself_more_open_files(tmp_path):
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 512:
        pytest.skip("there are few")
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        with running("-a", "0", "-f", "Data.fs", cwd=tmp_path) as server:
            server.address()
            now, _ = resource.prlimit(server.pid, resource.RLIMIT_NOFILE)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert now >= 512


def test_unix_socket(tmp_path):
    with running("-a", "./socket", "-f", "Data.fs", cwd=tmp_path) as server:
        server.wait_for(r"serving .* at \./socket$")
        store_and_read(str(tmp_path / "socket"))


def test_help(capfd):
    with pytest.raises(SystemExit) as status:
        from zeolite.__main__ import main

        main(["-h"])
    assert status.value.code == 0
    text = capfd.readouterr().out
    for option in ("-C", "-a", "-f", "-t"):
        assert option in text


def test_options_that_do_not_go_together(tmp_path):
    for arguments in (["-a", "1"], ["-f", "x"], ["-C", "x", "-t", "5"], ["-t", "5"]):
        assert "see python -m zeolite -h" in fails(tmp_path, *arguments)


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--port", "1"], "unrecognized arguments: --port 1; see python -m zeolite -h"),
        (["-C"], "argument -C/--configuration.*: expected one argument"),
        (["bake"], "no subcommand 'bake', only "),
        (["cache", "--what"], "--?what.*; see python -m zeolite cache -h|required"),
    ],
)
def test_arguments_that_make_no_sense(tmp_path, arguments, words):
    assert re.search(words, fails(tmp_path, *arguments))


def test_version(capsys):
    with pytest.raises(SystemExit) as status:
        from zeolite.__main__ import main

        main(["--version"])
    assert status.value.code == 0
    said = capsys.readouterr().out
    assert re.fullmatch(r"Zeolite \S+ \(ZODB \S+, Python \S+\)\n", said)
    assert f" {zeolite.__version__} " in said


class TestIncludedFiles:
    @pytest.mark.parametrize(
        "included, line, words",
        [
            ("<mappingstorage>\nnam x\n</mappingstorage>", 2, "nam"),
            ("\n<filestorage>\npath no/x\n</filestorage>", 3, "no/x"),
            ("\n<filestorage>\npath .\n</filestorage>", 2, "cannot be opened"),
            ("<cake>\n</cake>", 1, "cake"),
            ("<mappingstorage>\n</filestorage>", 2, "unbalanced"),
            ("<filestorage>\npath $no\n</filestorage>", 2, "no"),
        ],
    )
    def test_mistakes_in_it_are_told_with_its_name(
        self, tmp_path, write, included, line, words
    ):
        write(FILE[: FILE.index("<file")] + "%include storages.conf\n")
        write(included + "\n", "storages.conf")
        said = fails(tmp_path)
        where = re.escape(f"{tmp_path}/storages.conf, line {line}: ")
        assert re.search(f"{where}.*{words}", said), said

    def test_one_that_is_not_there(self, tmp_path, write):
        write(FILE + "%include other.conf\n")
        said = fails(tmp_path)
        assert re.search(r"zeolite\.conf, line 7: .*other\.conf", said), said

    def test_a_nested_one(self, tmp_path, write):
        write(FILE + "%include a.conf\n")
        write("# nothing\n%include b.conf\n", "a.conf")
        write("<eventlog>\n<logfile>\npath no/log\n</logfile>\n</eventlog>\n", "b.conf")
        assert f"{tmp_path}/b.conf, line 2: the log cannot" in fails(tmp_path)

    def test_what_is_right_is_served(self, tmp_path, write):
        write("%define name main\n" + FILE.replace("<file", "%include more\n<file"))
        write("<filestorage main>\npath $name.fs\n</filestorage>\n", "more")
        with running(cwd=tmp_path) as server:
            assert server.wait_for("serving storage main, storage 1 at")
        assert (tmp_path / "main.fs").exists()


@pytest.mark.parametrize("line", ["", "%import zeolite", "%import ZEO"])
def test_a_server_on_another_server(tmp_path, write, line):
    """Its storage is a client storage; its own and the client's ssl are two."""
    (tmp_path / "upstream").mkdir()
    with running("-a", "0", "-f", "Data.fs", cwd=tmp_path / "upstream") as upstream:
        port = upstream.address()[1]
        write(
            f"{line}\n<zeolite>\naddress 127.0.0.1:0\n</zeolite>\n"
            f"<clientstorage main>\nserver {port}\nwait-timeout 5\n</clientstorage>\n"
        )
        with running(cwd=tmp_path) as server:
            db = zeolite.DB(server.address(), storage="main")
            with db.transaction() as connection:
                connection.root()["x"] = 1
            db.close()
        assert store_and_read(("127.0.0.1", port)) == 2


@pytest.mark.parametrize(
    "text, line, words",
    [
        (FILE.replace("address", "adress"), 2, "adress.*zeolite.conf.example"),
        (FILE.replace("127.0.0.1:0", "here"), 2, "'here' is no address.*HOST:PORT"),
        (FILE.replace("127.0.0.1:0", "::1"), 2, "IPv6"),
        (FILE.replace("127.0.0.1:0", "http://x:1"), 2, "is a URL; write HOST:PORT"),
        (FILE.replace("127.0.0.1:0", "192.0.2.1:1"), 2, "address that this machine"),
        (
            FILE.replace("127.0.0.1:0", "8100\nmonitor-address 8100"),
            3,
            "monitor-address and address are the same",
        ),
        (
            FILE.replace("</zeolite>", "max-message-size 1GiB\n</zeolite>"),
            3,
            "'1GiB' is no size; write bytes, or a number with KB, MB or GB",
        ),
        (
            FILE.replace("</zeolite>", "max-iterators x\n</zeolite>"),
            3,
            "'x' is not a whole number",
        ),
        (f"<zodb>\n{FILE}</zodb>\n", None, "zodb"),
        (
            FILE.replace("<file", "<zodb>\n<file") + "</zodb>\n",
            4,
            "without <zodb> around them",
        ),
        (FILE.replace("</zeolite>", "msgpack true\n</zeolite>"), 3, "pickles"),
        (
            FILE.replace("</zeolite>", "<ssl>\ncertificate x\n</ssl>\n</zeolite>"),
            3,
            "x cannot be read: No such file",
        ),
        (FILE.replace("</zeolite>", "read-only maybe\n</zeolite>"), 3, "maybe"),
        (
            FILE.replace("</zeolite>", "transaction-timeout x\n</zeolite>"),
            3,
            "'x' is not a n",
        ),
        (FILE.replace("</zeolite>", "invalidation-queue-size 0\n</zeolite>"), 3, "0"),
        (FILE.replace("</zeolite>", "</zeo>"), 3, "zeo"),
        (FILE.replace("path Data.fs", ""), None, "path"),
        (FILE.replace("path", "pat"), 5, "pat"),
        (FILE + FILE[FILE.index("<file") :], 4, "two storages.*name them"),
        (FILE[: FILE.index("<file")], None, "needs a section for a storage"),
        (FILE[FILE.index("<file") :], None, "needs one <zeolite> section"),
        (FILE + "<cake>\n</cake>\n", 7, "cake.*%import PACKAGE"),
        (FILE.replace("Data.fs", "none/Data.fs"), 5, "none/Data.fs"),
        (
            FILE.replace("Data.fs", "zeolite.conf"),
            4,
            "cannot be opened: zeolite.conf is no file storage, or its beginning",
        ),
        (
            FILE.replace("</zeolite>", "authentication-realm x\n</zeolite>"),
            3,
            "no passwords; leave it out, and use certificates",
        ),
        (
            FILE.replace("</zeolite>", "invalidation_age 3\n</zeolite>"),
            3,
            "keys have hyphens: invalidation-age",
        ),
        (
            FILE.replace("</zeolite>", "Address 8100\n</zeolite>"),
            3,
            "'Address' is given twice; leave one out",
        ),
        (FILE.replace("</zeolite>", "slow-call -1\n</zeolite>"), 3, "-1"),
        (FILE.replace("</zeolite>", "waiting-warning -1\n</zeolite>"), 3, "-1"),
        (
            FILE.replace("</zeolite>", "<ssl>\n</ssl>\n</zeolite>"),
            3,
            "the ssl section of a server needs a certificate",
        ),
        (
            FILE.replace(
                "</zeolite>",
                "<ssl>\ncertificate x\nserver-hostname y\n</ssl>\n</zeolite>",
            ),
            3,
            "for the ssl section of a client",
        ),
        (FILE.replace("</zeolite>", "invalidation-age -5\n</zeolite>"), 3, "-5"),
        (
            FILE + "<eventlog>\n<logfile>\npath no/log\n</logfile>\n</eventlog>\n",
            8,
            "the log cannot be opened",
        ),
    ],
)
def test_mistakes_in_the_file(tmp_path, write, text, line, words):
    write(text)
    said = fails(tmp_path)
    where = rf"zeolite\.conf, line {line}: " if line else r"zeolite\.conf"
    assert re.search(where, said), said
    assert re.search(words, said), said


def test_file_with_a_byte_order_mark(tmp_path, write):
    write("\ufeff" + FILE)
    with running("-C", "zeolite.conf", cwd=tmp_path) as server:
        server.address()


def test_file_that_is_not_there(tmp_path):
    assert "other.conf: cannot be read: No such file" in fails(
        tmp_path, "-C", "other.conf"
    )


def test_an_error_of_several_lines_is_told_in_one(tmp_path):
    assert "two lines.conf: cannot be read" in fails(tmp_path, "-C", "two\nlines.conf")


def test_port_in_use(tmp_path, write):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        write(FILE.replace(":0", f":{port}"))
        line = fails(tmp_path)
    assert re.search(rf"line 2: cannot listen at 127.0.0.1:{port}: Address", line)
    assert "choose another address" in line


def test_locked_storage(tmp_path, write):
    write(FILE)
    with running(cwd=tmp_path) as server:
        server.address()
        line = fails(tmp_path)
    assert re.search(r"line 4: storage '1' cannot be opened: .*lock.*stop", line)
    if os.path.exists("/proc/locks"):
        assert line.endswith(f"has it open, number {server.pid}")


def test_stock_zeo_file_runs_unchanged(tmp_path, write):
    port = free_port()
    write(
        f"""\
        %define here .
        <zeo>
          address 127.0.0.1:{port}
          read-only false
          invalidation-queue-size 100
          invalidation-age 3600
          transaction-timeout 30
          client-conflict-resolution false
          msgpack false
          pid-filename $here/zeo.pid
        </zeo>
        <filestorage 1>
          path $here/Data.fs
          pack-gc true
        </filestorage>
        <demostorage demo>
          <mappingstorage base>
          </mappingstorage>
        </demostorage>
        <runner>
          program runzeo
          daemon true
          exit-codes 0, 2
          <environment>
            A b
          </environment>
        </runner>
        <eventlog>
          level info
          <logfile>
            path STDERR
            format %(asctime)s %(message)s
          </logfile>
          <logfile>
            path zeo.log
          </logfile>
        </eventlog>
        """,
        "zeo.conf",
    )
    with running("-C", "zeo.conf", cwd=tmp_path) as server:
        store_and_read(server.address())
        assert (tmp_path / "zeo.pid").read_text() == f"{server.pid}\n"
        assert any("runner" in line for line in server.lines)
        assert server.kill() == 0
    assert not (tmp_path / "zeo.pid").exists()
    assert "serving storage 1, storage demo at" in (tmp_path / "zeo.log").read_text()


def test_example_runs(tmp_path, write):
    import pathlib

    root = pathlib.Path(zeolite.__file__).parent.parent
    text = (root / "zeolite.conf.example").read_text()
    write(text.replace(":8100", ":0"))
    with running("-C", "zeolite.conf", cwd=tmp_path) as server:
        store_and_read(server.address())
    assert (tmp_path / "Data.fs").exists()


def test_clients_come_back_after_a_restart(tmp_path):
    port = free_port()
    arguments = "-a", str(port), "-f", "Data.fs"
    server = ServerProcess(*arguments, cwd=tmp_path)
    server.address()
    db = zeolite.DB(port, disconnect_poll=0.05)
    try:
        for _ in range(3):
            with db.transaction() as connection:
                connection.root()["x"] = connection.root().get("x", 0) + 1
            server.kill(signal.SIGKILL)
            server = ServerProcess(*arguments, cwd=tmp_path)
            server.address()
        db.storage.ping()
        with db.transaction() as connection:
            assert connection.root()["x"] == 3
    finally:
        db.close()
        server.close()


def test_module_can_be_interrupted_while_clients_are_busy(tmp_path):
    with running("-a", "0", "-f", "Data.fs", cwd=tmp_path) as server:
        storage = zeolite.client(server.address())
        from ZODB.Connection import TransactionMetaData

        txn = TransactionMetaData()
        storage.tpc_begin(txn)
        storage.store(b"\0" * 8, None, b"data", "", txn)
        storage.tpc_vote(txn)
        assert server.kill() == 0
        storage.close()
