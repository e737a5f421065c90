"""Collects what a converter has found, and formats it as a commented configuration file.

Each setting of the other program ends as a key, or as a note with a reason. Knows no format.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from corral.worker.contract import toml_text

from ..tools.import_convert import allowed_name, looks_secret

Table = dict[str, object]


class Note(NamedTuple):
    """Explains why a setting is not in the result, or differs there; `subject` is the program, empty for the whole file."""

    subject: str
    key: str
    reason: str

    def __str__(self) -> str:
        where = f"{self.subject}: {self.key}" if self.subject and self.key else ""
        return f"{where or self.subject or self.key}: {self.reason}"


@dataclass(eq=False)
class Entry:
    """Holds the table of one agent or schedule; `is_complete` False makes it a comment, because it cannot run."""

    original: str
    name: str
    table: Table = field(default_factory=Table)
    notes: list[Note] = field(default_factory=list[Note])
    is_complete: bool = True

    def set(self, path: str, value: object) -> None:
        """Sets a key, such as `process.user`; None sets nothing."""
        if value is None:
            return
        table = self.table
        *folders, key = path.split(".")
        for each in folders:
            inner = table.setdefault(each, Table())
            assert isinstance(inner, dict), "a section is a table"
            table = inner
        table[key] = value

    def set_default(self, path: str, value: object) -> None:
        """Sets a key that is not set."""
        section, _, key = path.partition(".")
        present = self.table.get(section)
        if not (isinstance(present, dict) and key in present):
            self.set(path, value)

    def environment(self, variables: Mapping[str, object]) -> None:
        """Adds environment variables."""
        if variables:
            present = self.table.get("environment")
            before: Mapping[str, object] = present if isinstance(present, dict) else {}
            self.table["environment"] = {**before, **{k: str(v) for k, v in variables.items()}}

    def note(self, key: str, reason: str) -> None:
        """Adds a note about one of its settings."""
        self.notes.append(Note(self.original, key, reason))

    def run_once(self) -> None:
        """Makes it a job: a program that runs once and succeeds with exit 0; keys that are only for services go."""
        self.table["type"] = "oneshot"
        for key in ("health", "ready"):
            if self.table.pop(key, None) is not None:
                self.note(key, "left out: it runs once")
        recovery = self.table.get("recovery")
        if isinstance(recovery, dict) and recovery.get("restart") == "always":
            recovery["restart"] = "on-failure"


@dataclass(eq=False)
class Draft:
    """Holds a configuration as it grows."""

    source: str
    format: str
    agents: dict[str, Entry] = field(default_factory=dict[str, Entry])
    schedules: dict[str, Entry] = field(default_factory=dict[str, Entry])
    sections: dict[str, Table] = field(default_factory=dict[str, Table])
    notes: list[Note] = field(default_factory=list[Note])

    def agent(self, original: str) -> Entry:
        """Adds a program; its name is made one that corral allows."""
        entry = Entry(original, self._free(original))
        entry.table["protocol"] = "none"
        self.agents[entry.name] = entry
        if entry.name != original:
            is_taken = allowed_name(original, "program") != entry.name
            reason = "another one has its name" if is_taken else "a name has letters, digits, _ and -"
            entry.note("name", f'called "{entry.name}" here: {reason}')
        return entry

    def schedule(self, original: str) -> Entry:
        """Adds a schedule."""
        entry = Entry(original, self._free(original))
        self.schedules[entry.name] = entry
        return entry

    def _free(self, original: str) -> str:
        taken = self.agents.keys() | self.schedules.keys()
        name = wish = allowed_name(original, "program")
        number = 2
        while name in taken:
            name, number = f"{wish[:44]}_{number}", number + 1
        return name

    def named(self, original: str) -> Entry | None:
        """Returns the agent that a program of the file became."""
        return next((each for each in self.agents.values() if each.original == original), None)

    def note_secrets(self) -> None:
        """Notes the variables whose values look like secrets, without the values."""
        for entry in (*self.agents.values(), *self.schedules.values()):
            variables = entry.table.get("environment")
            for name, value in (variables if isinstance(variables, dict) else {}).items():
                if "${" not in str(value) and looks_secret(str(name), str(value)):
                    reason = f'looks like a secret: "corral secret set {name}", and ${{secret:{name}}} in its place'
                    entry.note(f"environment.{name}", reason)

    def note(self, key: str, reason: str) -> None:
        """Adds a note about the whole file."""
        self.notes.append(Note("", key, reason))

    def every_note(self) -> list[Note]:
        """Returns the notes about the file, then those of each program."""
        entries = (*self.agents.values(), *self.schedules.values())
        return [*self.notes, *(note for entry in entries for note in entry.notes)]

    def text(self) -> str:
        """Returns the configuration file."""
        lines = [f"# Converted from {one_line(self.source)} ({self.format})."]
        if self.every_note():
            lines.append("# A comment after a heading names each setting that has no equivalent here.")
        lines += [f"# - {one_line(str(note))}" for note in self.notes]
        for name, table in self.sections.items():
            lines += ["", *toml_text.lines((name,), table)]
        for kind, entries in (("agents", self.agents), ("schedules", self.schedules)):
            for entry in entries.values():
                lines += ["", *_entry_lines(kind, entry)]
        return "\n".join(lines) + "\n"


def _entry_lines(kind: str, entry: Entry) -> Iterator[str]:
    table = [*toml_text.lines((kind, entry.name), _inline(entry.table))]
    mark = "" if entry.is_complete else "# "
    yield mark + table[0]
    for note in entry.notes:
        yield f"# - {one_line(f'{note.key}: {note.reason}' if note.key else note.reason)}"
    yield from (mark + line for line in table[1:])


def _inline(table: Table) -> Table:
    """Puts short tables and lists of tables where a person looks for them: after the plain keys, on one line."""
    plain = {key: each for key, each in table.items() if not isinstance(each, dict)}
    return plain | {key: each for key, each in table.items() if key not in plain}


def one_line(text: str) -> str:
    """Returns a text without line breaks and control characters."""
    return re.sub(r"[\x00-\x1f\x7f]+", " ", text)


def literal(text: str) -> str:
    """Returns a text that the configuration takes as it is: `${` and `$$` are not expanded."""
    return text.replace("$$", "$$$$").replace("${", "$${")


class Reference(str):
    """Represents a variable of the configuration, such as `${HOME}`, which `literal` would spoil."""

    __slots__ = ()


def expanded(text: str, pattern: re.Pattern[str], variable: Callable[[re.Match[str]], str]) -> str:
    """Returns a text for the configuration, with `variable` in place of each match; the rest is taken as it is."""
    pieces: list[str] = []
    plain, end = "", 0
    for found in pattern.finditer(text):
        plain += text[end : found.start()]
        each = variable(found)
        if isinstance(each, Reference):
            pieces += [literal(plain), each]
            plain = ""
        else:
            plain += each
        end = found.end()
    return "".join([*pieces, literal(plain + text[end:])])


def list_unknown(
    entry: Entry | Draft, table: Mapping[str, object], reasons: Mapping[str, str], done: Iterable[str]
) -> None:
    """Notes every key of a table that is not in `done`, with its reason."""
    known = frozenset(done)
    for key in table:
        if key not in known:
            entry.note(str(key), reasons.get(str(key), "no equivalent"))
