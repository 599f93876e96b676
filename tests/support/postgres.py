"""A PostgreSQL of the tests' own, in a temporary directory.

It listens on a Unix socket, and on TCP where that is asked for, with a password.

It does not run as root, because PostgreSQL refuses that: where the tests do, it runs
as the user `postgres` or `nobody`.
"""

import contextlib
import glob
import importlib.util
import itertools
import os
import pwd
import secrets
import shutil
import subprocess
import tempfile

#: Where Debian keeps the programs that are not in the path.
_PLACES = "/usr/lib/postgresql/*/bin"

_numbers = itertools.count()


def why_missing():
    """Return why there can be no PostgreSQL (str), or None if there can."""
    for module in ("relstorage", "psycopg2"):
        if importlib.util.find_spec(module) is None:
            return f"{module} is not installed; see the extra relstorage"
    if _program("initdb") is None:
        return "PostgreSQL's initdb is not installed (Debian: postgresql)"
    if os.getuid() == 0 and _user() is None:
        return "PostgreSQL does not run as root, and there is no user for it"
    return None


def _program(name):
    places = [*sorted(glob.glob(_PLACES), reverse=True), os.environ.get("PATH", "")]
    return shutil.which(name, path=os.pathsep.join(places))


def _user():
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    return None


class Cluster:
    """A running PostgreSQL.  Used by one thread at a time.

    It does not wait for the disk, unless `is_durable`.  With a `port` those who
    connect by its `dsn` do so over TCP.
    """

    def __init__(self, is_durable=False, port=None):
        self._port = port
        self._password = secrets.token_hex(16)
        self._directory = tempfile.mkdtemp(prefix="zeolite-pg-", dir="/tmp")
        self._as = {}
        if os.getuid() == 0:
            user = _user()
            os.chown(self._directory, user.pw_uid, user.pw_gid)
            self._as = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        os.chmod(self._directory, 0o755)
        self._data = os.path.join(self._directory, "data")
        try:
            self._run(
                *("initdb", "-D", self._data, "-U", "zeolite", "-N"),
                *("--auth-local=trust", "--auth-host=scram-sha-256"),
            )
            with open(os.path.join(self._data, "postgresql.conf"), "a") as file:
                file.write(
                    f"listen_addresses = '{'127.0.0.1' if port else ''}'\n"
                    f"port = {port or 5432}\n"
                    f"unix_socket_directories = '{self._directory}'\n"
                    f"fsync = {'on' if is_durable else 'off'}\n"
                    "max_connections = 200\nmax_prepared_transactions = 10\n"
                )
            self.start()
            self.execute(f"ALTER USER zeolite PASSWORD '{self._password}'")
        except BaseException:
            shutil.rmtree(self._directory)
            raise

    def _run(self, program, *args):
        done = subprocess.run(
            [_program(program), *args],
            cwd=self._directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            **self._as,
        )
        assert done.returncode == 0, f"{program}: {done.stdout}"

    def start(self):
        log = os.path.join(self._directory, "log")
        self._run("pg_ctl", "start", "-w", "-D", self._data, "-l", log)

    def stop(self, mode="immediate"):
        """Stop it; "immediate" is like a crash, all connections break."""
        self._run("pg_ctl", "stop", "-w", "-D", self._data, "-m", mode)

    def restart(self, mode="immediate"):
        self.stop(mode)
        self.start()

    def create(self):
        """Return a new database's name."""
        name = f"zodb{next(_numbers)}"
        self.execute(f"CREATE DATABASE {name}")
        return name

    def drop(self, name):
        self.execute(f"DROP DATABASE {name} WITH (FORCE)")

    def dsn(self, name):
        """Return how to connect to a database, for psycopg2 and RelStorage."""
        if self._port:
            return (
                f"dbname='{name}' user='zeolite' password='{self._password}' "
                f"host='127.0.0.1' port='{self._port}'"
            )
        return self._local(name)

    def _local(self, name):
        host, port = self._directory, self._port or 5432
        return f"dbname='{name}' user='zeolite' host='{host}' port='{port}'"

    def execute(self, statement, name="postgres"):
        """Run a statement on a connection of its own; return its rows, if any."""
        import psycopg2

        connection = psycopg2.connect(self._local(name))
        try:
            connection.autocommit = True
            cursor = connection.cursor()
            cursor.execute(statement)
            return cursor.fetchall() if cursor.description else None
        finally:
            connection.close()

    def log_statements(self, name):
        """Have statements logged that new connections to a database execute."""
        self.execute(f"ALTER DATABASE {name} SET log_statement = 'all'")

    def statements(self):
        """Return a list of the lines that the log has for statements."""
        with open(os.path.join(self._directory, "log"), errors="replace") as file:
            return [line for line in file if " statement: " in line]

    def connections(self, name):
        """Return how many connections there are to a database."""
        return len(self.connected(name))

    def connected(self, name):
        """Return a list of the processes (int) that serve a database's connections."""
        statement = f"SELECT pid FROM pg_stat_activity WHERE datname = '{name}'"
        return [pid for (pid,) in self.execute(statement)]

    def states(self, name):
        """Return a list of what the connections to a database do (str)."""
        statement = f"SELECT state FROM pg_stat_activity WHERE datname = '{name}'"
        return [state for (state,) in self.execute(statement)]

    def disconnect(self, pids):
        """End processes that serve connections; all others go on."""
        for pid in pids:
            self.execute(f"SELECT pg_terminate_backend({pid})")

    def close(self):
        with contextlib.suppress(AssertionError):  # It may be stopped.
            self.stop()
        shutil.rmtree(self._directory, ignore_errors=True)


def section(dsn, keep_history=True, **options):
    """Return a `<relstorage>` section (str)."""
    keys = "".join(
        f"  {key.replace('_', '-')} {value}\n" for key, value in options.items()
    )
    return (
        "%import relstorage\n<relstorage>\n"
        f"  keep-history {str(keep_history).lower()}\n{keys}"
        f"  <postgresql>\n    dsn {dsn}\n    driver psycopg2\n  </postgresql>\n"
        "</relstorage>\n"
    )
