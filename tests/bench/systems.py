"""What is compared: the floor, FileStorage in process, ZEO, Zeolite.

A system is known by its name.  A target is where a client process finds one: a
dictionary with `system` and, depending on it, `port`, `path` or `section`; `cpu` is
where its client is to run, None or missing for any; for servers `tls` (see `tls.py`)
or None.
"""

import contextlib
import functools
import socket
import time

from . import tls
from .processes import Failed, Worker, stop, tail

FLOOR = "floor"
FILE_STORAGE = "FileStorage"
ZEO = "ZEO"
ZEOLITE = "Zeolite"

#: Without a server; only for `growing`.
RELSTORAGE = "RelStorage"

#: In the order of the table's columns.
SYSTEMS = FLOOR, FILE_STORAGE, ZEO, ZEOLITE

SERVERS = ZEO, ZEOLITE

_MODULES = {ZEO: "ZEO.runzeo", ZEOLITE: "zeolite"}

_HOST = "127.0.0.1"

_WITH_BLOBS = """\
<zeo>
  address {}:{}
</zeo>
<filestorage>
  path {}
  blob-dir {}
</filestorage>
"""

#: Seconds that a server may take until it accepts.
_START_PATIENCE = 30

_TROUBLE = "ERROR", "CRITICAL", "Traceback"


@contextlib.contextmanager
def available(scratch, system, path):
    """Make the database at `path` available through a system; give its target."""
    if system == FILE_STORAGE:
        yield {"system": system, "path": str(path)}
    elif system == FLOOR:
        with answering(scratch) as target:
            yield target
    else:
        with serving(scratch, system, path) as (target, _):
            yield target


@contextlib.contextmanager
def serving(scratch, system, path, *, blob_dir=None, encrypted=None):
    """Run a server on the file at `path`; give its target and its process id.

    `encrypted` is what its target has as `tls`.
    """
    log = scratch.fresh("server.log")
    port = free_port()
    arguments = ["-a", f"{_HOST}:{port}", "-f", path]
    if encrypted:
        arguments = tls.arguments(scratch, encrypted, _HOST, port, path, blob_dir)
    elif blob_dir is not None:
        arguments = ["-C", scratch.fresh("server.conf")]
        arguments[1].write_text(_WITH_BLOBS.format(_HOST, port, path, blob_dir))
    target = {"system": system, "port": port, "tls": encrypted}
    process = scratch.start(["-m", _MODULES[system], *arguments], log)
    try:
        _wait_until_it_speaks(target, process, log)
        yield target, process.pid
    finally:
        if process.poll() is not None:
            scratch.notes.append(f"{system}: the server ended by itself\n{tail(log)}")
        elif not stop(process):
            scratch.notes.append(f"{system}: the server had to be killed\n{tail(log)}")
        _look_for_trouble(scratch, system, log)


@contextlib.contextmanager
def configured(scratch, text):
    """Run a server with a configuration that has `{port}`; like `serving`."""
    log, path, port = scratch.fresh("server.log"), scratch.fresh("s.conf"), free_port()
    path.write_text(text.replace("{port}", str(port)))
    target = {"system": ZEOLITE, "port": port, "tls": None}
    process = scratch.start(["-m", _MODULES[ZEOLITE], "-C", path], log)
    try:
        _wait_until_it_speaks(target, process, log)
        yield target, process.pid
    finally:
        if not stop(process):
            scratch.notes.append(f"the server had to be killed\n{tail(log)}")
        _look_for_trouble(scratch, ZEOLITE, log)


@contextlib.contextmanager
def answering(scratch, cpus=(None, None)):
    """Run the other end of the floor; give its target.

    `cpus` are the CPUs (int) where it and its client are to run, None for any.
    """
    port = free_port()
    with Worker(scratch, "answer", port=port, cpu=cpus[0]) as worker:
        worker.wait_until_ready()
        worker.go()
        yield {"system": FLOOR, "port": port, "cpu": cpus[1]}


def open_storage(target, **options):
    """Return a storage for a target.  For client processes.

    `options` are for client storages.
    """
    if target["system"] == FILE_STORAGE:
        from ZODB.FileStorage import FileStorage

        return FileStorage(target["path"])
    if target["system"] == RELSTORAGE:
        import ZODB.config

        return ZODB.config.storageFromString(target["section"])
    address = _HOST, target["port"]
    if target["system"] == ZEO:
        import ZEO as package
    else:
        import zeolite as package
    encrypted = target.get("tls")
    context = tls.context(encrypted) if encrypted else None
    return package.client(address, ssl=context, **options)


def free_port():
    """Return the number of a port that nobody uses at the moment."""
    with socket.create_server((_HOST, 0)) as listening:
        return listening.getsockname()[1]


def _wait_until_it_speaks(target, process, log):
    address = _HOST, target["port"]
    wrap = contextlib.nullcontext
    if target["tls"]:
        context = tls.context(target["tls"])
        wrap = functools.partial(context.wrap_socket, server_hostname=_HOST)
    deadline = time.monotonic() + _START_PATIENCE
    while process.poll() is None and time.monotonic() < deadline:
        try:
            with (
                socket.create_connection(address, timeout=5) as sock,
                wrap(sock) as connection,
            ):
                # Accepting is the kernel's doing, the greeting is the server's.
                # What is not read would make the server see a reset.
                if connection.recv(64):
                    if target["tls"]:
                        with contextlib.suppress(OSError):
                            connection.unwrap()  # Not with a reset.
                    return
        except OSError:
            pass
        time.sleep(0.05)
    raise Failed(f"{target['system']}: the server does not answer\n{tail(log)}")


def _look_for_trouble(scratch, system, log):
    with open(log, errors="replace") as file:
        found = [line for line in file if any(word in line for word in _TROUBLE)]
    if found:
        first = found[0].strip()
        scratch.notes.append(f"{system}: {len(found)} errors in the log: {first}")
