"""Attempts of a tenant to reach what is not its own: every method of the table, with every name that it can be given.

Each attempt has a twin with a name that nothing has: both have to be answered alike. The attempts are made of the
examples of the table and of the fields of its params, so that a new method has its attempts by itself.
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import msgspec

from corral.worker.contract import codec
from corral.worker.methods.table import METHODS

WORD = "zephyr"
"""Stands in every name and value of the other tenant and of the owner, and in nothing else."""


SAID = "zircon"
"""Stands in keys and sessions of the others, which the tenant says of its own agent, too."""


class Twin(NamedTuple):
    """A name of another, and one of the same form that nothing has."""

    foreign: object
    missing: object


class Foreign(NamedTuple):
    """What the others have: ids that the daemon gave them."""

    tasks: tuple[str, ...]
    checkpoints: tuple[int, ...]
    deployments: tuple[int, ...]


NAMES = (
    Twin(f"globex/{WORD}", "globex/nowhere"),
    Twin(f"globex/{WORD}", "nowhere/nowhere"),
    Twin(f"globex/{WORD}-0", "globex/nowhere-0"),
    Twin(f"globex/{WORD}squad", "globex/nowheresquad"),
    Twin(f"globex/{WORD}chain", "nowhere/nowherechain"),
    Twin(f"{WORD}own", "nowhereown"),
    Twin(f"{WORD}own-0", "nowhereown-0"),
    Twin("globex/", "nowhere/"),
    Twin("/" + WORD, "/nowhere"),
)

GLOBS = (
    Twin("globex/*", "nowhere/*"),
    Twin(f"*/{WORD}", "*/nowhere"),
    Twin(f"{WORD}*", "nowhere*"),
    Twin(f"*{WORD}*", "*nowhere*"),
    Twin(f"[g]lobex/{WORD}", "[g]lobex/nowhere"),
)

OTHERS: Mapping[str, tuple[Twin, ...]] = {
    "selector": (Twin(f"whose={WORD}", "whose=nowhere"), Twin(f"{WORD}", "nowhere")),
    "package": (
        Twin(f"{WORD}pack", "nowherepack"),
        Twin(f"globex/{WORD}pack", "globex/nowherepack"),
        Twin(f"globex/{WORD}pack@1.0", "globex/nowherepack@1.0"),
    ),
    "server": (Twin(f"globex/{WORD}tools", "globex/nowhere"), Twin(f"{WORD}tools", "nowheretools")),
    "uri": (Twin(f"{WORD}://x", "nowhere://x"),),
    "session": (Twin(f"{SAID}-session", "nowhere-session"),),
    "key": (Twin(f"{SAID}-key", "nowhere-key"),),
    "query": (Twin(WORD, "neverwas"),),
    "text": (Twin(WORD, "nowhere"),),
    "grep": (Twin(WORD, "nowhere"),),
    "tenant": (Twin("globex", "nowhere"),),
}
"""Twins of params that are no names of agents."""

NAMED = ("name", "agent", "worker", "schedule")

SEVERAL = ("names", "agents")

SECRETS = (Twin(f"globex/{WORD}_KEY", "globex/nowhere_KEY"), Twin(f"{WORD}_KEY", "nowhere_KEY"))

TOKENS = (Twin(f"globex/{WORD}token", "globex/nowheretoken"), Twin(f"{WORD}token", "nowheretoken"))


TENANTS = (Twin("globex", "nowhere"),)


class Attempt(NamedTuple):
    """Two calls of a method that may differ in nothing but the name."""

    method: str
    key: str
    foreign: dict[str, object]
    missing: dict[str, object]


def attempts(foreign: Foreign) -> Iterator[Attempt]:
    """All attempts."""
    for name, entry in sorted(METHODS.items()):
        base = dict(entry.example)
        if "start" in entry.params.__struct_fields__:
            base["start"] = False  # what it makes under a name of its own is removed again
        least = {each.name: base[each.name] for each in msgspec.structs.fields(entry.params) if each.required}
        yield Attempt(name, "", least, least)  # about all that the tenant may know
        yield Attempt(name, "", base, base)
        for field in msgspec.structs.fields(entry.params):
            for twin in twins(name, field.name, foreign):
                pair = [with_value(base, field.name, value) for value in twin]
                yield Attempt(name, field.name, pair[0], pair[1])


def twins(method: str, key: str, foreign: Foreign) -> Iterator[Twin]:
    """The twins that a param of a method can have."""
    nouns = {"secret": SECRETS, "token": TOKENS, "tenant": TENANTS}
    if key == "task" and method.startswith("schedule."):
        for twin in NAMES:
            yield Twin(*({"objective": "x", "agent": each} for each in twin))
        for each in foreign.tasks:
            yield Twin({"objective": "x", "after": [each]}, {"objective": "x", "after": [unknown(each)]})
    elif key in NAMED:
        yield from nouns.get(method.partition(".")[0], ()) if key == "name" else ()
        yield from NAMES
        yield from GLOBS
    elif key in SEVERAL:
        if key == "agents" and method in ("agent.add_all", "daemon.import"):
            spec = {"command": ["/bin/true"], "protocol": "none", "autostart": False}
            for twin in NAMES:
                yield Twin(*([{"name": each, "spec": spec}] for each in twin))
        else:
            yield from (Twin(*([each] for each in twin)) for twin in (*NAMES, *GLOBS))
            yield Twin(["*", f"globex/{WORD}"], ["*", "globex/nowhere"])
    elif key in ("task", "parent"):
        yield from (Twin(each, unknown(each)) for each in foreign.tasks)
    elif (key in ("tasks", "after") and method.startswith("task.") and key != "after") or (
        key == "after" and method in ("task.submit", "task.run")
    ):
        yield from (Twin([each], [unknown(each)]) for each in foreign.tasks)
    elif key == "checkpoint":
        yield from (Twin(each, each + 1000) for each in foreign.checkpoints)
    elif key == "checkpoints":
        yield from (Twin([each], [each + 1000]) for each in foreign.checkpoints)
    elif key == "deployment":
        yield from (Twin(each, each + 1000) for each in foreign.deployments)
    elif key in ("specs", "teams", "workflows", "schedules"):
        for twin in NAMES[:5]:
            yield Twin(*({str(each): {}} for each in twin))
    else:
        yield from OTHERS.get(key, ())


def unknown(task: str) -> str:
    """An id of the same form as that of a task, which no task has."""
    return task[:-4] + ("0000" if task[-4:] != "0000" else "1111")


def with_value(base: Mapping[str, object], key: str, value: object) -> dict[str, object]:
    """The params of a method with one value in place of that of the example."""
    found = {each: given for each, given in base.items() if each != key}
    if key in ("name", "names") and "selector" not in base:
        found.pop("name", None)
        found.pop("names", None)
    if key in ("task", "tasks"):
        found.pop("dead", None)
        found.pop("agent", None)
    return {**found, key: value}


def replaced(text: str, attempt: Attempt) -> str:
    """An answer to the attempt as its twin would have it."""
    pairs = sorted(set(pairs_of(attempt.foreign, attempt.missing)), key=lambda each: -len(each[0]))
    for one, other in pairs:
        edges = r"\b" if one.isdecimal() else ""
        text = re.sub(edges + re.escape(one) + edges, other.replace("\\", r"\\"), text)
    return text


def told(text: str) -> str:
    """An answer without what the tenant made itself under a name that another has, too."""
    return re.sub(rf"acme/\W?{WORD}[\w-]*", "", text).replace("globex/nowhere", "")


def pairs_of(one: Any, other: Any) -> Iterator[tuple[str, str]]:
    """The values in which two params differ, as they stand in JSON."""
    pair = codec.as_object(one), codec.as_object(other)
    lists = codec.as_array(one), codec.as_array(other)
    if pair[0] is not None and pair[1] is not None:
        if pair[0].keys() != pair[1].keys():
            yield from zip(map(bare, pair[0]), map(bare, pair[1]), strict=True)
        for each, two in zip(pair[0].values(), pair[1].values(), strict=True):
            yield from pairs_of(each, two)
    elif lists[0] is not None and lists[1] is not None:
        for each, two in zip(lists[0], lists[1], strict=True):
            yield from pairs_of(each, two)
    elif one != other:
        yield bare(one), bare(other)


def bare(value: object) -> str:
    """A value as it stands within a text of JSON."""
    return json.dumps(value).strip('"')
