"""Finds and reads the configuration files of other programs, with the MCP servers in each place of them.

Nothing is started, and no daemon is known here. An invalid file is an error that names it and contains no value.
"""

import json
import os
import re
from collections.abc import Mapping
from typing import NamedTuple, NoReturn

from corral.worker.contract.codec import as_array, as_object
from corral.worker.contract.errors import InvalidParams

MAX_FILE_BYTES = 64 * 1024 * 1024
"""Bytes of the largest file that is read: some clients keep their whole history in it."""

Table = dict[str, object]


class Section(NamedTuple):
    """A group of servers in one place of one file."""

    file: str
    project: str | None
    """Folder of `${workspaceFolder}` in which commands run; None for a file that applies to all projects."""
    entries: Mapping[str, Mapping[str, object]]
    inputs: Mapping[str, Mapping[str, object]] = {}
    timeout_unit_s: float | None = None
    """Seconds in a `timeout` of 1; None if unknown."""

    @property
    def place(self) -> str:
        """Describes the place for people."""
        in_file = self.project is not None and not self.file.startswith(self.project + os.sep)
        return f"{self.file} (project {self.project})" if in_file else self.file


class Surroundings(NamedTuple):
    """Holds the values of variables: the environment, the home folder of the user, and the values of `${input:ID}`."""

    environ: Mapping[str, str]
    home: str
    inputs: Mapping[str, str] = {}
    project: str | None = None
    """`${workspaceFolder}` in files that belong to no project."""


USUAL_FILES: tuple[tuple[str, str], ...] = (
    ("Claude Code", "~/.claude.json"),
    ("Claude Desktop", "$CONFIG/Claude/claude_desktop_config.json"),
    ("Cursor", "~/.cursor/mcp.json"),
    ("VS Code", "$CONFIG/Code/User/mcp.json"),
    ("VS Code", "$CONFIG/Code/User/settings.json"),
    ("VS Code Insiders", "$CONFIG/Code - Insiders/User/mcp.json"),
    ("VSCodium", "$CONFIG/VSCodium/User/mcp.json"),
    ("Windsurf", "~/.codeium/windsurf/mcp_config.json"),
    ("Zed", "$CONFIG/zed/settings.json"),
    ("Codex", "~/.codex/config.toml"),
    ("Gemini CLI", "~/.gemini/settings.json"),
    ("Cline", "$CONFIG/Code/User/globalStorage/saoudrizwan.claude-dev/settings/cline_mcp_settings.json"),
    ("Claude Code", "./.mcp.json"),
    ("Cursor", "./.cursor/mcp.json"),
    ("VS Code", "./.vscode/mcp.json"),
    ("Zed", "./.zed/settings.json"),
    ("Gemini CLI", "./.gemini/settings.json"),
    ("Codex", "./.codex/config.toml"),
)
"""Client, path of its file: those of the user, then those of the current folder."""


def usual_files(around: Surroundings, folder: str) -> list[tuple[str, str]]:
    """Returns the usual files of this user and of `folder` that exist, each with its client."""
    config = around.environ.get("XDG_CONFIG_HOME", "")
    config = config if config.startswith("/") else os.path.join(around.home, ".config")
    found: dict[str, str] = {}
    for client, pattern in USUAL_FILES:
        head, _, rest = pattern.partition("/")
        path = os.path.join({"~": around.home, "$CONFIG": config, ".": folder}[head], rest)
        if os.path.isfile(path):
            found.setdefault(os.path.realpath(path), client)
    return [(client, path) for path, client in found.items()]


def read(path: str, home: str) -> list[Section]:
    """Reads the servers of one file; returns an empty list if its format is unknown."""
    file = os.path.abspath(path)
    document = _document(file)
    project = _project(file, home)
    unit_s = 1.0 if os.path.basename(file).endswith("mcp_settings.json") else None
    if "/.gemini/" in file or os.path.basename(file) in (".mcp.json", ".claude.json"):
        unit_s = 0.001
    sections = [
        Section(file, project, _entries(document[key], file, key), timeout_unit_s=unit_s)
        for key in ("mcpServers", "context_servers", "mcp_servers", "amp.mcpServers")
        if key in document
    ]
    for holder in (document, as_object(document.get("mcp")) or {}):
        if "servers" in holder:
            inputs = _inputs(holder.get("inputs"))
            sections.append(Section(file, project, _entries(holder["servers"], file, "servers"), inputs))
    for folder, inner in (as_object(document.get("projects")) or {}).items():
        table = as_object(inner) or {}
        if table.get("mcpServers"):
            entries = _entries(table["mcpServers"], file, "mcpServers")
            sections.append(Section(file, folder, entries, timeout_unit_s=unit_s))
    if not sections:  # opencode has its servers in "mcp", a plug-in of Claude Code in the file itself
        holders = (as_object(document.get("mcp")) or {}, document)
        found = next((each for each in holders if each and all(map(_is_server, each.values()))), None)
        sections += [] if found is None else [Section(file, project, _entries(found, file, "mcp"))]
    return sections


def _is_server(value: object) -> bool:
    table = as_object(value) or {}
    return "command" in table or "url" in table


def _document(file: str) -> Mapping[str, object]:
    try:
        with open(file, "rb") as opened:
            data = opened.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        reason = (error.strerror or "").lower()
        raise InvalidParams(f'cannot read "{file}": {reason}', file=file, reason=reason) from error
    if len(data) > MAX_FILE_BYTES:
        reason = f"it has more than {MAX_FILE_BYTES} bytes"
        raise InvalidParams(f'cannot read "{file}": {reason}', file=file, reason=reason)
    try:
        text = data.decode("utf-8-sig")
        if file.endswith(".toml"):
            import tomllib  # noqa: PLC0415 - start-up time: only such a file needs it

            return tomllib.loads(text)
        plain = plain_json(text)
        value: object = json.loads(plain if plain.strip() else "{}", object_pairs_hook=_once)
        json.dumps(value, ensure_ascii=False).encode()  # half a surrogate pair cannot be sent
    except (ValueError, RecursionError) as error:  # of which UnicodeError and TOMLDecodeError are some
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise InvalidParams(f'cannot read "{file}": {reason}', file=file, reason=reason) from error
    table = as_object(value)
    if table is None:
        reason = "it is no JSON object"
        raise InvalidParams(f'cannot read "{file}": {reason}', file=file, reason=reason)
    return table


def _once(pairs: list[tuple[str, object]]) -> Table:
    table = dict(pairs)
    if len(table) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f'"{next(key for key in keys if keys.count(key) > 1)}" is there twice')
    return table


_PIECES = re.compile(
    r'("(?:[^"\\]|\\.)*"?)'  # a string, which may have anything in it
    r"|(//[^\n]*|/\*.*?(?:\*/|\Z))"  # a comment
    r"|(,)(?=(?:\s|//[^\n]*|/\*.*?\*/)*+[}\]])",  # a comma that nothing follows
    re.DOTALL,
)


def plain_json(text: str) -> str:
    """Blanks comments and trailing commas out of JSON; the rest keeps its place, so that errors name it."""
    return _PIECES.sub(lambda found: found[1] or re.sub(r"[^\n]", " ", found[0]), text).strip(" ")


def _entries(value: object, file: str, key: str) -> dict[str, Mapping[str, object]]:
    table = as_object(value)
    if table is None:
        reason = f"{key} is no table of servers"
        raise InvalidParams(f'cannot read "{file}": {reason}', file=file, reason=reason)
    entries = {name: as_object(entry) for name, entry in table.items()}
    wrong = [name for name, entry in entries.items() if entry is None]
    if wrong:
        refuse(file, wrong[0], key, "it is no table")
    return {name: entry for name, entry in entries.items() if entry is not None}


def _inputs(value: object) -> dict[str, Mapping[str, object]]:
    found = [as_object(each) or {} for each in as_array(value) or []]
    return {str(each.get("id")): each for each in found}


def _project(file: str, home: str) -> str | None:
    """Returns the project folder of a file: its own, or that around `.vscode`; None for the files of the user."""
    folder = os.path.dirname(file)
    if os.path.basename(folder).startswith("."):
        folder = os.path.dirname(folder)
    inside = os.path.relpath(folder, home)
    return None if inside == "." or re.match(r"\.[^./]", inside) else folder


def refuse(file: str, server: str, field: str, reason: str) -> NoReturn:
    """Refuses a file because of one field of one server."""
    words = f'cannot import "{server}" of "{file}": {field}: {reason}'
    raise InvalidParams(words, file=file, server=server, field=field, reason=reason)
