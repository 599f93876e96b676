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
from typing import Any

import ZConfig
import ZODB.config

from .clientstorage.storage import ClientStorage
from .configloader import Loader, Place
from .errors import ConfigurationError
from .storageserver.admission import is_everywhere
from .storageserver.options import ServerOptions

#: What a `ServerConfiguration` has for a path where lines are not the user's: it was
#: made of options, or of the keys that are an argument of `zeolite.server`.
COMMAND_LINE, KEYS = "the command line", "the keys in zeo_conf"

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
        has_lines = self.path not in (COMMAND_LINE, KEYS)
        where = place if has_lines and place is not None else self.path
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
        # Some editors begin a file with a byte order mark.
        text = pathlib.Path(path).read_text(encoding="utf-8-sig")
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
        return f"{text}; {_remedy_for_key(text)}"
    if match := _TWICE.search(text):
        return f"{match[1]} is given twice; leave one out"
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


#: What ZConfig says of a key that may be given once.
_TWICE = re.compile(r"('[^']*') does not support multiple values")


def _remedy_for_key(text):
    """What to do about an unknown key, from what ZConfig says."""
    key = re.search("'([^']*)'", text)
    if key and key[1].lower().startswith("authentication-"):
        return (
            "there are no passwords; leave it out, and use certificates: see the <ssl> "
            "section in zeolite.conf.example"
        )
    if key and "_" in key[1]:
        hyphens = key[1].replace("_", "-")
        return f"keys have hyphens: {hyphens}; see zeolite.conf.example"
    return "see zeolite.conf.example for the keys there are"


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
