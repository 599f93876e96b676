"""Opens databases by configurations that know nothing of Zeolite.

    python -m tests.support.clientfiles

reads a JSON list of [kind, text] on stdin, stands in for ZEO, and prints a JSON list of
what came of each: the number of visits if a database was opened, could be written to
and belongs to Zeolite, and otherwise the error, as a user sees it.
"""

import io
import json
import os
import sys

import transaction
import ZConfig
import ZODB.config

import zeolite

#: What a `zope.conf` may have of the keys that Zope's and Plone's templates set.
EMULATED = """
<schema>
  <import package="ZODB"/>
  <sectiontype name="zodb_db" datatype="ZODB.config.ZODBDatabase"
               implements="ZODB.database" extends="zodb">
    <multikey name="mount-point" required="yes" attribute="mount_points"/>
    <key name="connection-class"/>
    <key name="container-class"/>
  </sectiontype>
  <sectiontype name="environment" keytype="identifier">
    <key name="+" attribute="environ"/>
  </sectiontype>
  <section type="environment" attribute="environment" name="*"/>
  <key name="instancehome" datatype="existing-directory" required="yes"/>
  <key name="clienthome" datatype="existing-directory"/>
  <key name="debug-mode" datatype="boolean"/>
  <key name="security-policy-implementation"/>
  <key name="verbose-security" datatype="boolean"/>
  <key name="default-zpublisher-encoding"/>
  <key name="python-check-interval" datatype="integer"/>
  <multisection type="ZODB.database" name="+" required="yes" attribute="databases"/>
</schema>
"""


def _database(text):
    return ZODB.config.databaseFromString(text)


def _emulated(text):
    schema = ZConfig.loadSchemaFile(io.StringIO(EMULATED))
    found, _ = ZConfig.loadConfigFile(schema, io.StringIO(text))
    (section,) = found.databases
    return section.open({})


def _zope(text):
    import Zope2.Startup

    path = os.path.join(os.path.dirname(Zope2.Startup.__file__), "wsgischema.xml")
    found, _ = ZConfig.loadConfigFile(ZConfig.loadSchema(path), io.StringIO(text))
    return found.dbtab.getDatabase("/")


def _outcome(kind, text):
    try:
        db = {"database": _database, "emulated": _emulated, "zope": _zope}[kind](text)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    try:
        if not isinstance(db.storage, zeolite.ClientStorage):
            return f"a {type(db.storage)}"
        with db.transaction() as connection:
            if not db.storage.isReadOnly():
                connection.root()["visits"] = connection.root().get("visits", 0) + 1
            return connection.root()["visits"]
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    finally:
        db.close()
        transaction.abort()


if __name__ == "__main__":
    zeolite.install_as_ZEO()
    json.dump([_outcome(*row) for row in json.load(sys.stdin)], sys.stdout)
