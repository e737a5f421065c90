"""Command lines: those of systemd mean what they mean there, those of a shell are run as they stand."""

import itertools
import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path

import pytest

from corral.cli.convert.draft import ISOLATION
from corral.cli.convert.import_file import converted, settle
from corral.supervisor.config.spec.loader import decode
from corral.supervisor.config.spec.sources import Variables

pytestmark = pytest.mark.shell

SHOW = f"{sys.executable} -c 'import sys; print(sys.argv[1:])'"


def command(form: str, name: str, text: str) -> list[str]:
    """Returns the words that corral runs for the one program of a file."""
    draft = converted(form, {name: text})
    settle(draft, "/")
    agents = decode(draft.text(), source="f", directory="/", variables=Variables(os.environ, {})).agents
    [spec] = [each for each in agents.values() if each.kind == "agent"]
    return list(spec.command)


def run(argv: list[str], cwd: Path, environ: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, **(environ or {})}
    return subprocess.run(argv, cwd=cwd, env=env, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(
    ("words", "given"),
    [
        ("http://h/?a=1&b=2 *.txt a;b (x) > <", ["http://h/?a=1&b=2", "*.txt", "a;b", "(x)", ">", "<"]),
        ("$OPTS tail", ["-v", "x  y"[:1], "y", "tail"]),
        ("'${OPTS}' p${OPTS}q", ["-v x y", "p-v x yq"]),
        ("$$OPTS $${OPTS} a$OPTS", ["$OPTS", "${OPTS}", "a$OPTS"]),
        ("$$OPTS ${OPTS}", ["$OPTS", "-v x y"]),
        ("${UNSET}x $UNSET end", ["x", "end"]),
        (r'"a b" c\sd "e\"f" g\x41\101 h"i j"k', ["a b", "c d", 'e"f', "gAA", "hi jk"]),
        ("%% %n %p %i", ["%", "u.service", "u", ""]),
        ("`id` ~ {a,b} #x", ["`id`", "~", "{a,b}", "#x"]),
    ],
)
def test_systemd_gives_a_program_words_and_no_shell_changes_them(tmp_path: Path, words: str, given: list[str]) -> None:
    argv = command("systemd", "u.service", f"[Service]\nExecStart={SHOW.replace('%', '%%')} {words}\n")
    assert run(argv, tmp_path, {"OPTS": "-v x y"}).stdout == f"{given}\n"


@pytest.mark.parametrize(
    ("lines", "output", "status"),
    [
        (("ExecStartPre=/bin/false", "ExecStartPre=-/bin/true", "ExecStart=/bin/echo c"), "", 1),
        (("ExecStartPre=-/bin/false", "ExecStartPre=/bin/true", "ExecStart=/bin/echo c"), "c\n", 0),
        (("ExecStart=/bin/false", "ExecStart=-/bin/true"), "", 1),
        (("ExecStart=-/bin/false", "ExecStart=/bin/echo b"), "b\n", 0),
        (("ExecStart=/bin/echo a ; /bin/echo b \\; c",), "a\nb ; c\n", 0),
        (("ExecStart=/bin/echo wrong", "ExecStart=", "ExecStart=/bin/echo b"), "b\n", 0),
        (("ExecStart=/bin/echo b", "ExecStartPre=/bin/echo a"), "a\nb\n", 0),
    ],
)
def test_several_commands_are_grouped_as_systemd_means_it(
    tmp_path: Path, lines: tuple[str, ...], output: str, status: int
) -> None:
    argv = command("systemd", "u.service", "\n".join(("[Service]", "Type=oneshot", *lines)) + "\n")
    done = run(argv, tmp_path)
    assert (done.stdout, done.returncode) == (output, status)


LINES = (
    *(
        'cd / && sh -c "echo one && echo two"',
        "A=`echo a b` sh -c 'echo $A'",
        "f() { echo f; }; true && f",
        "A=1 && echo $A",
    ),
    *(
        "echo a | cat; echo b",
        "cd / && command pwd",
        "echo '${instance'} $$ >/dev/null; echo ok",
        "test -d / || echo no",
    ),
)


@pytest.mark.parametrize("line", LINES)
def test_a_line_of_shell_prints_what_the_shell_prints(tmp_path: Path, line: str) -> None:
    expected = run(["/bin/sh", "-c", line], tmp_path).stdout
    assert run(command("procfile", "Procfile", f"web: {line}\n"), tmp_path).stdout == expected
    quoted = line.replace("%", "\\%")
    assert run(command("crontab", "crontab", f"0 3 * * * {quoted}\n"), tmp_path).stdout == expected


def test_the_input_of_a_command_of_cron_is_that_of_its_whole_line(tmp_path: Path) -> None:
    argv = command("crontab", "crontab", "0 3 * * * read a; echo $a; cat%one%two \\% three\n")
    assert run(argv, tmp_path).stdout == "one\ntwo % three\n"


@pytest.mark.parametrize("form", ["systemd", "compose"])
def test_files_of_variables_give_the_values_that_they_give_there(tmp_path: Path, form: str) -> None:
    (tmp_path / "one.env").write_text("# c\nURL=\"a b\"\nQ='x $Y'\nPLAIN=1\n")
    (tmp_path / "two.env").write_text("PLAIN=2\n")
    names = [str(tmp_path / name) for name in ("one.env", "two.env", "absent.env")]
    if form == "systemd":
        lines = "".join(f"EnvironmentFile=-{name}\n" for name in names)
        draft = converted(form, {"a.service": f"[Service]\nEnvironment=PLAIN=0\n{lines}ExecStart=/bin/true\n"})
    else:
        files = "".join(f"\n      - {{ path: {name}, required: false }}" for name in names)
        draft = converted(form, {"c.yaml": f"services:\n  a:\n    command: x\n    env_file:{files}\n"})
    [agent] = tomllib.loads(draft.text())["agents"].values()
    assert {name: agent["environment"][name] for name in ("URL", "Q", "PLAIN")} == {
        "URL": "a b",
        "Q": "x $Y",
        "PLAIN": "2",
    }
    assert any("absent.env" in str(note) for note in draft.every_note())


def test_a_plain_file_of_variables_is_referred_to(tmp_path: Path) -> None:
    (tmp_path / "one.env").write_text("A=1\n# c\nB=x y\n")
    draft = converted("compose", {str(tmp_path / "c.yaml"): "services: {a: {command: x, env_file: one.env}}"})
    [agent] = tomllib.loads(draft.text())["agents"].values()
    assert agent["process"]["environment_file"] == str(tmp_path / "one.env")
    assert draft.every_note() == []


def test_what_corral_refuses_is_a_note_or_a_comment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ABSENT", raising=False)
    units = {
        "a@.service": "[Service]\nUser=%i\nExecStart=/bin/a\n[Install]\n",
        "b.service": "[Unit]\nRequires=a@.service\n[Service]\nExecStart=/bin/b\nKillSignal=SIGRTMIN+3\nNice=-40\n[Install]\n",
    }
    draft = converted("systemd", units)
    draft.finish()
    settle(draft, "/")
    [(name, b)] = tomllib.loads(draft.text())["agents"].items()
    assert (name, "requires" in b, "stop_signal" in b["process"], "nice" in b["process"]) == ("b", False, False, False)
    noted = {f"{note.subject}: {note.key}" for note in draft.every_note()}
    assert {"a@: User", "b: KillSignal", "b: Nice", "b: requires a"} <= noted
    assert ISOLATION in draft.text()
    compose = converted(
        "compose", {"c.yaml": "services: {a: {command: x, labels: {m: '${ABSENT:?set it}'}}, b: {command: y}}"}
    )
    settle(compose, "/")
    assert list(tomllib.loads(compose.text())["agents"]) == ["b"]


PIECES = (
    "$",
    "$$",
    "${HOME}",
    "$HOME",
    "${X:-y}",
    "{",
    "a b",
    '"',
    "'",
    "\\",
    "\t",
    "\x7f",
    "é😀",
    "#",
    "${",
    "%(x)s",
    "%",
)
TEXTS = ["".join(each) for each in itertools.product(PIECES, repeat=2)]


@pytest.mark.parametrize("form", ["pm2", "compose"])
def test_values_are_converted_byte_for_byte(form: str) -> None:
    doubled = [each.replace("$", "$$") for each in TEXTS] if form == "compose" else TEXTS
    variables = {f"V{n}": each for n, each in enumerate(doubled)}
    app = {"name": "a", "script": "x", "interpreter": "none", "args": doubled, "env": variables}
    service = {"command": ["x", *doubled], "environment": variables}
    document = {"apps": [app]} if form == "pm2" else {"services": {"a": service}}
    draft = converted(form, {"f.json": json.dumps(document)})
    spec = decode(draft.text(), source="f", directory="/", variables=Variables(os.environ, {})).agents["a"]
    assert list(spec.command[1:]) == TEXTS
    assert {name: spec.environment[name] for name in variables} == dict(zip(variables, TEXTS, strict=True))
