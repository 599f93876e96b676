"""`%import zeolite.as_zeo` has the rest of a configuration find Zeolite as ZEO.

For files that are read by other programs, such as a `zope.conf`, and have ZODB's
`<zeoclient>` section, or `%import ZEO`.
"""

from ..standin import install_as_ZEO

try:
    install_as_ZEO()
except RuntimeError as error:
    # What ZConfig makes one line of.
    raise ImportError(str(error)) from error
