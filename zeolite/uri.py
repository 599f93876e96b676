"""`zeolite://` URIs, by which zodburi opens client storages.

zodburi finds `resolve` by the entry point in `setup.py`; it is not imported here.

    zeolite://db.example.com:8100/?storage=main&wait_timeout=5
    zeolite://db1:8100,[2001:db8::1]:8100/?connection_cache_size=50000
    zeolite:///run/zeolite/socket?blob_dir=var/blobs

The options are the keys of the `<clientstorage>` section, with underscores or
hyphens; those of its `<ssl>` section begin with `ssl_`.  `server` is one more address.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qsl, unquote

import ZConfig

from . import config, schemas
from .clientstorage.storage import ClientStorage
from .errors import ConfigurationError

_PARTS = re.compile(r"zeolite://([^/?#]*)([^?#]*)(?:\?([^#]*))?")

#: ZConfig wants words, zodburi's other schemes want numbers.
_FLAGS = {"1": "true", "0": "false"}


def resolve(uri: str) -> tuple[Callable[[], ClientStorage], dict[str, str]]:
    """Return what a URI stands for: (factory, arguments for the database).

    `factory()` opens the storage and raises what `ClientStorage` raises.  The
    database's arguments, `database_name` and what begins with `connection_`, are
    text, for zodburi to convert and to check.

    Raises `ConfigurationError` for a URI that cannot work.
    """
    try:
        section, database = _parse(uri)
    except (ValueError, ConfigurationError) as error:
        raise ConfigurationError(f"{uri}: {error}") from error
    return section.open, database


def _parse(uri: str) -> tuple[Any, dict[str, str]]:
    match = _PARTS.fullmatch(uri)
    if match is None:
        raise ValueError("write zeolite://HOST:PORT/?OPTION=VALUE&...")
    place, path, query = match.groups()
    schema = schemas.client_schema()
    options = _Options(schema)
    for address in _addresses(place, unquote(path)):
        options.add("server", address)
    for name, value in parse_qsl(query or "", keep_blank_values=True):
        options.add(name, value)
    return config.client_section(schema, options.text()), options.database


def _addresses(place: str, path: str) -> list[str]:
    """The addresses before the query, as a configuration has them."""
    if "@" in place:
        raise ValueError("there are no user names and passwords; use TLS certificates")
    if place and path not in ("", "/"):
        raise ValueError(f"{path} means nothing here; write ?storage=NAME")
    if place:
        return [unquote(part) for part in place.split(",")]
    return [] if path in ("", "/") else [path]


class _Options:
    """Sorts options: the section's keys, its `<ssl>` section's, the database's."""

    def __init__(self, schema: Any) -> None:
        self._keys = _keys(schema, "clientstorage")
        self._tls_keys = _keys(schema, "ssl")
        self._lines: list[str] = []
        self._tls_lines: list[str] = []
        self._has_tls: bool | None = None
        self.database: dict[str, str] = {}

    def add(self, name: str, value: str) -> None:
        """Take an option.  Raises `ValueError`."""
        if "\n" in value or "\r" in value:
            raise ValueError(f"a line break in {name}")
        key = name.replace("_", "-")
        if key == "database-name" or key.startswith("connection-"):
            self._add_database(key.replace("-", "_"), value)
        elif key == "ssl":
            self._has_tls = ZConfig.datatypes.asBoolean(_FLAGS.get(value, value))
        elif key in self._keys:
            self._lines.append(_line(key, value, self._keys[key]))
        elif key.startswith("ssl-") and key[4:] in self._tls_keys:
            self._tls_lines.append(_line(key[4:], value, self._tls_keys[key[4:]]))
        else:
            raise ValueError(f"unknown option {name!r}; {self._known()}")

    def _add_database(self, name: str, value: str) -> None:
        if name in self.database:
            raise ValueError(f"{name} is given twice")
        self.database[name] = value

    def _known(self) -> str:
        names = [*self._keys, "ssl", *(f"ssl-{key}" for key in self._tls_keys)]
        names = sorted(name.replace("-", "_") for name in names)
        return f"there are {', '.join(names)}, database_name and connection_..."

    def text(self) -> str:
        """The `<clientstorage>` section."""
        if self._has_tls is False and self._tls_lines:
            raise ValueError("ssl is switched off, but has options")
        lines = self._lines
        if self._has_tls or self._tls_lines:
            lines = [*lines, "<ssl>", *self._tls_lines, "</ssl>"]
        return "\n".join(["<clientstorage>", *lines, "</clientstorage>", ""])


def _keys(schema: Any, section: str) -> dict[str, Any]:
    """The keys of a section type, and what they are."""
    return {name: key for name, key in schema.gettype(section) if not key.issection()}


def _line(name: str, value: str, key: Any) -> str:
    if key.datatype is ZConfig.datatypes.asBoolean:
        value = _FLAGS.get(value, value)
    # A dollar sign would begin a substitution.
    return f"{name} {value.replace('$', '$$')}"
