"""Decodes labels and titles, and decides which names a glob and a selector choose.

A selector is a text such as `team=red,tier!=db`: all of its requirements hold, as in kubectl. Knows no agent, only
names with their labels.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase

from msgspec import Struct

from corral.worker.contract.errors import InvalidParams, NotFound

from ..decoding.shapes import STRINGS, TEXT, accepts
from ..decoding.values import Refused, RefusedKey, is_table

LABELS_MAX = 100
"""Number of labels of one agent, server, team or workflow."""

VALUE_MAX = 200
"""Characters of the value of a label."""

TITLE_MAX = 200
"""Characters of a title."""

DESCRIPTION_MAX = 10_000
"""Characters of a description."""

_KEY = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_./-]{0,98}[A-Za-z0-9])?")
_REQUIREMENT = re.compile(r"(!?)([^=!]*?)\s*(?:(!=|==|=)\s*(.*))?")

WILDCARDS = frozenset("*?[")


@accepts("table of strings", STRINGS)
def label_table(raw: object) -> dict[str, str]:
    """Accepts a table of strings."""
    if not is_table(raw):
        raise Refused('write a table of strings: labels = { team = "red" }')
    if len(raw) > LABELS_MAX:
        raise Refused(f"write at most {LABELS_MAX} labels")
    for key, value in raw.items():
        if not _KEY.fullmatch(key):
            words = "a key has 1 to 100 letters, digits, _, ., / and -; it begins and ends with a letter or digit"
            raise RefusedKey(key, value, words)
        if not isinstance(value, str):
            raise RefusedKey(key, value, 'write a string: labels = { team = "red" }')
        if len(value) > VALUE_MAX or not value.isprintable() or "," in value:
            raise RefusedKey(key, value, f"a value has at most {VALUE_MAX} characters, no comma, and fits on a line")
    return {key: str(value) for key, value in raw.items()}


@accepts("string", TEXT)
def title_text(raw: object) -> str:
    """Accepts a text of one line."""
    if not isinstance(raw, str) or len(raw) > TITLE_MAX or not raw.isprintable():
        raise Refused(f"write a text of one line, of at most {TITLE_MAX} characters")
    return raw


@accepts("string", TEXT)
def description_text(raw: object) -> str:
    """Accepts a text of several lines."""
    if not isinstance(raw, str) or len(raw) > DESCRIPTION_MAX or "\0" in raw:
        raise Refused(f"write a text of at most {DESCRIPTION_MAX} characters")
    return raw


class Requirement(Struct, frozen=True):
    """Requires that a label has a value, or with `value` None that it is there; `negated` requires the opposite."""

    key: str
    value: str | None = None
    negated: bool = False

    def holds(self, given: Mapping[str, str]) -> bool:
        """Returns whether labels meet it; `key!=value` is met without the key, too."""
        met = self.key in given if self.value is None else given.get(self.key) == self.value
        return met != self.negated


def parse_selector(text: str) -> tuple[Requirement, ...]:
    """Parses `key`, `!key`, `key=value` and `key!=value`, separated by commas."""
    return tuple(_requirement(part.strip(), text) for part in text.split(","))


def _requirement(part: str, text: str) -> Requirement:
    found = _REQUIREMENT.fullmatch(part)
    key = found[2].strip() if found else ""
    is_plain = found is not None and _KEY.fullmatch(key) and not (found[1] and found[3])
    if found is None or not is_plain:
        words = f'cannot read the selector "{text}": write key, !key, key=value or key!=value, separated by commas'
        raise InvalidParams(words, key="selector", value=text)
    return Requirement(key, found[4] if found[3] else None, bool(found[1]) or found[3] == "!=")


def is_glob(name: str) -> bool:
    """Returns whether a name has wildcards of the shell."""
    return not WILDCARDS.isdisjoint(name)


def chosen(
    names: Iterable[str],
    selector: str | None,
    entries: Mapping[str, Mapping[str, str]],
    workers: Mapping[str, Sequence[str]],
) -> list[str]:
    """Returns the names and worker ids that `names` and `selector` choose together, each once.

    A glob stands for the names that match it, and for those matching ids of workers that belong to none of these
    names. A name without wildcards is returned as it is: the caller finds out whether it exists.
    """
    wanted = parse_selector(selector) if selector is not None else ()
    found: dict[str, None] = {}
    plain = list(names)
    for name in plain:
        matches = _matches(name, entries, workers) if is_glob(name) else [name]
        if not matches:
            raise NotFound(f'cannot find anything that matches "{name}"', name=name, known=[])
        found |= dict.fromkeys(matches)
    if selector is None:
        return list(found)
    owners = {worker: name for name, ids in workers.items() for worker in ids}
    kept = [
        name
        for name in (found if plain else entries)
        if name not in entries.keys() | owners.keys()
        or all(each.holds(entries[owners.get(name, name)]) for each in wanted)
    ]
    if not kept:
        among = f" among {', '.join(plain)}" if plain else ""
        words = f'cannot find anything with the labels "{selector}"{among}'
        raise NotFound(words, selector=selector, names=plain, known=[])
    return kept


def _matches(glob: str, entries: Mapping[str, Mapping[str, str]], workers: Mapping[str, Sequence[str]]) -> list[str]:
    names = [name for name in entries if fnmatchcase(name, glob)]
    rest = (ids for name, ids in workers.items() if name not in names)
    return names + [worker for ids in rest for worker in ids if fnmatchcase(worker, glob)]
