"""What a program may give as an agent: an object, a file, an entrypoint or a table."""

import runpy
import sys
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, cast

import pytest

from corral import InvalidParams
from corral.worker import Agent
from corral.worker.client.agent_source import located

pytestmark = pytest.mark.core

PROGRAM = """
from corral.worker import Agent

heron = Agent("grey-heron")
unnamed = Agent()


def made_inside():
    return Agent("inside")


@heron.task
def run(task):
    return 1


{end}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.chdir(tmp_path)
    known = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - known:
        del sys.modules[name]


def module(folder: Path, name: str, end: str = "heron.run()") -> Any:  # a module, made anew
    path = folder.joinpath(*name.split(".")).with_suffix(".py")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(PROGRAM.format(end=end))
    return import_module(name)


def place(table: Mapping[str, object]) -> tuple[object, object]:
    process = cast("dict[str, object]", table["process"])
    return table["entrypoint"], process["working_directory"]


def test_a_module_that_runs_its_agent_at_the_end_can_be_imported(folder: Path) -> None:
    assert module(folder, "herons").heron.name == "grey-heron"


def test_an_object_is_found_by_its_module_and_attribute(folder: Path) -> None:
    found = module(folder, "herons")
    name, table = located(found.heron, {"instances": 2})
    assert (name, table["instances"]) == ("grey-heron", 2)
    assert place(table) == ("herons:heron", str(folder))
    assert located(found.unnamed, {})[0] == "unnamed"


def test_an_object_that_another_module_imports_is_still_of_its_own(folder: Path) -> None:
    found = module(folder, "herons")
    (folder / "a_user.py").write_text("from herons import heron as bird\n")
    import_module("a_user")
    assert place(located(found.heron, {})[1]) == ("herons:heron", str(folder))


def test_an_object_in_a_package_begins_in_the_folder_above_the_package(folder: Path) -> None:
    found = module(folder, "birds.large.herons")
    assert place(located(found.heron, {})[1]) == ("birds.large.herons:heron", str(folder))


def test_a_function_and_an_object_of_a_framework_are_found_by_their_module(folder: Path) -> None:
    (folder / "thinkers.py").write_text(
        "class StateGraph:\n    pass\n\n\nStateGraph.__module__ = 'langgraph.graph.state'\ngraph = StateGraph()\n\n\n"
        "def answer(question):\n    return question\n"
    )
    found = import_module("thinkers")
    for attribute in ("graph", "answer"):
        name, table = located(getattr(found, attribute), {})
        assert (name, *place(table)) == (attribute, f"thinkers:{attribute}", str(folder))


def test_a_working_directory_of_the_caller_stays(folder: Path) -> None:
    found = module(folder, "herons")
    _, table = located(found.heron, {"process": {"working_directory": "/srv", "user": "x"}})
    assert table["process"] == {"working_directory": "/srv", "user": "x"}


def test_a_file_an_entrypoint_and_a_table_name_an_agent(folder: Path) -> None:
    module(folder, "herons")
    assert place(located(f"{folder}/herons.py:heron", {})[1]) == ("herons:heron", str(folder))
    assert located("herons.py:heron", {})[0] == "herons"
    assert located("birds.herons:heron", {}) == ("herons", {"entrypoint": "birds.herons:heron"})
    assert located({"name": "x", "command": ["true"]}, {}) == ("x", {"command": ["true"]})
    assert located("x", {"command": ["true"]}) == ("x", {"command": ["true"]})


def test_what_no_process_could_import_is_refused(folder: Path) -> None:
    found = module(folder, "herons")
    local = Agent("local")
    for source in (
        local,
        found.made_inside(),
        lambda: None,
        found.heron.run,
        object(),
        "missing.py:agent",
        "herons.py",
        {"command": ["true"]},
    ):
        with pytest.raises(InvalidParams) as caught:
            located(source, {})
        assert caught.value.data["reason"]


MAIN = """
from corral.worker import Agent
bird = Agent("bird")
{guard}
    pass
"""


@pytest.mark.parametrize("guard", ['if __name__ == "__main__":', "if True:"])
def test_an_object_of_the_program_itself_needs_a_guard(
    folder: Path, monkeypatch: pytest.MonkeyPatch, guard: str
) -> None:
    path = folder / "program.py"
    path.write_text(MAIN.format(guard=guard))
    loaded = runpy.run_path(str(path), run_name="__main__")
    program = type(sys)("__main__")
    program.__dict__.update(loaded)
    program.__file__ = str(path)
    program.__spec__ = None
    monkeypatch.setitem(sys.modules, "__main__", program)
    if "name" in guard:
        name, table = located(loaded["bird"], {})
        assert (name, *place(table)) == ("bird", "program:bird", str(folder))
    else:
        with pytest.raises(InvalidParams):
            located(loaded["bird"], {})
