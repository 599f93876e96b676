"""Pickles that are made to hurt whoever loads them, by name.

All are harmless to write and to send.  Those that would call something, call what
does nothing.  `BOMBS` are whole messages where they can be, so that an unpickler
is the only thing that stands in the way.
"""

import pickle
import struct


def _message(*parts):
    """A call of `ping` with these opcodes (bytes) as its argument."""
    start = b"\x80\x03(K\x02K\x00X\x04\x00\x00\x00ping"
    return start + b"".join(parts) + b"\x85t."


def _global(module, name, *opcodes):
    """A call of what the two name, with arguments from opcodes (bytes)."""
    count = {0: b")", 1: b"\x85", 2: b"\x86"}[len(opcodes)]
    text = f"c{module}\n{name}\n".encode()
    return text + b"".join(opcodes) + count + b"R"


def _text(text):
    return b"X" + struct.pack("<I", len(text)) + text


def _long(number):
    return pickle.dumps(number, 3)[2:-1]


def _ints(count):
    """A list of so many different integers."""
    items = b"".join(b"J" + struct.pack("<i", number) for number in range(count))
    return b"](" + items + b"e"


def _doubled(times, end=b""):
    """A list of twice a list of twice a list … from few bytes."""
    parts = [b"]q\x00"]
    for place in range(times):
        parts.append(b"](h%ch%ceq%c" % (place, place, place + 1))
    return b"".join(parts) + end


def _doubled_tuples(times):
    parts = [b"Nq\x00"]
    for place in range(times):
        parts.append(b"0h%ch%c\x86q%c" % (place, place, place + 1))
    return b"".join(parts)


def tuples_as_keys(count):
    """The opcodes of a dictionary with so many tuples as keys.

    Who computes the numbers can give all of them one hash, and then each is compared
    with all before it while no other thread runs.
    """
    pairs = [
        b"J" + struct.pack("<i", number) + b"G" + bytes(8) + b"\x86N"
        for number in range(count)
    ]
    return b"}(" + b"".join(pairs) + b"u"


_COLLIDING = b"".join(_long(n * (2**61 - 1)) + b"N" for n in range(1, 30_000))

#: What loads but takes memory, time or the stack; and what must not load.
EXPANDING = {
    "a frozenset of a million ints": _message(
        _global("builtins", "frozenset", _ints(1_000_000))
    ),
    "a set of colliding ints": _message(b"}(" + _COLLIDING + b"u"),
    "thousands of tuples as keys": _message(tuples_as_keys(2900)),
    "a memo index of 2**31": _message(b"Nr" + struct.pack("<I", 2**31 - 1)),
    "a memo index of 2**27": _message(b"Nr" + struct.pack("<I", 2**27)),
    "bytes that claim 2 GB": _message(b"B" + struct.pack("<I", 2**31 - 1)),
    "text that claims 4 GB": _message(b"X" + struct.pack("<I", 2**32 - 1)),
    "bytes that claim 2**62": _message(b"\x8e" + struct.pack("<Q", 2**62)),
    "a number that claims 2 GB": _message(b"\x8b" + struct.pack("<i", 2**31 - 1)),
    "a pickle frame of 2**62": _message(b"\x95" + struct.pack("<Q", 2**62)),
    "a bytearray of a terabyte": _message(
        _global("builtins", "bytearray", _long(2**40))
    ),
    "bytes of 300 MB": _message(
        _global("builtins", "bytes", b"J" + struct.pack("<i", 300 * 2**20))
    ),
    "a range turned into a list": _message(
        _global("builtins", "list", _global("builtins", "range", _long(10**7)))
    ),
    "a power of powers": _message(
        _global("builtins", "pow", _long(7), _long(3_000_000))
    ),
    "nested tuples": _message(b"N" + b"\x85" * 60_000),
    "nested tuples as a key": _message(b"}N" + b"\x85" * 60_000 + b"Ns"),
    "nested lists": _message(b"]" * 30_000 + b"a" * 29_999),
    "marks only": b"\x80\x03" + b"(" * 65_000 + b".",
    "doubled lists": _message(_doubled(60)),
    "doubled tuples": _message(_doubled_tuples(25)),
    "doubled tuples as a key": _message(b"}" + _doubled_tuples(26) + b"Ns"),
    "a list in itself": _message(b"]q\x00h\x00a"),
    "a text 60,000 times": _message(
        b"]q\x00" + _text(b"x" * 100) + b"q\x010(" + b"h\x01" * 30_000 + b"t"
    ),
    "a 60,000-byte number": _message(
        b"\x8b" + struct.pack("<i", 60_000) + b"\x7f" * 60_000
    ),
}

#: Names near those that are allowed, or those that everybody tries.
NAMES = [
    ("builtins", "eval"),
    ("builtins", "exec"),
    ("builtins", "getattr"),
    ("builtins", "print"),
    ("__builtin__", "eval"),
    ("Builtins", "frozenset"),
    ("builtins", "Frozenset"),
    ("BUILTINS", "SET"),
    ("builtins", "set.__class__"),
    ("builtins", "set.__init__.__globals__"),
    ("builtins.set", "__class__"),
    ("builtins", "set "),
    (" builtins", "set"),
    ("builtins\0", "set"),
    ("__main__", "__builtins__.eval"),
    ("os", "getpid"),
    ("os", "system"),
    ("posix", "system"),
    ("nt", "system"),
    ("subprocess", "Popen"),
    ("copyreg", "_reconstructor"),
    ("copyreg", "__newobj__"),
    ("codecs", "encode"),
    ("_codecs", "lookup"),
    ("_codecs", "encode.__call__"),
    ("zodbpickle", "Binary"),
    ("zodbpickle", "fastpickle.loads"),
    ("zodbpickle.binary", "__class__"),
    ("ZODB.POSException", "transaction"),
    ("ZODB.POSException", "_recon.__globals__"),
    ("zeolite.wire.messages", "pickle.loads"),
    ("ZopeUndo.Prefix", "Prefix.__init__"),
    ("importlib", "import_module"),
    ("runpy", "run_module"),
    ("pty", "spawn"),
    ("socket", "create_connection"),
]

NAMED = {
    f"the name {module!r} {name!r}": _message(
        _global(module, name, _text(b"true" if name != "eval" else b"1+1"))
    )
    for module, name in NAMES
}

#: Calls of allowed names with arguments that are not.
ABUSED = {
    "frozenset of a string": _message(_global("builtins", "frozenset", _text(b"ab"))),
    "a frozenset in a frozenset": _message(
        b"cbuiltins\nfrozenset\n](" * 500 + b"N" + b"e\x85R" * 500
    ),
    "encode with another codec": _message(
        _global("_codecs", "encode", _text(b"a" * 1000), _text(b"zlib_codec"))
    ),
    "encode with idna": _message(
        _global("_codecs", "encode", _text(b"a" * 60_000), _text(b"idna"))
    ),
    "a list of bytes": _message(
        _global("builtins", "list", b"B" + struct.pack("<I", 60_000) + b"x" * 60_000)
    ),
    "dict of a list of pairs": _message(
        _global("builtins", "dict", b"](" + b"K\x01K\x02\x86" * 1000 + b"e")
    ),
    "the attributes of a class": _message(b"cbuiltins\nset\n}" + _text(b"a") + b"Nsb"),
    "an instance of a class": _message(b"cbuiltins\nset\n)\x81"),
    "a class as an argument": _message(b"cbuiltins\nset\n"),
    "a class as a message id": b"\x80\x03(cbuiltins\nset\nK\x00"
    + _text(b"ping")
    + b")t.",
    "a set as a message id": b"\x80\x03(cbuiltins\nset\n]\x85RK\x00"
    + _text(b"ping")
    + b")t.",
}

#: Names that have no end, behind what looks like one.
ENDLESS = {
    "a name without an end": _message(_text(b"\n"), b"cos"),
    "half a name without an end": _message(_text(b"\n"), b"cos\nsystem"),
}

BOMBS = EXPANDING | NAMED | ABUSED | ENDLESS
