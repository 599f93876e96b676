"""Unpickling what a stranger sent, without running anything.

Two gates.  `_scan` reads the opcodes before the unpickler sees them, because an
unpickler can be hurt without a single import:

- a memo index of 2**31 makes it allocate gigabytes (here: the index may not be
  much larger than the pickle is long);
- a length that lies makes it reserve what is not there (here: it must fit);
- a million nested tuples overflow the C stack when they are hashed (here: a
  pickle has at most `MAX_TUPLES`, and a reader may be told of less);
- tuples chosen to have the same hash make a dictionary slow: 3,000 of them, 48 KB,
  take a second, in which no other thread runs (here: such a reader);
- a tuple of twice a tuple of twice a tuple … takes years to hash (here: what was
  remembered is used again at most `MAX_READS` times; peers do not do it at all);
- millions of empty containers take a hundred times the room of their pickle (here:
  a reader may be told how many bytes there may be beside strings of bytes);
- whoever has to take messages of any size is hurt by these as well (here: at most
  twice `MAX_CONTAINERS` of them);
- numbers chosen to have the same hash make a dictionary slow (here: at most
  `MAX_LONGS` are long enough for that);
- opcodes that the protocol has no use for (persistent ids, extension codes,
  class instances, anything newer than pickle protocol 3) are refused.

Then `find_class` answers from a table of names and imports nothing.
"""

import functools
import io
import pickle
import re
import struct

from ..errors import ProtocolError

MAX_TUPLES = 3000

#: No pickle may remember more than 2**MEMO_BITS objects, however long it is.
MEMO_BITS = 22

#: How often a pickle may use again what it has remembered.
MAX_READS = 16

#: How many numbers of more than 64 bits a pickle may have.
MAX_LONGS = 64

#: How many lists and dictionaries a pickle may have, at least.
MAX_CONTAINERS = 1_000_000

_TUPLES_IN_A_RUN = 6

#: Opcodes whose arguments may look like those of containers, in `_run_pattern`.
_NOT_CONTAINERS = re.compile(
    rb"C\x08.{8}|[Kq].|M.{2}|[Jr].{4}|G.{8}|"
    + b"|".join(b"X\\x%02x\x00\x00\x00.{%d}" % (n, n) for n in range(32)),
    re.DOTALL,
)
_STOP = ord(".")
_LONG = 0x8A
_GLOBAL = ord("c")
_CALLS = frozenset(b"R\x81")
_READS = {ord("h"): 1, ord("j"): 4}
_SIZED = {
    ord("C"): struct.Struct("<B"),
    ord("B"): struct.Struct("<I"),
    ord("X"): struct.Struct("<I"),
    _LONG: struct.Struct("<B"),
}
_BYTES = frozenset(b"CB")
_OLD_SIZED = {ord("U"): struct.Struct("<B"), ord("T"): struct.Struct("<I")}


@functools.lru_cache(None)
def _run_pattern(memo_bits):
    """A regular expression for a run of opcodes that need no closer look.

    They are constants, numbers, marks, containers, memo writes whose index stays
    under 2**memo_bits, strings of less than 32 bytes, and bytes of length 8: oids
    and tids, which long lists of invalidations are made of.  A run has up to
    `_TUPLES_IN_A_RUN` tuples; group 1 is set if it has one.
    """
    whole, part = divmod(memo_bits, 8)
    # Little-endian: free bytes first, then one that is bounded, then zeros.
    memo = b".{%d}[\\x00-\\x%02x]" % (whole, (1 << part) - 1) + b"\\x00" * (3 - whole)
    short = b"|".join(b"\\x%02x\\x00\\x00\\x00.{%d}" % (n, n) for n in range(32))
    item = rb"(?:[(N\]}\x88\x89aesu]|C(?:\x00|\x08.{8})|[Kq].|X(?:%s)|M.{2}|J.{4}|G.{8}|r%s)"
    item %= short, memo
    # The number is bounded because matching costs memory for each item.
    run = rb"%s{0,2000}(?:([)t\x85-\x87])%s{0,2000}){0,%d}"
    run %= item, item, _TUPLES_IN_A_RUN
    return re.compile(run, re.DOTALL)


class _Containers:
    """Counts the lists and dictionaries in the runs of a large pickle.

    That is quick as long as there can hardly be too many.
    """

    def __init__(self):
        self._at_most = self._exactly = 0

    def add(self, run):
        """Count those in `run` (bytes).  Raises `ProtocolError` for too many."""
        found = run.count(b"]") + run.count(b"}")
        if self._at_most + found <= MAX_CONTAINERS:
            self._at_most += found
            return
        run = _NOT_CONTAINERS.sub(b"", run)
        self._exactly += run.count(b"]") + run.count(b"}")
        if self._exactly > MAX_CONTAINERS:
            raise ProtocolError("too many lists and dictionaries in a pickle")


def _scan(data, calls, old_protocols=False, most=None, most_tuples=MAX_TUPLES):
    """Say whether `data`, which is safe to load, names anything.

    Raises `ProtocolError` where it is not safe.  With `most`, no more bytes than
    that may be something else than long strings of bytes.
    """
    if data[:2] in (b"\x80\x03", b"\x80\x02"):
        position = 2
    elif old_protocols and data[:1] != b"\x80":
        position = 0
    else:
        raise ProtocolError("not a pickle of protocol 3")
    match = _run_pattern(min(len(data).bit_length(), MEMO_BITS)).match
    size, tuples, reads, longs, names = len(data), 0, 0, 0, False
    containers = None
    if most is None:
        most = size
        if size > MAX_CONTAINERS:
            containers = _Containers()
    while True:
        run = match(data, position)
        position = run.end()
        if containers is not None:
            containers.add(run.group())
        if run.lastindex:
            tuples += _TUPLES_IN_A_RUN
            if tuples > most_tuples:
                raise ProtocolError("too many tuples in a pickle")
            if reads > MAX_READS:
                raise ProtocolError("too many memo reads in a pickle")
        if position > most:
            raise ProtocolError("too much in a pickle that is not bytes")
        if position >= size:
            raise ProtocolError("a pickle without an end")
        opcode = data[position]
        position += 1
        if opcode == _STOP:
            if position != size:
                raise ProtocolError("bytes behind the end of a pickle")
            return names
        field = _SIZED.get(opcode)
        if field is None and old_protocols:
            field = _OLD_SIZED.get(opcode)
        if field is not None:
            start = position + field.size
            if start > size:
                raise ProtocolError("a pickle that ends too early")
            position = start + field.unpack_from(data, position)[0]
            if position > size:
                raise ProtocolError("a length that lies in a pickle")
            if opcode in _BYTES:
                most += position - start
            if opcode == _LONG and position - start > 8:
                # Enough of them can be chosen to have the same hash.
                longs += 1
                if longs > MAX_LONGS:
                    raise ProtocolError("too many long numbers in a pickle")
        elif opcode == _GLOBAL:
            names = True
            for _ in ("module", "name"):
                position = data.find(b"\n", position) + 1
                if not position:
                    raise ProtocolError("a pickle that ends too early")
        elif opcode in _READS:
            reads += 1
            if reads > MAX_READS and (tuples or not old_protocols):
                raise ProtocolError("too many memo reads in a pickle")
            position += _READS[opcode]
        elif opcode in _CALLS:
            if not calls:
                raise ProtocolError("a call in a pickle")
        elif not run.group():
            raise ProtocolError(f"opcode {opcode:#04x} in a pickle")
        else:
            # One tuple too many for the run: the next one starts with it.
            position -= 1


def unpickler(table, old_protocols=False, most=None, most_tuples=MAX_TUPLES):
    """Return a function that loads pickles in which only `table` has names.

    `table` maps (module, name) to what stands for it.  The function takes bytes
    and returns the object; it raises `ProtocolError` for whatever is not a
    well-behaved pickle.  With `old_protocols` it also takes what Python 2 wrote
    into databases, whose strings are bytes, and memo reads without limit as long
    as there is no tuple, because ZODB's pickles have them.  With `most`, a pickle
    may have no more bytes than that beside long strings of bytes.  `most_tuples` is
    how many tuples it may have; of those far apart a sixth of that.
    """

    class Unpickler(pickle.Unpickler):
        def find_class(self, module, name):
            try:
                return table[module, name]
            except KeyError:
                text = ascii(f"{module}.{name}")[1:-1][:200]
                raise ProtocolError(f"the name {text} in a pickle") from None

    calls = bool(table)

    def load(data):
        try:
            names = _scan(data, calls, old_protocols, most, most_tuples)
            if names or old_protocols:
                return Unpickler(io.BytesIO(data), encoding="bytes").load()
            # Without a name there is nothing to look up and nothing to call.
            return pickle.loads(data)
        except ProtocolError:
            raise
        except Exception as error:
            # Whatever a damaged pickle makes the unpickler raise.
            raise ProtocolError(f"a damaged pickle: {error!r}"[:200]) from error

    return load
