"""Who has a cache file open: which process, and on which boot of which machine.

The file at PATH is locked by `PATH.lock`, which has the number of the process that
holds it, and stays where it is when it is given back.
"""

import fcntl
import functools
import os
import pathlib
import secrets
import socket
import subprocess
import time
import uuid

import zc.lockfile

from ..errors import CacheFileInUse
from ..files import open_file

_BOOT_ID = "/proc/sys/kernel/random/boot_id"


def lock(path):
    """Lock a cache file; return the lock, which has `close`.

    Raises `CacheFileInUse` if it is locked, and `OSError`.
    """
    # The number of the process is written there: to no other file than that one.
    os.close(open_file(_lock_path(path), os.O_RDWR | os.O_CREAT))
    for delay in (0.05, None):
        try:
            return zc.lockfile.LockFile(_lock_path(path), "{pid} {hostname}")
        except zc.lockfile.LockError:
            # Somebody may only have looked who holds it.
            if delay is None:
                raise CacheFileInUse(
                    f"{path}: is in use by {_holder(path)}; each storage needs a cache "
                    "file of its own"
                ) from None
            time.sleep(delay)


def holder(path):
    """Return who has a cache file open (str), None if nobody has."""
    try:
        with open(_lock_path(path), "rb") as file:
            fcntl.flock(file.fileno(), fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _holder(path)
    except OSError:
        pass  # There is no lock, or none that this system or user can ask.
    return None


@functools.cache
def boot_id():
    """Return what tells this boot of the machine from others (16 bytes).

    Where that cannot be known it is something new in each process, so that a file
    which was not closed is always dropped.
    """
    return known_boot_id() or secrets.token_bytes(16)


@functools.cache
def known_boot_id():
    """Return what tells this boot from others (16 bytes), None if that is unknown."""
    try:
        if os.path.exists(_BOOT_ID):
            return uuid.UUID(pathlib.Path(_BOOT_ID).read_text().strip()).bytes
        command = ["sysctl", "-n", "kern.bootsessionuuid"]  # macOS
        return uuid.UUID(subprocess.check_output(command, text=True).strip()).bytes
    except (OSError, ValueError, subprocess.SubprocessError):
        return None


def _lock_path(path):
    return os.path.realpath(path) + ".lock"


def _holder(path):
    try:
        pid, host = pathlib.Path(_lock_path(path)).read_text().split()
    except (OSError, ValueError):
        return "another process"
    if int(pid) == os.getpid() and host == socket.gethostname():
        return "another storage of this process"
    return f"process {pid} on {host}"
