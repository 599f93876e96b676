"""A client that misbehaves is closed with one line in the log; nobody else notices."""

import json
import logging
import pickle
import struct

import pytest
from ZODB.utils import p64

from tests.support.waiting import wait_until


def framed(data):
    return struct.pack(">I", len(data)) + data


def message(*parts):
    return framed(pickle.dumps(parts, 3))


def register(name="1"):
    return message(1, 0, "register", (name, False))


BEFORE_REGISTER = {
    "an oversized frame": struct.pack(">I", 64 * 1024 + 1),
    "a gigantic frame": b"\xff\xff\xff\xff",
    "HTTP": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 64,
    "garbage": framed(b"\0" * 100),
    "an empty frame": framed(b""),
    "eval": framed(b"\x80\x03cbuiltins\neval\nX\x03\x00\x00\x001+1\x85R."),
    "os.system": framed(b"\x80\x03cos\nsystem\nX\x04\x00\x00\x00true\x85R."),
    "deep nesting": framed(b"\x80\x03N" + b"\x85" * 60_000 + b"."),
    "an unknown method": message(1, 0, "fly", ()),
    "a private method": message(1, 0, "__init__", ()),
    "a method of the session": message(1, 0, "_leave", ()),
    "a call before register": message(1, 0, "lastTransaction", ()),
    "a load before register": message(1, 0, "loadBefore", (p64(1), p64(2))),
    "a one-way call before register": message(0, 1, "tpc_begin", (1, b"", b"", {})),
    "register with too few arguments": message(1, 0, "register", ("1",)),
    "register with another type": message(1, 0, "register", (b"1", 0)),
}

AFTER_REGISTER = {
    "a second register": message(2, 0, "register", ("1", False)),
    "an oversized frame": struct.pack(">I", 2**31),
    "an unknown method": message(2, 0, "fly", ()),
    "a reply": message(2, 0, ".reply", ()),
    "a short oid": message(2, 0, "loadBefore", (b"short", p64(2))),
    "an oid that is an int": message(2, 0, "loadBefore", (1, p64(2))),
    "an oid that is text": message(2, 0, "getTid", ("12345678",)),
    "too many arguments": message(2, 0, "ping", (1,)),
    "too few arguments": message(2, 0, "storea", ()),
    "data that is text": message(0, 1, "storea", (p64(1), p64(2), "data", 1)),
    "a transaction id that is a list": message(2, 0, "vote", ([],)),
    "a float where an int belongs": message(2, 0, "new_oids", (1.5,)),
    "garbage": framed(b"garbage"),
    "a message of another shape": message(1, 2, 3),
}

Z5 = framed(b"Z5")


@pytest.fixture
def misbehave(server, caplog):
    """Send bytes and check that they do no harm but to their sender."""

    def misbehave(data, reason):
        good = server.connect()
        bad = server.connect(register=False)
        bad.read_frame()
        bad.socket.sendall(data)
        assert bad.is_closed()
        wait_until(lambda: len(server.served.sessions()) == 1)
        lines = [r for r in caplog.records if r.levelno >= logging.INFO]
        closed = [r.getMessage() for r in lines if "closed" in r.getMessage()]
        assert len(closed) == 1, lines
        address = "{}:{}".format(*bad.socket.getsockname())
        assert address in closed[0]
        assert reason in closed[0]
        assert good.ask("lastTransaction") == good.tid
        assert good.commit(1)

    return misbehave


@pytest.mark.parametrize("data", BEFORE_REGISTER.values(), ids=BEFORE_REGISTER)
def test_before_register(data, misbehave):
    misbehave(Z5 + data, "")


@pytest.mark.parametrize("data", AFTER_REGISTER.values(), ids=AFTER_REGISTER)
def test_after_register(data, misbehave):
    misbehave(Z5 + register() + data, "")


@pytest.mark.parametrize("offer", [b"M5", b"Z4", b"Z3101", b"x" * 1000])
def test_other_protocol(offer, misbehave):
    misbehave(framed(offer), "not Z5")


def test_reasons_name_what_was_wrong(misbehave):
    misbehave(Z5 + BEFORE_REGISTER["eval"], "builtins.eval")


def test_silent_client_is_closed(serve, caplog):
    server = serve(handshake_timeout=0.1)
    silent = server.connect(register=False)
    slow = server.connect(register=False)
    slow.handshake()
    assert silent.is_closed()
    assert slow.is_closed()
    # One line a minute.
    wait_until(lambda: "closed: it did not say in time" in caplog.text)
    # Who has registered may be silent.
    client = server.connect()
    with pytest.raises(TimeoutError):
        client.socket.settimeout(0.3)
        client.read()


def test_keep_alives_do_not_move_the_deadline(serve):
    server = serve(handshake_timeout=0.3)
    client = server.connect(register=False)
    client.handshake()
    with pytest.raises(OSError):
        for _ in range(100_000):
            client.socket.sendall(message(-1, 0, ".reply", None))


def test_label_cannot_forge_a_line_in_the_log(server, caplog):
    client = server.connect()
    client.post(
        "set_client_label",
        "x\n2026 CRITICAL \x1b[31m\ud800".encode("utf-8", "surrogatepass").decode(
            "utf-8", "surrogatepass"
        ),
    )
    client.socket.sendall(message(2, 0, "fly \u00e4\n", ()))
    assert client.is_closed()
    wait_until(lambda: "closed" in caplog.text)
    (line,) = [r.getMessage() for r in caplog.records if "closed" in r.getMessage()]
    assert line.isascii()
    assert line.isprintable()


@pytest.mark.parametrize(
    "slow", [Z5 + b"\0\0\xff\xff", b"x" * 200], ids=["sizes", "data"]
)
def test_one_byte_at_a_time_does_not_move_the_deadline(serve, slow):
    server = serve(handshake_timeout=0.3)
    client = server.connect(register=False)
    client.read_frame()
    if not slow.startswith(Z5):
        client.socket.sendall(Z5 + b"\0\0\xff\xff")
    with pytest.raises(OSError):
        for byte in slow:
            client.socket.sendall(bytes([byte]))
            client.socket.settimeout(0.05)
            try:
                assert client.socket.recv(1) != b"", ConnectionResetError()
            except TimeoutError:
                pass
            except AssertionError as closed:
                raise OSError from closed


def test_truncated_frame(server):
    client = server.connect()
    client.socket.sendall(struct.pack(">I", 1000) + b"x" * 10)
    client.close()
    other = server.connect()
    wait_until(lambda: len(server.served.sessions()) == 1)
    assert other.commit(1)


def test_unknown_storage_is_told_and_may_be_corrected(server):
    client = server.connect(register=False)
    client.handshake()
    with pytest.raises(Exception, match=r"unknown storage 'main'.*has '1'"):
        client.ask("register", "main", False)
    assert client.ask("register", "1", False)


def test_who_would_write_where_nobody_can_is_told_so_when_it_registers(serve):
    client = serve(read_only=True).connect(register=False)
    client.handshake()
    with pytest.raises(Exception, match="ReadOnlyError"):
        client.ask("register", "1", False)
    client.ask("register", "1", True)


def test_message_ids_come_back_as_they_were(server):
    client = server.connect()
    for message_id in (2**70, "text", b"bytes", (b"a", 1, ("b",))):
        client.socket.sendall(message(message_id, 0, "ping", ()))
        client.wait_for(message_id)


def test_keep_alive_is_ignored(server):
    client = server.connect()
    client.socket.sendall(message(-1, 0, ".reply", None))
    client.ask("ping")
    assert len(client.seen) == 2


def test_are_you_ok(server, caplog):
    server.connect().commit(1)
    caplog.clear()
    monitor = server.connect(register=False)
    assert monitor.read_frame() == b"Z5"
    monitor.send_frame(b"ruok")
    status = json.loads(monitor.read_frame())
    assert monitor.is_closed()
    assert status["1"]["commits"] == 1
    assert status["1"]["connections"] == 1
    assert not [r for r in caplog.records if r.levelno > logging.DEBUG]
