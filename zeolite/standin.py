"""Standing in for ZEO, for code and configurations that import it by name.

ZODB's own `<zeoclient>` section does `from ZEO.ClientStorage import ClientStorage`.
With the modules made here it gets Zeolite's.
"""

import importlib
import importlib.util
import os
import pkgutil
import sys
import types
from typing import Any

from . import errors, interfaces
from .clientstorage.storage import ClientStorage

#: What each module has from where; the package itself comes first.
_NAMES = {
    "ZEO": ("DB", "client", "connection", "server"),
    "ZEO.ClientStorage": ("ClientStorage",),
    "ZEO.Exceptions": (
        "ClientStorageError",
        "ClientDisconnected",
        "ServerException",
        "ProtocolError",
    ),
    "ZEO.interfaces": ("IClientCache", "StaleCache"),
}


class _Loader:
    """Has `%import ZEO` in a configuration find the `<clientstorage>` section."""

    def get_data(self, path: str) -> bytes | None:
        return pkgutil.get_data(__package__, os.path.basename(path))


def install_as_ZEO() -> None:
    """Have `import ZEO` find Zeolite from now on, in this process.

    `ZEO.client`, `DB`, `connection` and `server`, `ZEO.ClientStorage`,
    `ZEO.Exceptions`, `ZEO.interfaces`, ZODB's `<zeoclient>` section, and `%import ZEO`
    for a `<clientstorage>` section.  May be called again.

    Raises `RuntimeError` if the real ZEO is imported already: who has it would not
    notice the change.
    """
    present = sys.modules.get("ZEO")
    if getattr(present, "__loader__", None).__class__ is _Loader:
        return
    if present is not None or any(name.startswith("ZEO.") for name in sys.modules):
        raise RuntimeError(
            "the real ZEO is imported already, so Zeolite cannot stand in for it; "
            "call install_as_ZEO() first of all, or do without ZEO"
        )
    zeolite = importlib.import_module(__package__)
    sources = {
        "ZEO": zeolite,
        "ZEO.ClientStorage": types.SimpleNamespace(ClientStorage=ClientStorage),
        "ZEO.Exceptions": errors,
        "ZEO.interfaces": interfaces,
    }
    for name, attributes in _NAMES.items():
        module = types.ModuleType(name, "Zeolite, standing in for ZEO.")
        for attribute in attributes:
            setattr(module, attribute, getattr(sources[name], attribute))
        sys.modules[name] = module
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, module)
    # A package, so that it may have modules and `%import` takes it; there is
    # nothing at its path to be imported.
    package = sys.modules["ZEO"]
    package.__path__ = ["<zeolite>"]
    loader: Any = _Loader()
    package.__loader__ = loader


def install_where_missing() -> None:
    """Like `install_as_ZEO`, unless the real ZEO is there to be imported."""
    if "ZEO" not in sys.modules and importlib.util.find_spec("ZEO") is None:
        install_as_ZEO()
