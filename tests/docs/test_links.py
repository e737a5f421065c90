"""What a page points to is there: pages, their headings, files of the repository."""

import os
import re

from documents import ROOT, pages

BLOCK = re.compile(r"^[ ]*```.*?^[ ]*```$", re.MULTILINE | re.DOTALL)

LINK = re.compile(r"\]\((?P<path>[^)#\s]*)(?:#(?P<heading>[^)]+))?\)")

FILES = re.compile(r"`((?:benchmarks|cli|docs|examples|mcp|supervisor|tests|worker)/[a-z0-9_/.-]+\.(?:py|md|toml))`")
"""A file by its path; capitals stand for any name, as in `supervisor/GROUP/__init__.py`."""


def headings(text: str) -> set[str]:
    """Returns the anchors of a page's headings, as GitHub makes them."""
    found = re.findall(r"^#+ (.*)$", BLOCK.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in found}


def test_a_link_leads_to_a_page_and_its_heading() -> None:
    every = pages()
    dead: list[tuple[str, str]] = []
    for page, text in every.items():
        for link in LINK.finditer(text):
            path, heading = link["path"], link["heading"]
            if "://" in path or path.startswith("mailto:"):
                continue
            target = os.path.normpath(os.path.join(os.path.dirname(page), path)) if path else page
            is_there = target in every or (ROOT / target).exists()
            if not is_there or (heading and heading not in headings(every[target])):
                dead.append((page, link[0]))
    assert dead == []


def test_a_file_that_a_page_names_exists() -> None:
    missing = [
        (page, path)
        for page, text in pages().items()
        for path in FILES.findall(text)
        if path not in pages() and not (ROOT / path).exists()
    ]
    assert missing == []


def test_the_index_names_every_page() -> None:
    index = {os.path.normpath(f"docs/{link['path']}") for link in LINK.finditer(pages()["docs/README.md"])}
    folders = ("docs/how-to/", "docs/reference/", "docs/tutorial/", "docs/explanation/")
    assert sorted(page for page in pages() if page.startswith(folders) and page not in index) == []
