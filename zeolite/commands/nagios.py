"""`python -m zeolite status --nagios`: one line, metrics, and a status for Nagios.

It prints what ZEO's plugin prints, and its state file is of the same kind, so the one
can take the place of the other.  Rates are what changed since the state file was
written, by the file's time.
"""

import json
import os
import sys
import time

from ..arguments import Parser
from ..errors import ConfigurationError
from . import servers, statussource, statustable
from .statussource import LEVELS
from .terminal import plain

OK, WARNING, CRITICAL, UNKNOWN = range(4)

#: Counters, in the order of ZEO's plugin.
_RATES = "aborts", "commits", "conflicts", "conflicts_resolved", "loads", "stores"

_UNITS = {"seconds": 1, "minutes": 60, "hours": 3600, "days": 86400}


class NagiosParser(Parser):
    """Says what is wrong where Nagios looks for it, with the status for that."""

    def error(self, message):
        sys.exit(_say(UNKNOWN, [f"UNKNOWN: {message}; see {self.prog} -h"]))


def add_arguments(parser):
    """Add the options that are for --nagios."""
    group = parser.add_argument_group("with --nagios")
    group.add_argument(
        "-m", "--output-metrics", action="store_true", help="print metrics, too"
    )
    group.add_argument(
        "-s",
        "--status-path",
        metavar="FILE",
        help="a state file, read and written for the rates",
    )
    group.add_argument(
        "-u",
        "--time-units",
        choices=list(_UNITS),
        help="the unit of time of rates (default: minutes)",
    )
    for option, level in ("--warning", "a warning"), ("--critical", "critical"):
        group.add_argument(
            option,
            metavar="METRIC=NUMBER",
            action="append",
            help=f"above this number it is {level}; may be repeated",
        )


def given(arguments):
    """Return the name of one of these options that was given, or None."""
    for option in (
        "output-metrics",
        "status-path",
        "time-units",
        "warning",
        "critical",
    ):
        if getattr(arguments, option.replace("-", "_")):
            return f"--{option}"
    return None


def run(arguments):
    """Print the result and return its status."""
    try:
        thresholds = [
            *_thresholds(arguments.critical, CRITICAL, arguments),
            *_thresholds(arguments.warning, WARNING, arguments),
        ]
        if len(arguments.addresses) > 1:
            raise ConfigurationError("--nagios is for one server; run it for each")
        access = servers.Access(arguments)
        access.check(arguments.addresses[0])
        answer = statussource.ask(arguments.addresses[0], access)
        before, seconds = _exchange(arguments.status_path, answer)
    except (ConfigurationError, statussource.NotAServer) as error:
        return _say(UNKNOWN, [f"UNKNOWN: {error}"])
    except statussource.NoStatus as error:
        return _say(CRITICAL, [f"Can't connect {error}"])
    if not answer.storages:
        return _say(WARNING, ["No storages"])
    metrics = _metrics(
        answer, before, seconds, _UNITS[arguments.time_units or "minutes"]
    )
    level, messages = _judge(answer, metrics, thresholds)
    shown = [
        f"{_label(storage, name)}={value}"
        for (storage, name), value in metrics.items()
        if name != "lock_seconds"
    ]
    return _say(level, messages, shown if arguments.output_metrics else [])


def _thresholds(texts, level, arguments):
    names = (*LEVELS, "lock_seconds", *_RATES)
    for text in texts or ():
        name, _, number = text.partition("=")
        try:
            number = float(number)
        except ValueError:
            name = None
        if name not in names or number != number:
            raise ConfigurationError(
                f"{text!r} is no threshold; write METRIC=NUMBER, with one of "
                f"{', '.join(names)}"
            )
        if name in _RATES and not arguments.status_path:
            raise ConfigurationError(f"the rate of {name} needs --status-path FILE")
        yield level, name, number


def _exchange(path, answer):
    """Write the state; return the one before and its age in seconds, or ({}, 0)."""
    if path is None:
        return {}, 0
    before, age = {}, 0
    try:
        age = time.time() - os.stat(path).st_mtime
        with open(path, encoding="utf-8") as file:
            before = json.load(file)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError:
        pass  # Half of one, or none: this one takes its place.
    temporary = f"{path}.{os.getpid()}"
    try:
        with open(temporary, "w", encoding="utf-8") as file:
            json.dump(answer.storages, file)
        os.replace(temporary, path)
    except OSError as error:
        if os.path.exists(temporary):
            os.unlink(temporary)
        reason = error.strerror
        raise ConfigurationError(f"{path}: cannot be written: {reason}") from error
    return before, age


def _metrics(answer, before, seconds, unit):
    """Return {(storage, name): number}; rates only where they are known."""
    metrics = {}
    for storage, status in sorted(answer.storages.items()):
        for name in sorted(LEVELS, key=["active_txns", "connections", "waiting"].index):
            metrics[storage, name] = status[name]
        metrics[storage, "lock_seconds"] = statustable.lock_seconds(status)
    for storage, status in sorted(answer.storages.items()):
        try:
            rates = statustable.rates(status, before[storage], seconds)
        except (KeyError, TypeError, AttributeError):
            continue  # There was no such storage, or it is a file of something else.
        if rates is not None:
            for name in _RATES:
                metrics[storage, name] = rates[name] * unit
    return metrics


def _judge(answer, metrics, thresholds):
    """Return the level and the messages (list of str)."""
    level, messages, reported = OK, [], set()
    for severity, name, most in thresholds:
        for (storage, found), value in metrics.items():
            if found == name and value > most and (storage, name) not in reported:
                reported.add((storage, name))
                level = max(level, severity)
                word = "CRITICAL" if severity == CRITICAL else "WARNING"
                label = _label(storage, name)
                messages.append(f"{word}: {label} is {value:g}, above {most:g}")
    for storage, status in sorted(answer.storages.items()):
        if not status["last-transaction"].strip("0"):
            level = max(level, WARNING)
            messages.append(f"Empty storage {storage!r}")
    return level, messages or ["OK"]


def _label(storage, name):
    if storage == "1":
        return name
    label = f"{storage}:{name}"
    return f"'{label}'" if " " in storage else label


def _say(level, messages, metrics=()):
    lines = [plain(message) for message in messages]
    # A bar is where metrics begin.
    lines = [line.replace("|", "/") for line in lines]
    metrics = [plain(metric) for metric in metrics]
    if metrics:
        lines[0] += "|" + metrics[0]
    if len(metrics) > 1:
        lines.append("| " + "\n ".join(metrics[1:]))
    print("\n".join(lines))
    return level
