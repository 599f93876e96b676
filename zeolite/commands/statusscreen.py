"""A screen in the terminal that is renewed until somebody has seen enough.

It is the terminal's other screen, so that what was there before is there afterwards.
"""

import contextlib
import os
import select
import shutil
import sys
import termios
import time
import tty

from ..errors import ConfigurationError
from . import statustable
from .terminal import duration, plain

_ENTER = "\x1b[?1049h\x1b[?25l"  # The other screen, without a cursor.
_LEAVE = "\x1b[?25h\x1b[?1049l"
_HOME, _CLEAR_LINE, _CLEAR_REST = "\x1b[H", "\x1b[K", "\x1b[J"


def watch(sample, seconds):
    """Show samples every so many seconds, until q, Ctrl-C or SIGTERM.

    `sample()` returns {address: `Answer` or an exception}.  Raises
    `ConfigurationError` without a terminal.
    """
    if not sys.stdout.isatty():
        raise ConfigurationError("--watch needs a terminal; use --json in a script")
    before = None
    with _screen() as keys, contextlib.suppress(KeyboardInterrupt):
        while True:
            answers = sample()
            _draw(answers, before, seconds)
            before = _with_older(answers, before)
            if keys.is_quit_within(seconds):
                return


def _with_older(answers, before):
    """The next sample to compare with: a server that was silent once is not new."""
    if before is None:
        return answers
    return {
        address: before[address] if isinstance(answer, Exception) else answer
        for address, answer in answers.items()
    }


def _draw(answers, before, seconds):
    columns, rows = shutil.get_terminal_size()
    lines = [
        f"{time.strftime('%H:%M:%S')}, every {duration(seconds)}; "
        + ("totals" if before is None else "rates since the last look")
        + "; q to quit",
        "",
        *statustable.lines(answers, before, columns),
        "",
    ]
    for address, answer in answers.items():
        if isinstance(answer, Exception):
            lines.append(plain(f"{address}: {answer}"))
        else:
            took = f"{answer.seconds * 1000:.1f} ms"
            lines.append(plain(f"{address}: answered in {took}"))
    shown = "".join(
        f"{line[:columns]}{_CLEAR_LINE}" + ("\r\n" if line is not lines[-1] else "")
        for line in lines[: max(1, rows - 1)]
    )
    sys.stdout.write(_HOME + shown + _CLEAR_REST)
    sys.stdout.flush()


@contextlib.contextmanager
def _screen():
    """The other screen and the `_Keys`; all is as before at the end, however it comes."""
    with _Keys() as keys:
        try:
            sys.stdout.write(_ENTER)
            yield keys
        finally:
            # The terminal may be gone by now.
            with contextlib.suppress(OSError):
                sys.stdout.write(_LEAVE)
                sys.stdout.flush()


class _Keys:
    """Keys that are pressed on stdin, if that is a terminal, one by one."""

    def __enter__(self):
        self._fd = self._before = None
        try:
            fd = sys.stdin.fileno()
            if os.isatty(fd):
                self._before = termios.tcgetattr(fd)
                self._fd = fd
                tty.setcbreak(fd)
        except (OSError, ValueError, AttributeError):
            pass  # Then Ctrl-C has to do.
        return self

    def __exit__(self, *_):
        if self._before is not None:
            with contextlib.suppress(termios.error):
                termios.tcsetattr(self._fd, termios.TCSADRAIN, self._before)

    def is_quit_within(self, seconds):
        """Wait; return whether q was pressed."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            if self._fd is None:
                time.sleep(left)
            elif select.select([self._fd], [], [], left)[0]:
                key = os.read(self._fd, 1)
                if key in (b"q", b"Q", b""):
                    return True
        return False
