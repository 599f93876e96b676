"""`python -m zeolite copy SOURCE DESTINATION`: all transactions, with their blobs."""

import contextlib
import os
import time

from ZODB.interfaces import IStorageRestoreable
from ZODB.POSException import Unsupported
from ZODB.utils import p64, u64, z64

from ..clientstorage.copying import Copying
from ..errors import ConfigurationError
from ..tids import shown
from . import CommandError, comparing, complain, copyends, servers
from .terminal import ProgressLine, duration, plain, size

DESCRIPTION = """\
Copy all transactions of one storage to another, with their ids and their blobs.  A
copy that was interrupted in whatever way goes on where it was when the command is
run again.  A destination with other data is refused, and left as it is.  What is
committed to the source after the start is not copied; run it again for that.

SOURCE and DESTINATION are each one of
  HOST:PORT, PORT, [IPV6]:PORT, or the path of a Unix socket: a server, with the name
    of a storage after a colon if that is not 1
  a path of a file storage's data, existing or ending in .fs
  a path of a ZConfig file with one storage section of any kind, <clientstorage>
    included; for a server with TLS of its own, or storages with wrappers

A server's blobs pass through a directory in $TMPDIR of up to 256 MB, or as large as
the largest of them.

exit status:
  0  all is in the destination; with --verify it is the same
  1  it failed, the destination has other data, or they differ; stderr says why
  2  wrong usage
"""


def add_arguments(parser):
    parser.add_argument("source", metavar="SOURCE")
    parser.add_argument("destination", metavar="DESTINATION")
    parser.add_argument(
        "--verify",
        action="store_true",
        help="then compare all transactions, records and blobs",
    )
    parser.add_argument(
        "--verify-only",
        action="store_true",
        help="only compare; nothing is written",
    )
    for end in ("source", "destination"):
        parser.add_argument(
            f"--{end}-blobs",
            metavar="DIR",
            help=f"the directory of blobs, if {end.upper()} is a file storage's data",
        )
    servers.add_arguments(parser)


def run(arguments):
    """Return the exit status; raise `CommandError` and `ConfigurationError`."""
    access = servers.Access(arguments)
    source = copyends.End(arguments.source, arguments.source_blobs, "source")
    destination = copyends.End(
        arguments.destination, arguments.destination_blobs, "destination"
    )
    if source.is_same(destination):
        raise ConfigurationError(f"{source.text} is source and destination")
    if access.tls and not (source.is_server or destination.is_server):
        raise ConfigurationError("TLS is for servers, and there is none")
    with contextlib.ExitStack() as stack:
        from_ = stack.enter_context(source.opened(access, read_only=True))
        to = stack.enter_context(
            destination.opened(access, read_only=arguments.verify_only)
        )
        stop = _last(from_)
        with _told(source, destination):
            if not arguments.verify_only:
                _copy(from_, to, stop)
            if arguments.verify or arguments.verify_only:
                _verify(from_, to, stop)
    return 0


@contextlib.contextmanager
def _told(source, destination):
    """Turn what storages raise into one line."""
    try:
        yield
    except (CommandError, ConfigurationError):
        raise
    except Unsupported as error:
        raise CommandError(f"{destination.text}: {servers.reason(error)}") from error
    except Exception as error:
        raise CommandError(
            f"{source.text} to {destination.text}: {servers.reason(error)}; what was "
            "copied so far is right, run it again to go on"
        ) from error


def _last(storage):
    return storage.lastTransaction() or z64


def _copy(source, destination, stop):
    if not IStorageRestoreable.providedBy(destination):
        raise CommandError(
            "the destination cannot keep the ids of transactions, so it would be no "
            "copy; use a file storage, or another kind that can restore"
        )
    start = time.monotonic()
    begin = _check_beginning(source, destination, stop)
    total = source.getSize() or 0
    with ProgressLine() as line:
        progress = _Progress(line, total, size_before=destination.getSize() or 0)
        copying = Copying(source, destination, progress.without_blob)
        progress.has_blobs = copying.has_blobs
        for transaction in source.iterator(begin, stop) if stop != z64 else ():
            copying.copy(transaction, progress.record)
            progress.transaction(transaction)
    took = duration(time.monotonic() - start)
    print(
        f"copied {progress.transactions:,} transactions, {progress.records:,} records, "
        f"{progress.blobs:,} blobs: {size(progress.bytes)} in {took}"
    )
    if stop == z64:
        print("complete: the source is empty", flush=True)
    else:
        print(f"complete up to {describe(stop)}", flush=True)
    if progress.missing:
        complain(f"{progress.missing:,} blobs are not in the source either")


def describe(tid):
    """Return a tid (bytes) as text, with its time."""
    return "nothing" if tid == z64 else shown(tid)


def _check_beginning(source, destination, stop):
    """Return the tid to begin at, None for the first.

    Raises `CommandError` if the destination has something else than the beginning
    of the source.
    """
    with ProgressLine() as line:
        label = "comparing what is there"
        count, last, difference = comparing.headers(
            source, destination, lambda n: line.show(f"{label}: {n:,}")
        )
    if difference:
        raise CommandError(
            f"the destination has other data: {difference}; if the source was packed "
            "since, copy to an empty one"
        )
    if last is None:
        return None
    print(f"{count:,} transactions are there already, up to {describe(last)}")
    return p64(u64(last) + 1)


def _verify(source, destination, stop):
    with ProgressLine() as line:
        total = source.getSize() or 0
        found = comparing.contents(
            source,
            destination,
            stop,
            lambda done: line.show_part("verifying", done, total),
        )
    if found.difference:
        raise CommandError(f"source and destination differ: {found.difference}")
    print(
        f"verified {found.transactions:,} transactions, {found.records:,} records, "
        f"{found.blobs:,} blobs: the same"
    )


class _Progress:
    """Counts what was copied and shows it."""

    def __init__(self, line, total, size_before):
        self._line = line
        self._total = max(0, total - size_before)
        self.transactions = self.records = self.blobs = self.missing = 0
        self.bytes = 0
        self.has_blobs = False
        self._estimate = 0  # Of `bytes`, what counts for the size of the source.

    def record(self, record, path):
        self.records += 1
        count = comparing.record_size(record)
        self.bytes += count
        self._estimate += count
        if path is not None:
            self.blobs += 1
            self.bytes += os.path.getsize(path)
        self._show()

    def transaction(self, transaction):
        self.transactions += 1
        count = comparing.header_size(transaction)
        self.bytes += count
        self._estimate += count
        self._show()

    def without_blob(self, record):
        if not self.has_blobs:
            raise CommandError(
                f"object {record.oid.hex()} is a blob, and not both ends have blobs; "
                "give --source-blobs and --destination-blobs for file storages, and "
                "serve storages with blobs"
            )
        self.missing += 1

    def _show(self):
        extra = f" +{self.blobs:,} blobs" if self.blobs else ""
        label = plain(f"copying{extra}")
        self._line.show_part(label, self._estimate, self._total)
