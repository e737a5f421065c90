"""What every writer of configuration does to a text: the file says it so that the daemon reads the same text, byte for byte."""

import itertools
from pathlib import Path

import pytest

from corral.cli.tools.import_convert import Server, toml
from corral.supervisor.config.spec.loader import decode
from corral.supervisor.config.spec.sources import Variables
from corral.worker.client.embedded import _config_file  # pyright: ignore[reportPrivateUsage]  # a daemon for each text is slow
from corral.worker.contract.toml_text import literal

pytestmark = pytest.mark.core

PIECES = (
    "$",
    "$$",
    "${HOME}",
    "$HOME",
    "${X:-y}",
    "{",
    "}",
    "a",
    '"',
    "'",
    "\\",
    "\t",
    "\x7f",
    "é😀",
    "#",
    "${",
    "%(x)s",
)
TEXTS = ["".join(each) for count in (1, 2, 3) for each in itertools.product(PIECES, repeat=count)]
"""5,219 texts of what is special to a shell, to TOML or to corral."""

VARIABLES = Variables({"HOME": "/home/x", "X": "wrong"}, {})


def test_a_literal_is_read_as_itself_also_before_a_reference() -> None:
    for text in TEXTS:
        assert VARIABLES.expanded(literal(text)) == text
        assert VARIABLES.expanded(literal(text) + "${HOME}") == text + "/home/x"
        if "${" not in text.replace("${HOME}", ""):
            assert VARIABLES.expanded(literal(text) + "${instance}") == text + "${instance}"


def test_a_server_that_is_imported_has_its_values_byte_for_byte() -> None:
    table: dict[str, object] = {"command": ["sh", *TEXTS], "environment": {f"V{n}": t for n, t in enumerate(TEXTS)}}
    text = toml([Server("s", "s", "", table)])
    spec = decode(text, source="f", directory="/", variables=VARIABLES).agents["s"]
    assert list(spec.command[1:]) == TEXTS
    assert list(spec.environment.values()) == TEXTS


def test_a_configuration_of_a_program_has_its_values_byte_for_byte(tmp_path: Path) -> None:
    agent = {"command": ["sh", *TEXTS], "protocol": "none", "environment": {f"V{n}": t for n, t in enumerate(TEXTS)}}
    file = _config_file(tmp_path, {"agents": {"a": agent}})
    spec = decode(file.read_text("utf-8"), source="f", directory="/", variables=VARIABLES).agents["a"]
    assert list(spec.command[1:]) == TEXTS
    assert list(spec.environment.values()) == TEXTS
