"""Addresses as users write them."""

import pathlib
import queue
import re
import socket
import threading

import pytest

from tests.support.blocking import Gate
from zeolite.clientstorage.addresses import Resolver, parse
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
        (("[::1]", 8100), [("::1", 8100)]),
        (["./localhost", 8100], ["./localhost", ("127.0.0.1", 8100)]),
        ((("db1", 1), ("db2", 2)), [("db1", 1), ("db2", 2)]),
        ([8100, ("::1", 8200)], [("127.0.0.1", 8100), ("::1", 8200)]),
    ],
)
def test_what_users_write_becomes_a_list_of_addresses(given, expected):
    assert parse(given) == expected


@pytest.mark.parametrize(
    "given, error",
    [
        ("", ValueError),
        ("http://localhost:8100/", ValueError),
        ("zeo://localhost", ValueError),
        (("http://localhost", 8100), ValueError),
        (["localhost", 8100], ValueError),
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
        ((), TypeError),
        ((("db1", 1), 8100), TypeError),
        ({8100}, TypeError),
    ],
)
def test_what_is_no_address(given, error):
    with pytest.raises(error):
        parse(given)


@pytest.mark.parametrize(
    "given, said",
    [
        ("zeolite://localhost:8100", "is a URL; write (host, port)"),
        (["db", 8100], "write the pair ('db', 8100)"),
        (("db", "8100"), "a pair of host (str) and port (int)"),
    ],
)
def test_error_says_what_to_write(given, said):
    with pytest.raises((TypeError, ValueError), match=re.escape(said)):
        parse(given)


def test_format_address():
    assert format_address(("host", 1)) == "host:1"
    assert format_address(("::1", 1)) == "[::1]:1"
    assert format_address("/run/socket") == "/run/socket"


class TestResolving:
    @pytest.fixture
    def resolve(self):
        """Call it to get the queue of answers for an address."""
        resolver = Resolver()

        def resolve(address):
            answers = queue.SimpleQueue()
            resolver.resolve(address, lambda *answer: answers.put(answer))
            return answers

        return resolve

    @pytest.mark.parametrize("address", [("127.0.0.1", 1), ("::1", 1), "/run/socket"])
    def test_what_needs_no_asking_needs_no_thread(self, resolve, address):
        threads = threading.active_count()
        (places,) = resolve(address).get_nowait()
        assert threading.active_count() == threads
        assert len(places) == 1

    def test_host_of_several_places(self, resolve, monkeypatch):
        found = [
            (socket.AF_INET6, socket.SOCK_STREAM, 0, "", ("::1", 1, 0, 0)),
            (socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", 1)),
        ]

        def getaddrinfo(host, port, type, flags):
            if flags & socket.AI_NUMERICHOST:
                raise socket.gaierror
            return found

        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
        (places,) = resolve(("localhost", 1)).get(timeout=20)
        assert places == [(family, place) for family, *_, place in found]

    @pytest.mark.parametrize("host", ["no-such-host.invalid", "a..b", "x" * 70])
    def test_unknown_host(self, resolve, host):
        places, error = resolve((host, 1)).get(timeout=20)
        assert places == []
        assert "unknown host" in str(error)

    def test_slow_host_is_asked_for_once(self, resolve, monkeypatch):
        gate, asked = Gate(), []

        def getaddrinfo(host, port, type, flags):
            if flags & socket.AI_NUMERICHOST:
                raise socket.gaierror
            asked.append(host)
            gate.stop_here()
            return []

        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
        answers = [resolve(("slow", 1)) for _ in range(3)]
        gate.wait_until_reached()
        gate.open()
        for answer in answers:
            assert answer.get(timeout=20) == ([],)
        assert asked == ["slow"]
