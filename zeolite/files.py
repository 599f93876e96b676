"""What both sides do with files."""


def write_all(file, data):
    """Write all of `data` (bytes or alike) to `file`, which has no buffer."""
    rest = memoryview(data)
    while rest:
        rest = rest[file.write(rest) :]
