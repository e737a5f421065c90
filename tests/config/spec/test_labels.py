"""Labels, selectors and globs: which names they choose."""

import pytest

from corral.supervisor.config.spec.labels import chosen, parse_selector
from corral.supervisor.config.spec.loader import decode, group_table, to_table
from corral.supervisor.config.spec.team import Team
from corral.worker.contract.errors import InvalidParams, NotFound

pytestmark = pytest.mark.core

RED, BLUE = {"team": "red", "tier": "db"}, {"team": "blue"}
ENTRIES = {"work": RED, "worker": BLUE, "other": {}, "time": RED}
WORKERS = {"work": ["work-0", "work-1"], "worker": ["worker-0"], "other": ["other-0"]}


@pytest.mark.parametrize(
    ("selector", "names"),
    [
        ("team=red", ["work", "time"]),
        ("team==red", ["work", "time"]),
        ("team", ["work", "worker", "time"]),
        ("!team", ["other"]),
        ("team!=red", ["worker", "other"]),
        ("team, tier=db", ["work", "time"]),
        ("team=red,tier!=db,other", None),
        ("team=", None),
        ("team!=", ["work", "worker", "other", "time"]),
    ],
)
def test_all_requirements_of_a_selector_hold(selector: str, names: list[str] | None) -> None:
    if names is None:
        with pytest.raises(NotFound):
            chosen([], selector, ENTRIES, WORKERS)
    else:
        assert chosen([], selector, ENTRIES, WORKERS) == names


@pytest.mark.parametrize("text", ["", "=red", "a=b,,c", "a in (b)", "!a=b", "a!b", "-a=b"])
def test_what_is_no_selector_is_refused(text: str) -> None:
    with pytest.raises(InvalidParams) as caught:
        parse_selector(text)
    assert caught.value.data["key"] == "selector"


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["work*"], ["work", "worker"]),
        (["work?"], None),
        (["work-*"], ["work-0", "work-1"]),
        (["*-0"], ["work-0", "worker-0", "other-0"]),
        (["*-[1-9]"], ["work-1"]),
        (["work", "work*", "nobody"], ["work", "worker", "nobody"]),
        (["work*", "none*"], None),
        (["W*"], None),
    ],
)
def test_a_glob_stands_for_names_and_else_for_worker_ids(names: list[str], found: list[str] | None) -> None:
    if found is None:
        with pytest.raises(NotFound) as caught:
            chosen(names, None, ENTRIES, WORKERS)
        assert caught.value.data["name"] == names[-1]
    else:
        assert chosen(names, None, ENTRIES, WORKERS) == found


def test_names_and_a_selector_both_hold_and_workers_have_the_labels_of_their_agent() -> None:
    assert chosen(["work*"], "team=red", ENTRIES, WORKERS) == ["work"]
    assert chosen(["*-0"], "team=blue", ENTRIES, WORKERS) == ["worker-0"]
    with pytest.raises(NotFound):
        chosen(["other"], "team", ENTRIES, WORKERS)


TEXT = """
[agents.a]
command = ["x"]
title = "The first"
description = "Two\\nlines."
labels = { team = "red", "example.org/tier" = "" }
[mcp.servers.s]
command = ["y"]
labels.team = "blue"
[teams.t]
mode = "broadcast"
members = ["a"]
labels = { team = "red" }
title = "T"
[workflows.w]
description = "d"
labels = { team = "red" }
steps = [{ name = "one", agent = "a" }]
"""


def test_titles_and_labels_of_every_kind_survive_a_round_trip() -> None:
    config = decode(TEXT, source="f", directory="/")
    table = to_table(config.agents["a"])
    assert table["labels"] == {"team": "red", "example.org/tier": ""}
    assert (table["title"], table["description"]) == ("The first", "Two\nlines.")
    assert to_table(config.agents["s"])["labels"] == {"team": "blue"}
    assert isinstance(config.groups["t"], Team)
    assert group_table(config.groups["t"])["labels"] == {"team": "red"}
    assert group_table(config.groups["w"])["description"] == "d"


@pytest.mark.parametrize(
    ("line", "key"),
    [
        ('labels = ["a"]', "agents.a.labels"),
        ("labels = { a = 1 }", "agents.a.labels.a"),
        ('labels = { "a b" = "x" }', 'agents.a.labels."a b"'),
        ('labels = { a = "x,y" }', "agents.a.labels.a"),
        ('labels = { a = "x\\ny" }', "agents.a.labels.a"),
        ('title = "a\\nb"', "agents.a.title"),
        ("description = 1", "agents.a.description"),
    ],
)
def test_a_wrong_label_or_title_is_refused_by_its_key(line: str, key: str) -> None:
    with pytest.raises(InvalidParams) as caught:
        decode(f'[agents.a]\ncommand = ["x"]\n{line}\n', source="f", directory="/")
    assert caught.value.data["key"] == key
