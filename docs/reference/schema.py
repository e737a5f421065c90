"""Writes supervisor/api/schema/descriptions.py from the tables of configuration.md: `python docs/reference/schema.py`."""

import json
import re
from pathlib import Path

MANUAL = Path(__file__).with_name("configuration.md")
MODULE = Path(__file__).parents[2] / "supervisor" / "schema" / "descriptions.py"

HEAD = '''"""Describes the keys of the configuration, for editors. Written by docs/reference/schema.py from the manual; do not edit."""

# fmt: off
DESCRIPTIONS: dict[str, str] = {
'''


def module() -> str:
    """Returns the text of the module."""
    lines: list[str] = []
    section = ""
    for line in MANUAL.read_text("utf-8").split("\n"):
        if line.startswith("#"):
            section = _section(line)
        row = re.fullmatch(r"\| `(\w+)` \|(.*)\|", line)
        if row is None or not section:
            continue
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", row[2])]
        if len(cells) >= 3:  # default, unit, meaning
            unit, meaning = _plain(cells[1]), _plain(cells[2])
            text = "; ".join(filter(None, (meaning, unit)))
            name = json.dumps(f"{section}.{row[1]}")
            lines.append(f"    {name}: {json.dumps(text, ensure_ascii=False)},\n")
    return HEAD + "".join(lines) + "}\n"


def _section(heading: str) -> str:
    found = re.search(r"`\[+(\w+)(?:\.(\w+))?", heading)
    if found is None:
        return ""
    return "steps" if heading.endswith("steps]]`") else found[1]


def _plain(cell: str) -> str:
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", cell)
    return text.replace("`", "").replace("*", "").replace("\\|", "|")


if __name__ == "__main__":
    MODULE.write_text(module(), "utf-8")
