"""A process that hosts servers for tests, and the handle by which tests use it.

    python -m tests.support.hosting zeolite|zeo

reads commands as lines of JSON on stdin and answers each with one on stdout.  One
process serves a whole test run: a fresh server takes milliseconds this way, and
is as far away from the client as in real life.
"""

import json
import subprocess
import sys
import threading

#: The processes that serve more than one test.
HOSTS = set()


class Host:
    """Starts and stops servers in another process.

    `kind` is "zeolite" or "zeo".  Used by one thread at a time.
    """

    def __init__(self, kind="zeolite"):
        self._lock = threading.Lock()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.hosting", kind],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        HOSTS.add(self._process.pid)

    def start(self, storage, port=0, tls=None, **settings):
        """Serve a storage section (str); return the `Hosted` server.

        `settings` are keys of the `<zeo>` section, with underscores, and `tls` is a
        dictionary of those of its `<ssl>` section.
        """
        answer = self._ask(
            do="start", storage=storage, port=port, settings=settings, tls=tls
        )
        return Hosted(self, answer["key"], tuple(answer["address"]))

    def _ask(self, **command):
        with self._lock:
            self._process.stdin.write(json.dumps(command) + "\n")
            self._process.stdin.flush()
            answer = json.loads(self._process.stdout.readline())
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer

    def close(self):
        """End the process and all its servers."""
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()
        HOSTS.discard(self._process.pid)


class Hosted:
    """A running server."""

    def __init__(self, host, key, address):
        self._host = host
        self._key = key
        self.address = address

    def stop(self):
        self._host._ask(do="stop", key=self._key)


def _start(kind, storage, port, settings, tls):
    if kind == "zeolite":
        import zeolite

        conf = _lines(settings) + _section(tls) if tls else settings
        return zeolite.server(storage_conf=storage, zeo_conf=conf, port=port)
    import ZEO

    if tls:
        keys = _lines(settings) + _section(tls)
        conf = f"<zeo>\naddress 127.0.0.1:{port}\n{keys}</zeo>"
        return ZEO.server(storage_conf=storage, zeo_conf=conf)
    conf = {key.replace("_", "-"): value for key, value in settings.items()}
    return ZEO.server(storage_conf=storage, zeo_conf=conf, port=port)


def _lines(settings):
    return "".join(f"{key.replace('_', '-')} {settings[key]}\n" for key in settings)


def _section(tls):
    return f"<ssl>\n{_lines(tls)}</ssl>\n"


def _main(kind):
    servers = {}
    for line in sys.stdin:
        command = json.loads(line)
        try:
            if command["do"] == "start":
                names = "storage", "port", "settings", "tls"
                address, stop = _start(kind, *[command[name] for name in names])
                servers[len(servers)] = stop
                answer = {"key": len(servers) - 1, "address": address}
            else:
                servers[command["key"]]()
                answer = {}
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    sys.setswitchinterval(0.001)
    _main(sys.argv[1])
