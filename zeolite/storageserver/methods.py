"""What a call is to the server: a function, and the types of its arguments.

The functions named `is_...` say whether a value is of a type.
"""

from ZODB.POSException import ReadOnlyError

from ..errors import ProtocolError
from ..wire.packed import is_id


class Method:
    """A function that clients may call, and the types of its arguments.

    The last `optional` arguments may be left out.  With `delayed` the function is
    given the message id as well, and may answer later.  With `helper` it runs in
    a thread of its own.  Read-only clients may not call what `writes`.
    """

    def __init__(
        self,
        function,
        *checks,
        optional=0,
        delayed=False,
        helper=False,
        writes=False,
    ):
        self.writes = writes
        self._function = function
        self._checks = checks
        self._least = len(checks) - optional
        self._delayed = delayed
        self._helper = helper
        #: Whether another thread may answer it.
        self.may_answer_later = delayed or helper

    def check(self, name, args):
        """Raise `ProtocolError` unless `args` are what the method takes."""
        if not self._least <= len(args) <= len(self._checks):
            raise ProtocolError(f"{name} with {len(args)} arguments")
        for check, arg in zip(self._checks, args):
            if not check(arg):
                raise ProtocolError(f"{name} with a {type(arg).__name__} of wrong kind")

    def run(self, session, message_id, args):
        """Call the function; return its result, or `DELAYED`."""
        if self.writes and session.read_only:
            raise ReadOnlyError()
        if self._delayed or self._helper:
            # Another thread's reply must not overtake what is due before it.
            session.delivery.flush()
        if self._delayed:
            return self._function(session, *args, message_id)
        if self._helper:
            name = self._function.__name__.strip("_")

            def respond(answer):
                session.respond(message_id, name, answer, may_wait=True)

            return session.served.helpers.run(
                session, name, respond, self._function, session, *args
            )
        return self._function(session, *args)


def is_oid(value):
    """An oid that may be stored: storages count on from the largest."""
    return is_id(value) and value[0] < 0x80


def is_id_or_none(value):
    """For instance a serial, None for an object that is new."""
    return value is None or is_id(value)


def is_serial(value):
    """What was read before: None, zeros or, from careless clients, text of zeros."""
    return is_id_or_none(value) or value == "\0" * 8


def is_a(*types):
    return lambda value: type(value) in types


def is_list_of_ints(value):
    return type(value) in (list, tuple) and all(type(item) is int for item in value)


is_text = is_a(str, bytes)
is_int = is_a(int)
is_flag = is_a(bool, int)
is_bytes = is_a(bytes)
is_chunk = is_a(bytes, memoryview)
is_data = is_a(bytes, type(None))
