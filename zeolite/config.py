"""Configuration: from ZConfig's sections, or keys as text, to what they stand for.

The sections of `schema.xml` (a server's file) and `component.xml` (the
`<clientstorage>` section) are here, the types of their keys in `datatypes.py`.
"""

from __future__ import annotations

import dataclasses
import io
import os
import pathlib
import re
import ssl
from collections.abc import Mapping
from typing import Any

import ZConfig
import ZODB.config
from ZODB.FileStorage import FileStorage
from ZODB.MappingStorage import MappingStorage

from .clientstorage.addresses import parse
from .clientstorage.storage import ClientStorage
from .configloader import Loader, Place
from .datatypes import monitor_address
from .errors import ConfigurationError
from .storageserver.admission import is_everywhere
from .storageserver.options import ServerOptions
from .wire.tlssettings import TLSSettings

#: What a `ServerConfiguration` has for a path if it comes from no file.
COMMAND_LINE = "the command line"

#: The name of a storage that is nobody's.
_PLACEHOLDER = "zeolite-placeholder"

#: What begins with a section, and not with its keys.
_WHOLE_SECTION = re.compile(r"(\s|#.*\n|%.*\n)*<zeo(lite)?\s*>", re.IGNORECASE)

#: The keys of a `<zeolite>` section that are a `ServerOptions`.
_OPTIONS = [field.name for field in dataclasses.fields(ServerOptions)]


class ServerSection:
    """A `<zeolite>` or `<zeo>` section."""

    def __init__(self, section):
        #: All keys as ZConfig has them, for `python -m zeolite check`.
        self.values = section
        self.address = section.address
        self.pid_filename = section.pid_filename
        #: A `TLSSettings`, or None for no encryption.
        self.tls = section.ssl
        self.options = ServerOptions(
            **{name: getattr(section, name) for name in _OPTIONS}
        )


def _server_tls_problem(settings):
    """Return what a server cannot have in an `<ssl>` section, or None."""
    if settings is None:
        return None
    if settings.certificate is None:
        return "the ssl section of a server needs a certificate"
    if settings.server_hostname is not None or not settings.check_hostname:
        return "check-hostname and server-hostname are for the ssl section of a client"
    return None


def _is_same_place(address, monitor_address):
    """Whether only one of two addresses could be had; the monitor's may be None."""
    if monitor_address is None or isinstance(address, str) or not address[1]:
        return False
    (host, port), (monitor_host, monitor_port) = address, monitor_address
    hosts = host, monitor_host
    return port == monitor_port and (
        host == monitor_host or any(map(is_everywhere, hosts))
    )


class ClientStorageSection(ZODB.config.BaseConfig):
    """A `<clientstorage>` section, which opens a `ClientStorage`."""

    def open(self) -> ClientStorage:
        section = self.config
        tls = section.ssl
        return ClientStorage(
            section.server,
            storage=section.storage,
            name=section.name,
            cache_size=section.cache_size,
            cache=section.cache_path,
            client=section.client,
            var=section.var,
            blob_dir=section.blob_dir,
            shared_blob_dir=section.shared_blob_dir,
            blob_cache_size=section.blob_cache_size,
            blob_cache_size_check=section.blob_cache_size_check,
            read_only=section.read_only,
            read_only_fallback=section.read_only_fallback,
            server_sync=section.server_sync,
            wait_timeout=section.wait_timeout,
            client_label=section.client_label,
            disconnect_poll=section.disconnect_poll,
            keep_alive=section.keep_alive,
            wait=section.wait,
            ssl=tls and tls.client_context(),
            ssl_server_hostname=tls and tls.server_hostname,
        )


# A server's file.


class ServerConfiguration:
    """What a server's file says.

    `section` is a `ServerSection`, `storages` maps names to storage sections
    that are to be opened, `eventlog` makes the log or is None.
    """

    def __init__(self, path: str, text: str) -> None:
        self.path = path
        self._loader = Loader(path, text)
        try:
            found = self._loader.load()
        except ZConfig.ConfigurationError as error:
            place = self._loader.place_of_error(error)
            raise self.error(_message(error), place) from error
        self.section = found.server
        if problem := _server_tls_problem(self.section.tls):
            raise self.error(problem, self.line_of_tls())
        if _is_same_place(self.section.address, self.section.options.monitor_address):
            raise self.error(
                "monitor-address and address are the same; choose another port",
                self.line_of_key("monitor-address"),
            )
        self.eventlog = found.eventlog
        self.has_runner = found.runner is not None
        self.storages: dict[str, Any] = {}
        for section in found.storages:
            name = section.name or "1"
            if name in self.storages:
                raise self.error(
                    f"two storages are called {name!r} (without a name it is '1'); "
                    "name them: <filestorage NAME>",
                    self.line_of_storage(section.name or "1"),
                )
            self.storages[name] = section

    def error(self, message: str, place: Place | None = None) -> ConfigurationError:
        """Return a `ConfigurationError` that says where."""
        where = self.path if place is None or self.path == COMMAND_LINE else place
        return ConfigurationError(f"{where}: {message}")

    def line_of_key(self, key: str) -> Place | None:
        """Return the `Place` of the first line that sets `key`, or None."""
        return self._loader.find(rf"\s*{re.escape(key)}(\s|$)", re.IGNORECASE)

    def line_of_tls(self) -> Place | None:
        """Return the `Place` of the server's `<ssl>` section, or None."""
        pattern = r"\s*<ssl\b"
        return self._loader.find(pattern, re.IGNORECASE, after=r"\s*<zeo(lite)?\b")

    def line_of_storage(self, name: str) -> Place | None:
        """Return the `Place` at which a storage's section begins, or None."""
        others = r"(zeo|zeolite|eventlog|runner)\b"
        for kind in ("", r"\s+1") if name == "1" else (r"\s+" + re.escape(name),):
            found = self._loader.find(rf"\s*<(?!{others})\w+{kind}\s*/?>")
            if found:
                return found
        return None


def read_server_file(path: str | os.PathLike[str]) -> ServerConfiguration:
    """Return the `ServerConfiguration` in a file.

    Raises `ConfigurationError`.
    """
    try:
        text = pathlib.Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigurationError(f"{path}: cannot be read: {reason}") from error
    return ServerConfiguration(str(path), text)


def _message(error):
    """What ZConfig says, without the place, and with a remedy where there is one."""
    text = getattr(error, "message", None) or str(error)
    if isinstance(error, ZConfig.DataConversionError):
        return str(error.exception)
    if "section type 'zeolite.server'" in text:
        return "it needs one <zeolite> section, which says where to listen"
    if "section type 'zodb.storage'" in text:
        return "it needs a section for a storage, such as <filestorage>"
    if "not a known key name" in text or "unknown key" in text:
        return f"{text}; see zeolite.conf.example for the keys there are"
    if "unknown type name" in text:
        return (
            f"{text}; is it spelled right?  The section of a package needs a line "
            "%import PACKAGE above it"
        )
    if "no matching section defined for type='zodb'" in text:
        return (
            "a server's file has its storages without <zodb> around them, which is "
            "for applications"
        )
    return text


# A client storage by itself.


def client_section(schema: Any, text: str) -> ClientStorageSection:
    """Return the `ClientStorageSection` that `text` has, by `schemas.client_schema()`.

    Raises `ConfigurationError`.
    """
    try:
        found, _ = ZConfig.loadConfigFile(schema, io.StringIO(text))
    except ZConfig.ConfigurationError as error:
        raise ConfigurationError(_message(error)) from error
    return found.storage


# What `zeolite.server()` takes.


def server_settings(
    settings: Mapping[str, object] | str | None,
) -> tuple[ServerOptions, TLSSettings | None, tuple[str, int] | str | None]:
    """Return `ServerOptions`, `TLSSettings` or None, and an address or None.

    `settings` is a dictionary or text of keys, a whole `<zeolite>` or `<zeo>` section
    as text, which alone has an address, or None.
    """
    if not settings:
        return ServerOptions(), None, None
    text, is_whole = _section_text(settings)
    # The file's schema wants a storage, which is given elsewhere.
    text = f"{text}\n<mappingstorage {_PLACEHOLDER}/>\n"
    configuration = ServerConfiguration("zeo_conf", text)
    if list(configuration.storages) != [_PLACEHOLDER] or configuration.eventlog:
        raise ConfigurationError(
            "zeo_conf: there is more than a <zeolite> section; a storage's section goes "
            "into storage_conf, and logs are the script's"
        )
    section = configuration.section
    if section.pid_filename is not None:
        raise ConfigurationError(
            "zeo_conf: pid-filename is for a server in a process of its own, started "
            "with python -m zeolite; leave it out"
        )
    return section.options, section.tls, section.address if is_whole else None


def _section_text(settings):
    """Return the text of a `<zeolite>` section, and whether it was given as one."""
    if isinstance(settings, str) and _WHOLE_SECTION.match(settings):
        return settings, True
    if isinstance(settings, Mapping):
        keys = {str(key).replace("_", "-"): value for key, value in settings.items()}
        settings = "".join(f"{key} {value}\n" for key, value in keys.items())
    elif not isinstance(settings, str):
        raise TypeError(
            f"zeo_conf is a dictionary of keys, or keys as text, not {settings!r}"
        )
    if re.search(r"^\s*address\s", settings, re.MULTILINE | re.IGNORECASE):
        raise ConfigurationError(
            "zeo_conf: the arguments port and host say where to listen; leave the "
            "address out, or write a whole <zeolite> section as text"
        )
    # The file's schema wants an address, which is given elsewhere.
    return f"<zeolite>\naddress 0\n{settings}\n</zeolite>", False


def server_address(
    port: int | str | os.PathLike[str] | tuple[str, int], host: str
) -> tuple[str, int] | str:
    """Return where the arguments of `zeolite.server()` say to listen.

    Raises `TypeError` or `ValueError` for what is no address.
    """
    if isinstance(port, str | os.PathLike):
        path = parse(port)[0]
        assert isinstance(path, str)
        return path
    if isinstance(port, tuple) and len(port) == 2:
        host, port = port
    if type(port) is not int:
        raise TypeError(
            "port is a number, 0 for any that is free, or the path of a Unix socket, "
            f"not {port!r}"
        )
    if not 0 <= port < 65536:
        raise ValueError(f"{port} is no port; there are those up to 65535")
    if not isinstance(host, str):
        raise TypeError(f'host is a str, "" for all interfaces, not {host!r}')
    return host, port


def with_monitor(
    options: ServerOptions, address: int | str | tuple[str, int]
) -> ServerOptions:
    """Return `ServerOptions` with a monitor at `address`.

    That is a port (int) on this machine, a pair of host and port, or text as in a
    file.
    """
    if options.monitor_address is not None:
        raise ConfigurationError(
            "there is a monitor-address in zeo_conf, and the argument as well"
        )
    if not isinstance(address, tuple):
        address = monitor_address(str(address))
    return dataclasses.replace(options, monitor_address=address)


def server_context(
    context: ssl.SSLContext | None, settings: TLSSettings | None
) -> ssl.SSLContext | None:
    """Return the `ssl.SSLContext` of a server, or None.

    It is given, or there are `TLSSettings` for one, or neither.
    """
    if context is None:
        return settings.server_context() if settings else None
    if settings is not None:
        raise ConfigurationError(
            "there is an ssl section, and the argument ssl as well"
        )
    if not isinstance(context, ssl.SSLContext):
        raise TypeError(f"ssl is an ssl.SSLContext, not {context!r}")
    if context.protocol == ssl.PROTOCOL_TLS_CLIENT:
        raise ValueError(
            "ssl is a client's SSLContext; make one for "
            "ssl.Purpose.CLIENT_AUTH, or with ssl.PROTOCOL_TLS_SERVER"
        )
    return context


def open_storage(
    path: str | os.PathLike[str] | None,
    blob_dir: str | os.PathLike[str] | None,
    storage_conf: str | None,
) -> Any:
    """Return the storage that is meant.

    Raises `ConfigurationError` if the arguments contradict each other, and
    whatever opening it raises.
    """
    if storage_conf is not None:
        if path is not None or blob_dir is not None:
            raise ConfigurationError(
                "storage_conf cannot be used together with path and blob_dir"
            )
        if not isinstance(storage_conf, str):
            raise TypeError(
                "storage_conf is a storage's section as text, such as "
                f"'<mappingstorage/>', not {storage_conf!r}"
            )
        return ZODB.config.storageFromString(storage_conf)
    if path is not None:
        blobs = None if blob_dir is None else _file_path("blob_dir", blob_dir)
        return FileStorage(_file_path("path", path), blob_dir=blobs)
    if blob_dir is not None:
        raise ConfigurationError("blob_dir needs a path: data in memory have no blobs")
    return MappingStorage()


def _file_path(name, value):
    if isinstance(value, int | tuple):
        raise TypeError(
            f"{name} is the path of a file, not {value!r}; write port={value!r} for "
            "where to listen"
        )
    if not isinstance(value, str | os.PathLike):
        raise TypeError(f"{name} is a path (str), not {value!r}")
    if not os.fspath(value):
        raise ValueError(f"{name} is empty")
    return os.fspath(value)
