"""What can be asked for: the page for people, and what programs read."""

import base64
import hashlib
import ipaddress
import json
import logging
import pkgutil
import re

from ..errors import ConfigurationError
from ..wire.channel import format_address
from . import prometheus
from .httpserver import Answer, HTTPServer
from .report import report

logger = logging.getLogger(__name__)


class Monitor:
    """Tells how a `StorageServer` is, at a pair of host and port.

    Raises `ConfigurationError` where that address cannot be had.
    """

    def __init__(self, address, server):
        pages = {
            "/": _page(),
            "/metrics": lambda: _text(prometheus.metrics(server)),
            "/status.json": lambda: _json(report(server)),
            "/healthz": lambda: _health(server.trouble()),
        }
        try:
            self._http = HTTPServer(address, pages)
        except (OSError, UnicodeError) as error:
            reason = getattr(error, "strerror", None) or error
            raise ConfigurationError(
                f"the monitor cannot listen at {format_address(address)}: {reason}; "
                "choose another monitor-address, or stop the program that uses it"
            ) from error

    @property
    def address(self):
        """Where it listens: (host, real port)."""
        return self._http.address

    def start(self):
        """Begin to answer."""
        self._http.start()
        logger.info("monitor at http://%s/", format_address(self.address))
        if ipaddress.ip_address(self.address[0].partition("%")[0]).is_unspecified:
            logger.warning(
                "the monitor listens on all interfaces: whoever reaches port %s may "
                "see names and addresses of clients; set monitor-address to one host "
                "to change that",
                self.address[1],
            )

    def close(self):
        """End it; returns when its threads have ended."""
        self._http.close()


def _page():
    """Return a function that returns the page for people."""
    body = pkgutil.get_data(__package__, "page.html")
    rules = ["default-src 'none'", "connect-src 'self'", "img-src data:"]
    # Only the style and the script that stand in the page itself.
    for kind in ("style", "script"):
        inside = re.search(rf"<{kind}>(.*)</{kind}>".encode(), body, re.DOTALL)[1]
        digest = base64.b64encode(hashlib.sha256(inside).digest()).decode()
        rules.append(f"{kind}-src 'sha256-{digest}'")
    rules += ["base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'"]
    answer = Answer(
        "text/html; charset=utf-8",
        body,
        headers={"Content-Security-Policy": "; ".join(rules)},
    )
    return lambda: answer


def _text(text):
    return Answer(prometheus.CONTENT_TYPE, text.encode("utf-8", "backslashreplace"))


def _json(value):
    return Answer("application/json", json.dumps(value).encode())


def _health(trouble):
    text = "ok" if trouble is None else trouble
    status = 200 if trouble is None else 503
    return Answer("text/plain; charset=utf-8", f"{text}\n".encode(), status)
