"""What is said of a program that did not come up: the place in its source, and what to write instead."""

import pytest
from msgspec.structs import replace

from corral.supervisor.config.spec.loader import decode
from corral.supervisor.config.spec.spec import Spec
from corral.supervisor.workers.lifecycle.start_failure import last_words, shell_hint, words_of_end

pytestmark = pytest.mark.core

LIBRARY = '  File "/srv/venv/lib/python3.12/site-packages/x/y.py", line 99, in get'
OWN = '  File "/srv/app/agent.py", line 7, in <module>'
HEAD = "Traceback (most recent call last):"


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ([], ""),
        (["one", "two"], "two"),
        ([HEAD, OWN, "    get()", "KeyError: 'X'"], "KeyError: 'X' (agent.py, line 7)"),
        ([HEAD, OWN, "    get()", LIBRARY, "ValueError: no"], "ValueError: no (agent.py, line 7)"),
        ([HEAD, LIBRARY, "    get()", "x.y.Odd"], "x.y.Odd"),
        (
            ['  File "/srv/app/synt.py", line 4', "    def f(", "         ^", "SyntaxError: bad"],
            "SyntaxError: bad (synt.py, line 4)",
        ),
        ([HEAD, OWN, "KeyError: 'X'", "port: in use"], "port: in use"),
        ([HEAD, OWN, 'corral: cannot load "a": no'], 'cannot load "a": no'),
    ],
)
def test_a_traceback_is_reported_by_its_exception_and_the_last_line_of_own_code(lines: list[str], words: str) -> None:
    assert last_words(lines) == words


@pytest.mark.parametrize(
    ("argv", "written"),
    [
        (["cd /tmp && ls"], '["sh", "-c", "cd /tmp && ls"]'),
        (["cd", "/tmp", "&&", "ls"], '["sh", "-c", "cd /tmp && ls"]'),
        (["$HOME/bin/run"], '["sh", "-c", "$HOME/bin/run"]'),
        (["node x.js"], '["node", "x.js"]'),
        (["node 'a b.js", "--y"], '["node", "\'a", "b.js", "--y"]'),
        (["python -m x", "--y"], '["python", "-m", "x", "--y"]'),
        (["~/bin/run"], "nothing expands ~"),
        (["nodd"], ""),
        (["/srv/run", "a b", "&&"], ""),
        ([], ""),
    ],
)
def test_a_line_for_a_shell_is_written_as_a_command(argv: list[str], written: str) -> None:
    hint = shell_hint(argv)
    assert written in hint
    assert bool(hint) == bool(written)


def _spec(text: str) -> Spec:
    found = decode(f"[agents.a]\n{text}", source="corral.toml", directory="/")
    return next(spec for spec in found.agents.values() if spec.name == "a")


AGENT = _spec('command = ["a"]')
NONE = _spec('command = ["a"]\nprotocol = "none"')
ENTRY = _spec('entrypoint = "mod:agent"')
OF_TENANT = replace(ENTRY, name="acme/a", process=replace(ENTRY.process, working_directory=""))


@pytest.mark.parametrize(
    ("spec", "code", "line", "hint"),
    [
        (AGENT, 0, "", 'protocol = "none"'),
        (NONE, 0, "", 'type = "oneshot"'),
        (AGENT, 1, "KeyError: 'OPENAI_API_KEY'", "OPENAI_API_KEY = "),
        (AGENT, 1, "KeyError: 'name'", ""),
        (AGENT, 1, "LlmError: set the X_API_KEY environment variable", "X_API_KEY = "),
        (replace(AGENT, environment={"X_API_KEY": "1"}), 1, "KeyError: 'X_API_KEY'", ""),
        (AGENT, 1, "port 80: EADDR_IN_USE", ""),
        (ENTRY, 1, "ModuleNotFoundError: No module named 'mod'", "working_directory"),
        (OF_TENANT, 1, "ModuleNotFoundError: No module named 'mod'", 'folder of tenant "acme"'),
        (ENTRY, 1, "ModuleNotFoundError: No module named 'zod'", "python = "),
        (replace(ENTRY, python="/bin/sh"), 2, "Illegal option -P", "no Python interpreter"),
        (replace(ENTRY, python="/v/bin/python3.12"), 2, "odd", ""),
        (replace(ENTRY, python="/v/bin/py"), 1, "KeyError: 'x'", ""),
    ],
)
def test_an_end_before_ready_comes_with_what_to_write(spec: Spec, code: int, line: str, hint: str) -> None:
    text = words_of_end(spec, f"exited with status {code}", code, [line] if line else [])
    assert text.startswith(f"exited with status {code}")
    assert line in text
    assert hint in text
    assert ("; " in text) == bool(hint)
