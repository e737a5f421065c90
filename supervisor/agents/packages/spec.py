"""Decodes `package.toml`: the name of a package, its needs, and the agent in it.

Top-level keys that an agent has are the agent's, and are checked as in a configuration, in a folder that is not known yet.
Keys that would give the agent rights, or another user or isolation, are refused: the operator that deploys it decides them.
"""

import re
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Annotated, Any, cast

from msgspec import Struct

from corral.supervisor.config.decoding.decoder import Document, KeyPath
from corral.supervisor.config.decoding.keys import Field, fields_of
from corral.supervisor.config.decoding.values import Refused, RefusedKey, each, is_list, is_table
from corral.supervisor.config.secrets.secrets import referred
from corral.supervisor.config.spec.loader import decode_agent
from corral.supervisor.config.spec.spec import DAEMON_WIDE, SECTIONS, Defaults, Spec
from corral.worker.contract.errors import InvalidParams

from .manifest import path_problem

SOURCE = "package.toml"
MAX_BYTES = 256 * 1024
"""Bytes of a package.toml."""

REQUIREMENT_MAX = 1000
"""Characters of one requirement."""


class Runtime(Struct, frozen=True):
    """`requires-runtime`: a specifier of Python (PEP 440) or "", and programs that have to be in PATH."""

    python: str = ""
    commands: tuple[str, ...] = ()


class Dependencies(Struct, frozen=True):
    """`dependencies`: requirements of Python (PEP 508), and npm packages with their ranges, such as `left-pad@^1`."""

    python: tuple[str, ...] = ()
    npm: tuple[str, ...] = ()


class Need(Struct, frozen=True):
    """Describes something that has to be there, unless it is optional, when the package is deployed."""

    name: str
    optional: bool = False


class Needs(Struct, frozen=True):
    """`needs`: the names of MCP servers, agents, capabilities and secrets."""

    mcp: tuple[Need, ...] = ()
    agents: tuple[Need, ...] = ()
    capabilities: tuple[Need, ...] = ()
    secrets: tuple[Need, ...] = ()


class PackageSpec(Struct, frozen=True, kw_only=True):
    """Represents a package.toml: `agent` has the keys of an agent as they were written, `install` is a path in the package or "".

    `version` is normalized (PEP 440).
    """

    name: str
    version: str
    description: str = ""
    requires_runtime: Runtime = Runtime()
    dependencies: Dependencies = Dependencies()
    needs: Needs = Needs()
    install: str = ""
    agent: dict[str, object] = {}


_NOT_OF_A_PACKAGE = "the operator that deploys the package decides this"

FORBIDDEN: Mapping[KeyPath, str] = {
    ("control",): f"{_NOT_OF_A_PACKAGE}: corral deploy --set control=...",
    ("python",): "a packaged agent runs on the Python of its own environment: write requires-runtime",
    ("process", "working_directory"): "a packaged agent works in its installed folder",
    **dict.fromkeys(
        (
            ("process", "user"),
            ("process", "group"),
            ("process", "isolation"),
            ("process", "enable_isolation"),
            ("process", "image"),
            ("process", "runtime"),
            ("process", "network"),
            ("process", "allowed_hosts"),
            ("process", "environment_file"),
            ("process", "inherit_environment"),
            ("monitoring", "alert"),
            ("monitoring", "alert_url"),
        ),
        _NOT_OF_A_PACKAGE,
    ),
}
"""Keys of an agent that a package cannot have, each with the reason."""


def version_text(raw: object) -> str:
    """Returns a version in its normal form (PEP 440)."""
    from packaging.version import InvalidVersion, Version  # noqa: PLC0415  # only who reads packages pays

    words = 'write a version as PEP 440 does, such as "1.2.0" or "2.0rc1"'
    if not isinstance(raw, str) or len(raw) > 100:
        raise Refused(words)
    try:
        return str(Version(raw))
    except InvalidVersion as error:
        raise Refused(words) from error


def _specifier(raw: object) -> str:
    from packaging.specifiers import InvalidSpecifier, SpecifierSet  # noqa: PLC0415  # likewise

    words = 'write a specifier of versions, such as ">=3.11"'
    if not isinstance(raw, str) or len(raw) > 200:
        raise Refused(words)
    try:
        return str(SpecifierSet(raw))
    except InvalidSpecifier as error:
        raise Refused(words) from error


def _requirement(raw: object) -> str:
    from packaging.requirements import InvalidRequirement, Requirement  # noqa: PLC0415  # likewise

    words = 'write a requirement, such as "httpx>=0.27"'
    if not isinstance(raw, str) or len(raw) > REQUIREMENT_MAX or "\n" in raw:
        raise Refused(words)
    try:
        found = Requirement(raw)
    except InvalidRequirement as error:
        raise Refused(f"{words}: {str(error).splitlines()[0]}") from error
    if found.url is not None:
        raise Refused(f"{words}; the files at an address can change: put them into the package")
    return str(found)


_NPM = re.compile(r"(@[a-z0-9~-][a-z0-9._~-]{0,100}/)?[a-z0-9~-][a-z0-9._~-]{0,200}(@[\w.^~<>=|* +-]{1,100})?")


def _npm(raw: object) -> str:
    if not isinstance(raw, str) or raw.startswith("-") or not _NPM.fullmatch(raw):
        raise Refused('write a name with a range, such as "left-pad@^1"')
    return raw


def _command(raw: object) -> str:
    if not isinstance(raw, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}", raw):
        raise Refused('write the name of a program in PATH, such as "git"')
    return raw


def _inner_path(raw: object) -> str:
    words = 'write a path inside the package, such as "./install.sh"'
    if not isinstance(raw, str):
        raise Refused(words)
    path = raw.removeprefix("./")
    if problem := path_problem(path):
        raise Refused(f"{words}: it {problem}")
    return path


def _name(raw: object) -> str:
    if not isinstance(raw, str) or not re.fullmatch(r"[a-z][a-z0-9_-]{0,47}", raw):
        raise Refused("write 1 to 48 small letters, digits, _ and -, the first a letter")
    if "__" in raw or re.search(r"-[0-9]+$", raw):
        raise Refused('an agent cannot be called so: no "__", and no end of - and digits')
    return raw


def _text(raw: object) -> str:
    if not isinstance(raw, str) or len(raw) > 2000 or not raw.isprintable():
        raise Refused("write one line of at most 2000 characters")
    return raw


def _need(raw: object) -> Need:
    words = 'write a name, or { name = "NAME", optional = true }'
    name: object = raw
    optional: object = False
    if is_table(raw):
        if set(raw) - {"name", "optional"}:
            raise Refused(words, "a table")
        name, optional = raw.get("name"), raw.get("optional", False)
    if not isinstance(name, str) or not name.isprintable() or not 0 < len(name) <= 200:
        raise Refused(words)
    if not isinstance(optional, bool):
        raise Refused("write optional = true or false", optional)
    return Need(name, optional)


def _below(raw: object, rules: Mapping[str, Callable[[object], object]], struct: type[Struct]) -> object:
    if not is_table(raw):
        raise Refused(f"write a table with {', '.join(rules)}")
    found: dict[str, Any] = {}
    for key, value in raw.items():
        if key not in rules:
            raise RefusedKey(key, value, unknown_key(key, tuple(rules)))
        try:
            found[key] = rules[key](value)
        except Refused as refused:
            raise refused.below(key, value) from refused
    return struct(**found)


def _runtime(raw: object) -> object:
    return _below(raw, {"python": _specifier, "commands": each(_command, "programs")}, Runtime)


def _dependencies(raw: object) -> object:
    of_python = each(_requirement, "requirements")
    if is_list(raw):
        return Dependencies(python=cast("tuple[str, ...]", of_python(raw)))  # as the rule returns
    if not is_table(raw):
        raise Refused('write a list, such as ["httpx>=0.27"], or { python = [...], npm = [...] }')
    return _below(raw, {"python": of_python, "npm": each(_npm, "npm packages")}, Dependencies)


def _needs(raw: object) -> object:
    return _below(raw, dict.fromkeys(Needs.__struct_fields__, each(_need, "needs")), Needs)


class _Keys(Struct, kw_only=True):
    name: Annotated[str, _name]
    version: Annotated[str, version_text]
    description: Annotated[str, _text]
    requires_runtime: Annotated[Runtime, _runtime]
    dependencies: Annotated[Dependencies, _dependencies]
    needs: Annotated[Needs, _needs]
    install: Annotated[str, _inner_path]


_WRITTEN = {"requires_runtime": "requires-runtime"}
_OWN: dict[str, Field] = {_WRITTEN.get(k, k): field for k, field in fields_of(_Keys).items()}
_ALL = (*_OWN, *fields_of(Spec), *SECTIONS)


def unknown_key(key: str, known: tuple[str, ...]) -> str:
    """Returns the reason for refusing a key, with the nearest one that there is."""
    near = get_close_matches(key, known, 1)
    guess = f'; did you mean "{near[0]}"?' if near else f"; known are {', '.join(known)}"
    return f"unknown key{guess if near or len(known) < 12 else ''}"


def decode_package(data: bytes) -> PackageSpec:
    """Decodes the bytes of a package.toml."""
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise InvalidParams(f"cannot read {SOURCE}: it is not UTF-8", file=SOURCE) from error
    if len(data) > MAX_BYTES:
        reason = f"it is larger than {MAX_BYTES} bytes"
        raise InvalidParams(f"cannot read {SOURCE}: {reason}", file=SOURCE, reason=reason)
    document = Document(SOURCE, text, "/")
    tables = document.main.tables()
    own: dict[str, Any] = {}
    agent: dict[str, object] = {}
    for key, value in tables.items():
        with document.collecting():
            if key in _OWN:
                own[key] = document.decode_key((key,), value, _OWN)
            if key in fields_of(Spec) or key in SECTIONS:
                _check_agent_key(document, key, value)
                agent[key] = value
            elif key not in _OWN:
                raise document.error((key,), value, unknown_key(key, _ALL))
    for key in ("name", "version"):
        if key not in tables:
            document.note(document.error((key,), None, f"it is missing: write {key} = "))
    document.check()
    _check_agent(document, own["name"], agent)
    found = PackageSpec(**{key.replace("-", "_"): value for key, value in own.items()}, agent=agent)
    _check_secrets(document, found)
    return found


def _check_agent_key(document: Document, key: str, value: object) -> None:
    if reason := FORBIDDEN.get((key,)):
        raise document.error((key,), value, reason)
    if key in fields_of(Spec):
        document.decode_key((key,), value, fields_of(Spec))
        return
    if not is_table(value):
        raise document.error((key,), value, "write a table")
    for inner, raw in value.items():
        path = (key, inner)
        if reason := FORBIDDEN.get(path):
            document.note(document.error(path, raw, reason))
        elif inner in DAEMON_WIDE.get(key, ()):
            document.note(document.error(path, raw, "it counts for the whole daemon"))
        elif inner not in fields_of(SECTIONS[key]):
            document.note(document.error(path, raw, unknown_key(inner, tuple(fields_of(SECTIONS[key])))))
        else:
            with document.collecting():
                document.decode_key(path, raw, fields_of(SECTIONS[key]))


def _check_agent(document: Document, name: str, agent: Mapping[str, object]) -> Spec:
    """Checks the keys of the agent together; returns its Spec in a folder that stands for the installed one."""
    if not {"command", "entrypoint", "url"} & agent.keys():
        reason = 'write entrypoint = "MODULE:NAME", or a list such as command = ["python", "agent.py"]'
        raise document.error(("entrypoint",), None, reason)
    try:
        return decode_agent(name, agent, kind="agent", defaults=Defaults(), source=SOURCE, directory="/")
    except InvalidParams as error:
        key = str(error.data.get("key") or "").removeprefix(f"agents.{name}").strip(".")
        path = tuple(key.split(".")) if key else ("name",)
        reason = str(error.data.get("reason", error.message))
        raise document.error(path, error.data.get("value"), reason) from error


def _check_secrets(document: Document, spec: PackageSpec) -> None:
    """Refuses a secret that the agent would be given and `needs` does not name."""
    declared = {need.name for need in spec.needs.secrets}
    found = _check_agent(document, spec.name, spec.agent)
    if lacking := sorted(referred(found.expandable) - declared):
        key: KeyPath = ("needs", "secrets")
        raise document.error(key, None, f'the agent uses "{lacking[0]}": name it here')
