"""Starts a server as systemd does for a socket unit.

    python -m tests.support.activation COUNT DESCRIPTOR ARGUMENTS...

runs `python -m zeolite ARGUMENTS` with the socket of that number at descriptor 3.
"""

import os
import sys


def main(count, descriptor, *arguments):
    os.dup2(int(descriptor), 3, inheritable=True)
    environment = {
        **os.environ,
        "LISTEN_PID": str(os.getpid()),
        "LISTEN_FDS": count,
        "LISTEN_FDNAMES": "zeolite.socket",
    }
    command = [sys.executable, "-m", "zeolite", *arguments]
    os.execve(sys.executable, command, environment)


if __name__ == "__main__":
    main(*sys.argv[1:])
