"""The generated pages have all that the code has, and mkdocs takes the documentation as it is."""

import subprocess
import sys
from pathlib import Path

import click

from corral.cli.__main__ import command_line
from corral.supervisor.records.events.catalog import CATALOGUE
from corral.worker.contract.errors import CLASSES
from corral.worker.methods.table import METHODS
from documents import ROOT, generated

BOUND_S = 60


def test_every_method_its_params_and_its_errors_are_in_the_protocol() -> None:
    page = generated()["docs/reference/protocol.md"]
    rows = {line.split("|")[1].strip(" `"): line for line in page.splitlines() if line.startswith("| `")}
    for name, method in METHODS.items():
        params = rows[name].split("|")[2]
        assert {each.strip(" ?") for each in params.split(",")} >= set(method.params.__struct_fields__), name
    assert [code for code in CLASSES if f"| {code} |" not in page] == []


def test_every_route_is_in_the_routes_and_every_method_without_one_says_why() -> None:
    page = generated()["docs/reference/http_routes.md"]
    for name, method in METHODS.items():
        assert all(f"| `{route.verb} {route.path}` | `{name}` |" in page for route in method.faces.routes), name
        assert method.faces.routes or f"- `{name}`: " in page, name


def test_every_event_and_its_fields_are_in_the_events() -> None:
    rows = {line.split("`")[1]: line for line in generated()["docs/reference/events.md"].splitlines() if "`" in line}
    for name, event in CATALOGUE.items():
        assert all(f"`{field}`" in rows[name] for field in event.field_names), name


def test_every_command_and_its_options_are_in_the_commands() -> None:
    page = generated()["docs/reference/cli.md"]
    group = command_line()
    context = click.Context(group, info_name="corral")
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        below = command.list_commands(context) if isinstance(command, click.Group) else []
        for path in [name, *(f"{name} {each}" for each in below)]:
            assert f"### `corral {path}`\n" in page, path


def test_every_python_method_is_in_its_list() -> None:
    page = generated()["docs/reference/python_methods.md"]
    names = [method.faces.python for method in METHODS.values() if method.faces.python is not None]
    assert [name for name in names if f"| `{name}` |" not in page] == []


def test_mkdocs_takes_the_documentation_as_it_is(tmp_path: Path) -> None:
    command = [sys.executable, "-P", "-m", "mkdocs", "build", "--strict", f"--site-dir={tmp_path / 'site'}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=BOUND_S, check=False)
    assert done.returncode == 0, done.stderr
    for page in generated():
        assert (tmp_path / "site" / page.removeprefix("docs/")).with_suffix(".html").exists(), page
    assert [path for path in (tmp_path / "site").rglob("*") if path.suffix in (".py", ".toml")] == []


def test_the_generated_pages_are_written_as_markdown(tmp_path: Path) -> None:
    command = [sys.executable, "-P", str(ROOT / "docs" / "make.py"), str(tmp_path)]
    subprocess.run(command, check=True, timeout=BOUND_S)
    written = {f"docs/{path.relative_to(tmp_path)}": path.read_text("utf-8") for path in tmp_path.rglob("*.md")}
    assert written == generated()
