"""What to say of a server that speaks something else."""

from ..wire import messages

#: How other servers greet, and what they are.
_STRANGERS = {
    b"SSH-": "an SSH server",
    b"HTTP/": "a web server (HTTP)",
    b"* OK": "an IMAP server",
    b"+OK": "a POP3 server",
    b"-ERR": "a Redis or POP3 server",
}


def refusal(offered):
    """Say what is wrong with a server, by the first bytes (bytes) that it says."""
    wanted = messages.PROTOCOL.decode()
    if len(offered) < 8 and offered[:1] == b"M":
        return (
            f"the server speaks {offered.decode('latin-1')} (msgpack), "
            f"not {wanted}: switch msgpack off on the server"
        )
    if len(offered) < 8 and offered[:1] == b"Z":
        return (
            f"the server speaks {offered.decode('latin-1')}, another version of ZEO's "
            f"protocol, not {wanted}"
        )
    for start, stranger in _STRANGERS.items():
        if offered.startswith(start):
            return (
                f"{stranger} answers there, not a ZEO or Zeolite server; look at the "
                "port"
            )
    line = offered.split(b"\n")[0].strip()[:40].decode("latin-1")
    return f"no ZEO or Zeolite server answers there: it says {line!r}; look at the port"
