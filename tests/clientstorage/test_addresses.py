"""Addresses as users write them."""

import os
import pathlib
import socket

import pytest

from tests.support.processes import free_port
from zeolite.clientstorage.addresses import connect, parse
from zeolite.wire.channel import format_address


@pytest.mark.parametrize(
    "given, expected",
    [
        (8100, [("127.0.0.1", 8100)]),
        (("example.com", 8100), [("example.com", 8100)]),
        (("", 8100), [("127.0.0.1", 8100)]),
        ((None, 8100), [("127.0.0.1", 8100)]),
        ("/run/socket", ["/run/socket"]),
        (pathlib.Path("run/socket"), ["run/socket"]),
        ([8100, ("::1", 8200)], [("127.0.0.1", 8100), ("::1", 8200)]),
    ],
)
def test_parse(given, expected):
    assert parse(given) == expected


@pytest.mark.parametrize(
    "given, error",
    [
        (0, ValueError),
        (70000, ValueError),
        (-1, ValueError),
        (True, TypeError),
        (None, TypeError),
        (1.5, TypeError),
        ([], ValueError),
        ("localhost:8100", ValueError),
        ("8100", ValueError),
        (("host", "8100"), TypeError),
        (("host", 1, 2), TypeError),
        ((1, 2), TypeError),
    ],
)
def test_what_is_no_address(given, error):
    with pytest.raises(error):
        parse(given)


def test_format_address():
    assert format_address(("host", 1)) == "host:1"
    assert format_address(("::1", 1)) == "[::1]:1"
    assert format_address("/run/socket") == "/run/socket"


def attempt(addresses, wanted=lambda: True):
    failed = {}
    connected = []
    for address, sock in connect(addresses, wanted, failed.__setitem__):
        connected.append(address)
        sock.close()
    return connected, failed


def test_dead_addresses_do_not_delay_a_live_one(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        live = listener.getsockname()
        refused, missing = ("127.0.0.1", free_port()), str(tmp_path / "none")
        unknown = ("no such host.invalid", 1)
        connected, failed = attempt([missing, refused, live, unknown])
    assert connected == [live]
    assert set(failed) == {refused, missing, unknown}
    assert failed[refused].strerror == os.strerror(failed[refused].errno)


def test_host_with_several_places(monkeypatch):
    """Only one of them listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        places = [
            (socket.AF_INET6, socket.SOCK_STREAM, 0, "", ("::1", port, 0, 0)),
            (socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", port)),
        ]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: places)
        assert attempt([("localhost", port)]) == ([("localhost", port)], {})


def test_not_wanted_any_more():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        assert attempt([listener.getsockname()], lambda: False) == ([], {})
