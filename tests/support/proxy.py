"""A proxy between client and server that makes life hard, at random.

What happens to a connection depends on the seed, the connection's number and the
direction alone; when it happens is up to the threads.
"""

import collections
import contextlib
import random
import socket
import threading
import time

#: What may happen to a piece of the stream, how often, and how it is counted.
CHAOS = {"pass": 60, "delay": 20, "trickle": 10, "stall": 4, "cut": 1}

#: The same, where much is to be lost.
CUTS = {"pass": 20, "delay": 10, "trickle": 5, "cut": 5}


class Proxy:
    """Passes on to `target`, (host, port); `address` is for clients.

    `chaos` says how often what happens.  `counts` counts it.
    """

    def __init__(self, target, seed, chaos):
        self._target = target
        self._seed = seed
        self._chaos = chaos
        self.counts = collections.Counter()
        self._lock = threading.Lock()  # Guards the three below.
        self._sockets = set()
        self._threads = []
        self._calm = self._closed = False
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = self._listener.getsockname()
        self._start(self._accept)

    def calm_down(self):
        """Pass on everything from now on."""
        self._calm = True

    def close(self):
        with self._lock:
            self._closed = True
            sockets = list(self._sockets)
        for sock in (self._listener, *sockets):
            _shut_down(sock)
        for thread in self._threads:
            thread.join()
        self._listener.close()

    def _start(self, function, *args):
        thread = threading.Thread(target=function, args=args, name="proxy")
        self._threads.append(thread)
        thread.start()

    def _accept(self):
        for number in range(10**9):
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(self._target)
            except OSError:
                client.close()
                continue
            with self._lock:
                if self._closed:
                    client.close()
                    server.close()
                    return
                self._sockets |= {client, server}
            self.counts["connections"] += 1
            pair = client, server
            left = threading.Semaphore(0)
            for way, (source, target) in enumerate((pair, pair[::-1])):
                source.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                rng = random.Random(f"{self._seed} {number} {way}")
                self._start(self._pump, source, target, rng, left)

    def _pump(self, source, target, rng, left):
        try:
            while data := source.recv(8192):
                self._pass_on(data, target, rng)
        except (OSError, _Cut):
            pass
        for sock in (source, target):
            _shut_down(sock)
        # The last of the two closes both.
        left.release()
        with self._lock:
            if left.acquire(blocking=False) and left.acquire(blocking=False):
                source.close()
                target.close()
                self._sockets -= {source, target}
            elif source.fileno() != -1:
                left.release()

    def _pass_on(self, data, target, rng):
        kinds, weights = zip(*self._chaos.items())
        kind = "pass" if self._calm else rng.choices(kinds, weights)[0]
        self.counts[kind] += 1
        if kind == "cut":
            target.sendall(data[: rng.randrange(len(data) + 1)])
            raise _Cut
        if kind == "delay":
            time.sleep(rng.random() * 0.01)
        elif kind == "stall":
            time.sleep(rng.random() * 0.5)
        elif kind == "trickle":
            cut = min(len(data), 300)
            for position in range(cut):
                target.sendall(data[position : position + 1])
            data = data[cut:]
        target.sendall(data)


class _Cut(Exception):
    """This connection is to end."""


def _shut_down(sock):
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)
