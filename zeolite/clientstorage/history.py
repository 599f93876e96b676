"""Undo logs with a filter that only the client can apply."""

#: How many entries are asked for at once.
BATCH = 100


def filtered_undo_log(undo_log, first, last, filter):
    """Return entries number `first` to `last` of those that `filter` is true for.

    A negative `last` is the number of entries wanted, as ZODB has it.
    `undo_log(first, last)` is the server's.
    """
    wanted = -last if last < 0 else last - first
    found, position = [], 0
    while len(found) < first + wanted:
        batch = undo_log(position, position + BATCH)
        found += [entry for entry in batch if filter(entry)]
        position += BATCH
        if not batch:
            break
    return found[first : first + wanted]
