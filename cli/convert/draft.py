"""Collects what a converter has found, and formats it as a commented configuration file.

A converter fills a Draft: for each program an Entry, which begins with what the other supervisor does where its file
says nothing, and to which `take` gives the settings of the file. Its table of meanings says what each key is here. Each
setting ends as a key of corral, or as a note with a reason. Knows no format.
"""

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

from corral.worker.contract import toml_text
from corral.worker.contract.codec import as_array, as_object
from corral.worker.contract.errors import InvalidParams
from corral.worker.contract.toml_text import literal

from ..tools.import_convert import allowed_name, looks_secret

Table = dict[str, object]
_T = TypeVar("_T")

FOREVER_S = 36_500 * 86_400
"""Seconds of a time without a bound: a hundred years, near the longest that corral takes."""

ENDLESS = 1000
"""The most restarts that corral can be told to try, for a program that is never given up."""

LIKE_OTHERS: Mapping[str, object] = {"process": {"umask": "022"}, "resources": {"max_memory_bytes": 0}}
"""What all other supervisors do where nothing is written, and corral does not: others may read new files, and there is
no limit of memory. The manual of each, which its converter names, says so."""

ISOLATION = (
    'a program gains no rights (sudo), signals no other one, and has a TMPDIR of its own: isolation = "none" lifts it'
)


class Unfit(ValueError):
    """Raised about a value that corral cannot have; the text is the reason."""


def unreadable(path: str, reason: str, verb: str = "import") -> InvalidParams:
    """Returns the error about a whole file."""
    return InvalidParams(f'cannot {verb} "{path}": {reason}', file=path, reason=reason)


class Note(NamedTuple):
    """Explains why a setting is not in the result, or differs there; `subject` is the program, empty for the whole file."""

    subject: str
    key: str
    reason: str

    def __str__(self) -> str:
        where = f"{self.subject}: {self.key}" if self.subject and self.key else ""
        return f"{where or self.subject or self.key}: {self.reason}"


def ref(name: str) -> str:
    """Returns a text that becomes the reference `${NAME}` of the configuration, wherever it is put into a value.

    All else in a value is taken as it is. No value of another program has a NUL, which marks the reference until then.
    """
    return f"\0{name}\0"


@dataclass(eq=False)
class Entry:
    """Holds the table of one agent or schedule; `is_complete` False makes it a comment, because it cannot run."""

    original: str
    name: str
    table: Table = field(default_factory=Table)
    notes: list[Note] = field(default_factory=list[Note])
    is_complete: bool = True
    reading: str = ""
    """The key of the other program that is read now."""
    origins: dict[str, str] = field(default_factory=dict[str, str])
    """The key of the other program that a path was set by."""

    def set(self, path: str, value: object) -> None:
        """Sets a key, such as `process.user`; None removes it."""
        section, _, key = path.rpartition(".")
        table = dict(as_object(self.table.get(section)) or {}) if section else self.table
        if section:
            self.table[section] = table
        if value is None:
            table.pop(key, None)
        else:
            table[key] = value
            self.origins[path] = self.reading

    def get(self, path: str) -> object:
        """Returns the value of a key, None where it is not set."""
        found: object = self.table
        for each in path.split("."):
            found = (as_object(found) or {}).get(each)
        return found

    def environment(self, variables: Mapping[str, str]) -> None:
        """Adds environment variables."""
        if variables:
            self.table["environment"] = {**(as_object(self.table.get("environment")) or {}), **variables}

    def note(self, key: str, reason: str) -> None:
        """Adds a note about one of its settings."""
        self.notes.append(Note(self.original, key, reason))

    def exclude(self, key: str, reason: str) -> None:
        """Makes it a comment, and notes why."""
        self.is_complete = False
        self.note(key, f"{reason}; so this program is a comment")

    def run_once(self) -> None:
        """Makes it a job: a program that runs once and succeeds with exit 0; keys that are only for services go."""
        self.table["type"] = "oneshot"
        for key in ("health", "ready"):
            if self.table.pop(key, None) is not None:
                self.note(key, "left out: it runs once")
        if self.get("recovery.restart") == "always":
            self.set("recovery.restart", "on-failure")
            self.note("restart always", "on-failure: a job that has succeeded is done")


# --- what the keys of a format mean ---------------------------------------------------------------

Action = Callable[[Entry, object], None]
"""Does with an entry what a value says, or raises Unfit."""

Meaning = Action | str | tuple[str, ...] | None
"""What a key is here. A text: it has no equivalent, for this reason, but for the values behind it, which say what corral
does in any case. None: it loses nothing, or is read together with others."""


def keys(table: Mapping[str, _T]) -> Mapping[str, _T]:
    """Returns values by key, of a table in which several keys may stand before one value."""
    return {key: value for words, value in table.items() for key in words.split()}


def to(read: Callable[[object], object], *paths: str) -> Action:
    """Returns the meaning of a key whose value, as `read` returns it, is that of keys of corral."""

    def action(entry: Entry, value: object) -> None:
        found = read(value)
        for path in paths:
            entry.set(path, found)

    return action


def take(
    entry: Entry,
    settings: Iterable[tuple[str, object]],
    meanings: Mapping[str, Meaning],
    *,
    otherwise: Meaning = "no equivalent",
    shown: str = "{}",
) -> None:
    """Gives each setting to its meaning; what has none, or a value that is unfit, becomes a note with the key as `shown`."""
    for key, value in settings:
        entry.reading = key
        meaning = meanings.get(key, otherwise)
        try:
            if callable(meaning):
                meaning(entry, value)
            elif isinstance(meaning, str):
                raise Unfit(meaning)
            elif meaning and str(value).lower() not in meaning[1:]:
                raise Unfit(meaning[0])
        except Unfit as error:
            entry.note(shown.format(key, value), str(error))
    entry.reading = ""


# --- the whole ------------------------------------------------------------------------------------


@dataclass(eq=False)
class Draft:
    """Holds a configuration as it grows. `folder` is that of the source; `defaults` are set in each of its programs.

    Programs run in the folder of the source, where `defaults` have none.
    """

    source: str
    format: str
    folder: str
    defaults: Mapping[str, object] = field(default_factory=dict[str, object])
    agents: dict[str, Entry] = field(default_factory=dict[str, Entry])
    schedules: dict[str, Entry] = field(default_factory=dict[str, Entry])
    file: Entry = field(default_factory=lambda: Entry("", ""))
    """What is about the whole file."""

    def agent(self, original: str) -> Entry:
        """Adds a program; its name is made one that corral allows."""
        entry = self._entry(original)
        entry.table["protocol"] = "none"
        self.agents[entry.name] = entry
        return entry

    def schedule(self, original: str) -> Entry:
        """Adds a schedule."""
        entry = self._entry(original)
        self.schedules[entry.name] = entry
        return entry

    def _entry(self, original: str) -> Entry:
        name = self._free(original)
        entry = Entry(original, name, {"command": ["COMMAND"]})
        entry.set("process.working_directory", self.folder)
        for section, value in (*LIKE_OTHERS.items(), *self.defaults.items()):
            for key, each in (as_object(value) or {}).items():
                entry.set(f"{section}.{key}", each)
        if name != original:
            is_taken = allowed_name(original, "program") != name
            reason = "another one has its name" if is_taken else "a name has letters, digits, _ and -"
            entry.note("name", f'called "{name}" here: {reason}')
        return entry

    def _free(self, original: str) -> str:
        taken = self.agents.keys() | self.schedules.keys()
        name = wish = allowed_name(original, "program")
        number = 2
        while name in taken:
            name, number = f"{wish[:44]}_{number}", number + 1
        return name

    def path(self, text: str) -> str:
        """Returns a path of the source as one that does not begin at the folder of the configuration."""
        return text if text.startswith("\0") else os.path.normpath(os.path.join(self.folder, text))

    def named(self, original: str) -> Entry | None:
        """Returns the agent that a program of the file became."""
        return next((each for each in self.agents.values() if each.original == original), None)

    @property
    def entries(self) -> list[Entry]:
        """Returns the agents, then the schedules."""
        return [*self.agents.values(), *self.schedules.values()]

    def finish(self) -> None:
        """Notes what holds for all programs, and the variables whose values look like secrets, without the values."""
        self.file.note("isolation", ISOLATION)
        restarted = [each for each in self.entries if each.get("recovery.restart") not in (None, "never")]
        if any(each.get("recovery.max_restart_attempts") == ENDLESS for each in restarted):
            reason = f"one that ends {ENDLESS} times in a row before it was up for a second is given up"
            self.file.note("restart", reason)
        if any(float(str(each.get("recovery.restart_backoff_base") or 0)) > 1 for each in restarted):
            self.file.note("restart", "one that was up for longer than its wait is started again at once")
        for entry in self.entries:
            _count_from_ready(entry)
            for name, value in (as_object(entry.table.get("environment")) or {}).items():
                if "\0" not in str(value) and looks_secret(name, str(value)):
                    reason = f'looks like a secret: "corral secret set {name}", and ${{secret:{name}}} in its place'
                    entry.note(f"environment.{name}", reason)

    def every_note(self) -> list[Note]:
        """Returns the notes about the file, then those of each program."""
        return [*self.file.notes, *(note for entry in self.entries for note in entry.notes)]

    def text(self) -> str:
        """Returns the configuration file."""
        lines = [f"# Converted from {one_line(self.source)} ({self.format})."]
        if self.every_note():
            lines.append("# A comment after a heading names each setting that has no equivalent here.")
        lines += [f"# - {one_line(str(note))}" for note in self.file.notes]
        for kind, entries in (("agents", self.agents), ("schedules", self.schedules)):
            for entry in entries.values():
                lines += ["", *_entry_lines(kind, entry)]
        return "\n".join(lines) + "\n"


def _count_from_ready(entry: Entry) -> None:
    """Makes the time that a life has to last one that is counted from Ready on, and removes what has no effect."""
    recovery = as_object(entry.table.get("recovery")) or {}
    if "healthy_after" not in recovery:
        return
    up_s, failures = (float(str(recovery[key])) for key in ("healthy_after", "max_restart_attempts"))
    if up_s < 1 and entry.origins["recovery.healthy_after"]:
        entry.note(entry.origins["recovery.healthy_after"], "a program counts as up after one second")
    counted = {"restart_window": max(60.0, up_s * failures), **recovery, "healthy_after": max(0.0, up_s - 1)}
    is_used = recovery["restart"] != "never"
    entry.table["recovery"] = {
        k: v for k, v in counted.items() if is_used or k == "restart" or entry.origins.get(f"recovery.{k}")
    }


def _entry_lines(kind: str, entry: Entry) -> Iterator[str]:
    plain = {key: each for key, each in entry.table.items() if not isinstance(each, dict)}
    table = {key: _written(each) for key, each in {**plain, **entry.table}.items() if each != {}}
    lines = [*toml_text.lines((kind, entry.name), table)]
    mark = "" if entry.is_complete else "# "
    yield mark + lines[0]
    for note in entry.notes:
        yield f"# - {one_line(f'{note.key}: {note.reason}' if note.key else note.reason)}"
    yield from (mark + line for line in lines[1:])


def _written(value: object) -> object:
    """Returns a value with its texts as the configuration has them: references, and all else as it is."""
    if isinstance(value, str):
        pieces = enumerate(value.split("\0"))
        return "".join(f"${{{piece}}}" if number % 2 else literal(piece) for number, piece in pieces)
    if (table := as_object(value)) is not None:
        return {key: _written(each) for key, each in table.items()}
    if (array := as_array(value)) is not None:
        return [_written(each) for each in array]
    return value


def one_line(text: str) -> str:
    """Returns a text without line breaks and control characters."""
    return re.sub(r"[\x00-\x1f\x7f]+", " ", text)
