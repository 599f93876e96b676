"""`python -m zeolite check CONFIG`: what a server would do with a file.

Nothing is started, opened for writing, created or locked.
"""

import dataclasses

from .. import config
from ..wire.channel import format_address
from ..wire.tlssettings import TLSSettings
from . import FAILED, checking, complain
from .terminal import plain

DESCRIPTION = """\
Say what a server would do with a configuration file, without starting one: where it
would listen, the storages it would serve, the keys that are not as by default, and
what would go wrong, or is allowed and probably not meant.

exit status:
  0  a server could start; there may be warnings
  1  the file is right, but a server could not start with things as they are
  2  the file is wrong: the line on stderr is the server's
"""


def add_arguments(parser):
    parser.add_argument(
        "file",
        metavar="CONFIG",
        nargs="?",
        default="zeolite.conf",
        help="the file (default: %(default)s)",
    )


def run(arguments):
    """Return the exit status."""
    configuration = config.read_server_file(arguments.file)
    section = configuration.section
    checking.check_fit(configuration)
    findings = checking.Findings()
    print(f"{arguments.file}: listens at {format_address(section.address)}")
    print(f"  TLS: {checking.tls(configuration)}")
    _show_keys(section.values, skipped=("address",))
    for name, storage in configuration.storages.items():
        kind = storage.config.getSectionType()
        print(plain(f"storage {name}: {kind}"))
        _show_keys(storage.config)
        checking.check_storage(
            findings, f"storage {name}", storage.config, section.options
        )
    _show_log(configuration.eventlog)
    if configuration.has_runner:
        print("ignored: the runner section, which is for zdaemon")
    checking.check_address(findings, section.address, section.tls)
    checking.check_monitor(findings, section.options.monitor_address)
    checking.check_server(findings, section, configuration.eventlog)
    for text in findings.warnings:
        print(plain(f"warning: {text}"))
    for text in findings.problems:
        complain(plain(f"{arguments.file}: {text}"))
    if findings.problems:
        return FAILED
    print("a server could start")
    return 0


def _show_keys(section, indent="  ", skipped=()):
    """Print the keys of a section that are not as by default, and its sections."""
    for name, value, default in checking.settings(section):
        if name in skipped or value == default:
            continue
        if checking.is_section(value):
            inner = checking.values_of(value)
            print(plain(f"{indent}<{inner.getSectionType()}>"))
            _show_keys(inner, indent + "  ")
            continue
        if isinstance(value, TLSSettings):
            _show_tls(value, indent)
            continue
        shown = checking.shown(value, name)
        # An empty text, or an empty list of a key that may be repeated, is none.
        by_default = "" if default in (None, "", []) else checking.shown(default)
        by_default = by_default and f" (default: {by_default})"
        print(plain(f"{indent}{name} {shown}{by_default}"))


def _show_tls(settings, indent):
    print(f"{indent}<ssl>")
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if value != field.default:
            key = field.name.replace("_", "-")
            print(plain(f"{indent}  {key} {checking.shown(value)}"))


def _show_log(eventlog):
    if eventlog is None:
        print("log: stderr, from level info")
        return
    paths = checking.log_paths(eventlog)
    where = ", ".join(paths) or "as the eventlog section says"
    print(plain(f"log: {where}"))
