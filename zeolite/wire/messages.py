"""Messages: `(message id, flag, name, args)` as pickles, and errors in them.

    kind                      message id       flag   name       args
    call that wants a reply   any, unique      0      method     tuple
    call that wants none      0                1      method     tuple
    reply                     the call's       0      ".reply"   the result
    error reply               the call's       2      ".reply"   (class, details)
    keep-alive                -1               0      ".reply"   None

Sending is plain pickle, because what is sent is made here.  Receiving goes
through the unpicklers below, which know a short list of names.  The reason for
each entry stands beside it.
"""

import io
import pickle

import ZODB.POSException
from ZODB.POSException import ConflictError

from .. import errors
from ..errors import ProtocolError, ServerException
from . import packed
from .chunks import decode_chunk
from .frames import frame
from .packed import is_id
from .pickles import unpickler
from .text import text_of

#: What is sent to say which protocol is spoken: pickles, version 5.
PROTOCOL = b"Z5"

#: What a monitor sends instead, to be told the server's status.
MONITOR = b"ruok"

REPLY = ".reply"
KEEP_ALIVE = -1
PLAIN_REPLY, ONE_WAY, ERROR_REPLY = 0, 1, 2


# What a peer may name.


def _no_bytes():
    # `bytes()` with an argument could be asked for a terabyte.
    return b""


def _latin1(text, encoding):
    if encoding not in ("latin1", "latin-1"):
        raise ProtocolError("bytes in an unknown encoding")
    return text.encode("latin-1")


def _binary(data=b""):
    if not isinstance(data, bytes):
        raise ProtocolError("zodbpickle.binary of something else than bytes")
    return data


def _exception(class_, state):
    """An exception of ZODB's, from its class and its `__dict__`."""
    if class_ not in _ZODB_EXCEPTIONS or type(state) is not dict:
        raise ProtocolError("not an exception")
    return _with_state(class_, state)


def _with_state(class_, state):
    error = class_.__new__(class_)
    state = dict(state)
    error.args = tuple(state.pop("args", ()))
    error.__dict__.update(state)
    return error


_PLAIN = {
    # Protocol 3 has no opcodes for these three.
    ("builtins", "set"): set,
    ("builtins", "frozenset"): frozenset,
    ("builtins", "complex"): complex,
    # Subclasses of these are often written as a call of the base class.
    ("builtins", "dict"): dict,
    ("builtins", "list"): list,
    # How protocol 2 writes empty bytes.
    ("builtins", "bytes"): _no_bytes,
    # How protocol 2 writes bytes.
    ("_codecs", "encode"): _latin1,
    # How Python 2 and old databases spell bytes.
    ("zodbpickle", "binary"): _binary,
}

_ZODB_EXCEPTIONS = frozenset(
    value
    for value in vars(ZODB.POSException).values()
    if isinstance(value, type) and issubclass(value, Exception)
)

_BUILTIN_ERRORS = {
    "KeyError": KeyError,
    "TypeError": TypeError,
    "ValueError": ValueError,
}

# What a server tells that is itself a client of another server, under the names
# that they have there.  Both are made from their arguments.
_OUR_MODULE = "zeolite.errors"
_CLIENT_ERRORS = {
    (_OUR_MODULE, "ClientDisconnected"): errors.ClientDisconnected,
    (_OUR_MODULE, "CommitInDoubt"): errors.CommitInDoubt,
    ("ZEO.Exceptions", "ClientDisconnected"): errors.ClientDisconnected,
}

# Errors may hold errors (an UndoError in MultipleUndoErrors), and old servers
# reply with an exception's class and instance.
_ERRORS = {(e.__module__, e.__name__): e for e in _ZODB_EXCEPTIONS} | {
    ("ZODB.POSException", "_recon"): _exception,
}
_ERRORS |= {("builtins", name): error for name, error in _BUILTIN_ERRORS.items()}

#: Loads pickles of plain data, which are no messages.
load_plain = unpickler(_PLAIN, old_protocols=True)

#: The same for those that a client has just sent, which it may have made to be slow.
load_received = unpickler(_PLAIN, old_protocols=True, most_tuples=1000)


def load_extension(extension):
    """Return a transaction's extended info from its pickle (bytes).

    What is no plain data, an application's objects for instance, is left out.
    """
    try:
        found = load_plain(extension) if extension else {}
    except ProtocolError:
        return {}
    return found if type(found) is dict else {}


#: Bytes that a call may have beside strings of bytes, such as records.  Clients send
#: little else; the most are numbers of iterators and a transaction's extended info.
MOST_PLAIN = 1024 * 1024

#: How many tuples.  A stranger may have made them to be slow.
_MOST_TUPLES = 500

_load_call = unpickler(_PLAIN, most=MOST_PLAIN, most_tuples=_MOST_TUPLES)
_load_reply = unpickler(_PLAIN | _ERRORS)


# Encoding.


def _dumps(message):
    """Pickle a message without a memo, which the peer's `pickles` would limit."""
    file = io.BytesIO()
    pickler = pickle.Pickler(file, 3)
    pickler.fast = True
    pickler.dump(message)
    return file.getvalue()


def encode(message_id, flag, name, args):
    """Return the frame (bytes) of one message."""
    return frame(_dumps((message_id, flag, name, args)))


def encode_call(message_id, name, args):
    """Return the frame of a call that wants a reply."""
    data = packed.pack_call(message_id, name, args)
    return frame(data or _dumps((message_id, 0, name, args)))


def encode_load(message_id, oid, tid):
    """Return the frame of a call of `loadBefore`."""
    data = packed.pack_load(message_id, oid, tid)
    return frame(data or _dumps((message_id, 0, "loadBefore", (oid, tid))))


def encode_one_way(name, args):
    """Return the frame of a call that wants no reply."""
    data = packed.pack_one_way(name, args)
    return frame(data or _dumps((0, ONE_WAY, name, args)))


def encode_reply(message_id, result):
    """Return the frame of a reply."""
    data = packed.pack_reply(message_id, result)
    return frame(data or _dumps((message_id, PLAIN_REPLY, REPLY, result)))


def encode_loaded(message_id, found):
    """Return the frame of the reply to a `loadBefore`, `found`."""
    data = packed.pack_loaded(message_id, found)
    return frame(data) if data else encode_reply(message_id, found)


def encode_error(message_id, error):
    """Return the frame that tells the caller about `error`, an exception.

    What the caller's unpickler would refuse is told as text.
    """
    module = type(error).__module__
    if module == errors.__name__:
        module = _OUR_MODULE  # In a vendored copy, too.
    name = f"{module}.{type(error).__name__}"
    # What was noted on its way, such as where pickling has stopped, is for the log.
    state = {key: error.__dict__[key] for key in error.__dict__ if key != "__notes__"}
    for details in (state or error.args, (text_of(error),)):
        try:
            data = _dumps((message_id, ERROR_REPLY, REPLY, (name, details)))
            _load_reply(data)
        except Exception:
            continue
        return frame(data)
    return encode(message_id, ERROR_REPLY, REPLY, (name, ()))


#: How many values, and how deep, `plain_only` copies.
_MOST, _DEEPEST = 100_000, 50


def plain_only(value):
    """Return a copy of `value` that a peer's unpickler will take.

    Applications may have put anything into the extended info of transactions.
    What is not plain data is told as text, and what is too much as an ellipsis.
    """
    left = _MOST

    def copy(value, depth):
        nonlocal left
        left -= 1
        if left < 0 or depth > _DEEPEST:
            return "..."
        if type(value) is dict:
            return {copy(k, depth + 1): copy(v, depth + 1) for k, v in value.items()}
        if type(value) in (list, tuple):
            return type(value)([copy(item, depth + 1) for item in value])
        if value is None or type(value) in (str, bytes, int, float, bool):
            return value
        if isinstance(value, bytes):
            return bytes(value)  # zodbpickle.binary
        return f"<{type(value).__name__}>"

    return copy(value, 0)


# Decoding.

#: Returns (message id, oid, tid) if bytes are a call of `loadBefore`, or None.
decode_load = packed.unpack_load

#: Returns (message id, found) if bytes are the reply to one that found something.
decode_loaded = packed.unpack_loaded


def decode_call(data):
    """Return the message in `data` (bytes), which a client sent.

    In a memoryview, a chunk of a blob is a part of that.
    Raises `ProtocolError` for whatever is not a message.
    """
    if type(data) is memoryview:
        chunk = decode_chunk(data)
        if chunk is not None:
            return chunk
        data = bytes(data)
    return packed.unpack_call(data) or _checked(_load_call(data))


def decode_reply(data):
    """Return the message in `data` (bytes), which a server sent.

    Raises `ProtocolError` for whatever is not a message.
    """
    return packed.unpack_reply(data) or _checked(_load_reply(data))


def _checked(message):
    if type(message) is not tuple or len(message) != 4:
        raise ProtocolError("not a message of four parts")
    message_id, flag, name, args = message
    if type(name) is not str or type(flag) not in (int, bool):
        raise ProtocolError("a message without a name")
    if name != REPLY and type(args) is not tuple:
        raise ProtocolError("a call whose arguments are no tuple")
    if type(message_id) is not int:
        _check_id(message_id, 4)
    return message


#: Of a message id: parts of a tuple, and bytes or characters of a part.
_MOST_PARTS, _LONGEST_PART = 8, 1000


def _check_id(message_id, depth):
    """Raise unless `message_id` is of few plain parts: it is sent back as it came."""
    kind = type(message_id)
    if kind is tuple and depth:
        if len(message_id) > _MOST_PARTS:
            raise ProtocolError("a message id of too many parts")
        for part in message_id:
            _check_id(part, depth - 1)
    elif kind not in (int, str, bytes):
        raise ProtocolError("a message id of unknown type")
    elif kind is not int and len(message_id) > _LONGEST_PART:
        raise ProtocolError("a message id that is too long")


def is_error(flag, result):
    """Say whether a reply with that flag and result stands for an exception."""
    if flag:
        return True
    # What servers older than version 5 sent.
    return (
        type(result) is tuple and len(result) == 2 and isinstance(result[1], Exception)
    )


def rebuild_error(flag, result):
    """Return the exception for an error reply's result.

    An error of an unknown class, or with unexpected details, becomes a
    `ServerException`.
    """
    if type(result) is not tuple or len(result) != 2:
        return ServerException("an error without a name", result)
    name, details = result
    try:
        error = _rebuild(name, details) if flag else details
        if error is not None:
            _try_out(error)
            return error
    except Exception:
        pass  # Made of strange parts.
    if not flag:
        return ServerException(type(details).__name__, ())
    return ServerException(name, details)


def _try_out(error):
    """Raise if applications and ZODB could not do with `error` what they do."""
    str(error)
    if isinstance(error, ConflictError) and error.oid is not None:
        if not is_id(error.oid):
            raise ProtocolError("a conflict about no oid")


def _rebuild(name, details):
    if type(name) is not str:
        return None
    module, _, class_name = name.rpartition(".")
    if module in ("builtins", "exceptions"):
        class_ = _BUILTIN_ERRORS[class_name]
        return None if type(details) is dict else class_(*details)
    if (module, class_name) in _CLIENT_ERRORS:
        return _CLIENT_ERRORS[module, class_name](*details)
    class_ = _ERRORS.get((module, class_name))
    if class_ not in _ZODB_EXCEPTIONS:
        return None
    if type(details) is dict:
        error = _with_state(class_, details)
        if isinstance(error, ConflictError):
            # Its `__init__` would have to guess what its `__dict__` says.
            for attribute in ("message", "oid", "serials", "class_name"):
                error.__dict__.setdefault(attribute, None)
        return error
    return class_(*details)
