"""The table of docs/explanation/hostile-agent.md: what stops each attempt of a hostile agent, on each level."""

from pathlib import Path

LEVELS = ("none", "one-uid", "own-uid", "strict", "container")
PAGE = Path(__file__).parents[2] / "docs" / "explanation" / "hostile-agent.md"


def _rows() -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    lines = PAGE.read_text().splitlines() if PAGE.exists() else []
    for line in lines:
        cells = [each.strip().strip("`") for each in line.strip("|").split("|")]
        if len(cells) == 2 + len(LEVELS) and cells[0] and cells[0] not in ("attempt", "---"):
            found[cells[0]] = dict(zip(LEVELS, cells[2:], strict=True))
    return found


ROWS = _rows()
NOT_MEANT = "may"
"""The cell of an attempt that an agent of the owner may make."""


def cell(name: str, level: str) -> str:
    """What the page says of an attempt on a level: a part of what stopped it, or "gets there"."""
    return ROWS[name][level]
