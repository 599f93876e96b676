"""Staying connected: the reader thread.

    search -> verify -> tell the database -> read until the connection is lost
           -> again

The reader thread owns the order: whatever the server says takes effect in it, in
the order in which it arrived.  Callers write their own requests and wait.  Servers
are searched for by the attempts of `connecting`, which end before anything that
follows the registration is read.

With `fallback`, a second thread searches on while the server is a read-only one.
When it has found a better one, it breaks the connection, and the reader thread
goes on with the new one in the usual way.
"""

import dataclasses
import logging
import random
import threading
import time

from ..errors import ClientDisconnected, ProtocolError
from ..wire import messages
from ..wire.channel import ConnectionLost, PeerSilent, format_address
from ..wire.text import printable
from . import addresses
from .connecting import GREETING_TIMEOUT, Refused, Search
from .handshake import deadline_in
from .hearing import hear

logger = logging.getLogger(__name__)

#: Seconds.  After a connection that lasted for less there is a pause; after any
#: other the search for the next one begins at once.
SHORT = 1

#: Why a connection may be lost or not come about.
_EXPECTED = (Refused, ConnectionLost, ProtocolError, ClientDisconnected, OSError)


def _reason(error):
    try:
        return printable(getattr(error, "strerror", None) or str(error) or repr(error))
    except Exception:  # The server has made it, and of strange parts.
        return type(error).__name__


class Connection:
    """Keeps one link to one of several addresses.

    `owner` is told what happens, in the reader thread:

    - `owner.verify(ask, tid)` when registered with the server, whose last commit
      is `tid`; `ask(name, *args)` makes a call;
    - `owner.connected(info)`, `owner.disconnected()`;
    - `owner.invalidated(tid, oids)` and `owner.informed(info)`.

    `request` is what servers are asked; `poll` is the delay in seconds between
    attempts, `wait_timeout` how long callers wait for a connection.
    """

    def __init__(self, owner, addrs, request, wait_timeout, poll, label=None):
        self._owner = owner
        self._addresses = addrs
        self._request = request
        self._wait_timeout = wait_timeout
        self._poll = poll
        self._label = label
        self._resolver = addresses.Resolver()
        # Guards all of the below.  Entered by itself, because a condition's `with` may
        # leave the lock behind if a signal's handler raises.
        self._lock = threading.RLock()
        self._condition = threading.Condition(self._lock)
        self._closed = False
        self._search = None
        self._connecting = None
        self._link = None
        self._reasons = {}
        self._refusal = None
        # The search for a better server, its thread, and what it has found.
        self._second_search = None
        self._second_thread = None
        self._better_link = None
        self._thread = threading.Thread(
            target=self._run, name=f"zeolite-reader-{request.storage}", daemon=True
        )

    # Any thread.

    def start(self):
        """Begin to connect."""
        self._thread.start()

    def close(self):
        """Disconnect for good and end the thread."""
        with self._lock:
            self._closed = True
            self._condition.notify_all()
            self._cancel_searches()
            for link in (self._link, self._connecting):
                if link is not None:
                    link.end()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def set_addresses(self, addrs):
        """Search at these addresses from now on; keep a connection that works."""
        with self._lock:
            self._addresses = addrs
            self._reasons.clear()
            self._refusal = None
            self._cancel_searches()
            self._condition.notify_all()

    def _cancel_searches(self):
        for search in (self._search, self._second_search):
            if search is not None:
                search.cancel()

    @property
    def is_connected(self):
        return self._link is not None

    @property
    def is_read_only(self):
        """Whether the server, if there is one now, allows no writing."""
        link = self._link
        return link is not None and link.is_read_only

    def link(self):
        """Return the link, waiting for one up to `wait_timeout` seconds.

        Raises `ClientDisconnected` with the reasons why there is none.
        """
        return self._link or self._wait_for_link(stop_if_refused=False)

    def first_link(self):
        """Like `link`, but do not wait for servers that have refused."""
        return self._wait_for_link(stop_if_refused=True)

    def _wait_for_link(self, stop_if_refused):
        if threading.current_thread() is self._thread:
            raise ClientDisconnected("the reader thread cannot wait for itself")
        with self._lock:
            self._condition.wait_for(
                lambda: (
                    self._link or self._closed or (stop_if_refused and self._refusal)
                ),
                self._wait_timeout,
            )
            if self._link is not None:
                return self._link
            if self._closed:
                raise ClientDisconnected("the storage is closed")
            if stop_if_refused and isinstance(self._refusal, ProtocolError):
                raise ProtocolError(self._why())
            raise ClientDisconnected(self._why())

    def _why(self):
        return "; ".join(
            f"{format_address(address)}: "
            + self._reasons.get(
                address, f"no answer within {self._wait_timeout:g} seconds"
            )
            for address in self._addresses
        )

    # The reader thread.

    def _run(self):
        while not self._closed:
            since = time.monotonic()
            try:
                link = self._take_better_link() or self._find()
                if link is not None:
                    self._stay(link)
            except Exception as error:
                self._failed(self._addresses[0], error)
            pause = min(self._poll, SHORT)
            if time.monotonic() - since < pause:
                with self._lock:  # Do not spin if it goes wrong at once.
                    if not (self._closed or self._better_link):
                        self._condition.wait(pause * random.uniform(0.75, 1.25))
        if self._better_link is not None:
            self._better_link.lose("the storage is closed")

    def _find(self):
        """Return a link that is ready, None if the storage is closed meanwhile."""
        while True:
            with self._lock:
                if self._closed:
                    return None
                search = self._search = self._new_search(
                    self._request, self._failed, self._refused
                )
            try:
                # None if it was cancelled: there are other addresses now.
                while (link := search.next()) is not None:
                    error = self._try_to_greet(link)
                    if error is None:
                        return link
                    search.reject(link, error)
            finally:
                with self._lock:
                    self._search = None
                search.close()

    def _new_search(self, request, failed, refused, later=False):
        resolver = self._resolver
        return Search(
            self._addresses, request, self._poll, resolver, failed, refused, later
        )

    def _try_to_greet(self, link):
        """Return None, or the error, and then the link is closed."""
        try:
            self._greet(link)
        except Exception as error:
            self._lose(link, error)
            return error
        return None

    def _greet(self, link):
        """Bring the owner up to date with a server that has registered us."""
        with self._lock:
            self._connecting = link
            if self._closed:
                link.end()
        early = []

        def ask(name, *args):
            deadline = deadline_in(GREETING_TIMEOUT)
            return link.ask(name, *args, deadline=deadline, take=take)

        def take(name, args):
            hear(link, self._owner, name, args, early)

        if self._label:
            link.post(messages.encode_one_way("set_client_label", (self._label,)))
        info = ask("get_info")
        if type(info) is not dict:
            raise ProtocolError("the server does not tell about its storage")
        if info.get("zeolite"):
            link.is_zeolite = True
            link.transaction_lock = None
            link.is_shared = bool(info.get("is_shared"))
            link.keeps_history = bool(info.get("keeps_history", True))
        tid = self._owner.verify(ask, link.tid)
        # What was committed while the owner was verified.
        for args in early:
            if args[0] > tid:
                self._owner.invalidated(*args)
        self._owner.connected(info)
        with self._lock:
            self._connecting = None
            self._link = link
            self._reasons.clear()
            self._refusal = None
            self._condition.notify_all()
        mode = ", read-only" if link.is_read_only else ""
        logger.info("%s: connected to %s%s", link.name, self._name(), mode)

    def _stay(self, link):
        """Read until the connection is lost."""
        try:
            if link.is_read_only:
                self._begin_second_search(link)
            self._read(link)
        except Exception as error:
            if link.is_retired:
                logger.info("%s: leaving it for a writable server", link.name)
            else:
                self._failed(link.address, error)
            self._lose(link, error)
        finally:
            self._end_second_search()

    def _read(self, link):
        while True:
            try:
                said = link.receive()
            except PeerSilent:
                link.probe()
            else:
                if said is not None:
                    hear(link, self._owner, *said)

    def _failed(self, address, error):
        if not isinstance(error, _EXPECTED):
            logger.error("%s: an error in the client", self._name(), exc_info=error)
        reason = _reason(error)
        with self._lock:
            if self._closed:
                return
            news = self._reasons.get(address) != reason
            self._reasons[address] = reason
        level = logging.WARNING if news else logging.DEBUG
        logger.log(level, "%s: %s", format_address(address), reason)

    def _refused(self, error):
        with self._lock:
            self._refusal = error
            self._condition.notify_all()

    def _lose(self, link, error):
        with self._lock:
            was_connected = self._link is link
            self._link = self._connecting = None
            reason = "the storage is closed" if self._closed else _reason(error)
        link.lose(reason)
        if was_connected:
            self._owner.disconnected()

    def _begin_second_search(self, link):
        thread = threading.Thread(
            target=self._look_for_better,
            args=(link,),
            name=f"zeolite-second-search-{self._request.storage}",
            daemon=True,
        )
        thread.start()
        self._second_thread = thread

    def _end_second_search(self):
        """The link is lost; end what looks for a better one."""
        if self._second_thread is None:
            return
        with self._lock:
            if self._second_search is not None:
                self._second_search.cancel()
        self._second_thread.join()
        self._second_thread = None

    def _take_better_link(self):
        with self._lock:
            link, self._better_link = self._better_link, None
        if link is None:
            return None
        error = self._try_to_greet(link)
        if error is None:
            return link
        self._failed(link.address, error)
        return None

    # The thread that looks for a better server.

    def _look_for_better(self, link):
        """Find a writable server in place of the one of `link`, while that lasts."""
        request = dataclasses.replace(self._request, fallback=False, read_only=False)
        while True:
            with self._lock:
                if self._closed or self._link is not link:
                    return
                search = self._second_search = self._new_search(
                    request, self._is_no_better, self._is_no_better, later=True
                )
            try:
                # None if it was cancelled: there are other addresses now, or no use.
                while (found := search.next()) is not None:
                    if found.tid >= self._owner.last_tid:
                        self._move(link, found)
                        return
                    error = Refused("it does not have all transactions yet")
                    found.lose(error)
                    search.reject(found, error)
            except Exception:
                logger.exception("%s: looking for a better server", self._name())
                return
            finally:
                with self._lock:
                    self._second_search = None
                search.close()

    def _move(self, link, better):
        with self._lock:
            is_wanted = self._link is link and not self._closed
            if is_wanted:
                self._better_link = better
        if is_wanted:
            link.retire()
        else:
            better.lose("it is not wanted any more")

    def _is_no_better(self, *what):
        logger.debug("%s: no writable server yet: %s", self._name(), what)

    def _name(self):
        return f"storage {self._request.storage}"
