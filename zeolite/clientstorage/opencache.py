"""Which cache the arguments of a `ClientStorage` mean."""

import operator
import os

from zope.interface import Invalid
from zope.interface.verify import verifyObject

from ..interfaces import IClientCache
from .cache import ClientCache


def open_cache(cache, client, var, storage, size):
    """Return the cache that the arguments of a `ClientStorage` mean.

    Raises `ValueError` for a size that is none, `TypeError` for a cache that is
    neither a path nor has what `IClientCache` demands, and `CacheFileError`.
    """
    if cache == "":
        cache = None  # As with ZEO: a setting that was left empty.
    if cache is None and client:
        cache = os.path.join(var or os.getcwd(), f"{client}-{storage}.zec")
    if cache is None or isinstance(cache, str | os.PathLike):
        return ClientCache(cache and os.fspath(cache), _checked_size(size))
    try:
        verifyObject(IClientCache, cache, tentative=True)
    except Invalid as error:
        raise TypeError(
            "cache has to be a path or an object that provides "
            f"{IClientCache.__module__}.IClientCache: {error}"
        ) from error
    return cache


def _checked_size(size):
    try:
        number = operator.index(size)
    except TypeError:
        number = 0
    if number < 1 or isinstance(size, bool):
        raise ValueError(
            f"cache_size is {size!r}; it has to be a number of bytes, an integer "
            "greater than 0"
        )
    return number
