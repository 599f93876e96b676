"""Errors that are kept until somebody asks: those of calls without a reply."""


def kept(error):
    """Return `error`, an exception, without the frames that it has come through.

    They would hold on to their variables, such as a record of any size that a client
    was not allowed to store, for as long as the error is kept.
    """
    error.__cause__ = error.__context__ = None
    return error.with_traceback(None)
