"""Pickles that nobody wrote: programs of opcodes, and well-formed ones damaged.

All that is random comes from `rng`, which is a `random.Random` or looks like one,
so that hypothesis, a seed, or a fuzzer that watches the code's branches can steer.
What they name is harmless, should it ever be called.
"""

import pickle
import struct

#: What a peer may name, near misses of it by case, alias and dotted path, and
#: what must never be reached.
NAMES = [
    (b"builtins", b"set"),
    (b"builtins", b"frozenset"),
    (b"builtins", b"complex"),
    (b"builtins", b"dict"),
    (b"builtins", b"list"),
    (b"builtins", b"bytes"),
    (b"_codecs", b"encode"),
    (b"zodbpickle", b"binary"),
    (b"ZODB.POSException", b"ConflictError"),
    (b"ZODB.POSException", b"_recon"),
    (b"builtins", b"KeyError"),
    (b"Builtins", b"set"),
    (b"builtins", b"Set"),
    (b"__builtin__", b"set"),
    (b"builtins", b"set.__class__"),
    (b"builtins.set", b"__class__"),
    (b"builtins", b"eval"),
    (b"os", b"getpid"),
    (b"posix", b"getpid"),
    (b"copyreg", b"_reconstructor"),
    (b"zeolite.wire.messages", b"pickle"),
    (b"", b""),
    (b"\xff", b"\xfe"),
]

_TEXTS = ["", "a", "latin1", "utf-8", "\0", "\x1b[31m", "ä", "x" * 300, "1"]
_INTEGERS = [0, 1, -1, 2, 7, 255, 256, 2**31 - 1, 2**31, -(2**31), 2**63, 2**64, 10**30]
_FLOATS = [0.0, -1.5, 1e308, float("inf"), float("nan")]


def scalar(rng):
    """Return a value without parts."""
    kind = rng.randrange(8)
    if kind == 0:
        return rng.choice([None, True, False])
    if kind <= 2:
        return rng.choice(_INTEGERS)
    if kind == 3:
        return rng.choice(_FLOATS)
    if kind == 4:
        return rng.choice(_TEXTS)
    return rng.randbytes(rng.choice([0, 1, 7, 8, 8, 8, 9, 40]))


def value(rng, depth=3):
    """Return any value that can travel as plain data."""
    kind = rng.randrange(8) if depth else 0
    if kind < 4:
        return scalar(rng)
    parts = [value(rng, depth - 1) for _ in range(rng.randrange(4))]
    if kind == 4:
        return parts
    if kind == 5:
        return tuple(parts)
    if kind == 6:
        return {scalar(rng): part for part in parts}
    return rng.choice([set, frozenset])(scalar(rng) for _ in range(rng.randrange(4)))


def spoiled(rng, obj):
    """Return `obj`, plain data, with one part of it replaced by any value."""
    if type(obj) in (list, tuple) and obj and rng.randrange(6):
        where = rng.randrange(len(obj))
        parts = list(obj)
        parts[where] = spoiled(rng, parts[where])
        return type(obj)(parts)
    if type(obj) is dict and obj and rng.randrange(6):
        key = rng.choice(list(obj))
        return {**obj, key: spoiled(rng, obj[key])}
    return value(rng)


# Opcodes.  Each function returns bytes; a program strings them together.


def _sized(rng, opcode, form, data):
    size = len(data)
    if rng.randrange(40) == 0:
        size = rng.choice([0, 1, size + 1, 0xFF, 2**31 - 1, 2**32 - 1, 2**63])
    return opcode + struct.pack(form, size & (256 ** struct.calcsize(form) - 1)) + data


def _index(rng):
    """A place in the memo, mostly a small one."""
    place = rng.randrange(6)
    if rng.randrange(30) == 0:
        place = rng.choice([255, 2**16, 2**22, 2**31 - 1, 2**32 - 1])
    return place


def _put(rng):
    place = _index(rng)
    return b"q" + bytes([place]) if place < 256 else b"r" + struct.pack("<I", place)


def _get(rng):
    place = _index(rng)
    return b"h" + bytes([place]) if place < 256 else b"j" + struct.pack("<I", place)


def _push(rng):
    """An opcode that puts one thing on the stack."""
    kind = rng.randrange(13)
    if kind == 0:
        return rng.choice([b"N", b"\x88", b"\x89", b"]", b"}", b")"])
    if kind == 1:
        return b"K" + rng.randbytes(1)
    if kind == 2:
        return b"M" + rng.randbytes(2)
    if kind == 3:
        return b"J" + rng.randbytes(4)
    if kind == 4:
        return b"G" + rng.randbytes(8)
    if kind == 5:
        return _sized(rng, b"\x8a", "<B", rng.randbytes(rng.choice([1, 8, 9, 20])))
    if kind == 6:
        return _sized(rng, b"X", "<I", rng.choice(_TEXTS).encode())
    if kind <= 8:
        return _sized(rng, b"C", "<B", rng.randbytes(rng.choice([0, 8, 8, 30])))
    if kind == 9:
        return _sized(rng, b"B", "<I", rng.randbytes(rng.choice([0, 8, 300])))
    if kind == 10:
        return b"c" + b"\n".join(rng.choice(NAMES)) + b"\n"
    if kind == 11:
        return rng.choice([b"]", b"}", b")", b"N"]) + _put(rng)
    return _get(rng)


#: Opcodes that have no place in a message.
_FOREIGN = [
    b"P1\n", b"Q", b"I1\n", b"L1L\n", b"F1\n", b"S''\n", b"Va\n", b"U\x01a",
    b"T\x01\0\0\0a", b"p1\n", b"g1\n", b"ios\ngetpid\n", b"o", b"l", b"d", b"0",
    b"1", b"2", b"\x82\x01", b"\x83\x01\0", b"\x84\x01\0\0\0", b"\x8b\1\0\0\0a",
    b"\x8c\x01a", b"\x8d" + b"\xff" * 8, b"\x8e" + b"\xff" * 8, b"\x8f", b"\x90",
    b"\x91", b"\x92", b"\x93", b"\x94", b"\x95" + b"\0" * 8, b"\x96" + b"\xff" * 8,
    b"\x97", b"\x98", b"\x80\x05", b"\xff",
]  # fmt: skip


def program(rng, length=30):
    """Return opcodes (bytes) that leave one thing on the stack, more or less.

    It keeps count of the stack so that most of them get far.
    """
    parts, height, marks = [], 0, []
    for _ in range(rng.randrange(length)):
        kind = rng.randrange(12)
        if rng.randrange(150) == 0:
            parts.append(rng.choice(_FOREIGN))
        elif kind < 4 or not height:
            parts.append(_push(rng))
            height += 1
        elif kind == 4:
            parts.append(b"(")
            marks.append(height)
        elif kind == 5 and marks:
            height = marks.pop()
            closer = rng.randrange(4)
            if closer == 0 and height:
                parts.append(rng.choice([b"e", b"u"]))
            else:
                parts.append(b"t")
                height += 1
        elif kind == 6:
            count = rng.randrange(min(height, 3)) + 1
            parts.append(bytes([0x84 + count]))
            height -= count - 1
        elif kind == 7 and height > 1:
            parts.append(rng.choice([b"R", b"R", b"\x81", b"b", b"a"]))
            height -= 1
        elif kind == 8 and height > 2:
            parts.append(b"s")
            height -= 2
        elif kind == 9:
            parts.append(_put(rng))
        elif kind == 10:
            # A call of something that may be called, as peers do it.
            name, arguments = rng.choice(NAMES), _push(rng) + b"\x85R"
            parts.append(b"c" + b"\n".join(name) + b"\n" + arguments)
            height += 1
    while marks:
        marks.pop()
        parts.append(b"t")
    return b"".join(parts) or b"N"


def as_message(rng, message_id, flag, name):
    """Return the pickle of a message with a program in one of its places."""
    places = [dumps(part)[2:-1] for part in (message_id, flag, name, ())]
    where = rng.randrange(5)
    if where == 4:
        places[3] = b"(" + program(rng) + b"t"
    else:
        places[where] = program(rng)
    return b"\x80\x03(" + b"".join(places) + b"t."


def dumps(obj):
    """Pickle like peers do."""
    return pickle.dumps(obj, 3)


def damage(rng, data):
    """Return bytes that differ a little from `data`."""
    data = bytearray(data)
    for _ in range(rng.choice([1, 1, 1, 2, 5])):
        where = rng.randrange(len(data) + 1)
        how = rng.randrange(6)
        if how == 0 and where < len(data):
            data[where] ^= 1 << rng.randrange(8)
        elif how == 1 and where < len(data):
            data[where] = rng.randrange(256)
        elif how == 2:
            data[where:where] = rng.randbytes(rng.randrange(5))
        elif how == 3:
            del data[where : where + rng.randrange(9)]
        elif how == 4:
            data[where:where] = data[where : where + rng.randrange(30)]
        else:
            data[where : where + 4] = rng.choice(
                [b"\xff\xff\xff\xff", b"\0\0\0\0", b"\xff\xff\xff\x7f", b"\0\0\0\x80"]
            )
    return bytes(data)
