"""The table of an override means the same when it is read again, and its base changes with the table of the file alone."""

import string
import tempfile
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from corral.supervisor.agents.kept.overrides import Overrides, base_of, written_table
from corral.supervisor.config.spec.loader import decode
from corral.supervisor.config.spec.sources import Variables
from corral.supervisor.config.spec.spec import Config
from corral.worker.contract import codec
from corral.worker.contract.toml_text import literal

FOLDER = tempfile.gettempdir()
PARTS = st.sampled_from(["$", "{", "}", "$$", "${A}", "${A:-b}", "${secret:S}", "x", " ", "${N}"])


def is_accepted(text: str) -> bool:
    try:
        Variables({"A": "a$$", "N": "5"}, {}).expanded(text)
    except ValueError:
        return False
    return True


TEXTS = st.lists(PARTS, max_size=6).map("".join).filter(is_accepted)
PLAIN = st.text(string.ascii_letters + "${}", max_size=12)


def config(env: str, title: str, more: str = "", values: dict[str, str] | None = None) -> Config:
    text = f"""
[agents.a]
command = ["sleep", {codec.encode("x" + env).decode()}]
title = {codec.encode("t" + title).decode()}
environment = {{ KEY = {codec.encode(env).decode()} }}
{more}
"""
    known = {"A": "a$$", "N": "5"} if values is None else values
    source = str(Path(FOLDER) / "corral.toml")
    return decode(text, source=source, directory=FOLDER, variables=Variables(known, {}))


@given(env=TEXTS, title=TEXTS)
def test_a_table_in_the_form_of_the_file_is_read_as_the_same_agent(env: str, title: str) -> None:
    found = config(env, title)
    overrides = Overrides.__new__(Overrides)
    overrides.file = found
    spec = found.agents["a"]
    assert overrides.spec("a", written_table(spec, found.defaults)) is spec
    changed = overrides.spec("a", {**written_table(spec, found.defaults), "rolling": False})
    assert changed.environment == spec.environment
    assert changed.command == spec.command
    again = written_table(changed, found.defaults)
    assert written_table(overrides.spec("a", again), found.defaults) == again


@given(text=PLAIN)
def test_a_literal_is_read_as_itself(text: str) -> None:
    assert Variables({}, {}).expanded(literal(text)) == text


@given(env=TEXTS)
def test_the_base_is_that_of_the_table_not_of_the_values_of_its_variables(env: str) -> None:
    base = base_of(config(env, "t"), "a")
    other = {"A": "other", "N": "6"}
    assert base_of(config(env, "t", values=other), "a") == base
    assert base_of(config(env, "t", "[agents.b]\ncommand = ['x']"), "a") == base
    assert base_of(config(env, "t", "rolling = false"), "a") != base
    assert base_of(config(env, "t"), "b") is None
