"""What there is to be said of a configuration, by looking and never touching."""

import errno
import os
import socket
import stat

from ..errors import ConfigurationError
from ..files import lock_holder
from ..storageserver.admission import is_everywhere
from ..wire.channel import format_address
from .terminal import size


class Findings:
    """Problems keep a server from starting; warnings do not.  Both are texts."""

    def __init__(self):
        self.problems = []
        self.warnings = []


# Sections as ZConfig has them.


def is_section(value):
    """Whether a key's value is a section, or has been made of one."""
    return values_of(value) is not None


def values_of(value):
    """Return the ZConfig section that a value is or was made of, or None."""
    for found in (value, *(getattr(value, n, None) for n in ("config", "values"))):
        if hasattr(found, "getSectionAttributes"):
            return found
    return None


def settings(section):
    """Return a list of (key, value, default); a section has no default."""
    found = []
    for key, info in section.getSectionDefinition():
        if info.ismulti() and info.issection():
            values = getattr(section, info.attribute) or []
            found += [(key, value, None) for value in values]
        elif info.attribute is not None and hasattr(section, info.attribute):
            name = key or info.attribute.replace("_", "-")
            value = getattr(section, info.attribute)
            found.append((name, value, _default(section, info)))
    return found


def _default(section, info):
    if info.issection():
        return None
    default = info.getdefault()
    if isinstance(default, list):
        return [one.convert(info.datatype) for one in default]
    return None if default is None else default.convert(info.datatype)


def shown(value, key=None):
    """Return the value of a key as a file would have it."""
    if key == "unix-socket-mode":
        return f"{value:04o}"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return ", ".join(map(shown, value))
    if isinstance(value, tuple) and len(value) == 2:
        return format_address(value)
    return f"{value:g}" if isinstance(value, float) else str(value)


# What there is.


def tls(configuration):
    """Return what a server's TLS would be, as text.

    Raises the server's `ConfigurationError` for files that cannot be used.
    """
    settings = configuration.section.tls
    if settings is None:
        return "none"
    try:
        settings.server_context()
    except ConfigurationError as error:
        line = configuration.line_of_tls()
        raise configuration.error(str(error), line) from error
    if settings.authenticate:
        return f"with certificates of clients from {settings.authenticate}"
    return "encrypted; clients need no certificate"


def check_fit(configuration):
    """Raise the server's `ConfigurationError` for options that contradict its address."""
    section = configuration.section
    try:
        section.options.check_fit(section.address)
    except ConfigurationError as error:
        line = configuration.line_of_key("unix-socket-mode")
        raise configuration.error(str(error), line) from error


def log_paths(eventlog):
    """Return the paths (list of str) that an `<eventlog>` section names."""
    sections = [factory.section for factory in eventlog.handler_factories]
    paths = [getattr(section, "path", None) for section in sections]
    return [path for path in paths if path]


def check_address(findings, address, tls):
    """Look at where a server would listen."""
    if isinstance(address, str):
        _check_socket(findings, address)
        return
    if is_everywhere(address[0]) and tls is None:
        findings.warnings.append(
            f"address {format_address(address)}: all interfaces, without TLS: whoever "
            "reaches the port has all data; name a host, or add an ssl section"
        )
    _check_port(findings, "address", address)


def check_monitor(findings, address):
    """Look at where a server's monitor would listen, None for nowhere."""
    if address is None:
        return
    if is_everywhere(address[0]):
        findings.warnings.append(
            f"monitor-address {format_address(address)}: all interfaces: whoever reaches "
            "the port may see names and addresses of clients; name a host"
        )
    _check_port(findings, "monitor-address", address)


def _check_port(findings, key, address):
    host, port = address
    if not port:
        return
    try:
        family, *_ = socket.getaddrinfo(
            host or "0.0.0.0", port, type=socket.SOCK_STREAM
        )[0]
        with socket.socket(family) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(address)
    except OSError as error:
        where = format_address(address)
        if error.errno == errno.EADDRINUSE:
            findings.warnings.append(
                f"{key} {where}: in use at the moment, by this server or another "
                "program"
            )
        else:
            reason = error.strerror or error
            findings.problems.append(f"{key}: cannot listen at {where}: {reason}")


def _check_socket(findings, path):
    _check_directory(findings.problems, f"address {path}", path)
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return
    if not stat.S_ISSOCK(mode):
        findings.problems.append(f"cannot listen at {path}: it is there, and no socket")
        return
    with socket.socket(socket.AF_UNIX) as sock:
        sock.setblocking(False)
        if sock.connect_ex(path) == 0:
            findings.warnings.append(f"address {path}: a server listens there already")


def check_server(findings, section, eventlog):
    """Look at the other files of a server."""
    if section.pid_filename:
        # A server starts without one, and logs why.
        label = f"pid-filename {section.pid_filename}"
        _check_directory(findings.warnings, label, section.pid_filename)
    if not section.options.transaction_timeout:
        findings.warnings.append(
            "transaction-timeout 0: a client that hangs in its commit stops the "
            "commits of all others"
        )
    for path in log_paths(eventlog) if eventlog is not None else ():
        if path in ("STDOUT", "STDERR"):
            continue
        _check_directory(findings.problems, f"log {path}", path)
        if os.path.isdir(path):
            findings.problems.append(f"log {path}: is a directory")


def check_storage(findings, label, section, options):
    """Look at the files of a storage section, and of the sections in it.

    `options` is the server's `ServerOptions`.
    """
    kind = section.getSectionType()
    for name, value, _ in settings(section):
        if values_of(value) is not None:
            check_storage(findings, label, values_of(value), options)
        elif value and name == "path" and kind == "filestorage":
            _check_data(findings, f"{label}: path {value}", value, section)
        elif value and name == "blob-dir":
            _check_blobs(findings, f"{label}: blob-dir {value}", value)
    if kind == "mappingstorage":
        findings.warnings.append(
            f"{label}: mappingstorage: its data are gone when the server ends"
        )
    elif kind == "relstorage":
        _check_relstorage(findings, label, section, options)


def _check_relstorage(findings, label, section, options):
    refused = "cannot be used with a storage that servers share; leave it out"
    if options.client_conflict_resolution:
        findings.problems.append(f"{label}: client-conflict-resolution {refused}")
    if section.ro_replica_conf:
        findings.problems.append(f"{label}: ro-replica-conf {refused}")


def _check_data(findings, label, path, section):
    if not _check_directory(findings.problems, label, path):
        return
    read_only = getattr(section, "read_only", False)
    try:
        found = os.stat(path)
    except FileNotFoundError:
        if read_only:
            findings.problems.append(f"{label}: is not there, and read-only is set")
        else:
            findings.warnings.append(f"{label}: is not there yet; it would be made")
        return
    except OSError as error:
        findings.problems.append(f"{label}: {error.strerror}")
        return
    if not stat.S_ISREG(found.st_mode):
        findings.problems.append(f"{label}: is no file")
    elif not os.access(path, os.R_OK if read_only else os.R_OK | os.W_OK):
        findings.problems.append(f"{label}: may not be written by this user")
    elif found.st_size and not _begins_like_data(path):
        findings.problems.append(f"{label}: is no file storage's")
    else:
        print(f"  {path}: {size(found.st_size)}")
    holder = None if read_only else lock_holder(path + ".lock")
    if holder:
        findings.warnings.append(f"{label}: is open in process {holder} at the moment")


def _begins_like_data(path):
    with open(path, "rb") as file:
        return file.read(2) == b"FS"


def _check_blobs(findings, label, path):
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        findings.warnings.append(f"{label}: is not there yet; it would be made")
        return
    except OSError as error:
        findings.problems.append(f"{label}: {error.strerror}")
        return
    if not stat.S_ISDIR(mode):
        findings.problems.append(f"{label}: is no directory")
    elif not os.access(path, os.R_OK | os.W_OK | os.X_OK):
        findings.problems.append(f"{label}: may not be written by this user")
    elif mode & 0o077:
        findings.warnings.append(
            f"{label}: others than its owner may enter it (mode "
            f"{stat.S_IMODE(mode):04o}); blobs are data, too: chmod 700"
        )


def _check_directory(told, label, path):
    """Look at the directory of a file that would be made; return if it is there.

    What is wrong with it is added to the list `told`.
    """
    directory = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(directory):
        told.append(f"{label}: there is no directory {directory}")
        return False
    if not os.access(directory, os.W_OK | os.X_OK):
        told.append(f"{label}: nothing can be made in {directory}")
        return False
    return True
