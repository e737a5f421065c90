"""What docs/reference/stability.md promises: docs/reference/stable.txt lists each name, and none of them goes or becomes required.

A line is a thing with its names; a name with ! has to be given by a caller. More names may come at any time, but none with !.
`python -P tests/docs/test_stability.py --write` adds what has come since, and takes away what a major version has removed.
"""

import inspect
import sys
from collections.abc import Iterator, Mapping
from typing import Any, cast

import click
import msgspec

import corral
import corral.worker
from corral.cli.__main__ import command_line
from corral.supervisor.api.schema.documents import schema_of
from corral.supervisor.records.events.catalog import CATALOGUE
from corral.worker.contract.errors import CLASSES
from corral.worker.methods.table import METHODS
from documents import ROOT

STABLE = ROOT / "docs" / "reference" / "stable.txt"

Names = dict[str, frozenset[str]]


def written() -> Names:
    """Returns the names of each line of stable.txt."""
    pairs = (line.split(": ", 1) for line in STABLE.read_text("utf-8").splitlines())
    return {thing: frozenset(names.split()) for thing, names in pairs}


def current() -> Names:
    """Returns the names that there are now."""
    lines = (*_methods(), *_commands("corral", command_line()), *_tables("config", schema_of("config")), *_python())
    events = ((f"event {name}", event.field_names) for name, event in CATALOGUE.items())
    errors = ((f"error {each.__name__}", (str(code), f"exit-{each.exit_status}")) for code, each in CLASSES.items())
    return {thing: frozenset(names) for thing, names in (*lines, *events, *errors) if names}


def _methods() -> Iterator[tuple[str, list[str]]]:
    for name, method in METHODS.items():
        yield (
            f"params {name}",
            [each.encode_name + "!" * each.required for each in msgspec.structs.fields(method.params)],
        )
        faces = method.faces
        python = [f"python:{faces.python}"] if faces.python else []
        yield (
            f"method {name}",
            [f"right:{method.access.permission}", *(f"{r.verb}:{r.path}" for r in faces.routes), *python],
        )
        result = cast("object", method.result)
        if isinstance(result, type) and issubclass(result, msgspec.Struct):
            yield f"result {name}", [each.encode_name for each in msgspec.structs.fields(result)]


def _commands(path: str, command: click.Command) -> Iterator[tuple[str, list[str]]]:
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            assert found is not None, name
            yield from _commands(f"{path} {name}", found)
    options = (each for each in command.params if isinstance(each, click.Option))
    yield f"command {path}", [name for each in options for name in (*each.opts, *each.secondary_opts)]


def _tables(path: str, schema: Mapping[str, Any]) -> Iterator[tuple[str, list[str]]]:
    """Yields the keys of each table below a JSON Schema; `*` is any name."""
    for name, definition in _of(schema, "$defs").items():
        if name != "variable":
            yield from _tables(f"config {name}", definition)
    keys = _of(schema, "properties")
    needed = schema.get("required")
    yield path, [f"{key}{'!' * (isinstance(needed, list) and key in needed)}" for key in keys]
    others = schema.get("additionalProperties")
    for key, value in keys.items():
        yield from _tables(f"{path}.{key}", value)
    if isinstance(others, dict):
        yield from _tables(f"{path}.*", cast("dict[str, Any]", others))


def _of(schema: Mapping[str, Any], word: str) -> dict[str, dict[str, Any]]:
    found: dict[str, Any] = schema.get(word, {})
    return {key: value for key, value in found.items() if isinstance(value, dict)}


def _python() -> Iterator[tuple[str, list[str]]]:
    for module in (corral, corral.worker):
        yield f"python {module.__name__}", [*module.__all__]
        for name in module.__all__:
            found = getattr(module, name)
            if not isinstance(found, type):
                continue
            public = [each for each in vars(found) if not each.startswith("_")]
            yield f"python {module.__name__}.{name}", public
            for each in public:
                if inspect.isfunction(function := vars(found)[each]):
                    yield f"python {module.__name__}.{name}.{each}", [*_parameters(function)]


def _parameters(function: object) -> Iterator[str]:
    assert callable(function)
    for name, parameter in list(inspect.signature(function).parameters.items())[1:]:
        is_open = parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        yield name + "!" * (parameter.default is parameter.empty and not is_open)


def test_what_was_promised_is_there() -> None:
    now = {thing: {name.strip("!") for name in names} for thing, names in current().items()}
    gone = {
        thing: [name for name in names if name.strip("!") not in now.get(thing, ())]
        for thing, names in written().items()
    }
    assert {thing: names for thing, names in gone.items() if names} == {}


def test_nothing_more_is_required_of_callers() -> None:
    now = {thing: {name for name in names if name.endswith("!")} for thing, names in current().items()}
    needed = {thing: now.get(thing, set()) - names for thing, names in written().items()}
    assert {thing: names for thing, names in needed.items() if names} == {}


def test_every_method_command_and_table_is_promised_from_its_release_on() -> None:
    known = written()
    assert {
        "method agent.add",
        "command corral status",
        "config agent",
        "python corral",
        "event task.corrupted",
    } <= known.keys()
    assert "max_memory_bytes" in known["config agent.resources"]
    assert "name!" in known["params agent.add"]


if __name__ == "__main__" and sys.argv[1:] == ["--write"]:
    STABLE.write_text(
        "".join(f"{thing}: {' '.join(sorted(names))}\n" for thing, names in sorted(current().items())), "utf-8"
    )
