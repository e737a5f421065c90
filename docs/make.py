"""Makes the reference pages that follow from the code: commands, methods, routes, events.

They are made when they are needed, and not kept in the repository.  `mkdocs` calls this module as a hook (`make site`), and
`python -P docs/make.py FOLDER` writes the pages as Markdown.  Each is the text that `page()` of docs/reference/NAME.py returns.
"""

import importlib.util
import os
import re
import sys
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from corral.supervisor.api.schema.documents import with_tables

DOCS = Path(__file__).parent
CHANGES = DOCS.parent / "CHANGELOG.md"
NAMES = ("cli", "events", "http_routes", "protocol", "python_methods")

LINK = re.compile(r"\[([^\]]*)\]\(((?:\.\./)+[^)#]*)[^)]*\)")


def pages() -> dict[str, str]:
    """Returns the generated pages by their path below docs/."""
    found: dict[str, str] = {}
    for name in NAMES:
        spec = importlib.util.spec_from_file_location(f"reference_{name}", DOCS / "reference" / f"{name}.py")
        assert spec is not None, name
        assert spec.loader is not None, name
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        found[f"reference/{name}.md"] = module.page()
    return found


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Adds the generated pages and the changes to the site; called by mkdocs."""
    for path, text in pages().items():
        files.append(File.generated(config, path, content=text))
    files.append(File.generated(config, CHANGES.name, content=CHANGES.read_text("utf-8")))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Puts tables of keys where a page names them, and plain names for links to files that are no pages; called by mkdocs."""

    def named(link: re.Match[str]) -> str:
        path = os.path.normpath(os.path.join("docs", os.path.dirname(page.file.src_uri), link[2]))
        if path.startswith(f"docs{os.sep}"):
            return link[0]
        return link[1] if path in link[1] else f"{link[1]} (`{path}`)"

    return LINK.sub(named, with_tables(markdown))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -P docs/make.py FOLDER")
    for path, text in pages().items():
        target = Path(sys.argv[1]) / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, "utf-8")
