"""The catalogue of events agrees with the code that publishes."""

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

from corral.supervisor.records.events.catalog import CATALOGUE, EXPIRED, SKIPPED

ROOT = Path(__file__).parents[2]

PUBLISHERS = {"publish", "_publish", "_tell"}

MADE = {EXPIRED, SKIPPED}
"""For one reader, by whoever reads for it."""


@functools.cache
def trees() -> list[tuple[str, ast.AST]]:
    return [
        (path.name, ast.parse(path.read_text("utf-8")))
        for path in sorted((ROOT / "supervisor").rglob("*.py"))
        if path.name != "event_types.py"
    ]


def words(node: ast.AST) -> Iterator[str]:
    for each in ast.walk(node):
        if isinstance(each, ast.Constant) and isinstance(each.value, str):
            yield each.value


def test_what_is_published_is_in_the_catalogue() -> None:
    unknown = [
        (file, node.lineno, node.args[0].value)
        for file, tree in trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in PUBLISHERS
        and node.args
        and isinstance(node.args[0], ast.Constant)
        and node.args[0].value not in CATALOGUE
    ]
    assert unknown == []


def test_what_is_in_the_catalogue_is_published() -> None:
    said = {word for _, tree in trees() for word in words(tree)}
    assert sorted(CATALOGUE.keys() - said - MADE) == []


def test_what_others_see_are_fields_that_there_are() -> None:
    for each in CATALOGUE.values():
        assert (each.shown or frozenset()) <= each.field_names, each.name
        assert not each.field_names & {"seq", "at", "type", "agent", "worker", "incarnation"}
