"""Text from a peer, or about what it has sent, as one line for people."""


def printable(text):
    """Return `text` with escapes for what is not to be seen: line breaks, what a
    terminal would obey, halves of surrogates, marks that turn the direction.

    Whoever reads a line, be it in a log or in an error, is to see one line.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
