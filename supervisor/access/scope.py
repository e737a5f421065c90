"""Decides what a caller whose token names agents may know: pure functions of its globs and of names.

None in place of the globs means that nothing is restricted, and no glob that nothing may be known. A name that is out of scope is answered as one that is not there, so that
nothing here says which of the two it is.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

from ...worker.contract import codec
from ...worker.control.access import RIGHTS, Rights


def lesser(one: Rights, other: Rights) -> Rights:
    """Returns the one of two rights that permits less."""
    return one if RIGHTS.index(one) <= RIGHTS.index(other) else other


def is_in_scope(name: str, globs: Sequence[str] | None) -> bool:
    """Returns whether a caller with these globs may know an agent, server, team or workflow."""
    return globs is None or any(fnmatchcase(name, glob) for glob in globs)


def knows(globs: Sequence[str] | None) -> Callable[[str], bool] | None:
    """Returns the filter of names for a list that is cut into pages; None where nothing is restricted."""
    return None if globs is None else lambda name: is_in_scope(name, globs)


Target = Literal[
    "nothing",
    "names",
    "name",
    "agent",
    "task",
    "new task",
    "checkpoint",
    "schedule",
    "new schedule",
]
"""The part of the params that names agents; `nothing` where no part does."""


@dataclass(frozen=True)
class Rule:
    """Describes how a method is restricted to the agents of a caller; a method without a rule is refused to such a caller.

    Attributes:
        target: the params that must be in scope.
        lists_all: whether it is about all agents where it names none: about those in scope then.
        groups: whether globs and selectors choose teams and workflows, too.
        logs: whether they choose removed agents whose logs are there.
        lists: keys of the result that are lists, each with the path to the agent's name in an entry; others are left out.
        sends: the same of its notifications, by method.
    """

    target: Target = "nothing"
    lists_all: bool = False
    groups: bool = False
    logs: bool = False
    lists: tuple[tuple[str, str], ...] = ()
    sends: tuple[tuple[str, str, str], ...] = ()


OPEN = Rule()
"""Permits a method whose params and result have nothing of an agent."""

NAMES = Rule("names")
NAMES_AND_GROUPS = Rule("names", groups=True)
ALL_NAMES = Rule("names", lists_all=True, groups=True)
LOGS = Rule("names", lists_all=True, logs=True)
NAME = Rule("name")
AGENT = Rule("agent")
TASK = Rule("task")
NEW_TASK = Rule("new task")
CHECKPOINT = Rule("checkpoint")
SCHEDULE = Rule("schedule")


def as_glob(name: str) -> str:
    """Returns a glob that a name alone matches: a choice by it is one that does not name it."""
    return f"[{name[0]}]{name[1:]}"


def kept(
    value: Mapping[str, object], key: str, path: str, globs: Sequence[str]
) -> dict[str, object]:
    """Returns an object without the entries of its list `key` whose agent, at `path`, is out of scope or missing."""
    entries = codec.as_array(value.get(key)) or []
    return {**value, key: [each for each in entries if _is_kept(each, path, globs)]}


def _is_kept(entry: object, path: str, globs: Sequence[str]) -> bool:
    found = entry
    for part in path.split("."):
        found = (codec.as_object(found) or {}).get(part)
    return isinstance(found, str) and is_in_scope(found, globs)


NAMING = ("known", "near", "candidates")
"""Keys of an error's data that have names beside the one that was asked for."""


def without_names(data: Mapping[str, object], globs: Sequence[str]) -> dict[str, object]:
    """Returns the data of an error without names that are out of scope."""
    return {
        key: [each for each in codec.as_array(value) or [] if is_in_scope(str(each), globs)]
        if key in NAMING
        else value
        for key, value in data.items()
    }
