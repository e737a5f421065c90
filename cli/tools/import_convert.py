"""Translates the MCP servers in the configuration files of other programs to tables of corral's configuration.

Values in, values out, except files of variables, which are read: nothing is started, no shell runs, and no
daemon is known here. A setting without a counterpart in corral becomes a note, an invalid one an error that names
server and field; neither contains a value.
"""

import hashlib
import itertools
import json
import os
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple, NoReturn

from corral.worker.contract import toml_text
from corral.worker.contract.codec import as_array, as_object
from corral.worker.contract.errors import InvalidParams
from corral.worker.contract.toml_text import literal_table

from .import_files import Section, Surroundings, Table, refuse


class Server(NamedTuple):
    """A translated server: `table` is that of `[mcp.servers.NAME]`, `secrets` are the keys of possible secrets."""

    name: str
    original: str
    place: str
    table: Table
    notes: tuple[str, ...] = ()
    secrets: tuple[tuple[str, str], ...] = ()


class Skipped(NamedTuple):
    """A server that is not imported, and the reason."""

    name: str
    place: str
    reason: str


# --- one server -----------------------------------------------------------------------------------

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,47}")
SECRET = re.compile(
    "token|secret|password|passwd|passphrase|(api|access|private)[_-]?key|credential|authorization|cookie",
    re.IGNORECASE,
)
"""Matches the name of a variable or header whose value is a secret."""

_LOOKS_SECRET = re.compile(r"(sk|ghp|gho|ghs|github_pat|glpat|xox[abp])[-_][A-Za-z0-9_-]{8,}")
SECRET_REFERENCE = re.compile(r"\$\{secret:([^}]*)\}")
ENDLESS_S = 600.0
"""Seconds of the default `max_request_timeout`: a longer `timeout` raises it."""

_KNOWN = (
    {"command", "args", "env", "environment", "cwd", "envFile", "env_vars", "type", "transport"}
    | {"url", "serverUrl", "httpUrl", "headers", "http_headers", "env_http_headers", "name"}
    | {"bearer_token_env_var", "disabled", "enabled", "disabledTools", "disabled_tools", "source"}
    | {"excludeTools", "timeout", "tool_timeout_sec", "startup_timeout_sec", "startup_timeout_ms"}
)
_ALLOW_LISTS = ("includeTools", "enabled_tools", "enabledTools", "tools", "allowedTools")
_SSE = "sse"
_HTTP = ("http", "streamable-http", "streamableHttp", "streamable_http", "remote")


def allowed_name(name: str, prefix: str = "mcp") -> str:
    """Returns the name if corral allows it, else the nearest allowed one: always the same for the same name."""
    fits = _NAME.fullmatch(name) and "__" not in name
    if fits and name != "corral":
        return name
    near = re.sub(r"_{2,}", "_", re.sub(r"[^A-Za-z0-9_-]+", "-", name)).strip("-_")
    if not near or not near[0].isalpha():
        near = f"{prefix}-{near}" if near and not near.isdecimal() else f"{prefix}{near}"
    if near == "corral":
        near = "corral-server"
    if len(near) > 48:
        near = f"{near[:39].rstrip('-_')}-h{hashlib.sha256(name.encode()).hexdigest()[:7]}"
    return near


def looks_secret(name: str, value: str) -> bool:
    """Returns whether the value of a variable or header should rather be a reference to a secret."""
    is_written = bool(value) and not SECRET_REFERENCE.search(value)
    return is_written and bool(SECRET.search(name) or _LOOKS_SECRET.search(value))


def translated(section: Section, name: str, around: Surroundings, *, rename: str | None = None) -> Server | Skipped:
    """Translates one entry of a section to a table of corral, or returns why it cannot."""
    entry = section.entries[name]
    if entry.get("disabled") is True or entry.get("enabled") is False:
        return Skipped(name, section.place, "it is disabled there")
    reader = _Entry(section, name, entry, around)
    table, reason = reader.table()
    if reason:
        return Skipped(name, section.place, reason)
    chosen = rename or allowed_name(name)
    notes = reader.notes
    if chosen != name and rename is None:
        notes = [f'called "{chosen}" here: corral does not allow "{name}"', *notes]
    return Server(chosen, name, section.place, table, tuple(notes), tuple(reader.secrets))


class _Entry:
    def __init__(self, section: Section, name: str, entry: Mapping[str, object], around: Surroundings) -> None:
        self._section, self._name, self._entry, self._around = section, name, entry, around
        self.notes: list[str] = []
        self.secrets: list[tuple[str, str]] = []

    def table(self) -> tuple[Table, str]:
        """Returns the table, and the reason if the server is not imported, else ""."""
        entry = self._entry
        kind = str(entry.get("type") or entry.get("transport") or "")
        url = next((k for k in ("httpUrl", "serverUrl", "url") if entry.get(k)), None)
        if kind in ("ws", "websocket"):
            return {}, f"corral does not support {kind}: use the server's streamable HTTP address"
        if kind and kind not in (*_HTTP, _SSE, "stdio", "local"):
            self.fail("type", f'"{kind}" is unknown: stdio, http or sse')
        if url is None and not entry.get("command") and "settings" in entry:
            return {}, "an extension of the editor starts it, and its file does not say how"
        is_remote = url is not None and (kind in (*_HTTP, _SSE) or not entry.get("command"))
        table = self._remote(url) if is_remote and url is not None else self._local()
        if is_corral([str(word) for word in as_array(table.get("command")) or []]):
            return {}, "it is corral itself"
        self._limits(table)
        ignored = [key for key in entry if key not in _KNOWN and key not in _ALLOW_LISTS]
        if ignored:
            self.notes.append(f"not taken over: {', '.join(ignored)}")
        for key in _ALLOW_LISTS:
            if key in entry and as_array(entry[key]) != ["*"]:
                advice = "restrict them with the tools of an agent or a profile"
                self.notes.append(f"{key} is not taken over: all tools are offered; {advice}")
        return table, ""

    # -- a process

    def _local(self) -> Table:
        argv = self._argv()
        table: Table = {"command": argv}
        environment = self._variables("environment" if "environment" in self._entry else "env")
        for n, word in enumerate(as_array(self._entry.get("env_vars")) or []):
            if str(word) in self._around.environ:
                environment.setdefault(str(word), self._around.environ[str(word)])
            else:
                self.fail(f"env_vars[{n}]", f"the variable {word} is not set")
        process: Table = {"working_directory": self._folder()}
        if (path := self._text("envFile")) is not None:
            self._take_file(path, process, environment)
        if environment:
            table["environment"] = environment
            self._note_secrets("environment", environment)
        table["process"] = process
        if any(_LOOKS_SECRET.search(word) for word in argv) or _names_secret(argv):
            self.notes.append("its command line seems to have a secret, which all users can see")
        return table

    def _argv(self) -> list[str]:
        command: object = self._entry.get("command")
        args: object = self._entry.get("args") or []
        if (inner := as_object(command)) is not None:  # Zed's older spelling
            command, args = inner.get("path"), inner.get("args") or []
        words = as_array(command)  # a list: opencode's
        if words is None and isinstance(command, str) and command:
            words = [command]
        if not words:
            self.fail("command", "it is missing, and there is no url")
        more = as_array(args)
        if more is None:
            self.fail("args", "it is no list")
        argv = [self.expanded(word, "command") for word in words]
        argv += [self.expanded(word, f"args[{n}]") for n, word in enumerate(more)]
        argv[0] = self._at_home(argv[0])
        if not argv[0]:
            self.fail("command", "it is empty")
        return argv

    def _folder(self) -> str:
        folder = self._section.project or self._around.home
        given = self._text("cwd")
        return folder if given is None else os.path.join(folder, self._at_home(given))

    def _at_home(self, text: str) -> str:
        return self._around.home + text[1:] if text == "~" or text.startswith("~/") else text

    def _take_file(self, path: str, process: Table, environment: dict[str, str]) -> None:
        """Refers to a file of variables if corral reads it the same way, else copies its values."""
        file = os.path.join(self._section.project or self._around.home, self._at_home(path))
        try:
            with open(file, encoding="utf-8-sig") as opened:
                lines = [line.removesuffix("\n") for line in opened]
        except (OSError, UnicodeError) as error:
            words = getattr(error, "strerror", None) or "it is not UTF-8"
            self.fail("envFile", f"cannot read {file}: {words.lower()}")
        meant = (line for line in lines if line.strip() and not line.lstrip().startswith("#"))
        pairs = [line.partition("=") for line in meant]
        if all(equals and _is_plain(key, value) for key, equals, value in pairs):
            process["environment_file"] = file
            return
        for key, equals, value in pairs:
            if equals:
                environment.setdefault(key.strip().removeprefix("export ").strip(), _unquoted(value.strip()))
        self.notes.append("the values of envFile were copied: it has quotes or spaces, which corral keeps")

    # -- over HTTP

    def _remote(self, key: str) -> Table:
        table: Table = {"url": self.expanded(self._entry[key], key)}
        if _SSE in (self._entry.get("type"), self._entry.get("transport")):
            table["type"] = _SSE
        headers = self._variables("http_headers" if "http_headers" in self._entry else "headers")
        for header, variable in (as_object(self._entry.get("env_http_headers")) or {}).items():
            headers[header] = self.expanded(f"${{{variable}}}", f"env_http_headers.{header}")
        if (variable := self._text("bearer_token_env_var")) is not None:
            token = self.expanded(f"${{{variable}}}", "bearer_token_env_var")
            headers["Authorization"] = f"Bearer {token}"
        if headers:
            table["headers"] = headers
            self._note_secrets("headers", headers)
        if re.search(rf"[?&][^=&]*({SECRET.pattern})[^=&]*=", str(table["url"]), re.IGNORECASE):
            self.notes.append("its url seems to have a secret: a header could be ${secret:NAME}")
        return table

    # -- the rest

    def _limits(self, table: Table) -> None:
        entry = self._entry
        denied = [
            str(name)
            for key in ("disabledTools", "disabled_tools", "excludeTools")
            for name in as_array(entry.get(key)) or []
        ]
        if denied:
            patterns = (re.sub(r"[^A-Za-z0-9_.-]", "?", name)[:128] for name in denied)
            table["denied_tools"] = list(dict.fromkeys(patterns))
        if timeout_s := self._timeout_s():
            table["mcp"] = {"request_timeout": timeout_s}
            if timeout_s > ENDLESS_S:
                table["mcp"] = {"request_timeout": timeout_s, "max_request_timeout": timeout_s}
        start_s = self._number("startup_timeout_sec")
        if (start_ms := self._number("startup_timeout_ms")) is not None:
            start_s = start_ms / 1000
        if start_s:
            process = as_object(table.get("process")) or {}
            table["process"] = {**process, "spawn_timeout": start_s}

    def _timeout_s(self) -> float | None:
        if (seconds := self._number("tool_timeout_sec")) is not None:
            return seconds
        given = self._number("timeout")
        unit_s = self._section.timeout_unit_s
        if given is None or unit_s is not None:
            return None if given is None else given * (unit_s or 1.0)
        unit_s = 0.001 if given >= 1000 else 1.0
        self.notes.append(f"timeout {given:g} was taken as {given * unit_s:g} s")
        return given * unit_s

    def _number(self, key: str) -> float | None:
        value = self._entry.get(key)
        if value is None or value == 0:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e9:
            self.fail(key, "it is no number above 0")
        return float(value)

    def _text(self, key: str) -> str | None:
        value = self._entry.get(key)
        return None if value in (None, "") else self.expanded(value, key)

    def _variables(self, key: str) -> dict[str, str]:
        if self._entry.get(key) is None:
            return {}
        table = as_object(self._entry[key])
        if table is None:
            self.fail(key, "it is no table")
        found: dict[str, str] = {}
        for name, value in table.items():
            if value is None:
                self.notes.append(f"{key}.{name} is null: not taken over")
                continue
            scalar = json.dumps(value) if isinstance(value, bool | int | float) else value
            found[name] = self.expanded(scalar, f"{key}.{name}", is_secret_place=True)
        return found

    def _note_secrets(self, key: str, values: Mapping[str, str]) -> None:
        """Collects the names of values that look like secrets and are no references."""
        found = [name for name, value in values.items() if looks_secret(name, value)]
        self.secrets += [(key, name) for name in found]

    def fail(self, field: str, reason: str) -> NoReturn:
        """Refuses the entry because of one field."""
        refuse(self._section.file, self._name, field, reason)

    # -- variables

    def expanded(self, value: object, field: str, *, is_secret_place: bool = False) -> str:
        """Replaces the variables of a text, once; `${secret:NAME}` stays where corral expands it."""
        if not isinstance(value, str):
            self.fail(field, "it is no string")
        if "\0" in value:
            self.fail(field, "it has a NUL character")
        pieces: list[str] = []
        end = 0
        for found in re.finditer(r"\$\{([^}]*)\}", value):
            meant = self._meaning(found[1], field)
            if SECRET_REFERENCE.search(meant) and not is_secret_place:
                self.fail(field, "${secret:NAME} works in variables and headers only")
            pieces += [value[end : found.start()], meant]
            end = found.end()
        text = "".join([*pieces, value[end:]])
        try:
            text.encode()
        except UnicodeEncodeError:  # of a variable here
            self.fail(field, "it is not UTF-8")
        return text

    def _meaning(self, body: str, field: str) -> str:
        around, section = self._around, self._section
        folder = section.project or around.project
        if "${" in body:
            self.fail(field, f"variables do not stand in one another: ${{{body}}}")
        if body in ("workspaceFolder", "workspaceFolderBasename"):
            if folder is None:
                self.fail(field, f"${{{body}}} has no meaning in a file of no project: --project")
            return folder if body == "workspaceFolder" else os.path.basename(folder)
        fixed = {"userHome": around.home, "pathSeparator": os.sep, "/": os.sep}
        if body in fixed:
            return fixed[body]
        form, colon, rest = body.partition(":")
        if colon and form == "secret":
            if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.-]*", rest):
                self.fail(field, f"${{{body}}} is malformed: ${{secret:NAME}}")
            return f"${{{body}}}"
        if colon and form == "input":
            return self._input(rest, field)
        name, has_default, default = body.removeprefix("env:").partition(":-")
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            if re.match(r"[A-Za-z_]\w*:", body):
                self.fail(field, f"corral does not know ${{{body}}}")
            return f"${{{body}}}"  # no variable: text such as ${#list}
        if name in around.environ:
            return around.environ[name]
        if name in (as_object(self._entry.get("env")) or {}):
            return f"${{{body}}}"  # the server finds it in its own environment, as mcp-remote does
        if not has_default:
            self.fail(field, f"the variable {name} is not set, and has no default")
        return default

    def _input(self, name: str, field: str) -> str:
        if name in self._around.inputs:
            return self._around.inputs[name]
        asked = self._section.inputs.get(name, {})
        default = asked.get("default")
        if isinstance(default, str) and default:
            return default
        value = "'${secret:NAME}'" if asked.get("password") else "VALUE"
        return self.fail(field, f"${{input:{name}}} has no value: --input {name}={value}")


def is_corral(argv: Sequence[str]) -> bool:
    """Returns True if a command line is `corral mcp serve` in one of its spellings."""
    words = [each for word in argv for each in word.split()]  # a shell has it in one
    names = [os.path.basename(word) for word in words]
    program = next((n for n, name in enumerate(names) if name in ("corral", "corral.cli")), None)
    if program is None:
        return False
    return ("mcp", "serve") in zip(words[program:], words[program + 1 :], strict=False)


def _names_secret(argv: Sequence[str]) -> bool:
    """Returns True if an option such as `--api-key` has its value on the command line."""
    return any(
        word.startswith("--") and SECRET.search(word) and ("=" in word or following != "")
        for word, following in zip(argv, [*argv[1:], ""], strict=True)
    )


def _is_plain(key: str, value: str) -> bool:
    return not key.strip().startswith("export ") and value[:1] not in ("'", '"') and value == value.strip()


def _unquoted(value: str) -> str:
    quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "'\""
    return value[1:-1] if quoted else value


# --- several --------------------------------------------------------------------------------------


def chosen(
    sections: Sequence[Section],
    around: Surroundings,
    *,
    only: Sequence[str] = (),
    renames: Mapping[str, str] | None = None,
) -> tuple[list[Server], list[Skipped]]:
    """Translates the servers of several sections, all or the named ones; equal servers in two places count once."""
    renames = renames or {}
    known = [name for section in sections for name in section.entries]
    for name in (*only, *renames):
        if name not in known:
            raise InvalidParams(f'cannot import "{name}": no file has a server of this name', server=name, known=known)
    for name, new in renames.items():
        if allowed_name(new) != new:
            words = f'cannot import "{name}" as "{new}": corral does not allow the name; use "{allowed_name(new)}"'
            raise InvalidParams(words, server=name, key="--rename", value=new)
    servers: dict[str, Server] = {}
    skipped: list[Skipped] = []
    for section in sections:
        for name in section.entries:
            if only and name not in only:
                continue
            found = translated(section, name, around, rename=renames.get(name))
            if isinstance(found, Skipped):
                skipped.append(found)
                continue
            earlier = servers.setdefault(found.name, found)
            if earlier.table != found.table:
                where = f'"{earlier.original}" of {earlier.place} and "{name}" of {section.place}'
                is_one_name = earlier.original == name  # which --rename and --only mean both of
                hint = "--project, or one FILE" if is_one_name else "--rename, --only or --project"
                words = f'cannot import "{found.name}": {where} differ; {hint}'
                raise InvalidParams(words, server=name, places=[earlier.place, section.place])
    return list(servers.values()), skipped


def with_references(servers: Sequence[Server]) -> tuple[list[Server], dict[str, list[str]]]:
    """Puts `${secret:NAME}` in place of values that look like secrets; returns also the NAMEs by server."""
    changed: list[Server] = []
    values: dict[str, str] = {}
    wanted: dict[str, list[str]] = {}
    for server in servers:
        table = dict(server.table)
        for key, name in server.secrets:
            inner = dict(as_object(table[key]) or {})
            secret = _secret_name(str(inner[name]), (name, f"{server.name}_{name}"), values)
            inner[name] = f"${{secret:{secret}}}"
            table[key] = inner
            wanted.setdefault(server.name, []).append(secret)
        changed.append(server._replace(table=table))
    return changed, wanted


def _secret_name(value: str, wishes: Sequence[str], values: dict[str, str]) -> str:
    """Returns the first name that is free or has this value already, in the letters of a reference."""
    numbered = (f"{wishes[-1]}_{n}" for n in itertools.count(2))
    for wish in itertools.chain(wishes, numbered):
        name = re.sub(r"^(?=[0-9])", "_", re.sub(r"[^A-Za-z0-9_]", "_", wish))
        if values.setdefault(name, value) == value:
            return name
    raise AssertionError("numbers do not end")


def hidden(table: Mapping[str, object]) -> Table:
    """Hides the values of the environment, the headers and the query of the address in a table."""
    shown: Table = {}
    for key, value in table.items():
        if key in ("environment", "headers"):
            shown[key] = dict.fromkeys(as_object(value) or {}, "***")
        elif key == "url":
            shown[key] = re.sub(r"(?<=[?&])([^=&]*=)[^&]+", r"\1***", str(value))
        else:
            shown[key] = value
    return shown


# --- TOML -----------------------------------------------------------------------------------------


def toml(servers: Sequence[Server]) -> str:
    """Formats the servers as `[mcp.servers.NAME]` tables of a corral configuration file."""
    return "\n".join(
        "\n".join(toml_text.lines(("mcp", "servers", s.name), literal_table(s.table))) + "\n" for s in servers
    )
