"""The method table: each method has all faces, a result with a schema, and an example; a new one without them fails here."""

import importlib
import inspect
import pkgutil
from collections import defaultdict

import click
import msgspec
import pytest

from corral import AgentRuntime, Runtime
from corral.cli.__main__ import command_line
from corral.supervisor.api import agent_methods, daemon_methods, task_methods
from corral.supervisor.api.schema.documents import components, openrpc, results_of
from corral.supervisor.api.table.handlers import SERVES
from corral.worker.contract.records import Task
from corral.worker.control.results import TaskInShort
from corral.worker.methods.method import AnyMethod
from corral.worker.methods.table import METHODS

OF_OTHERS = {"daemon.schema", "rpc.discover", "mcp.call", "mcp.read"}
"""Methods whose result is a document of another specification, or one that an MCP server has made."""


def test_a_method_has_a_result_with_a_schema(subtests: pytest.Subtests) -> None:
    for method in METHODS.values():
        with subtests.test(method.name):
            is_struct = inspect.isclass(method.result) and issubclass(method.result, msgspec.Struct)
            assert is_struct is (method.name not in OF_OTHERS)
            (schema,), schemas = components([method.result])
            shape = schemas[str(schema["$ref"]).rpartition("/")[2]] if "$ref" in schema else schema
            assert shape["type"] == "object"
            assert shape["title"]
            assert shape["description"]


def test_a_method_has_an_example_that_it_would_accept(subtests: pytest.Subtests) -> None:
    for method in METHODS.values():
        with subtests.test(method.name):
            msgspec.convert(method.example, method.params)


def test_a_method_is_reached_by_http_by_python_and_by_a_command_or_has_a_reason(subtests: pytest.Subtests) -> None:
    for method in METHODS.values():
        faces = method.faces
        with subtests.test(method.name):
            assert faces.routes or faces.reason
            assert faces.python or faces.reason
            for runtime in (AgentRuntime, Runtime):
                assert faces.python is None or callable(getattr(runtime, faces.python, None))
            assert _is_command(faces.command)
            for route in faces.routes:
                assert set(route.keys) <= set(method.params.__struct_fields__)


def _is_command(words: str) -> bool:
    """Returns whether the words are a command of the tree, or an option of all of them."""
    command: click.Command | None = command_line()
    if words.startswith("--"):
        assert command is not None, "there is one"
        return any(words in parameter.opts for parameter in command.params)
    for word in words.split():
        if not isinstance(command, click.Group):
            return False
        command = command.get_command(click.Context(command), word)
    return command is not None


def test_each_method_is_served_once_and_nothing_else_is() -> None:
    served: list[str] = []
    for room in (agent_methods, daemon_methods, task_methods):
        for module in pkgutil.iter_modules(room.__path__, f"{room.__name__}."):
            for each in vars(importlib.import_module(module.name)).values():
                if isinstance(each, type) and each.__module__ == module.name:
                    served += [
                        getattr(function, SERVES) for function in vars(each).values() if hasattr(function, SERVES)
                    ]
    assert sorted(served) == sorted(METHODS)


def test_no_two_methods_have_one_python_name() -> None:
    names = [method.faces.python for method in METHODS.values() if method.faces.python]
    assert len(names) == len(set(names))


def test_no_two_methods_have_one_route_but_a_list_and_its_stream() -> None:
    found: dict[tuple[object, ...], list[AnyMethod]] = defaultdict(list)
    for method in METHODS.values():
        for route in method.faces.routes:
            shape = tuple(None if is_key else name for name, is_key in route.segments)
            found[route.verb, shape].append(method)
    for place, methods in found.items():
        plain = [method.name for method in methods if not method.faces.only_streams]
        assert len(plain) == 1, f"{place}: {plain}"
        assert len(methods) <= 2, place


def test_the_openrpc_document_has_the_result_and_the_example_of_each_method() -> None:
    document = msgspec.json.decode(msgspec.json.encode(openrpc(METHODS)))
    schemas = document["components"]["schemas"]
    for entry in document["methods"]:
        (example,) = entry["examples"]
        known = {param["name"] for param in entry["params"]}
        assert {param["name"] for param in example["params"]} <= known
        schema = entry["result"]["schema"]
        assert schema.get("type") == "object" or str(schema["$ref"]).rpartition("/")[2] in schemas
    assert len(results_of(METHODS.values())) == len(document["methods"])


def test_a_task_in_short_is_a_task_without_the_fields_that_may_be_long() -> None:
    long = ("input", "context", "output", "boundaries", "output_format", "children", "after", "steps")
    fields = [each for each in Task.__struct_fields__ if each not in long]
    assert set(TaskInShort.__struct_fields__) == set(fields)
