"""The messages that are most of the traffic, without the pickle module.

The bytes are pickles all the same, and any peer reads them as such:

    loadBefore   80 03 ( J id K 0 X 10 loadBefore C 8 oid C 8 tid 86 t .
    vote ...     80 03 ( J id K 0 X size name J transaction 85 t .
    tpc_begin    80 03 ( K 0 K 1 X 9 tpc_begin ( J transaction C size user
                         C size description C size extension N X 1 " " t t .
    storea       80 03 ( K 0 K 1 X 6 storea ( C 8 oid [C 8 serial | N]
                         B size data J transaction t t .
    info         80 03 ( K 0 K 1 X 4 info } ( X 6 length 8A 8 length
                         X 4 size 8A 8 size u 85 t .
    reply        80 03 ( J id K 0 X 6 .reply result t .
      to a load  B size data C 8 start [C 8 end | N] 87
      to others  C 8 tid  or  ]  or  N

What packs returns None for what is of other types, and what unpacks for what are
not exactly these bytes.  Such messages take the long way, in `messages`.
"""

import struct

_MAXIMUM = 2**31 - 1
_START = b"\x80\x03(J"
_BYTES_8 = b"C\x08"
_SHORT_BYTES = ord("C")
_BYTE = [bytes((number,)) for number in range(256)]


def _text(name):
    return b"X" + struct.pack("<I", len(name)) + name


def _is_number(value):
    return type(value) is int and -1 <= value <= _MAXIMUM


def is_id(value):
    """Whether `value` is an oid, a tid or a serial."""
    return type(value) is bytes and len(value) == 8


# Loads.

_LOAD_NAME = b"K\x00" + _text(b"loadBefore") + _BYTES_8
_LOAD = struct.Struct(f"<4si{len(_LOAD_NAME)}s8s2s8s3s")
_LOAD_END = b"\x86t."


def pack_load(message_id, oid, tid):
    """Return a call of `loadBefore` (bytes)."""
    if message_id > _MAXIMUM or len(oid) != 8 or len(tid) != 8:
        return None
    return _LOAD.pack(_START, message_id, _LOAD_NAME, oid, _BYTES_8, tid, _LOAD_END)


def unpack_load(data):
    """Return (message id, oid, tid) if `data` is a call of `loadBefore`."""
    if len(data) != _LOAD.size:
        return None
    start, message_id, name, oid, mark, tid, end = _LOAD.unpack(data)
    if name != _LOAD_NAME or start != _START or end != _LOAD_END or mark != _BYTES_8:
        return None
    return message_id, oid, tid


# Other calls.

#: Calls whose only argument is the number of a transaction, by name.
_SHORT = {}
#: (name, struct, bytes of the name), by the size of the call.
_SHORT_BY_SIZE = {}
_SHORT_END = b"\x85t."

for _name in ("vote", "tpc_finish", "tpc_abort"):
    _middle = b"K\x00" + _text(_name.encode()) + b"J"
    _form = struct.Struct(f"<4si{len(_middle)}si3s")
    _SHORT[_name] = _form, _middle
    _SHORT_BY_SIZE[_form.size] = _name, _form, _middle

_ONE_WAY = b"\x80\x03(K\x00K\x01"

_BEGIN = struct.Struct("<i")
_BEGIN_START = _ONE_WAY + _text(b"tpc_begin") + b"(J"
_BEGIN_AT = len(_BEGIN_START) + _BEGIN.size
# A recovered transaction has a tid, and may have another status.
_BEGIN_END = b"NX\x01\x00\x00\x00 tt."

_STORE_START = _ONE_WAY + _text(b"storea") + b"(" + _BYTES_8
_STORE_AT = len(_STORE_START)
_STORE_NEW = struct.Struct("<8s2sI")
_STORE = struct.Struct("<8s2s8ssI")
_STORE_TAIL = struct.Struct("<si3s")
_STORE_END = b"tt."
# The least that both ways to read the head of a store can be tried on.
_STORE_LEAST = _STORE_AT + _STORE.size


def pack_call(message_id, name, args):
    """Return a call (bytes) with the number of a transaction, such as a vote."""
    form = _SHORT.get(name)
    if form is None or len(args) != 1:
        return None
    if not _is_number(message_id) or not _is_number(args[0]):
        return None
    form, middle = form
    return form.pack(_START, message_id, middle, args[0], _SHORT_END)


def pack_one_way(name, args):
    """Return a call of `storea` or `tpc_begin`, or the server's of `info` (bytes)."""
    if name == "storea":
        return _pack_store(args)
    if name == "tpc_begin":
        return _pack_begin(args)
    return _pack_info(args) if name == "info" else None


def _pack_begin(args):
    if len(args) != 6 or args[4:] != (None, " ") or not _is_number(args[0]):
        return None
    pieces = [_BEGIN_START, _BEGIN.pack(args[0])]
    for text in args[1:4]:
        if type(text) is not bytes or len(text) > 255:
            return None
        pieces += b"C", _BYTE[len(text)], text
    pieces.append(_BEGIN_END)
    return b"".join(pieces)


def _unpack_begin(data):
    at, texts = _BEGIN_AT, []
    try:
        for _ in range(3):
            if data[at] != _SHORT_BYTES:
                return None
            stop = at + 2 + data[at + 1]
            texts.append(data[at + 2 : stop])
            at = stop
    except IndexError:
        return None
    if data[at:] != _BEGIN_END:
        return None
    (number,) = _BEGIN.unpack_from(data, len(_BEGIN_START))
    return 0, 1, "tpc_begin", (number, *texts, None, " ")


def _pack_store(args):
    if len(args) != 4:
        return None
    oid, serial, data, number = args
    if type(data) is not bytes or not is_id(oid) or not _is_number(number):
        return None
    if serial is None:
        head = _STORE_NEW.pack(oid, b"NB", len(data))
    elif is_id(serial):
        head = _STORE.pack(oid, _BYTES_8, serial, b"B", len(data))
    else:
        return None
    tail = _STORE_TAIL.pack(b"J", number, _STORE_END)
    return b"".join((_STORE_START, head, data, tail))


def unpack_call(data):
    """Return the message if `data` (bytes) is one of these calls, but no load."""
    form = _SHORT_BY_SIZE.get(len(data))
    if form is not None:
        name, form, middle = form
        start, message_id, found, number, end = form.unpack(data)
        if found == middle and start == _START and end == _SHORT_END:
            return message_id, 0, name, (number,)
    elif data.startswith(_STORE_START) and len(data) >= _STORE_LEAST:
        return _unpack_store(data)
    elif data.startswith(_BEGIN_START):
        return _unpack_begin(data)
    return None


def _unpack_store(data):
    oid, mark, size = _STORE_NEW.unpack_from(data, _STORE_AT)
    if mark == b"NB":
        serial, at = None, _STORE_AT + _STORE_NEW.size
    else:
        oid, mark, serial, mark_2, size = _STORE.unpack_from(data, _STORE_AT)
        at = _STORE_AT + _STORE.size
        if mark != _BYTES_8 or mark_2 != b"B":
            return None
    end_at = at + size
    if len(data) != end_at + _STORE_TAIL.size:
        return None
    mark, number, end = _STORE_TAIL.unpack_from(data, end_at)
    if mark != b"J" or end != _STORE_END:
        return None
    return 0, 1, "storea", (oid, serial, data[at:end_at], number)


# The server's call.

_INFO_START = _ONE_WAY + _text(b"info") + b"}(" + _text(b"length") + b"\x8a\x08"
_INFO_MIDDLE = _text(b"size") + b"\x8a\x08"
_INFO_END = b"u\x85t."
_INFO = struct.Struct(f"<{len(_INFO_START)}sq{len(_INFO_MIDDLE)}sq{len(_INFO_END)}s")


def _pack_info(args):
    if len(args) != 1 or type(args[0]) is not dict:
        return None
    info = args[0]
    length, size = info.get("length"), info.get("size")
    if len(info) != 2 or type(length) is not int or type(size) is not int:
        return None
    try:
        return _INFO.pack(_INFO_START, length, _INFO_MIDDLE, size, _INFO_END)
    except struct.error:  # A larger number than any storage has.
        return None


def _unpack_info(data):
    start, length, middle, size, end = _INFO.unpack(data)
    if start != _INFO_START or middle != _INFO_MIDDLE or end != _INFO_END:
        return None
    return 0, 1, "info", ({"length": length, "size": size},)


# Replies.

_REPLY_NAME = b"K\x00" + _text(b".reply")
_REPLY = struct.Struct(f"<4si{len(_REPLY_NAME)}s")
_REPLY_AT = _REPLY.size
_LOADED = struct.Struct(f"<4si{len(_REPLY_NAME) + 1}sI")
_LOADED_NAME = _REPLY_NAME + b"B"
_CURRENT = struct.Struct("2s8s4s")
_CURRENT_END = b"N\x87t."
_EARLIER = struct.Struct("2s8s2s8s3s")
_EARLIER_END = b"\x87t."
_END = b"t."


def pack_loaded(message_id, found):
    """Return the reply (bytes) to a `loadBefore`, which has `found` something."""
    if found is None or not _is_number(message_id):
        return None
    data, start, end = found
    head = _LOADED.pack(_START, message_id, _LOADED_NAME, len(data))
    if end is None:
        tail = _CURRENT.pack(_BYTES_8, start, _CURRENT_END)
    else:
        tail = _EARLIER.pack(_BYTES_8, start, _BYTES_8, end, _EARLIER_END)
    return b"".join((head, data, tail))


def pack_reply(message_id, result):
    """Return the reply (bytes) to a vote, a commit, and calls like these."""
    if result is None:
        tail = b"Nt."
    elif is_id(result):
        tail = _BYTES_8 + result + _END
    elif result == [] and type(result) is list:
        tail = b"]t."
    else:
        return None
    if not _is_number(message_id):
        return None
    return _REPLY.pack(_START, message_id, _REPLY_NAME) + tail


def unpack_loaded(data):
    """Return (message id, found) if `data` (bytes) is the reply to a `loadBefore`."""
    if len(data) < _LOADED.size:
        return None
    start, message_id, name, size = _LOADED.unpack_from(data)
    if name != _LOADED_NAME or start != _START:
        return None
    stop = _LOADED.size + size
    left = len(data) - stop
    if left == _CURRENT.size:
        mark, tid, end = _CURRENT.unpack_from(data, stop)
        if mark == _BYTES_8 and end == _CURRENT_END:
            return message_id, (data[_LOADED.size : stop], tid, None)
    elif left == _EARLIER.size:
        mark, tid, mark_2, next_tid, end = _EARLIER.unpack_from(data, stop)
        if mark == mark_2 == _BYTES_8 and end == _EARLIER_END:
            return message_id, (data[_LOADED.size : stop], tid, next_tid)
    return None


def unpack_reply(data):
    """Return the message if `data` (bytes) is another of these replies, or `info`."""
    if len(data) == _INFO.size:
        return _unpack_info(data)
    return _unpack_small(data, len(data))


def _unpack_small(data, size):
    if not _REPLY_AT + 3 <= size <= _REPLY_AT + 12:
        return None
    start, message_id, name = _REPLY.unpack_from(data)
    if start != _START or name != _REPLY_NAME:
        return None
    tail = data[_REPLY_AT:]
    if tail == b"Nt.":
        result = None
    elif tail == b"]t.":
        result = []
    elif tail[:2] == _BYTES_8 and tail[10:] == _END:
        result = tail[2:10]
    else:
        return None
    return message_id, 0, ".reply", result
