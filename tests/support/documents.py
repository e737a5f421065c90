"""The pages of the documentation: those that people write, and those that docs/make.py makes from the code."""

import functools
import importlib.util
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[2]

WRITTEN = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.md")])


def _make() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_make", ROOT / "docs" / "make.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@functools.cache
def generated() -> dict[str, str]:
    """Returns the text of each generated page by its path in the repository, where it would be."""
    made: dict[str, str] = _make().pages()
    return {f"docs/{path}": text for path, text in made.items()}


@functools.cache
def pages() -> dict[str, str]:
    """Returns the text of each page by its path in the repository."""
    return {str(path.relative_to(ROOT)): path.read_text("utf-8") for path in WRITTEN} | generated()
