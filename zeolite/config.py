"""Configuration: from ZConfig's sections, or keys as text, to what they stand for.

The datatypes named in `schema.xml` (a server's file) and `component.xml` (the
`<clientstorage>` section) are here.  A datatype raises `ValueError`, and ZConfig
adds the file and the line.
"""

import io
import pathlib
import re
import ssl

import ZConfig
import ZODB.config
from ZODB.FileStorage import FileStorage
from ZODB.MappingStorage import MappingStorage

from .clientstorage.storage import ClientStorage
from .errors import ConfigurationError
from .storageserver.options import ServerOptions
from .wire.channel import MOST_KEEP_ALIVE
from .wire.tlssettings import TLSSettings

#: What a `ServerConfiguration` has for a path if it comes from no file.
COMMAND_LINE = "the command line"


# Datatypes.


def listen_address(text):
    """The address of a server: a pair of host and port, or a path.

    Without a host, the port is one of all interfaces, as ZEO has it.
    """
    return _address(text, default_host="", lowest=0)


def client_address(text):
    """The address that a client connects to: a pair of host and port, or a path."""
    return _address(text, default_host="127.0.0.1", lowest=1)


def _address(text, default_host, lowest):
    if "/" in text:
        return text
    host, _, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError(f"{text!r}: write an IPv6 address as [{host}]:{port}")
    if not (port.isascii() and port.isdigit() and lowest <= int(port) < 65536):
        raise ValueError(
            f"{text!r} is no address; write HOST:PORT, PORT, or the path of a Unix "
            "socket with a slash in it"
        )
    return host or default_host, int(port)


def positive(text):
    """An int greater than zero."""
    number = int(text)
    if number < 1:
        raise ValueError(f"{text!r} is not greater than 0")
    return number


def seconds(text):
    """A float that is not negative."""
    number = float(text)
    if not 0 <= number < float("inf"):
        raise ValueError(f"{text!r} is not a number of seconds")
    return number


def cache_size(text):
    """The size of a client's cache in bytes, an int greater than zero."""
    number = ZConfig.datatypes.stock_datatypes["byte-size"](text)
    if number < 1:
        raise ValueError(f"{text!r} is no size for a cache; write bytes, KB, MB or GB")
    return number


def refuse_msgpack(text):
    """False; there is nothing else to choose."""
    if ZConfig.datatypes.asBoolean(text):
        raise ValueError(
            "msgpack is not spoken by Zeolite, only pickles; set it to false"
        )
    return False


def tls_settings(section):
    """The `TLSSettings` of an `<ssl>` section, a server's or a client's."""
    names = section.getSectionAttributes()
    return TLSSettings(**{name: getattr(section, name) for name in names})


def delay(text):
    """A float, greater than zero."""
    number = seconds(text)
    if not number:
        raise ValueError(f"{text!r} is not greater than 0")
    return number


def keep_alive(text):
    """Seconds that the system takes for TCP's keep-alive."""
    number = seconds(text)
    if number > MOST_KEEP_ALIVE:
        raise ValueError(f"{text!r} is more than {MOST_KEEP_ALIVE} seconds")
    return number


class ServerSection:
    """A `<zeolite>` or `<zeo>` section."""

    def __init__(self, section):
        self.address = section.address
        self.pid_filename = section.pid_filename
        #: A `TLSSettings`, or None for no encryption.
        self.tls = section.ssl
        self.options = ServerOptions(
            read_only=section.read_only,
            invalidation_queue_size=section.invalidation_queue_size,
            invalidation_age=section.invalidation_age,
            transaction_timeout=section.transaction_timeout,
            client_conflict_resolution=section.client_conflict_resolution,
            keep_alive=section.keep_alive,
            storage_instances=section.storage_instances,
            poll_interval=section.poll_interval,
        )


class ClientStorageSection(ZODB.config.BaseConfig):
    """A `<clientstorage>` section, which opens a `ClientStorage`."""

    def open(self):
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


def _schema():
    path = pathlib.Path(__file__).with_name("schema.xml")
    text = path.read_text(encoding="utf-8")
    # Datatypes are looked up below a prefix, and a vendored copy has another one.
    text = text.replace("<schema>", f'<schema prefix="{__package__}">', 1)
    return ZConfig.loadSchemaFile(io.StringIO(text))


class ServerConfiguration:
    """What a server's file says.

    `section` is a `ServerSection`, `storages` maps names to storage sections
    that are to be opened, `eventlog` makes the log or is None.
    """

    def __init__(self, path, text):
        self.path = path
        self._text = text
        try:
            # The URL is for %include.
            url = pathlib.Path(path).absolute().as_uri()
            found, _ = ZConfig.loadConfigFile(_schema(), io.StringIO(text), url)
        except ZConfig.ConfigurationError as error:
            raise self.error(_message(error), getattr(error, "lineno", None)) from error
        self.section = found.server
        self.eventlog = found.eventlog
        self.has_runner = found.runner is not None
        self.storages = {}
        for section in found.storages:
            name = section.name or "1"
            if name in self.storages:
                raise self.error(
                    f"two storages are called {name!r} (without a name it is '1'); "
                    "name them: <filestorage NAME>",
                    self.line_of_storage(section.name or "1"),
                )
            self.storages[name] = section

    def error(self, message, line=None):
        """Return a `ConfigurationError` that says where."""
        is_file = self.path != COMMAND_LINE
        where = f"{self.path}, line {line}" if line and is_file else self.path
        return ConfigurationError(f"{where}: {message}")

    def line_of_key(self, key):
        """Return the number of the first line that sets `key`, or None."""
        return self._line(rf"\s*{re.escape(key)}(\s|$)", re.IGNORECASE)

    def line_of_storage(self, name):
        """Return the number of the line on which a storage's section begins."""
        for kind in ("", r"\s+1") if name == "1" else (r"\s+" + re.escape(name),):
            found = self._line(rf"\s*<(?!zeo|eventlog|runner)\w+{kind}\s*>")
            if found:
                return found
        return None

    def _line(self, pattern, flags=0):
        for number, line in enumerate(self._text.splitlines(), 1):
            if re.match(pattern, line, flags):
                return number
        return None


def read_server_file(path):
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
    return text


# What `zeolite.server()` takes.


def server_settings(settings):
    """Return `ServerOptions`, and `TLSSettings` or None.

    `settings` is a dictionary or text of keys, or None.
    """
    if not settings:
        return ServerOptions(), None
    if not isinstance(settings, str):
        settings = "".join(
            f"{key.replace('_', '-')} {value}\n" for key, value in settings.items()
        )
    # The file's schema wants an address and a storage, which are given elsewhere.
    text = f"<zeolite>\naddress 0\n{settings}\n</zeolite>\n<mappingstorage/>\n"
    section = ServerConfiguration("zeo_conf", text).section
    return section.options, section.tls


def server_context(context, settings):
    """Return the `ssl.SSLContext` of a server, or None.

    It is given, or there are `TLSSettings` for one, or neither.
    """
    if context is None:
        return settings and settings.server_context()
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


def open_storage(path, blob_dir, storage_conf):
    """Return the storage that is meant.

    Raises `ConfigurationError` if the arguments contradict each other, and
    whatever opening it raises.
    """
    if storage_conf is not None:
        if path is not None or blob_dir is not None:
            raise ConfigurationError(
                "storage_conf cannot be used together with path and blob_dir"
            )
        return ZODB.config.storageFromString(storage_conf)
    if path is not None:
        return FileStorage(path, blob_dir=blob_dir)
    if blob_dir is not None:
        raise ConfigurationError("blob_dir needs a path: data in memory have no blobs")
    return MappingStorage()
