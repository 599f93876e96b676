"""Asking a server's monitor, as Prometheus and an open page do."""

import sys
import threading
import urllib.request


def scrape(port):
    """Ask for metrics and status once a second, until stdin ends."""

    def measure():
        ended = threading.Event()
        threading.Thread(target=lambda: (sys.stdin.read(), ended.set())).start()
        count = 0
        while not ended.wait(1):
            for path in ("metrics", "status.json"):
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}") as page:
                    page.read()
            count += 1
        return count

    return measure
