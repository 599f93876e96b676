"""Threads for what can also be done another time, or in another way."""


def try_start(thread):
    """Start a `threading.Thread`; return whether the system had room for one more."""
    try:
        thread.start()
    except RuntimeError:
        return False
    return True
