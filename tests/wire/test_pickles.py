"""Unpickling what a stranger sent: plain data comes through, nothing is run."""

import io
import os
import pickle
import pickletools
import resource
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.bombs import tuples_as_keys
from zeolite.errors import ProtocolError
from zeolite.wire import messages, pickles

plain = pickles.unpickler({})

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**100), 2**100)
    | st.floats(allow_nan=False)
    | st.text(max_size=300)
    | st.binary(max_size=300)
)
plain_data = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner)
        | st.tuples(inner)
        | st.tuples(inner, inner, inner, inner)
        | st.dictionaries(st.text() | st.binary(), inner)
    ),
    max_leaves=100,
)


@given(plain_data)
def test_plain_data_comes_through(value):
    """Pickled as peers do, without a memo."""
    file = io.BytesIO()
    pickler = pickle.Pickler(file, 3)
    pickler.fast = True
    pickler.dump(value)
    assert plain(file.getvalue()) == value


@given(plain_data)
def test_plain_data_with_a_memo_comes_through_unless_it_is_used_a_lot(value):
    data = pickle.dumps(value, 3)
    reads = sum(opcode.name.endswith("GET") for opcode, *_ in pickletools.genops(data))
    if reads <= pickles.MAX_READS:
        assert plain(data) == value


def test_extended_info_may_repeat_itself():
    value = {"list": ["same"] * 1000}
    assert messages.load_plain(pickle.dumps(value, 3)) == value


@pytest.mark.parametrize("count", [10, 300, 70_000])
def test_long_lists_of_oids(count):
    oids = [struct.pack(">Q", number) for number in range(count)]
    assert plain(pickle.dumps(oids, 3)) == oids


@pytest.mark.parametrize("item", [b"]", b"}", b"]}K]", b"C\x00]"])
def test_a_reply_does_not_have_millions_of_containers(item):
    data = b"\x80\x03(K\x01K\x00X\x06\x00\x00\x00.reply]("
    data += item * (2 * pickles.MAX_CONTAINERS + 10) + b"et."
    with pytest.raises(ProtocolError, match="too many lists"):
        messages.decode_reply(data)


@pytest.mark.parametrize("byte", [b"]", b"}"])
def test_what_only_looks_like_containers_is_none(byte):
    count = pickles.MAX_CONTAINERS // 4
    oids = b"".join((b"C\x08", byte * 8, b"K", byte)) * count
    reply = messages.decode_reply(
        b"\x80\x03(K\x01K\x00X\x06\x00\x00\x00.reply](" + oids + b"et."
    )
    assert reply[3] == [byte * 8, byte[0]] * count


def test_a_call_has_few_tuples():
    def decode(count):
        start = b"\x80\x03(K\x01K\x00X\x04\x00\x00\x00ping"
        return messages.decode_call(start + tuples_as_keys(count) + b"\x85t.")

    assert len(decode(400)[3][0]) == 400
    with pytest.raises(ProtocolError, match="too many tuples"):
        decode(550)


def test_sets_and_old_bytes_are_known_to_messages():
    for value in ({1, 2}, frozenset([b"a"]), 1j, b"", b"\xff"):
        data = pickle.dumps((1, 0, ".reply", value), 3)
        assert messages.decode_reply(data)[3] == value
    data = pickle.dumps((1, 0, ".reply", b"\xff"), 2)
    assert messages.decode_reply(data)[3] == b"\xff"


OLD = {
    "protocol 1": b"}q\x01U\x04nameq\x02U\x05valueq\x03s.",
    "protocol 2": b"\x80\x02}q\x01U\x04nameq\x02T\x05\0\0\0valueq\x03s.",
}


@pytest.mark.parametrize("data", OLD.values(), ids=OLD)
def test_old_databases_are_plain_data_but_no_messages(data):
    assert messages.load_plain(data) == {b"name": b"value"}
    with pytest.raises(ProtocolError):
        plain(data)


@pytest.mark.parametrize("data", [b"cos\nsystem\n(U\x04truetR.", b"I1\n.", b"U\xffa."])
def test_old_protocols_are_no_way_in(data):
    with pytest.raises(ProtocolError):
        messages.load_plain(data)


class Evil:
    def __reduce__(self):
        return os.system, ("touch pwned",)


def call(module, name, *args):
    return (
        b"\x80\x03c"
        + f"{module}\n{name}\n".encode()
        + pickle.dumps(args, 3)[2:-1]
        + b"R."
    )


NAMES = [
    ("builtins", "eval"),
    ("builtins", "exec"),
    ("builtins", "getattr"),
    ("builtins", "__import__"),
    ("__builtin__", "eval"),
    ("Builtins", "set"),
    ("builtins", "Set"),
    ("builtins", "set.__class__"),
    ("builtins.set", "__class__"),
    ("os", "system"),
    ("posix", "system"),
    ("copyreg", "_reconstructor"),
    ("copyreg", "__newobj__"),
    ("codecs", "encode"),
    ("_codecs", "lookup"),
    ("zodbpickle", "fastpickle.loads"),
    ("ZODB.POSException", "transaction"),
    ("ZODB.POSException", "_recon.__globals__"),
    ("zeolite.wire.messages", "pickle"),
]


@pytest.mark.parametrize("module, name", NAMES)
@pytest.mark.parametrize("load", [messages.decode_call, messages.decode_reply])
def test_other_names_are_refused(module, name, load):
    with pytest.raises(ProtocolError, match="the name"):
        load(call(module, name, "1+1"))


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("load", [messages.decode_call, messages.decode_reply])
def test_nothing_is_run(protocol, load, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ProtocolError):
        load(pickle.dumps((1, 0, "ping", (Evil(),)), protocol))
    assert os.listdir(tmp_path) == []


def test_nothing_is_imported(monkeypatch):
    import builtins

    def no_import(*args, **kwargs):
        raise AssertionError("an import")

    data = call("this", "s")
    monkeypatch.setattr(builtins, "__import__", no_import)
    with pytest.raises(ProtocolError):
        messages.decode_call(data)


ALLOWED_NAMES_ABUSED = {
    "a terabyte of bytes": ("builtins", "bytes", 2**40),
    "a terabyte of binary": ("zodbpickle", "binary", 2**40),
    "another encoding": ("_codecs", "encode", "a" * 10, "zlib"),
    "a slow encoding": ("_codecs", "encode", "a" * 10, "idna"),
    "a set of no list": ("builtins", "set", 5),
    "an exception that is none": ("ZODB.POSException", "_recon", "str", {}),
    "a state that is none": ("ZODB.POSException", "_recon", 1, 2),
}


@pytest.mark.parametrize(
    "arguments", ALLOWED_NAMES_ABUSED.values(), ids=ALLOWED_NAMES_ABUSED
)
def test_allowed_names_take_no_other_arguments(arguments):
    with pytest.raises(ProtocolError):
        messages.decode_reply(call(*arguments))


BAD = {
    "empty": b"",
    "no protocol": b"N.",
    "protocol 4": b"\x80\x04N.",
    "protocol 0": b"I1\n.",
    "no end": b"\x80\x03N",
    "nothing on the stack": b"\x80\x03.",
    "bytes behind the end": b"\x80\x03N.N.",
    "no name": b"\x80\x03c",
    "half a name": b"\x80\x03cos\n",
    # Looking for the end of the line must not begin again at the start.
    "no name after a line": b"\x80\x03X\x01\0\0\0\ncos.",
    "half a name after a line": b"\x80\x03X\x01\0\0\0\ncos\nsystem.",
    "length that lies": b"\x80\x03B\xff\xff\xff\x7f.",
    "text length that lies": b"\x80\x03X\xff\xff\xff\xff.",
    "short length that lies": b"\x80\x03C\xff.",
    "cut in a length": b"\x80\x03X\x01",
    "gigantic memo index": b"\x80\x03Nr\xff\xff\xff\x7f.",
    "large memo index": b"\x80\x03Nr\x00\x00\x10\x00.",
    "unknown memo": b"\x80\x03h\x07.",
    "persistent id": b"\x80\x03Pabc\n.",
    "binary persistent id": b"\x80\x03NQ.",
    "instance": b"\x80\x03(ios\nsystem\n.",
    "object": b"\x80\x03(cos\nsystem\no.",
    "extension": b"\x80\x03\x82\x01.",
    "marks only": b"\x80\x03" + b"(" * 100_000 + b".",
    "numbers of one hash": b"\x80\x03}("
    + b"".join(
        pickle.dumps(n * (2**61 - 1) << 64, 3)[2:-1] + b"N" for n in range(1, 99)
    )
    + b"u.",
    "attributes of a function": b"\x80\x03czodbpickle\nbinary\n}X\x01\0\0\0aNsb.",
    "nested tuples": b"\x80\x03N" + b"\x85" * 200_000 + b".",
    "doubled tuples as a key": b"\x80\x03}N"
    + b"".join(b"q%ch%c\x86" % (n, n) for n in range(60))
    + b"Ns.",
    "nested tuples as a key": b"\x80\x03}N" + b"\x85" * 200_000 + b"Ns.",
    "build": b"\x80\x03}}b.",
    "text that is none": b"\x80\x03X\x01\x00\x00\x00\xff.",
    "unhashable key": b"\x80\x03}]Ns.",
    "memory that does not exist": b"\x80\x03\x8e" + b"\xff" * 8 + b".",
}


@pytest.mark.parametrize("data", BAD.values(), ids=BAD)
@pytest.mark.parametrize("load", [messages.decode_call, messages.decode_reply])
def test_bad_pickles_are_refused(data, load):
    with pytest.raises(ProtocolError):
        load(data)


def test_bad_pickles_cost_no_memory():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for data in BAD.values():
        with pytest.raises(ProtocolError):
            messages.decode_call(data)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert after - before < 64 * 1024  # KiB


def test_deep_lists_do_no_harm():
    data = b"\x80\x03" + b"]" * 100_000 + b"a" * 99_999 + b"."
    value, depth = plain(data), 1
    while value:
        (value,) = value
        depth += 1
    assert depth == 100_000


def test_exceptions_come_only_from_servers():
    from ZODB.POSException import ConflictError

    data = pickle.dumps((1, 0, ".reply", ConflictError("x")), 3)
    assert isinstance(messages.decode_reply(data)[3], ConflictError)
    with pytest.raises(ProtocolError):
        messages.decode_call(data)


@settings(max_examples=1000)
@given(st.binary(max_size=200))
def test_garbage_is_refused_or_plain(data):
    for load in (messages.decode_call, messages.decode_reply):
        try:
            load(b"\x80\x03" + data)
        except ProtocolError:
            pass


OPCODES = [op.code.encode("latin-1") for op in pickletools.opcodes]


@settings(max_examples=1000)
@given(st.lists(st.sampled_from(OPCODES) | st.binary(max_size=9), max_size=60))
def test_programs_of_opcodes_are_refused_or_plain(parts):
    for load in (messages.decode_call, messages.decode_reply):
        try:
            load(b"\x80\x03" + b"".join(parts) + b".")
        except ProtocolError:
            pass


MESSAGES = [
    (1, 0, "register", ("1", False)),
    (0, 1, "storea", (b"12345678", b"87654321", b"data" * 100, 5)),
    (7, 2, ".reply", ("builtins.KeyError", ("x",))),
    (3, 0, ".reply", {"a": [1, 2, (3, 4)], "b": {5}}),
]


@settings(max_examples=1000)
@given(
    st.sampled_from(MESSAGES),
    st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), max_size=8),
)
def test_damaged_messages_are_refused_or_plain(message, changes):
    data = bytearray(pickle.dumps(message, 3))
    for where, byte in changes:
        data[where % len(data)] = byte
    for load in (messages.decode_call, messages.decode_reply):
        try:
            load(bytes(data))
        except ProtocolError:
            pass
