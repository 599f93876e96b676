"""What a server must hold against, as scripts that anyone can point at their own.

    python -m tests.hostile silent|slow|half|large|bombs HOST:PORT
    python -m tests.hostile table

The first form says what a server on this machine does about it; other hosts are
refused.  The second starts a ZEO server and a Zeolite server of its own, does all
of it to both, and prints the table of README.
"""
