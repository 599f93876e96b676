"""What commands print for people: sizes, times, and a line that shows progress."""

import re
import shutil
import sys
import time

#: Seconds between two looks at how far it is.
TICK = 0.2

_WIDTH = 24

# Everything that could move the cursor or colour the rest.
_UNPRINTABLE = re.compile(r"[^\x20-\x7e\xa0-\U0010ffff]")


def plain(text):
    """Return a text of somebody else's, as something that a terminal only shows."""
    return _UNPRINTABLE.sub("?", str(text))


def size(count):
    """Return a number of bytes with a unit: "1.2 MB"."""
    if count < 1000:
        return f"{count:.0f} bytes"
    for unit in ("KB", "MB", "GB"):
        count /= 1000
        if count < 999.95:
            return f"{count:.1f} {unit}"
    return f"{count / 1000:,.1f} TB"


def duration(seconds):
    """Return a number of seconds as people read it: "3.2 s", "12:05", "1:02:03"."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, left = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{left:02}" if hours else f"{minutes}:{left:02}"


class ProgressLine:
    """A line on stderr that is written over and over, if that is a terminal.

    Use it as a context manager; the line is gone at the end.
    """

    def __init__(self):
        self._stream = sys.stderr
        self.is_shown = self._stream.isatty()
        self._next = 0
        self.start = time.monotonic()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._write("")

    @property
    def elapsed(self):
        """Seconds since it was made."""
        return time.monotonic() - self.start

    def show(self, text):
        """Show another text."""
        columns = shutil.get_terminal_size().columns
        self._write(plain(text)[: max(1, columns - 1)])

    def show_part(self, label, done, total):
        """Show how many bytes are done of about `total`, rarely enough."""
        now = time.monotonic()
        if not self.is_shown or now < self._next:
            return
        self._next = now + TICK
        self.show(f"{label} {bar(done, total, now - self.start)}")

    def _write(self, text):
        if self.is_shown:
            self._stream.write(f"\r\x1b[K{text}")
            self._stream.flush()


def bar(done, total, elapsed):
    """Return a bar with rate and remaining time; `total` is an estimate, or 0."""
    rate = done / elapsed if elapsed > 0 else 0
    text = f"{size(done)}, {size(rate)}/s, {duration(elapsed)}"
    if not total:
        return text
    done = min(done, total)
    part = done / total
    filled = int(part * _WIDTH)
    # At the start nobody can tell.
    left = duration((total - done) / rate) if elapsed > 1 and rate else "-"
    bar = "#" * filled + "." * (_WIDTH - filled)
    return f"[{bar}] {int(part * 100):3}% {text}, {left} left"
