"""The language rule of docs/how-to/work-on-corral.md for pages, and that a link to a heading finds it.

Blocks of code, code in backquotes and quoted text are not looked at.
"""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

PAGES = [
    *ROOT.glob("*.md"),
    *(page for page in (ROOT / "docs").rglob("*.md") if page.parent.name != "decisions"),
    *(ROOT / "examples").rglob("*.md"),
]

BLOCK = re.compile(r"^[ ]*```.*?^[ ]*```$", re.MULTILINE | re.DOTALL)

QUOTED = re.compile(r"`[^`\n]*`|\"[^\"\n]*\"")

QUESTION = re.compile(
    r"(?:\A|[.!?]\s+|\n\s*\n\s*|^#+ |^ *- |^ *\d+\. |\*\*|\| )(?:Who|Whose|Whom|What|Whoever)\b"
    r"|[:;]\s+(?:who|whose|whom|what|whoever)\b",
    re.MULTILINE,
)
"""The beginning of a sentence, of a heading or a cell, or text after a colon, that asks instead of naming the thing."""

PERSON = re.compile(r"\b(?:he|him|his|himself|whoever|somebody)\b", re.IGNORECASE)
"""Words for people, said of a process, a client or a caller."""

FILES = re.compile(r"`((?:benchmarks|cli|mcp|supervisor|tests|worker)/[\w/]+\.py)`((?:, `\w+\.py`)*)")
"""A module by its path, and those beside it that follow by their names alone."""

LINK = re.compile(r"\]\((?P<path>[^)#\s]*)#(?P<heading>[^)]+)\)")


def prose(page: Path) -> str:
    """Returns the text of a page without its code, on the same lines."""
    text = BLOCK.sub(lambda block: "\n" * block[0].count("\n"), page.read_text("utf-8"))
    return QUOTED.sub("`…`", text)


def headings(page: Path) -> set[str]:
    """Returns the anchors of a page's headings, as GitHub makes them."""
    text = BLOCK.sub("", page.read_text("utf-8"))
    found = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in found}


@pytest.mark.parametrize("rule", [QUESTION, PERSON], ids=["question", "person"])
@pytest.mark.parametrize("page", [pytest.param(page, id=str(page.relative_to(ROOT))) for page in PAGES])
def test_a_page_keeps_the_rule(page: Path, rule: re.Pattern[str]) -> None:
    text = prose(page)
    found = [
        f"line {text.count(chr(10), 0, match.end()) + 1}: {text[match.start() : match.end() + 40]!r}"
        for match in rule.finditer(text)
    ]
    assert found == []


@pytest.mark.parametrize("page", [pytest.param(page, id=str(page.relative_to(ROOT))) for page in PAGES])
def test_a_link_to_a_heading_finds_it(page: Path) -> None:
    for path, heading in LINK.findall(page.read_text("utf-8")):
        if "://" not in path:
            assert heading in headings(page.parent / path if path else page), (path, heading)


@pytest.mark.parametrize(
    "page", [pytest.param(page, id=str(page.relative_to(ROOT))) for page in PAGES if page.name != "GLOSSARY.md"]
)
def test_a_file_that_a_page_names_exists(page: Path) -> None:
    for path, beside in FILES.findall(page.read_text("utf-8")):
        assert (ROOT / path).exists(), path
        for name in re.findall(r"`(\w+\.py)`", beside):
            assert (ROOT / path).with_name(name).exists(), (path, name)
