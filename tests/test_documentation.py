"""README.txt and zeolite.conf.example say what the code does.

Every key has its place in both, with its default; every argument has one in README;
and the messages that README explains are those of the code.
"""

import ast
import inspect
import pathlib
import re

import pytest

import zeolite
from zeolite.clientstorage.storage import _LATER
from zeolite.schemas import server_schema

ROOT = pathlib.Path(zeolite.__file__).parent.parent
README = (ROOT / "README.txt").read_text(encoding="utf-8")
EXAMPLE = (ROOT / "zeolite.conf.example").read_text(encoding="utf-8")

SCHEMA = server_schema()

#: Of the server's `<ssl>` section; the others are the client's.
SERVER_TLS = {"certificate", "key", "password-function", "authenticate"}

#: Arguments that are accepted for old programs, and do nothing.
WITHOUT_EFFECT = {
    "min_disconnect_poll",
    "max_disconnect_poll",
    "drop_cache_rather_verify",
}


def keys(section):
    """The keys of a section: name -> (default as text or None, datatype)."""
    found = {}
    for name, info in SCHEMA.gettype(section):
        if not info.issection():
            default = info.getdefault()
            value = getattr(default, "value", None) or None
            found[name] = (value, info.datatype)
    return found


def settings(text, section):
    """What a text's `<section>` sets, commented out or not: name -> list of values.

    Prose is among it, which does no harm.
    """
    found, inside = {}, 0
    for line in text.splitlines():
        line = re.sub(r"^[\s#]*", "", line)
        if re.fullmatch(rf"<{section}>", line):
            inside += 1
        elif re.fullmatch(rf"</{section}>", line):
            inside -= 1
        elif inside and (match := re.fullmatch(r"([a-z][a-z-]*)\s+(.*)", line)):
            found.setdefault(match[1], []).append(match[2])
    return found


def terms(text):
    """The terms of definition lists: name -> list of what is in parentheses behind."""
    name = r"[a-z][a-z_-]*(?: \([^)]*\))?"
    found = {}
    for line in text.splitlines():
        if re.fullmatch(rf"{name}(, {name})*", line):
            for match in re.finditer(r"([a-z][a-z_-]*)(?: \(([^)]*)\))?", line):
                found.setdefault(match[1], []).append(match[2])
    return found


def same(text, default, datatype):
    try:
        return datatype(text) == datatype(default)
    except (ValueError, TypeError):
        return False


def missing_settings(text, where, section, wanted):
    """Say what a text's `<section>` lacks of the keys that are wanted."""
    given, said = settings(text, section), []
    for name, (default, datatype) in wanted.items():
        shown = f"{name} {default or 'EXAMPLE'}"
        if name not in given:
            said.append(
                f"{where}: in <{section}>, the key {name} is missing; write a comment "
                f"and the line '# {shown}'"
            )
        elif default is not None and not any(
            same(value, default, datatype) for value in given[name]
        ):
            said.append(
                f"{where}: in <{section}>, no line of {name} has its default; write "
                f"'# {shown}', not {given[name]}"
            )
    return said


def missing_terms(text, where, wanted):
    """Say what the definition lists of a text lack of a server's keys."""
    given, said = terms(text), []
    for name, (default, datatype) in wanted.items():
        shown = f"{name} (default: {default})" if default else f"{name} (no default)"
        if name not in given:
            said.append(
                f"{where}: the key {name} is missing; write a line '{shown}' and, "
                "indented below it, what it means"
            )
        elif default is not None and not any(
            same(value.removeprefix("default: "), default, datatype)
            for value in filter(None, given[name])
        ):
            said.append(f"{where}: {name} without its default; write '{shown}'")
        elif default is None and any(
            value and value.startswith("default: ") for value in given[name]
        ):
            said.append(f"{where}: {name} has no default; write '{shown}'")
    return said


def test_keys_of_the_server():
    server = keys("zeolite")
    tls = {name: key for name, key in keys("ssl").items() if name in SERVER_TLS}
    said = [
        *missing_settings(EXAMPLE, "zeolite.conf.example", "zeolite", server),
        *missing_settings(EXAMPLE, "zeolite.conf.example", "ssl", tls),
        *missing_terms(README, "README.txt", server),
        *missing_terms(README, "README.txt", tls),
    ]
    assert not said, "\n" + "\n".join(said)


@pytest.mark.parametrize("where", ["README.txt", "zeolite.conf.example"])
def test_keys_of_clientstorage(where):
    text = {"README.txt": README, "zeolite.conf.example": EXAMPLE}[where]
    said = [
        *missing_settings(text, where, "clientstorage", keys("clientstorage")),
        *missing_settings(text, where, "ssl", keys("ssl")),
    ]
    assert not said, "\n" + "\n".join(said)


def test_no_key_is_there_that_the_schema_does_not_have():
    """In the literal blocks; prose could be anything."""
    block = README[README.index("    <clientstorage>\n      server 127.0.0.1:8100") :]
    block = block[: block.index("</clientstorage>") + len("</clientstorage>")]
    known = keys("clientstorage") | keys("ssl")
    assert set(settings(block, "clientstorage")) == set(known)


def test_arguments_of_client_storages():
    """Each is a term in README, and a term of the class's own documentation."""
    parameters = set(inspect.signature(zeolite.ClientStorage).parameters)
    wanted = parameters - set(_LATER) - WITHOUT_EFFECT - {"addr"}
    documented = terms(inspect.cleandoc(zeolite.ClientStorage.__doc__))
    for where, given in [("README.txt", terms(README)), ("docstring", documented)]:
        missing = sorted(wanted - set(given))
        assert not missing, f"{where}: no text for the arguments {missing}"


def literals():
    """All texts in the code, with a null character for what is filled in."""
    found = []
    for path in (ROOT / "zeolite").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                parts = [getattr(part, "value", "\0") for part in node.values]
                found.append("".join(p if type(p) is str else "\0" for p in parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return "\n".join(found)


#: Messages that README explains and others say.
OF_OTHERS = {
    "ADDRESS: Connection refused",
    "ConflictError",
    "Unexpected error while trying to resolve conflict on <... BadClass ...>",
    "could not load package ...",
    "type name cannot be redefined",
}


def test_messages_that_readme_explains_are_said():
    section = README.partition("\nTroubleshooting by error message\n")[2]
    section = section.partition("\nWhat the server does not trust\n")[0]
    lines = [line for line in section.splitlines() if line.startswith("``")]
    messages = [text for line in lines for text in re.findall("``(.+?)``", line)]
    assert len(messages) > 40
    code = literals()
    stale = [
        message
        for message in messages
        if message not in OF_OTHERS
        for part in re.split(r"\.\.\.", message)
        if part.strip(" :;,") and part.strip(" :;,") not in code
    ]
    assert not stale, f"README explains what nothing says: {stale}"


def test_checks_notice_what_is_wrong():
    """The tests above could not fail if these did not."""
    wanted = {"colour": ("red", str), "size": (None, str)}
    for text, words in [
        ("<zeolite>\n</zeolite>", ["colour is missing", "size is missing"]),
        ("<zeolite>\n# colour blue\n# size 1\n</zeolite>", ["has its default"]),
        ("<zeolite>\n# colour red\n# size 1\n</zeolite>", []),
    ]:
        said = missing_settings(text, "x", "zeolite", wanted)
        assert len(said) == len(words)
        assert all(word in line for word, line in zip(words, said, strict=True))
    for text, words in [
        ("", ["colour is missing", "size is missing"]),
        ("colour (default: blue)\nsize", ["without its default"]),
        ("colour (default: red), size (default: 1)", ["has no default"]),
        ("colour (default: red)\nsize (no default)", []),
    ]:
        said = missing_terms(text, "x", wanted)
        assert len(said) == len(words), said
        assert all(word in line for word, line in zip(words, said, strict=True))
