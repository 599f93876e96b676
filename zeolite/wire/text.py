"""Text from a peer, or about what it has sent, as one line for people; and what an
exception says, whoever has made it.
"""


def printable(text):
    """Return `text` with escapes for what is not to be seen: line breaks, what a
    terminal would obey, halves of surrogates, marks that turn the direction.

    Whoever reads a line, be it in a log or in an error, is to see one line.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def text_of(error):
    """Return what an exception says (str); of one that says nothing, its class's name.

    Nor can each say something: ZODB's `POSKeyError` fails without an oid.
    """
    try:
        return str(error) or type(error).__name__
    except Exception:
        return type(error).__name__
