"""Which tools a few words find: names taken apart, stems, beginnings; and any text is a safe query."""

import random

import pytest

from corral.mcp.pool.tool_index import Document, document_of, search
from seeds import seeds

TOOLS = tuple(
    document_of({"name": name, "description": description, "inputSchema": {"type": "object", "properties": properties}})
    for name, description, properties in (
        ("git__git_log", "Shows the commits of a branch", {"max_count": {"type": "integer"}}),
        ("hub__createPullRequest", "Opens a request to merge a branch", {"draft": {"description": "not ready yet"}}),
        ("files__read_text_file", "Returns the content of a document", {"path": {"type": "string"}}),
        ("web__getHTTPStatus", "Asks a server how it is", {"url": {"type": "string"}}),
        ("café__menü", "Les plats du jour", {}),
    )
)


@pytest.mark.parametrize(
    ("query", "name"),
    [
        ("the pull request", "hub__createPullRequest"),
        ("createpullrequest", "hub__createPullRequest"),
        ("what is the http status", "web__getHTTPStatus"),
        ("read texts", "files__read_text_file"),
        ("committed", "git__git_log"),
        ("yet to be ready", "hub__createPullRequest"),
        ("count", "git__git_log"),
        ("cafe menu", "café__menü"),
        ("docum", "files__read_text_file"),
        ("web__getHTTPStatus", "web__getHTTPStatus"),
    ],
)
def test_a_tool_is_found_by_the_words_of_each_of_its_parts(query: str, name: str) -> None:
    assert search(query, TOOLS)[0] == name


def test_a_word_of_the_name_counts_more_than_one_of_the_description() -> None:
    others = (Document(f"c__{number}", "", "words of it", "") for number in range(4))
    tools = (Document("a__other", "", "issue of it", ""), Document("b__issue", "", "words of it", ""), *others)
    assert search("issue", tools) == ["b__issue", "a__other"]


def test_whole_words_come_before_beginnings_and_the_limit_holds() -> None:
    tools = (*(Document(f"a__log_{number}", "", "", "") for number in range(4)), Document("b__logistics", "", "", ""))
    assert search("log", tools) == [f"a__log_{number}" for number in range(4)] + ["b__logistics"]
    assert len(search("log", tools, 2)) == 2


def test_what_fits_nothing_finds_nothing() -> None:
    assert search("zebra", TOOLS) == []
    assert search("", TOOLS) == []
    assert search("anything", ()) == []


def test_words_that_tell_nothing_count_where_there_are_no_others() -> None:
    assert search("who", (Document("a__who", "", "", ""), Document("b__are", "", "", ""))) == ["a__who"]


@pytest.mark.parametrize("seed", seeds(20))
def test_any_text_is_a_safe_query(seed: int) -> None:
    chance = random.Random(seed)
    pieces = [
        '"',
        "'",
        "*",
        "(",
        ")",
        " OR ",
        " NEAR(",
        "name:",
        "^",
        "-",
        "+",
        "\0",
        "²",
        "_",
        "日本",
        "read",
        "\ud800",
    ]
    for _ in range(200):
        search("".join(chance.choices(pieces, k=chance.randrange(12))), TOOLS)


def test_any_tool_of_a_server_is_indexed() -> None:
    wild = {"name": "a__\ud800", "description": "\0" * 10, "title": 7, "inputSchema": {"properties": ["x"]}}
    tools = (document_of(wild), document_of({"name": "b__ok", "description": "fine " * 100_000}))
    assert search("fine", tools) == ["b__ok"]
