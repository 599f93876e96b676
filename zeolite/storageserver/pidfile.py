"""The file with the number of the server's process."""

import contextlib
import logging
import os

from ..files import open_file

logger = logging.getLogger(__name__)


class PidFile:
    """`path` (str) names the file; None for none.

    A file that cannot be written is an error in the log, and no more: it is for
    scripts, and the server can do without.
    """

    def __init__(self, path):
        self._path = path
        self._text = f"{os.getpid()}\n"

    def write(self):
        """Write it, in place of one that a killed server has left."""
        if not self._path:
            return
        try:
            # Others may write to the directory, for instance where it is /tmp.
            with open(self._path, "w", opener=open_file) as file:
                file.write(self._text)
        except OSError as error:
            logger.error("the pid file cannot be written: %s: %s", self._path, error)
            # Half a number would be worse than none, but what cannot be opened, or
            # is no file, is not ours.
            with contextlib.suppress(OSError):
                if os.path.isfile(self._path) and not os.path.getsize(self._path):
                    os.unlink(self._path)

    def remove(self):
        """Remove it, unless another process's number is in it by now."""
        if not self._path:
            return
        if not os.path.isfile(self._path):
            return
        try:
            with open(self._path, "rb") as file:
                is_ours = file.read(100) == self._text.encode()
            if is_ours:
                os.unlink(self._path)
        except OSError as error:
            logger.warning("the pid file cannot be removed: %s", error)


def default_path():
    """Where ZEO has it for an instance of Zope; None outside of one."""
    home = os.environ.get("INSTANCE_HOME")
    return os.path.join(home, "var", "ZEO.pid") if home else None
