"""A memory map that stops in the middle of a write, as when a process is killed."""

import contextlib
import mmap


class Killed(BaseException):
    """The process that writes is no more."""


class TearingMap(mmap.mmap):
    """A memory map whose writes can be counted out.

    `TearingMap.kill_at(writes, share)` lets so many writes pass and does a share
    (float from 0 to 1) of the next one; then it raises `Killed`, now and for all
    writes after it.
    """

    _left = None
    _share = 0.0

    @classmethod
    @contextlib.contextmanager
    def kill_at(cls, writes, share):
        cls._left, cls._share = writes, share
        try:
            yield
        finally:
            cls._left = None

    def __setitem__(self, place, data):
        cls = type(self)
        if cls._left is not None:
            if not cls._left:
                done = int(len(data) * cls._share)
                cls._share = 0.0
                start = place.start
                super().__setitem__(slice(start, start + done), data[:done])
                raise Killed
            cls._left -= 1
        super().__setitem__(place, data)
