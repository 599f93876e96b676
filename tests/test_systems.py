"""Systems other than Linux: what they lack is missed nowhere, or it is said."""

import subprocess
import sys

#: What Linux has beyond macOS, of all that programs like this one might use.
ABSENT = {
    "mmap": ["MADV_DONTFORK", "MADV_DODUMP", "MADV_DONTDUMP", "MADV_HUGEPAGE"],
    "os": [
        "eventfd",
        "memfd_create",
        "O_TMPFILE",
        "pipe2",
        "posix_fadvise",
        "posix_fallocate",
        "sched_setaffinity",
    ],
    "select": ["epoll"],
    "signal": ["sigtimedwait", "sigwaitinfo"],
    "socket": [
        "MSG_NOSIGNAL",
        "SOCK_CLOEXEC",
        "SOCK_NONBLOCK",
        "SO_PEERCRED",
        "TCP_KEEPIDLE",
        "TCP_USER_TIMEOUT",
    ],
    "time": ["CLOCK_BOOTTIME"],
}

WORK = f"""
import builtins, importlib
for module, names in {ABSENT}.items():
    module = importlib.import_module(module)
    for name in names:
        if hasattr(module, name):
            delattr(module, name)

def open(path, *args, open=open, **kwargs):
    if str(path).startswith("/proc/"):
        raise FileNotFoundError(path)
    return open(path, *args, **kwargs)

builtins.open = open

import ZODB.blob, zeolite, zeolite.storageserver.process
address, stop = zeolite.server("Data.fs", blob_dir="blobs")
for number in 0, 1:
    db = zeolite.DB(address, cache="cache", blob_dir="blob-cache")
    with db.transaction() as connection:
        assert len(connection.root()) == number
        connection.root()[number] = ZODB.blob.Blob(b"%d" % number)
    with db.transaction() as connection, connection.root()[number].open() as file:
        assert file.read() == b"%d" % number
    db.close()
stop()
"""


def python(script, **kwargs):
    return subprocess.run([sys.executable, "-c", script], text=True, **kwargs)


def test_without_what_only_linux_has(tmp_path):
    assert python(WORK, cwd=tmp_path).returncode == 0


def test_windows_is_refused_in_one_line():
    script = "import sys; sys.modules['fcntl'] = None; import zeolite"
    found = python(script, stderr=subprocess.PIPE)
    assert found.returncode == 1
    last = found.stderr.splitlines()[-1]
    assert last.startswith("ImportError: Zeolite needs a POSIX system")
    assert "ModuleNotFoundError" not in found.stderr
