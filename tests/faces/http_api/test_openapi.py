"""The OpenAPI document: valid, complete, and the same as the method table."""

import re
import subprocess
from collections import Counter
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from corral.supervisor.faces.http.answers import status_of
from corral.supervisor.faces.http_api.openapi import openapi
from corral.supervisor.faces.http_api.routes import ERROR_STATUSES, MESSAGES, PREFIX
from corral.worker.contract.errors import CLASSES
from corral.worker.methods.table import METHODS
from daemon_process import BIN

pytestmark = pytest.mark.core

Document = dict[str, Any]  # JSON


@pytest.fixture(scope="module")
def document() -> Document:
    found: Document = msgspec.json.decode(msgspec.json.encode(openapi(METHODS)))
    return found


def operations(document: Document) -> Iterator[tuple[str, str, Document]]:
    for path, item in document["paths"].items():
        for verb, operation in item.items():
            yield path, verb, operation


def test_the_document_is_valid_for_a_foreign_validator(document: Document) -> None:
    assert [str(error) for error in OpenAPIV31SpecValidator(document).iter_errors()] == []


def test_each_route_of_the_table_is_an_operation_or_a_stream_of_one(document: Document) -> None:
    table = Counter[str]()
    for method in METHODS.values():
        table[method.name] += len(method.faces.routes)
    described = Counter[str]()
    for path, _verb, operation in operations(document):
        if path.startswith(PREFIX):
            names = {operation["x-method"], operation.get("x-stream-method", operation["x-method"])}
            described.update(names)
    assert described == +table


def test_an_operation_id_is_unique_and_that_of_a_first_route_is_the_python_name(document: Document) -> None:
    ids = [operation["operationId"] for *_, operation in operations(document)]
    assert len(ids) == len(set(ids))
    assert all(re.fullmatch("[a-z][a-z_]*", each) for each in ids)
    named = {
        method.faces.python or method.name.replace(".", "_")
        for method in METHODS.values()
        if method.faces.routes and not method.faces.only_streams
    }
    assert named <= set(ids)


def test_no_two_paths_differ_by_the_name_of_a_key_alone(document: Document) -> None:
    shapes = Counter((re.sub(r"\{\w+\}", "{}", path), verb) for path, verb, _ in operations(document))
    assert max(shapes.values()) == 1
    paths = Counter(re.sub(r"\{\w+\}", "{}", path) for path in document["paths"])
    assert [path for path, count in paths.items() if count > 1] == []


def test_each_key_of_the_params_is_in_the_path_the_query_or_the_body(document: Document) -> None:
    schemas = document["components"]["schemas"]
    for path, verb, operation in operations(document):
        if not path.startswith(PREFIX):
            continue
        params = METHODS[operation["x-method"]].params
        keys = {each["name"] for each in operation.get("parameters", []) if each["in"] != "header"}
        if "requestBody" in operation:
            assert verb not in ("get", "delete")
            reference = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"]
            keys |= set(schemas[reference.rpartition("/")[2]]["properties"])
        left = set(params.__struct_encode_fields__) - keys
        assert {f"{key}s" for key in keys} | {key.removesuffix("s") for key in keys} >= left, path


def test_each_body_that_needs_a_key_has_an_example(document: Document) -> None:
    without = {
        operation["x-method"]
        for *_, operation in operations(document)
        for kind, content in operation.get("requestBody", {}).get("content", {}).items()
        if kind == "application/json" and operation["requestBody"]["required"]
        if not content["example"]
    }
    assert without == set()


def test_each_class_of_error_has_a_status_that_is_described() -> None:
    assert set(ERROR_STATUSES) == {cls.__name__ for cls in CLASSES.values()}
    assert set(ERROR_STATUSES.values()) <= set(MESSAGES)


def test_the_statuses_are_those_of_the_server() -> None:
    served = {cls.__name__: status_of(cls("")) for cls in CLASSES.values()}
    assert served == ERROR_STATUSES


def test_all_that_is_named_is_described(document: Document) -> None:
    tags = {tag["name"] for tag in document["tags"]}
    for _path, _verb, operation in operations(document):
        assert set(operation["tags"]) <= tags
        assert operation["summary"]
        assert "401" in operation["responses"] or operation.get("security") == []


def test_the_command_prints_the_document_without_a_daemon(document: Document) -> None:
    command = [str(BIN / "corral"), "schema", "openapi"]
    done = subprocess.run(command, capture_output=True, check=True)
    assert msgspec.json.decode(done.stdout) == document
