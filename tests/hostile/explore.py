"""Sessions with what atheris makes up: `python -m tests.hostile.explore -runs=100000`.

Atheris looks at which code its inputs reach, and goes on from those that reach more.
It is not among the extras, because it is not to be had everywhere: `pip install
atheris`.  The options are libFuzzer's; an input that finds something is kept in a file
named crash-..., which as an argument is tried again.
"""

import contextlib
import random
import sys

import atheris

with atheris.instrument_imports(include=["zeolite"]):
    from tests.support.fuzzcalls import GREETING, conversation
    from tests.support.fuzzworld import World

#: Sessions with one storage, before the next gets a new one.
_SESSIONS = 300


class Chooser(random.Random):
    """Chooses as bytes say, and the first of all when there are none left."""

    def __init__(self, data):
        super().__init__(0)
        self._data = data
        self._position = 0

    def getrandbits(self, k):
        begin, self._position = self._position, self._position + (k + 7) // 8
        number = int.from_bytes(self._data[begin : self._position], "little")
        return number & ((1 << k) - 1)

    def random(self):
        return self.getrandbits(32) / (1 << 32)


class Explorer:
    """Calls a session with inputs, in one world after the other."""

    def __init__(self):
        self._world = None
        self._stack = contextlib.ExitStack()

    def try_out(self, data):
        """One session: well-formed calls that the input chooses, or its bytes."""
        if self._world is None or self._world.sessions >= _SESSIONS:
            self._stack.close()
            kind = random.choice(["file", "mapping"])
            self._world = self._stack.enter_context(World(kind))
        if data[:1] < b"\x80":
            world = self._world
            frames = conversation(Chooser(data[1:]), world.tids, world.blob)
            world.converse(frames)
        else:
            self._world.converse([*GREETING, ("bytes", data[1:])])


def main():
    explorer = Explorer()
    # Conversations are long from the start; what is given later counts.
    options = ["-len_control=0", "-max_len=4096", *sys.argv[1:]]
    atheris.Setup([sys.argv[0], *options], explorer.try_out)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
