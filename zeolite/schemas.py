"""The schemas of configurations, which are files of this package.

They are found wherever the package is, in a zip file too, and under whatever name:
datatypes are looked up below a prefix, and a vendored copy has another one.
"""

import io
import pkgutil
from typing import Any

import ZConfig.loader

_CLIENT = """\
<schema>
  <import package="zeolite"/>
  <section type="clientstorage" name="*" required="yes" attribute="storage"/>
</schema>
"""


def server_schema() -> Any:
    """Return the schema of a server's file."""
    return _load(_text("schema.xml"))


def client_schema() -> Any:
    """Return the schema of what is just a `<clientstorage>` section."""
    return _load(_CLIENT)


def _load(text):
    text = text.replace("<schema>", f'<schema prefix="{__package__}">', 1)
    text = text.replace('package="zeolite"', f'package="{__package__}"', 1)
    return _Loader().loadFile(io.StringIO(text))


def _text(name):
    return pkgutil.get_data(__package__, name).decode("utf-8")


class _Loader(ZConfig.loader.SchemaLoader):
    """Reads this package's own component with the prefix that it should have."""

    def openResource(self, url):
        if url != f"package:{__package__}:component.xml":
            return super().openResource(url)
        text = _text("component.xml")
        text = text.replace('prefix="zeolite"', f'prefix="{__package__}"', 1)
        return self.createResource(io.StringIO(text), url)
