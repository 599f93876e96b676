"""What both sides do with files."""

import errno
import os
import stat

#: Follow no symbolic link, and do not wait for the other end of a pipe.
_CAREFUL = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def open_file(path, flags, mode=0o666):
    """Return the descriptor of the file at `path`; `flags` and `mode` as in `os.open`.

    It may be the `opener` of `open`.  Raises `OSError` for what is no regular file:
    others may write to the directory, and are neither to choose by a symbolic link
    what is written to, nor to have us wait for a pipe.
    """
    try:
        handle = os.open(path, flags | _CAREFUL, mode)
    except OSError as error:
        if error.errno == errno.ELOOP:
            error.strerror = "it is a symbolic link, and those are not followed here"
        raise
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(errno.EINVAL, "it is not a file", path)
    return handle


def write_all(file, data):
    """Write all of `data` (bytes or alike) to `file`, which has no buffer."""
    rest = memoryview(data)
    while rest:
        rest = rest[file.write(rest) :]


def lock_holder(path):
    """Return the process (str) that has a file locked, as far as Linux tells."""
    try:
        inode = os.stat(path).st_ino
        with open("/proc/locks", encoding="ascii") as file:
            for line in file:
                parts = line.split()
                if parts[5:6] and parts[5].endswith(f":{inode}"):
                    return parts[4]
    except (OSError, UnicodeDecodeError):
        pass
    return None
