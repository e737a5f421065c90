"""The observer of the long run of operations: it knows the overlap that a change asks for, and finds any other."""

from itertools import pairwise
from typing import Any

import pytest

from worker_lives import check_lives

pytestmark = pytest.mark.core

Event = dict[str, Any]


def moved(incarnation: int, *states: str) -> list[Event]:
    """The transitions of one worker from the first of the states to the last."""
    return [
        {
            "type": "worker.state",
            "agent": "plain",
            "worker": "plain-0",
            "incarnation": incarnation,
            "from": old,
            "to": new,
        }
        for old, new in pairwise(states)
    ]


def told(kind: str, **facts: object) -> list[Event]:
    return [{"type": kind, "agent": "plain", **facts}]


UP = ("Initial", "Starting", "Ready")
END = ("Ready", "ShuttingDown", "Terminated")
ROLLING, ROLLED = told("agent.rolling"), told("agent.rolled")
SWITCHED = told("agent.switched", workers=["plain-0"])


def test_a_change_brings_a_second_life_up_beside_the_first() -> None:
    check_lives([*moved(3, *UP), *ROLLING, *moved(4, *UP), *SWITCHED, *ROLLED, *moved(3, *END)])


def test_a_change_that_a_stop_has_met_leaves_both_to_end() -> None:
    story = [*moved(4, *UP), *ROLLING, *moved(5, "Initial", "Starting"), *moved(4, *END)]
    story += [*moved(5, "Starting", "ShuttingDown"), *ROLLED]
    again = [*moved(4, "Terminated", "Initial"), *moved(6, "Initial", "Starting")]
    check_lives([*story, *moved(5, "ShuttingDown", "Terminated"), *again])


@pytest.mark.parametrize(
    "story",
    [
        [*moved(3, *UP), *moved(4, *UP)],
        [*moved(3, *UP), *ROLLING, *ROLLED, *moved(4, *UP)],
        [*moved(3, *UP), *ROLLING, *moved(4, *UP), *moved(5, *UP)],
        [*moved(3, *UP), *ROLLING, *moved(4, *UP), *SWITCHED, *ROLLED, *moved(5, *UP)],
    ],
    ids=["without a change", "after a change", "a third in a change", "a third after it"],
)
def test_any_other_copy_is_found(story: list[Event]) -> None:
    with pytest.raises(AssertionError):
        check_lives(story)


def test_every_second_copy_of_an_agent_that_permits_none_is_found() -> None:
    story = [*moved(3, *UP), *ROLLING, *moved(4, *UP)]
    check_lives(story)
    with pytest.raises(AssertionError):
        check_lives(story, alone=["plain"])


@pytest.mark.parametrize(
    "story",
    [
        moved(1, "Initial", "Ready"),
        [*moved(1, *UP), *moved(1, "Ready", "Terminated", "Initial", "Starting")],
        [*moved(1, *UP), *moved(1, "Starting", "Ready")],
        moved(1, "Starting", "Ready"),
    ],
    ids=["not legal", "its number is used again", "told twice", "a life that never began"],
)
def test_a_life_that_cannot_be_is_found(story: list[Event]) -> None:
    with pytest.raises(AssertionError):
        check_lives(story)
