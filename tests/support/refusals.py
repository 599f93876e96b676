"""Why a client is told that it cannot connect."""

import pytest

import zeolite
from zeolite.errors import ClientDisconnected

#: Seconds; long enough to fail the test that waits for it.
FOR_EVER = 1000


def refused(address, context=None, **kwargs):
    """Return why a client is told that it cannot connect, without waiting."""
    with pytest.raises(ClientDisconnected) as error:
        zeolite.client(address, ssl=context, wait_timeout=FOR_EVER, **kwargs)
    place = address if isinstance(address, str) else "{}:{}".format(*address)
    assert str(error.value).startswith(f"{place}: ")
    return str(error.value).removeprefix(f"{place}: ")
