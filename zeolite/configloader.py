"""Loads a server's configuration file, and knows where in it what stands.

A file may include others.  What is wrong in one of them is to be told with its own
name and line, also when it only turns out later, as a storage is opened.
"""

import io
import pathlib
import re
import typing
import urllib.parse
import urllib.request

import ZConfig
import ZConfig.loader

from .schemas import server_schema

#: `%import` of these brings nothing new: the schema has it all.
_OURS = __package__, "zeolite", "ZEO"


class Place(typing.NamedTuple):
    """A line of a file: its path (str) and its number (int, None for unknown)."""

    path: str
    line: int | None

    def __str__(self):
        return f"{self.path}, line {self.line}" if self.line else self.path


class Loader(ZConfig.loader.ConfigLoader):
    """Loads one file, `path` (str) with `text`, and what it includes."""

    def __init__(self, path, text):
        super().__init__(server_schema())
        # The URL is for %include.
        self._url = pathlib.Path(path).absolute().as_uri()
        self._path = path
        self._text = text
        #: (path, text) of all files.
        self._files = [(path, text)]

    def load(self):
        """Return ZConfig's configuration; raises `ZConfig.ConfigurationError`."""
        found, _ = self.loadFile(io.StringIO(self._text), self._url)
        return found

    def place_of_error(self, error):
        """Return the `Place` of one of ZConfig's errors."""
        url, line = getattr(error, "url", None), getattr(error, "lineno", None)
        if line is None and url not in (None, self._url):
            # A file that cannot be read: what matters is who wants it.
            name = re.escape(urllib.parse.unquote(url.rsplit("/", 1)[-1]))
            return self.find(rf"\s*%include\b.*{name}\s*$") or Place(self._path, None)
        # ZConfig says -1 if it does not know.
        return Place(self._name(url), line if line and line > 0 else None)

    def find(self, pattern, flags=0, after=""):
        """Return the `Place` of the first line that matches, or None.

        `after` is the pattern of a line from which on it is looked for.
        """
        begun = False
        for path, text in self._files:
            for number, line in enumerate(text.splitlines(), 1):
                begun = begun or bool(re.match(after, line, flags))
                if begun and re.match(pattern, line, flags):
                    return Place(path, number)
        return None

    def _name(self, url):
        """Return the path that a person knows a file by."""
        if url in (None, self._url):
            return self._path
        parts = urllib.parse.urlsplit(url)
        if parts.scheme != "file":
            return url
        return urllib.request.url2pathname(parts.path)

    # What ZConfig calls.

    def importSchemaComponent(self, pkgname):
        if pkgname not in _OURS:
            super().importSchemaComponent(pkgname)

    def includeConfiguration(self, section, url, defines):
        try:
            super().includeConfiguration(section, url, defines)
        except ZConfig.ConfigurationError as error:
            if getattr(error, "url", None) is None:
                error.url = url
            raise
        except (OSError, UnicodeDecodeError) as error:
            raise ZConfig.ConfigurationError(
                f"it cannot be included: {error}", url
            ) from error

    def openResource(self, url):
        resource = super().openResource(url)
        if str(url).startswith("package:"):
            return resource
        text = resource.file.read()
        self._files.append((self._name(str(url)), text))
        return self.createResource(io.StringIO(text), url)
