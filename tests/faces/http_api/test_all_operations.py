"""Every operation of the OpenAPI document, called by schemathesis: a short form of `make long openapi`."""

import pytest

from corral.supervisor.faces.http_api.openapi import openapi
from corral.worker.methods.table import METHODS
from faces.http_api.all_operations import EXCLUDED, run

EXAMPLES = 1

SEED = 16


@pytest.mark.shell
def test_each_answer_of_a_real_daemon_is_one_that_the_document_describes() -> None:
    assert run(EXAMPLES, SEED, phases="fuzzing") == 0


def test_what_is_not_called_exists() -> None:
    document = openapi(METHODS)
    text = str(document["paths"])
    assert [name for name in EXCLUDED if f"'{name}'" not in text] == []
