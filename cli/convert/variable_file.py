r"""Takes over the files of variables of other supervisors, whose quotes mean something that corral's environment_file keeps.

A single file that both read alike is referred to. Else its values are copied, with a note: as the other supervisor reads
them now. The forms are those of systemd.exec(5) (EnvironmentFile=), of the Compose specification (env_file) and of
foreman(1): NAME=VALUE lines with quotes; what a backslash stands before, and whether ` #` begins a comment, differs.
"""

import re
from collections.abc import Callable, Mapping, Sequence

from corral.worker.contract.codec import as_object
from corral.worker.contract.errors import InvalidParams

from ..new_file import read_text
from .draft import Entry, Unfit

FILE_BYTES_MAX = 1 << 20
"""Bytes of the largest file of variables that corral reads."""

_LINE = re.compile(r"\s*(?:export\s+)?([A-Za-z_][A-Za-z0-9_.]*)\s*=[ \t]*(.*?)\s*")


def parsed(text: str, *, escaped: str, bare: str = "", expand: Callable[[str], str] | None = None) -> dict[str, str]:
    """Returns the variables of a file.

    In double quotes a backslash stands before one of `escaped`, and without quotes before one of `bare`. A format that
    expands variables, but for those in single quotes, has comments behind ` #`, too.
    """
    found: dict[str, str] = {}
    for line in text.splitlines():
        match = None if line.lstrip().startswith(("#", ";")) else _LINE.fullmatch(line)
        if match is None:
            continue
        value = match[2]
        quoted = re.fullmatch(r"""(["'])(.*?)(?<!\\)\1\s*(#.*)?""", value)
        if quoted is None and value[:1] in ("'", '"'):
            raise Unfit("a value of several lines: copy it to environment")
        if quoted and quoted[1] == "'":
            found[match[1]] = quoted[2]
            continue
        if quoted is None and expand:
            value = re.sub(r"(^|\s+)#.*", "", value)
        plain = _unescaped(quoted[2], escaped) if quoted else _unescaped(value, bare)
        found[match[1]] = expand(plain) if expand else plain
    return found


def _unescaped(text: str, escaped: str) -> str:
    letters = {"n": "\n", "t": "\t"}
    return re.sub(r"\\(.)", lambda m: letters.get(m[1], m[1]) if m[1] in escaped else m[0], text)


def _as_corral(text: str) -> dict[str, str]:
    """Returns the variables that corral reads in a file: all after the `=`, as it is; a line without one has no name."""
    lines = (line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#"))
    pairs = (line.partition("=") for line in lines)
    return {name.strip() if equals else "": value for name, equals, value in pairs}


def take_files(
    entry: Entry,
    key: str,
    files: Sequence[tuple[str, bool]],
    read: Callable[[str], Mapping[str, str]],
    *,
    wins: bool = False,
) -> None:
    """Gives the variables of files to an entry: each a path, and whether it may be absent.

    `read` returns what the other supervisor finds in a text. Where `wins`, that wins over the variables that are there.
    """
    own = as_object(entry.table.get("environment")) or {}
    copied: dict[str, object] = {}
    for path, is_optional in files:
        try:
            text = read_text(path, FILE_BYTES_MAX)
        except InvalidParams:
            if is_optional:
                entry.note(f"{key} {path}", "it may be absent there, and cannot be read now: left out")
            elif entry.get("process.environment_file") is None:
                entry.set("process.environment_file", path)
                entry.note(
                    f"{key} {path}", "it cannot be read now: here quotes in it are kept, and environment wins over it"
                )
            else:
                entry.note(f"{key} {path}", "it cannot be read now, and there is one environment_file: left out")
            continue
        found = read(text)
        is_alike = len(files) == 1 and found == _as_corral(text) and not (wins and found.keys() & own.keys())
        if is_alike:
            entry.set("process.environment_file", path)
            return
        copied |= found
        entry.note(
            path, "its values of now were copied: here it would be one file, without quotes, and win over nothing"
        )
    if copied:
        entry.table["environment"] = {**own, **copied} if wins else {**copied, **own}
