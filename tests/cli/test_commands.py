"""The `corral` command as a process: what it asks the daemon, what it prints, and how it exits."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO

import click
import pytest
from click.testing import CliRunner

from corral.cli import render
from corral.cli.__main__ import COMMANDS, command_line
from corral.cli.context import Session
from corral.worker.contract.errors import (
    CLASSES,
    Conflict,
    CorralError,
    NotFound,
    ShuttingDown,
    SpawnFailed,
    Unreachable,
)
from forked import run_corral
from scripted_daemon import BOUND_S, SILENCE, Caller, Script, ScriptedDaemon

pytestmark = pytest.mark.shell

CORRAL = [sys.executable, "-P", "-m", "corral.cli"]

EXITED = {
    "result": "exited",
    "code": 1,
    "signal": None,
    "forced": False,
    "at": "2026-01-01T00:00:00Z",
    "message": "exited with status 1",
}


def worker(worker_id: str, state: str = "Ready", **changes: object) -> dict[str, object]:
    return {
        "id": worker_id,
        "pid": 4711,
        "state": state,
        "incarnation": 1,
        "restarts": 0,
        "uptime_s": 75.2,
        "rss_bytes": 23_456_789,
        "paused": False,
        "cpu_percent": 1.2,
        "open_files": 3,
        "task": None,
        "next_start_in_s": None,
        "last_exit": None,
    } | changes


def entry(name: str, state: str, *workers: object, **changes: object) -> dict[str, object]:
    return {
        "name": name,
        "kind": "agent",
        "state": state,
        "wanted": True,
        "degraded": False,
        "protocol": "corral",
        "workers": list(workers),
    } | changes


CRAWLER = entry(
    "crawler",
    "Initial",
    worker("crawler-0", "Busy", task="t-17"),
    worker("crawler-1", "Initial", pid=None, next_start_in_s=3.5, restarts=2, last_exit=EXITED),
)
STATUS: dict[str, object] = {
    "daemon": {
        "pid": 1,
        "version": "9.8.7",
        "uptime_s": 12345.0,
        "socket": "s",
        "state_dir": "d",
        "containment": "launcher",
        "draining": False,
        "degraded": ["store"],
    },
    "agents": [entry("echo", "Ready", worker("echo-0")), CRAWLER],
    "mcp_servers": [entry("time", "Ready", worker("time-0"), kind="mcp", tools=["a", "b"])],
    "tasks": {"queued": 0, "running": 1, "succeeded": 5, "failed": 0},
}
TASK: dict[str, object] = {
    "id": "t-1",
    "agent": "echo",
    "worker": "echo-0",
    "state": "succeeded",
    "priority": 5,
    "attempt": 1,
    "objective": "say it",
    "input": None,
    "output": {"said": "ü"},
    "error": None,
    "progress": None,
    "created_at": "2026-01-01T00:00:00Z",
    "started_at": "2026-01-01T00:00:01Z",
    "finished_at": "2026-01-01T00:00:02Z",
    "duration_s": 1.0,
}
QUEUED = TASK | {"state": "queued", "output": None, "worker": None}


class World:
    """One scripted daemon and the environment of the commands that talk to it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "corral.sock"
        self.daemon = ScriptedDaemon(self.path, {})

    @property
    def environment(self) -> dict[str, str]:
        keep = ("PATH", "HOME", "PYTHONPATH", "PYTHONDONTWRITEBYTECODE")
        found = {key: os.environ[key] for key in keep if key in os.environ}
        own = {"CORRAL_SOCKET": str(self.path), "CORRAL_CONNECT_TIMEOUT": "0"}
        return found | own | {"LC_ALL": "C.UTF-8"}

    def script(self, **answers: object) -> None:
        """What methods answer; `task_wait` stands for task.wait."""
        self.daemon.scripts |= {name.replace("_", ".", 1): each for name, each in answers.items()}

    def heard(self, method: str) -> None:
        """Waits until the daemon was asked."""
        self.daemon.wait_until(lambda: any(name == method for name, _ in self.daemon.calls))

    def corral(
        self, *arguments: str, stdin: str = "", environment: Mapping[str, str] | None = None
    ) -> "subprocess.CompletedProcess[str]":
        environ = self.environment | dict(environment or {})
        return run_corral(["corral", *arguments], environ, str(self.folder), stdin, BOUND_S)

    def begin(self, *arguments: str, stdout: int | IO[str] = subprocess.PIPE) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [*CORRAL, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            cwd=self.folder,
            env=self.environment,
        )

    def on_terminal(self, *arguments: str, **variables: str) -> str:
        """What the command writes to a terminal of 80 columns."""
        ours, theirs = pty.openpty()
        env = self.environment | {"TERM": "xterm", "COLUMNS": "80"} | variables
        chunks: list[bytes] = []
        try:
            with subprocess.Popen(
                [*CORRAL, *arguments], stdin=theirs, stdout=theirs, stderr=theirs, env=env
            ) as process:
                os.close(theirs)
                while chunk := _read_terminal(ours):
                    chunks.append(chunk)
                process.wait(BOUND_S)
        finally:
            os.close(ours)
        return b"".join(chunks).decode()


def _read_terminal(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 65_536)
    except OSError:  # EIO: the last process has closed the other side
        return b""


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    with made.daemon:
        yield made


def failing(error: CorralError) -> Script:
    def script(caller: Caller, params: dict[str, object]) -> object:
        raise error

    return script


def logged(records: list[dict[str, object]]) -> Script:
    def script(caller: Caller, params: dict[str, object]) -> object:
        caller.peer.respond(1, {})
        caller.notify("log", {"records": records})
        caller.notify("log.end", {})
        return SILENCE

    return script


def silent(caller: Caller, params: dict[str, object]) -> object:
    return SILENCE


def commands() -> Iterator[tuple[str, click.Command]]:
    """Every command with its full name, those of groups included."""
    group = command_line()
    context = click.Context(group, info_name="corral")
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        yield name, command
        if isinstance(command, click.Group):
            for inner in command.list_commands(context):
                each = command.get_command(context, inner)
                assert each is not None
                yield f"{name} {inner}", each


# --- the whole ------------------------------------------------------------------------------------


def test_every_command_has_help(subtests: pytest.Subtests) -> None:
    for name, _ in commands():
        with subtests.test(name):
            words = [*name.split(), "--help"]
            done = CliRunner().invoke(command_line(), words, prog_name="corral", obj=Session({}))
            assert (done.exit_code, done.stderr) == (0, "")
            assert done.stdout.startswith(f"Usage: corral {name}")


def test_help_asks_no_daemon(world: World) -> None:
    done = world.corral("mcp", "call", "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("Usage: corral mcp call")
    assert world.daemon.calls == []


def test_the_help_lists_the_table(world: World) -> None:
    done = world.corral("--help")
    assert [name for name in COMMANDS if f"\n  {name} " not in done.stdout] == []


def test_no_command_is_a_usage_error_that_shows_the_help(world: World) -> None:
    for arguments in ((), ("task",), ("mcp",)):
        done = world.corral(*arguments)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith("Usage: corral")
        shown = world.corral("--json", *arguments)
        assert (shown.returncode, shown.stderr) == (2, "")
        assert json.loads(shown.stdout)["error"]["name"] == "InvalidParams"


WRONG = [
    "statsu",
    "mcp cal",
    "status --nonsense",
    "show",
    "start",
    "start a --all",
    "start a --timeout soon",
    "scale a many",
    "signal a SIGNOT",
    "signal NOT a",
    "signal a 4000",
    "add",
    "add a",
    "add a cmd",
    "add -- cmd arg",
    "add a --entrypoint m:a -- cmd",
    "add a --env novalue -- cmd",
    "add --file /nonexistent.toml",
    "run a b --priority 11",
    "run a b --every 5m --cron @daily",
    "run a b --timezone UTC",
    "run a b --every 5m --detach",
    "tasks list",
    "run a b --input {",
    "run a b --input NaN",
    "run a b --input 1e999",
    'run a b --input "\\ud800"',
    "run a b --input @/nonexistent",
    "logs --since yesterday",
    "logs --stream stdin",
    "logs -n 1000001",
    "events --since soon",
    "events --since 99999999999999999999",
    "events -n 100001",
    "audit --since soon",
    "audit --since 99999999999999999999",
    "log-level trace",
    "mcp call t --args []",
    "tasks --state odd",
    "completion cmd.exe",
]


@pytest.mark.parametrize("words", WRONG)
def test_a_wrong_command_line_is_one_line_and_exit_2(world: World, words: str) -> None:
    done = world.corral(*words.split())
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("corral: cannot ")
    assert done.stderr.count("\n") == 1
    shown = world.corral("--json", *words.split())
    assert (shown.returncode, shown.stderr) == (2, "")
    assert json.loads(shown.stdout)["error"]["name"] == "InvalidParams"
    assert world.daemon.calls == []


def test_an_unknown_command_names_the_nearest(world: World) -> None:
    done = world.corral("--json", "sttatus")
    assert json.loads(done.stdout)["error"]["data"]["suggestions"] == ["status"]
    done = world.corral("mcp", "cal", "--json")
    assert json.loads(done.stdout)["error"]["data"]["suggestions"] == ["call"]


@pytest.mark.parametrize(
    ("facts", "named"),
    [
        ({"tool": "time_now", "near": ["time__now", "time__new"]}, '"time__now"'),
        ({"tool": "time", "near": []}, '"corral mcp tools"'),
        ({"name": "tiem", "known": ["git", "time"]}, '"time"'),
        ({"tool": "now", "candidates": ["a__now", "b__now"]}, '"a__now", "b__now"'),
        ({"name": "tiem", "known": ["git"]}, ""),
    ],
)
def test_a_name_that_is_not_known_is_answered_with_the_nearest(
    world: World, facts: dict[str, object], named: str
) -> None:
    world.script(mcp_call=failing(NotFound("cannot find it", **facts)))
    done = world.corral("mcp", "call", "x")
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.startswith("corral: cannot find it")
    assert named in done.stderr
    assert ('"' in done.stderr) == bool(named)
    shown = json.loads(world.corral("mcp", "call", "x", "--json").stdout)["error"]
    assert shown == {"code": -33001, "name": "NotFound", "message": "cannot find it", "data": facts}


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("is-failed", "corral status --failed"),
        ("list-units", "corral status"),
        ("stauts", "corral status"),
        ("flush", "corral logs"),
        ("pull", "corral package"),
        ("resurrect", "corrald"),
        ("remove", "rm"),
        ("delete", "rm"),
        ("inspect", "show"),
        ("unpause", "resume"),
        ("mcp list", "servers"),
        ("mcp lst", "servers"),
        ("mcp remove", "rm"),
        ("mcp restart", "corral restart"),
        ("mcp logs", "corral logs"),
        ("cancel", "corral task cancel"),
        ("teams", "corral team list"),
        ("jobs", "corral tasks"),
        ("task list", "corral tasks"),
        ("task create", "corral run"),
        ("task rm", "cancel"),
        ("task kill", "cancel"),
        ("task get", "show"),
        ("task logs", "corral logs"),
        ("schedule create", "corral schedule add"),
        ("schedule stop", "pause"),
        ("schedule enable", "resume"),
        ("schedule delete", "rm"),
        ("team ls", "list"),
        ("workflow status", "show"),
        ("checkpoint create", "save"),
        ("memory ls", "list"),
        ("memory delete", "rm"),
    ],
)
def test_a_command_of_another_supervisor_names_ours(world: World, word: str, meant: str) -> None:
    done = world.corral("--json", *word.split(), "x")
    assert json.loads(done.stdout)["error"]["data"]["suggestions"] == [meant]


@pytest.mark.parametrize("words", ["add x npx -y y", "mcp add x npx -y y"])
def test_an_option_of_the_command_that_is_added_brings_up_the_dashes(world: World, words: str) -> None:
    done = world.corral(*words.split())
    assert done.returncode == 2
    assert "write -- before" in done.stderr
    assert "write --" not in world.corral("mcp", "add", "x", "-e", "A=B", "--", "y").stderr


def test_the_list_of_commands_has_headings(world: World) -> None:
    found = re.findall(r"^(\w+):$", world.corral("--help").stdout, re.MULTILINE)
    assert found == ["Options", "Agents", "Tasks", "Packages", "Observe", "Tools", "Convert", "Daemon"]


def test_a_list_of_commands_cuts_no_sentence(world: World, subtests: pytest.Subtests) -> None:
    for name in ("", *(name for name, command in commands() if isinstance(command, click.Group))):
        with subtests.test(name):
            listed = world.corral(*name.split(), "-h").stdout.splitlines()[1:]
            assert len(listed) > (0 if name else len(COMMANDS))
            assert [line for line in listed if line.endswith("...")] == []


@pytest.mark.parametrize("code", sorted(set(CLASSES) - {Unreachable.code}))
def test_an_error_of_the_daemon_is_the_exit_code_of_its_class(world: World, code: int) -> None:
    error = CLASSES[code]("cannot do it:\nno \x1b[31m", worker="w-0")
    world.script(daemon_status=failing(error))
    done = world.corral("status")
    assert (done.returncode, done.stdout) == (error.exit_status, "")
    assert done.stderr.startswith("corral: cannot do it:")
    assert done.stderr.count("\n") == 1
    assert "\x1b" not in done.stderr
    for arguments in (("--json", "status"), ("status", "--json")):
        done = world.corral(*arguments)
        assert (done.returncode, done.stderr) == (error.exit_status, "")
        assert json.loads(done.stdout) == {"error": error.to_record()}


def test_exit_codes_are_those_of_the_manual() -> None:
    codes = {cls.__name__: cls.exit_status for cls in CLASSES.values()}
    manual = {
        1: "SpawnFailed WorkerFailed TaskFailed ToolFailed Corrupted",
        2: "ParseError InvalidRequest MethodNotFound InvalidParams InternalError",
        3: "NotFound",
        4: "Conflict PermissionDenied NotInitialized ShuttingDown",
        5: "Timeout",
        6: "Unreachable",
        7: "ResourceLimitExceeded Overloaded",
        8: "Cancelled",
    }
    assert codes == {name: code for code, names in manual.items() for name in names.split()}


@pytest.mark.parametrize(
    "words", ["status", "show a", "stop --all", "run a b", "tasks", "logs", "logs -f", "events", "mcp tools"]
)
def test_without_a_daemon_every_command_exits_6(tmp_path: Path, words: str) -> None:
    world = World(tmp_path)
    done = world.corral(*words.split())
    assert (done.returncode, done.stdout) == (6, "")
    assert done.stderr.startswith("corral: cannot ")
    assert done.stderr.count("\n") == 1
    shown = world.corral(*words.split(), "--json")
    error = json.loads(shown.stdout)["error"]
    assert (shown.returncode, error["name"], error["code"]) == (6, "Unreachable", -33000)
    assert error["data"]["socket"] == str(world.path)


def test_the_socket_can_be_given_before_and_after_the_command(tmp_path: Path) -> None:
    world = World(tmp_path)
    other = tmp_path / "other.sock"
    with ScriptedDaemon(other, {"daemon.status": STATUS}):
        for arguments in (("--socket", str(other), "status"), ("status", "--socket", str(other))):
            assert world.corral(*arguments).returncode == 0
    long = world.corral("status", "--json", "--socket", "/" + "x" * 200)
    assert json.loads(long.stdout)["error"]["data"]["reason"] == "too-long"


NAMING_ITS_MODULES = """
import os, sys
def leave(status):
    print(*sys.modules, file=sys.stderr, flush=True)
    leave_really(status)
leave_really, os._exit = os._exit, leave
from corral.cli.__main__ import main
main()
"""


@pytest.mark.parametrize("words", ["status", "logs --json", "tasks", "version"])
def test_a_command_imports_only_what_it_needs(world: World, words: str) -> None:
    world.script(daemon_status=STATUS, log_follow=logged([]), task_list={"tasks": [TASK]})
    done = subprocess.run(
        [sys.executable, "-P", "-c", NAMING_ITS_MODULES, *words.split()],
        env=world.environment,
        capture_output=True,
        text=True,
        check=True,
    )
    imported = set(done.stderr.split())
    is_plain = words == "status"
    assert {"click", "typing"} - imported == ({"click", "typing"} if is_plain else set())
    slow = {"asyncio", "sqlite3", "uvloop", "psutil", "msgspec._core", "dataclasses", "ssl", "dis"}
    slow |= {"subprocess", "shutil", "tomllib", "multiprocessing", "concurrent", "logging"}
    # A checkout asks git for its commit.
    assert slow & imported - ({"subprocess"} if words == "version" else set()) == set()
    ours = {name for name in imported if name.startswith("corral.")}
    assert not [name for name in ours if name.startswith(("corral.supervisor", "corral.mcp"))]
    cli = {name for name in ours if name.startswith("corral.cli.")}
    # Modules at the top are shared; these are parts of one command.
    parts = {f"corral.cli.tasks.{name}" for name in ("call_table", "part_printer", "run_options", "wait")}
    commands = {name for name in cli if name.count(".") == 3} - parts
    assert len(commands) == (0 if is_plain else 1), "a command is in one module"
    assert ("corral.cli.status_fast" in cli) == is_plain


@pytest.mark.parametrize(
    "words", ["status", "--json status", "status --json echo", "--no-color --socket={} status echo time"]
)
def test_a_plain_status_says_what_the_long_way_says(world: World, words: str) -> None:
    """A `--` makes it one that is not plain."""
    world.script(daemon_status=STATUS)
    given = words.format(world.path).split()
    plain, long_way = world.corral(*given), world.corral(*given, "--")
    assert (plain.returncode, plain.stdout, plain.stderr) == (0, long_way.stdout, "")
    first, second = world.daemon.asked("daemon.status")
    assert first == second


def test_a_plain_status_that_is_refused_or_not_answered_is_reported_in_words(world: World, tmp_path: Path) -> None:
    world.script(daemon_status=failing(NotFound("cannot find it")))
    refused = world.corral("status", "nobody")
    assert (refused.returncode, refused.stdout) == (3, "")
    assert refused.stderr.count("\n") == 1
    nobody = world.corral("--socket", str(tmp_path / "nobody"), "status")
    assert (nobody.returncode, nobody.stdout) == (6, "")


# --- status and show ------------------------------------------------------------------------------


def test_status_as_json_is_the_daemons_document(world: World) -> None:
    world.script(daemon_status=STATUS)
    done = world.corral("status", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout) == STATUS
    world.corral("status", "echo", "time")
    assert world.daemon.asked("daemon.status") == [{}, {"names": ["echo", "time"]}]


def test_status_shows_every_worker_and_why_it_is_not_up(world: World) -> None:
    world.script(daemon_status=STATUS)
    lines = world.corral("status").stdout.splitlines()
    rows = {line.split()[0]: line for line in lines}
    assert "9.8.7" in lines[0]
    assert "store" in lines[0]
    assert "Busy" in rows["crawler-0"]
    assert "t-17" in rows["crawler-0"]
    assert "3.5s" in rows["crawler-1"]
    assert str(EXITED["message"]) in rows["crawler-1"]
    assert "4711" in rows["echo"]
    assert "echo-0" not in rows
    assert rows["time"].split()[1] == "mcp"
    column = rows["NAME"].index("STATE")
    assert {row[column - 2 : column].strip() for row in lines[1:-1]} == {""}


def test_status_reports_who_is_paused_throttled_or_degraded(world: World) -> None:
    check = {"name": "disk", "healthy": False, "degraded": True, "message": "no space"}
    entries = [
        entry("hog", "Ready", worker("hog-0", throttled=True)),
        entry("ice", "Ready", worker("ice-0", paused=True)),
        entry("ill", "Ready", worker("ill-0", health=[check]), degraded=True),
        entry("well", "Ready", worker("well-0", throttled=False)),
        entry("none", "Initial", wanted=False),
    ]
    world.script(daemon_status=STATUS | {"agents": entries, "mcp_servers": []})
    rows = {line.split()[0]: line for line in world.corral("status").stdout.splitlines()}
    found = [[word for word in ("throttled", "paused", "no space", "scaled to 0") if word in rows[n]] for n in rows]
    assert found[2:7] == [["throttled"], ["paused"], ["no space"], [], ["scaled to 0"]]


def test_status_reports_that_alerts_did_not_arrive(world: World) -> None:
    first: list[str] = []
    for failed in (0, 17):
        counts = {"sent": 3, "failed": failed, "suppressed": 0}
        world.script(daemon_status=STATUS | {"daemon": {"pid": 1, "alerts": counts}})
        first.append(world.corral("status").stdout.splitlines()[0])
    assert ["17" in line for line in first] == [False, True]


def test_status_of_nothing_says_so(world: World) -> None:
    nothing: dict[str, object] = {"agents": [], "mcp_servers": []}
    world.script(daemon_status=STATUS | nothing)
    done = world.corral("status")
    assert done.returncode == 0
    assert "corral add" in done.stdout


def test_status_bears_with_fields_that_are_absent_or_new(world: World) -> None:
    entries: list[object] = [{"name": "a", "workers": [{"id": "a-0"}], "new": 1}, None, 7]
    bare: dict[str, object] = {"agents": entries, "x": 1}
    world.script(daemon_status=bare)
    done = world.corral("status")
    assert (done.returncode, done.stderr) == (0, "")


def test_status_fits_a_narrow_terminal_and_has_colours_only_there(world: World) -> None:
    world.script(daemon_status=STATUS)
    assert "\x1b[32mReady\x1b[0m" in world.on_terminal("status", COLUMNS="60")
    plain = world.on_terminal("status", "--no-color", COLUMNS="60")
    assert "\x1b" not in plain
    table = plain.replace("\r\n", "\n").splitlines()[1:6]
    assert "crawler-1" in table[-1] + table[-2]
    assert max(map(len, table)) <= 60
    assert "\x1b" not in world.on_terminal("status", NO_COLOR="1")
    assert "\x1b" not in world.corral("status").stdout


def test_show_prints_spec_exits_and_stderr(world: World) -> None:
    answer: dict[str, object] = {
        "agent": CRAWLER,
        "spec": {"command": ["crawl"], "process": {"environment": {"KEY": "***"}}},
        "exits": [EXITED | {"worker": "crawler-1", "incarnation": 2}],
        "stderr": {"crawler-1": ["Traceback", "ValueError: no"]},
    }
    world.script(agent_show=answer)
    assert json.loads(world.corral("show", "crawler", "--json").stdout) == answer
    shown = world.corral("show", "crawler").stdout
    assert all(text in shown for text in ('["crawl"]', '"***"', "crawler-1", "ValueError: no"))
    assert world.daemon.asked("agent.show") == [{"name": "crawler"}] * 2


# --- changing the set -----------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["start", "stop", "restart", "reset"])
def test_a_verb_requires_names_or_all_and_waits_unless_told_otherwise(world: World, verb: str) -> None:
    answer: dict[str, object] = {"agents": [entry("echo", "Ready", worker("echo-0"))]}
    world.daemon.scripts[f"agent.{verb}"] = answer
    done = world.corral(verb, "echo", "crawler-1", "--timeout", "1.5m")
    assert done.returncode == 0
    assert "echo" in done.stdout
    assert json.loads(world.corral(verb, "--all", "--no-wait", "--json").stdout) == answer
    assert world.daemon.asked(f"agent.{verb}") == [
        {"names": ["echo", "crawler-1"], "wait": True, "timeout_s": 90.0},
        {"all": True, "wait": False},
    ]


def test_a_verb_speaks_of_the_worker_that_was_named(world: World) -> None:
    halted = entry("echo", "Ready", worker("echo-0"), worker("echo-1", "Terminated"))
    world.script(agent_stop={"agents": [halted, entry("plain", "Terminated")]})
    done = world.corral("stop", "echo-1", "plain")
    assert done.stdout.splitlines() == ["stopped echo-1 (Terminated)", "stopped plain (Terminated)"]


def test_set_sends_values_of_toml_and_texts_where_the_table_has_texts(world: World) -> None:
    world.script(agent_set={"changed": ["environment"], "etag": "e", "revision": 3})
    words = "environment.PORT=80 labels.on=true tasks.max_attempts=5 title=Set config.deep=true"
    done = world.corral("set", "a", *words.split(), "--timeout", "5s")
    assert done.stdout == "a changed: environment, as revision 3\n"
    [asked] = world.daemon.asked("agent.set")
    assert asked["spec"] == {
        "environment": {"PORT": "80"},
        "labels": {"on": "true"},
        "tasks": {"max_attempts": 5},
        "title": "Set",
        "config": {"deep": True},
    }
    assert (asked["wait"], asked["timeout_s"]) == (True, 5.0)


def test_add_sends_a_table_as_the_configuration_has_it(world: World) -> None:
    world.script(agent_add=entry("a", "Ready"))
    assert world.corral("add", "a", "--", "prog", "--json", "-x").returncode == 0
    full = "add b --mcp --protocol none --instances 2 --env K=V=W --env L= --cwd sub --memory 512MiB"
    more = "--restart never --no-start --capability search --capability sum --json -- prog"
    done = world.corral(*full.split(), *more.split())
    assert json.loads(done.stdout) == entry("a", "Ready")
    world.corral("add", "c", "--entrypoint", "m:agent", "--memory", "1048576", "--no-wait")
    here = str(world.folder)
    first: dict[str, object] = {"process": {"working_directory": "."}, "command": ["prog", "--json", "-x"]}
    second: dict[str, object] = {
        "process": {"working_directory": f"{here}/sub"},
        "protocol": "none",
        "instances": 2,
        "command": ["prog"],
        "capabilities": ["search", "sum"],
        "environment": {"K": "V=W", "L": ""},
        "resources": {"max_memory_bytes": "512MiB"},
        "recovery": {"restart": "never"},
    }
    third: dict[str, object] = {
        "process": {"working_directory": "."},
        "entrypoint": "m:agent",
        "resources": {"max_memory_bytes": 1_048_576},
    }
    where = {"directory": here}
    assert world.daemon.asked("agent.add") == [
        {"name": "a", "kind": "agent", "spec": first, "start": True, "wait": True} | where,
        {"name": "b", "kind": "mcp", "spec": second, "start": False, "wait": True} | where,
        {"name": "c", "kind": "agent", "spec": third, "start": True, "wait": False} | where,
    ]


def test_add_from_a_file_sends_each_table_and_its_folder(world: World) -> None:
    folder = world.folder / "conf"
    folder.mkdir()
    (folder / "crew.toml").write_text(
        '[agents.one]\ncommand = ["x"]\n[agents.one.process]\nread_paths = ["data", "/abs", "~/h"]\n'
        'working_directory = "w"\n[mcp.servers.two]\ncommand = ["y"]\n'
    )
    added = [entry("one", "Ready"), entry("two", "Initial")]
    world.script(agent_add_all={"agents": added, "failures": {}})
    done = world.corral("add", "--file", str(folder / "crew.toml"), "--json")
    assert json.loads(done.stdout) == added
    world.corral("add", "two", "--file", "conf/crew.toml", "--no-start")
    first, second = world.daemon.asked("agent.add_all")
    assert (first["start"], first["wait"], second["start"]) == (True, True, False)
    one, two = render.inners(first, "agents")
    (again,) = render.inners(second, "agents")
    assert (one["name"], one["kind"], two["name"], two["kind"]) == ("one", "agent", "two", "mcp")
    assert one["spec"] == {
        "command": ["x"],
        "process": {"read_paths": ["data", "/abs", "~/h"], "working_directory": "w"},
    }
    assert two["spec"] == {"command": ["y"], "process": {"working_directory": str(world.folder)}}
    assert {each["directory"] for each in (one, two, again)} == {str(folder)}
    assert again == two


@pytest.mark.parametrize("is_refused", [True, False])
def test_add_from_a_file_says_what_was_added_and_ends_with_what_went_wrong(world: World, is_refused: bool) -> None:
    (world.folder / "f.toml").write_text("[agents.one]\n[agents.two]\n")
    added = [entry("one", "Terminated"), entry("two", "Ready")]
    failure = SpawnFailed("cannot start")
    answer = {"agents": added, "failures": {"one": failure.to_record()}}
    world.script(agent_add_all=failing(Conflict("cannot add")) if is_refused else answer)
    done = world.corral("add", "--file", "f.toml")
    assert done.returncode == (4 if is_refused else 1)
    assert ("two" in done.stdout) is not is_refused
    shown = world.corral("add", "--file", "f.toml", "--json")
    assert shown.returncode == done.returncode
    error = json.loads(shown.stdout)["error"]
    assert error["name"] == ("Conflict" if is_refused else "SpawnFailed")


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ("[daemon]\n", ()),
        ("[mcp]\nmax_retries = 1\n", ()),
        ("", ()),
        ("[agents.a]\n", ("b",)),
        ("[agents.a\n", ()),
        ("agents = 1\n", ()),
        ("[agents.a]\n", ("--memory", "1GiB")),
        ("[agents.a]\n", ("--env", "A=B")),
        ("[agents.a]\n", ("--mcp",)),
        ("[agents.a]\n", ("--restart", "never")),
        ("[agents.a]\n", ("--capability", "x")),
        ("[agents.a]\n", ("--python", "/x")),
        ("[agents.a]\n", ("a", "--", "command")),
    ],
)
def test_a_file_that_is_no_list_of_agents_adds_nothing(world: World, text: str, arguments: tuple[str, ...]) -> None:
    file = world.folder / "f.toml"
    file.write_text(text)
    done = world.corral("add", "--json", "--file", str(file), *arguments)
    assert (done.returncode, json.loads(done.stdout)["error"]["name"]) == (2, "InvalidParams")
    assert world.daemon.calls == []


@pytest.mark.parametrize("verb", ["pause", "resume"])
def test_pause_and_resume_ask_for_names_or_all(world: World, verb: str) -> None:
    answer = {"agents": [entry("a", "Ready")]}
    world.script(**{f"agent_{verb}": answer})
    assert "a" in world.corral(verb, "a").stdout
    assert json.loads(world.corral(verb, "--all", "--json").stdout) == answer
    assert world.corral(verb).returncode == 2
    assert world.daemon.asked(f"agent.{verb}") == [{"names": ["a"]}, {"all": True}]


def test_emergency_stop_says_what_it_ended(world: World) -> None:
    world.script(daemon_emergency_stop={"workers": 7, "tasks": 3})
    done = world.corral("emergency-stop")
    assert (done.returncode, {"7", "3"} <= set(done.stdout.split())) == (0, True)
    shown = world.corral("emergency-stop", "--json")
    assert json.loads(shown.stdout) == {"workers": 7, "tasks": 3}


def test_rm_scale_and_signal_say_what_was_done(world: World) -> None:
    world.script(agent_rm={"removed": ["c", "a", "b"]}, agent_scale=entry("a", "Ready"), agent_signal={})
    done = world.corral("rm", "a", "b", "--cascade").stdout.splitlines()
    assert [line.split()[-1] for line in done] == ["c", "a", "b"]
    assert json.loads(world.corral("rm", "a", "--json").stdout) == {"removed": ["c", "a", "b"]}
    assert json.loads(world.corral("scale", "a", "3", "--json").stdout) == entry("a", "Ready")
    assert world.corral("scale", "a=2", "b=0").returncode == 0
    assert world.daemon.asked("agent.scale") == [{"name": n, "instances": i} for n, i in (("a", 3), ("a", 2), ("b", 0))]
    for wrong in (["a"], ["a", "x"], ["a=-1"], ["a", "1", "b=2"]):
        assert world.corral("scale", *wrong).returncode == 2, wrong
    for name in ("HUP", "SIGHUP", "1", "hup"):
        assert "SIGHUP" in world.corral("signal", "a-0", name).stdout
    assert "SIGHUP" in world.corral("signal", "HUP", "a-0").stdout  # the order of kill(1)
    assert world.daemon.asked("agent.rm") == [
        {"names": ["a", "b"], "cascade": True},
        {"names": ["a"], "cascade": False},
    ]
    assert world.daemon.asked("agent.signal") == [{"names": ["a-0"], "signal": "SIGHUP"}] * 5


# --- tasks ----------------------------------------------------------------------------------------


def half_way(caller: Caller, params: dict[str, object]) -> object:
    facts: dict[str, object] = {"task": "t-1", "worker": "echo-0", "state": "running"}
    caller.notify("task.progress", facts | {"progress": 0.5, "total": 1, "message": "x\x1b[2J"})
    return TASK


def test_run_prints_the_output_and_nothing_else_on_stdout(world: World) -> None:
    world.script(task_submit=QUEUED, task_wait=half_way)
    done = world.corral("run", "echo", "say it")
    assert (done.returncode, json.loads(done.stdout)) == (0, TASK["output"])
    assert "50%" in done.stderr
    assert "\x1b" not in done.stderr
    shown = world.corral("run", "echo", "say it", "--json")
    assert (json.loads(shown.stdout), shown.stderr) == (TASK, "")
    world.script(task_wait=TASK | {"output": "plain text"})
    assert world.corral("run", "echo", "x").stdout == "plain text\n"
    world.script(task_wait=TASK | {"output": None})
    assert world.corral("run", "echo", "x").stdout == ""


def test_progress_on_a_terminal_is_a_line_that_is_gone_at_the_end(world: World) -> None:
    world.script(task_submit=QUEUED, task_wait=half_way)
    shown = world.on_terminal("run", "echo", "x")
    assert "50%" in shown
    assert "\x1b[2J" not in shown
    before, erased, after = shown.rpartition("\r\x1b[K")
    assert "50%" in before
    assert erased
    assert json.loads(after) == TASK["output"]


def test_run_sends_what_its_options_say(world: World) -> None:
    world.script(task_submit=TASK)  # it has ended at once: nothing is waited for
    (world.folder / "in.json").write_text('["ü"]')
    world.corral("run", "a", "o", "--input", '{"x": 1}', "--timeout", "500ms", "--priority", "10")
    world.corral("run", "a", "o", "--input", "@in.json", "--max-tool-calls", "3")
    world.corral("run", "a", "o", "--input", "-", "--capability", stdin="null")
    world.corral("run", "a", "o", "--allow-tool", "git__*", "--allow-tool", "x")
    assert world.daemon.asked("task.submit") == [
        {"agent": "a", "objective": "o", "input": {"x": 1}, "timeout_s": 0.5, "priority": 10},
        {"agent": "a", "objective": "o", "input": ["ü"], "boundaries": {"max_tool_calls": 3}},
        {"capability": "a", "objective": "o", "input": None},
        {"agent": "a", "objective": "o", "boundaries": {"allowed_tools": ["git__*", "x"]}},
    ]
    assert world.daemon.asked("task.wait") == []


def test_run_detached_prints_the_id_and_does_not_wait(world: World) -> None:
    world.script(task_submit=QUEUED)
    assert world.corral("run", "echo", "x", "--detach").stdout == "t-1\n"
    assert json.loads(world.corral("run", "echo", "x", "--detach", "--json").stdout) == QUEUED
    assert world.daemon.asked("task.wait") == []


@pytest.mark.parametrize("code", sorted(set(CLASSES) - {Unreachable.code}))
def test_a_failed_task_exits_with_the_class_of_its_error(world: World, code: int) -> None:
    error = CLASSES[code]("the handler\nsaid no", exception="ValueError")
    record = TASK | {"state": "failed", "output": None, "error": error.to_record()}
    world.script(task_submit=QUEUED, task_wait=record)
    for arguments in (("run", "echo", "x"), ("task", "wait", "t-1")):
        done = world.corral(*arguments)
        assert (done.returncode, done.stdout) == (error.exit_status, "")
        assert done.stderr.startswith("corral: cannot ")
        assert done.stderr.count("\n") == 1
        shown = world.corral(*arguments, "--json")
        assert (shown.returncode, json.loads(shown.stdout)) == (error.exit_status, record)


@pytest.mark.parametrize(("state", "status"), [("failed", 1), ("timeout", 5), ("cancelled", 8)])
def test_a_task_that_ended_badly_without_words_exits_by_its_state(world: World, state: str, status: int) -> None:
    world.script(task_submit=QUEUED, task_wait=TASK | {"state": state, "output": None})
    assert world.corral("run", "echo", "x").returncode == status


def test_run_outlives_a_daemon_that_dies_and_comes_back(world: World) -> None:
    world.script(task_submit=QUEUED, task_wait=silent)
    with world.begin("run", "echo", "x") as process:
        world.heard("task.wait")
        world.daemon.die()
        assert process.stderr is not None
        assert process.stderr.readline(), "it says that the daemon is away"
        with ScriptedDaemon(world.path, {"task.wait": TASK}) as back:
            stdout, _ = process.communicate(timeout=BOUND_S)
        assert (process.returncode, json.loads(stdout)) == (0, TASK["output"])
    assert back.calls == [("task.wait", {"task": "t-1", "stream": True})]
    assert len(world.daemon.asked("task.submit")) == 1


def test_run_has_its_token_and_its_tenant_also_at_a_daemon_that_comes_back(world: World) -> None:
    world.script(auth_login={}, task_submit=QUEUED, task_wait=silent)
    with world.begin("run", "echo", "x", "--token", "secret", "--tenant", "acme") as process:
        world.heard("task.wait")
        world.daemon.die()
        with ScriptedDaemon(world.path, {"auth.login": {}, "task.wait": TASK}) as back:
            process.communicate(timeout=BOUND_S)
    assert back.calls[0] == ("auth.login", {"token": "secret", "tenant": "acme"})
    assert [method for method, _ in back.calls] == ["auth.login", "task.wait"]


def test_the_lines_of_a_task_go_on_behind_the_last_one_when_the_daemon_is_back(world: World) -> None:
    def told(text: str, end: bool) -> Script:
        def follow(caller: Caller, params: dict[str, object]) -> object:
            line = {"at": "2026-01-31T12:00:00Z", "agent": "echo", "worker": "echo-0", "stream": "log", "text": text}
            caller.notify("log", {"records": [line], "position": "p-1"})
            if end:
                caller.notify("log.end", {})
            return {}

        return follow

    world.script(task_submit=QUEUED, task_wait=silent, log_follow=told("before", end=False))
    with world.begin("run", "echo", "x", "--logs") as process:
        assert process.stderr is not None
        assert "before" in process.stderr.readline()
        world.daemon.die()
        back_scripts = {"task.wait": TASK, "log.follow": told("behind", end=True)}
        with ScriptedDaemon(world.path, back_scripts) as back:
            stdout, stderr = process.communicate(timeout=BOUND_S)
            back.wait_until(lambda: bool(back.asked("log.follow")))
    assert (process.returncode, json.loads(stdout)) == (0, TASK["output"])
    assert back.asked("log.follow") == [{"task": "t-1", "after": "p-1"}]
    assert ("before" in stderr, "behind" in stderr) == (False, True)


def test_run_asks_again_while_the_daemon_drains(world: World) -> None:
    def drain(caller: Caller, params: dict[str, object]) -> object:
        if len(world.daemon.asked("task.wait")) < 3:
            raise ShuttingDown("cannot wait: the daemon is stopping")
        return TASK

    world.script(task_submit=QUEUED, task_wait=drain)
    assert world.corral("run", "echo", "x").returncode == 0
    assert len(world.daemon.asked("task.submit")) == 1


def test_a_daemon_that_came_back_without_the_task_is_not_found(world: World) -> None:
    world.script(task_wait=failing(NotFound("cannot find it", task="t-1")), task_submit=QUEUED)
    assert world.corral("run", "echo", "x").returncode == 3


def test_a_task_that_was_not_acknowledged_is_not_sent_twice(world: World) -> None:
    def hang_up(caller: Caller, params: dict[str, object]) -> object:
        caller.hang_up()
        return SILENCE

    world.script(task_submit=hang_up)
    done = world.corral("run", "echo", "x", "--json")
    error = json.loads(done.stdout)["error"]
    assert (done.returncode, error["data"]["acknowledged"]) == (6, False)
    assert len(world.daemon.calls) == 1


def test_ctrl_c_cancels_the_task_and_exits_8(world: World) -> None:
    cancelled = TASK | {"state": "cancelled", "output": None}

    def cancel(caller: Caller, params: dict[str, object]) -> object:
        world.script(task_wait=cancelled)
        return QUEUED

    world.script(task_submit=QUEUED, task_wait=silent, task_cancel=cancel)
    with world.begin("run", "echo", "x") as process:
        world.heard("task.wait")
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=BOUND_S)
        assert process.returncode == 8
    assert world.daemon.asked("task.cancel") == [{"task": "t-1"}]


def test_a_second_ctrl_c_leaves_at_once(world: World) -> None:
    world.script(task_submit=QUEUED, task_wait=silent, task_cancel=silent)
    with world.begin("run", "echo", "x") as process:
        for method in ("task.wait", "task.cancel"):
            world.heard(method)
            process.send_signal(signal.SIGINT)
        process.communicate(timeout=BOUND_S)
        assert process.returncode == -signal.SIGINT


def test_ctrl_c_of_task_wait_leaves_the_task_alone(world: World) -> None:
    world.script(task_wait=silent)
    with world.begin("task", "wait", "t-1") as process:
        world.heard("task.wait")
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=BOUND_S)
        assert (process.returncode, stderr) == (-signal.SIGINT, "")
    assert world.daemon.asked("task.cancel") == []


def test_tasks_are_a_list_and_one_is_shown_and_cancelled(world: World) -> None:
    world.script(task_list={"tasks": [TASK]}, task_show=TASK, task_cancel=TASK)
    assert json.loads(world.corral("tasks", "--json", "--state", "failed").stdout) == [TASK]
    assert "t-1" in world.corral("tasks", "--agent", "echo", "--limit", "5").stdout
    assert world.daemon.asked("task.list") == [{"limit": 100, "state": "failed"}, {"limit": 5, "agent": "echo"}]
    assert json.loads(world.corral("task", "show", "t-1", "--json").stdout) == TASK
    assert "say it" in world.corral("task", "show", "t-1").stdout
    assert json.loads(world.corral("task", "cancel", "t-1", "--json").stdout) == TASK
    world.script(task_list={"tasks": []})
    assert json.loads(world.corral("tasks", "--json").stdout) == []


def test_task_wait_bounds_the_wait(world: World) -> None:
    world.script(task_wait=TASK)
    done = world.corral("task", "wait", "t-1", "--timeout", "90")
    assert json.loads(done.stdout) == TASK["output"]
    (params,) = world.daemon.asked("task.wait")
    assert params["task"] == "t-1"
    assert 0 < float(str(params["timeout_s"])) <= 90


# --- logs and events ------------------------------------------------------------------------------

LINES: list[dict[str, object]] = [
    {
        "at": "2026-01-01T00:00:00.123456Z",
        "agent": "echo",
        "worker": "echo-0",
        "stream": "stdout",
        "level": None,
        "text": "\x1b[31mred\x1b[0m \x1b]0;title\x07 \x9b2J",
    },
    {
        "at": "2026-01-01T00:00:01Z",
        "agent": "crawler",
        "worker": "crawler-1",
        "stream": "stderr",
        "level": "error",
        "text": "boom ü",
    },
]
EVENTS: list[dict[str, object]] = [
    {
        "seq": 7,
        "at": "2026-01-01T00:00:00Z",
        "type": "worker.state",
        "agent": "echo",
        "worker": "echo-0",
        "incarnation": 1,
        "from": "Initial",
        "to": "Starting",
        "reason": "x",
    },
    {"seq": 8, "at": "2026-01-01T00:00:00Z", "type": "task.queued", "agent": "echo", "task": "t-1"},
]


def ndjson(text: str) -> list[object]:
    return [json.loads(line) for line in text.splitlines()]


def test_logs_are_lines_for_people_and_records_for_programs(world: World) -> None:
    world.script(log_follow=logged(LINES))
    done = world.corral("logs", "echo", "crawler-1", "--stream", "stderr", "-n", "7")
    first, second = done.stdout.split("\n")[:2]
    assert "echo-0" in first
    assert str(LINES[0]["text"]) in first, "as it is where no terminal is"
    assert "crawler-1 !" in second
    assert ndjson(world.corral("logs", "--json").stdout) == LINES
    assert world.daemon.asked("log.follow") == [
        {"names": ["echo", "crawler-1"], "stream": "stderr", "n": 7, "follow": False},
        {"n": 100, "follow": False},
    ]


def test_a_terminal_is_safe_from_what_workers_write(world: World) -> None:
    world.script(log_follow=logged(LINES))
    shown = world.on_terminal("logs")
    assert "\x1b[31mred\x1b[0m" in shown, "colours stay"
    assert "\x1b]" not in shown
    assert "\x07" not in shown
    assert "\x9b" not in shown
    plain = world.on_terminal("logs", "--no-color")
    assert "\x1b" not in plain
    assert "red" in plain
    assert "\x9b" not in world.on_terminal("logs", "--json")
    world.script(task_submit=TASK | {"output": "\x1b[2J\x1b]0;x\x07"})
    assert "\x1b]" not in world.on_terminal("run", "echo", "x")
    world.script(daemon_status=failing(NotFound("cannot \x1b]0;x\x07")))
    assert "\x1b]" not in world.on_terminal("status")


@pytest.mark.parametrize(
    ("since", "expected"),
    [
        ("2026-01-01T00:00:00Z", 1_767_225_600.0),
        ("2026-01-01T01:00:00+01:00", 1_767_225_600.0),
        ("2026-01-01T00:00:00.5", 1_767_225_600.5),
        ("2026-01-01", 1_767_225_600.0),
    ],
)
def test_since_is_a_time_in_utc(world: World, since: str, expected: float) -> None:
    world.script(log_follow=logged([]), event_list={"events": []})
    assert world.corral("logs", "--since", since).returncode == 0
    assert world.corral("events", "--since", since).returncode == 0
    assert world.daemon.asked("log.follow") == [{"since": expected, "follow": False}]
    assert world.daemon.asked("event.list") == [{"since_time": expected}]


def test_a_time_that_is_too_early_or_too_late_is_the_earliest_or_the_latest(world: World) -> None:
    world.script(log_follow=logged([]))
    until = "9999-12-31T23:59:59.9Z"
    assert world.corral("logs", "--since", "99999999d", "--until", until).returncode == 0
    (call,) = world.daemon.calls
    assert (call[1]["since"], call[1]["until"]) == (0.0, 253_402_300_799.0)


def test_since_is_a_duration_ago(world: World) -> None:
    world.script(log_follow=logged([]))
    for since in ("1h", "30s"):
        world.corral("logs", "--since", since)
    hour, half_minute = (float(str(p["since"])) for p in world.daemon.asked("log.follow"))
    assert 3570 <= half_minute - hour < 3570 + BOUND_S


@pytest.mark.parametrize(
    ("noun", "method", "key", "records"), [("logs", "log", "records", LINES), ("events", "event", "events", EVENTS)]
)
def test_following_goes_on_until_ctrl_c_and_exits_0(
    world: World, noun: str, method: str, key: str, records: list[dict[str, object]]
) -> None:
    def follow(caller: Caller, params: dict[str, object]) -> object:
        caller.peer.respond(1, {})
        for record in records:
            caller.notify(method, {key: [record]})
        return SILENCE

    world.daemon.scripts[f"{method}.follow"] = follow
    with world.begin(noun, "-f", "--json") as process:
        assert process.stdout is not None
        assert [json.loads(process.stdout.readline()) for _ in records] == records
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=BOUND_S)
        assert (process.returncode, stderr) == (0, "")
    assert world.daemon.asked(f"{method}.follow") == [{"n": 10}]


def test_following_ends_with_the_daemon(world: World) -> None:
    def follow(caller: Caller, params: dict[str, object]) -> object:
        caller.peer.respond(1, {})
        caller.notify("log", {"records": LINES})
        caller.hang_up()
        return SILENCE

    world.script(log_follow=follow)
    done = world.corral("logs", "-f")
    assert (done.returncode, done.stdout.count("\n")) == (6, len(LINES))


def test_events_are_filtered_by_the_daemon_and_reported_in_words(world: World) -> None:
    world.script(event_list={"events": EVENTS})
    done = world.corral(*["events", "--type", "task.*", "--type", "x", "--agent", "echo", "--since", "6"])
    assert "Initial -> Starting" in done.stdout
    assert "task=t-1" in done.stdout
    assert ndjson(world.corral("events", "-n", "2", "--json").stdout) == EVENTS
    assert world.daemon.asked("event.list") == [{"types": ["task.*", "x"], "agent": "echo", "since": 6}, {"n": 2}]


@pytest.mark.parametrize("words", ["logs", "status --json", "logs -f"])
def test_a_reader_that_stops_reading_is_no_error(world: World, words: str) -> None:
    def follow(caller: Caller, params: dict[str, object]) -> object:
        caller.peer.respond(1, {})
        for _ in range(1_000):
            caller.notify("log", {"records": LINES})
        return SILENCE

    world.script(daemon_status=STATUS, log_follow=follow)
    reader, writer = os.pipe()
    os.close(reader)
    with world.begin(*words.split(), stdout=writer) as process:
        os.close(writer)
        _, stderr = process.communicate(timeout=BOUND_S)
        assert (process.returncode, stderr) == (-signal.SIGPIPE, "")


def test_a_full_disk_is_one_line_and_a_closed_stdout_is_nothing(world: World) -> None:
    world.script(daemon_status=STATUS)
    with open("/dev/full", "w") as full:
        for words in ("status", "status --json", "--version"):
            with world.begin(*words.split(), stdout=full) as process:
                _, stderr = process.communicate(timeout=BOUND_S)
                assert (process.returncode, stderr.count("\n")) == (1, 1)
    closed = ["sh", "-c", 'exec "$@" >&-', "sh", *CORRAL, "status"]
    done = subprocess.run(closed, env=world.environment, check=False, capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")


# --- MCP ------------------------------------------------------------------------------------------

TOOL: dict[str, object] = {
    "name": "git__log",
    "server": "git",
    "tool": "log",
    "description": "Show the log\nof a repository",
    "input_schema": {"properties": {"n": {}, "repo": {}}, "required": ["repo"]},
    "annotations": None,
}


def test_servers_and_tools_are_lists(world: World) -> None:
    server = entry("git", "Ready", kind="mcp", tools=["log"])
    world.script(mcp_servers={"servers": [server]}, mcp_tools={"tools": [TOOL]})
    assert json.loads(world.corral("mcp", "servers", "--json").stdout) == [server]
    assert "git" in world.corral("mcp", "servers").stdout
    assert json.loads(world.corral("mcp", "tools", "--json").stdout) == [TOOL]
    assert "repo [n]" in world.corral("mcp", "tools", "git").stdout
    assert world.daemon.asked("mcp.tools") == [{}, {"server": "git"}]


def test_servers_report_what_they_speak_and_what_is_wrong(world: World) -> None:
    about = {"era": "legacy", "version": "2025-06-18", "calls": 7, "failures": 2, "in_flight": 1}
    about |= {"warning": "a risk", "stderr": ["last\x1bwords"]}
    world.script(mcp_servers={"servers": [entry("git", "Ready", kind="mcp", tools=[], mcp=about)]})
    done = world.corral("mcp", "servers")
    assert "2025-06-18  7 (1 now)" in done.stdout
    assert done.stderr.splitlines() == ["git: a risk", "git: last^[words"]


def test_servers_report_why_one_is_down_and_each_thing_once(world: World) -> None:
    lost = entry("git", "Terminated", worker("git-0", "Terminated", last_exit=EXITED), kind="mcp")
    asked = EXITED | {"result": "stopped", "message": "asked to stop"}
    idle = entry("fs", "Terminated", worker("fs-0", "Terminated", last_exit=asked), kind="mcp")
    world.script(mcp_servers={"servers": [lost | {"mcp": {"stderr": ["no key"] * 3}}, idle]})
    done = world.corral("mcp", "servers")
    assert done.stderr.splitlines() == ["git: exited with status 1", "git: no key"]


def test_pairs_are_texts_unless_the_schema_wants_something_else(world: World) -> None:
    kinds: dict[str, object] = {
        "text": {"type": "string"},
        "count": {"type": "integer"},
        "either": {"anyOf": [{"type": "null"}, {"type": "string"}]},
        "any": {},
    }
    tool = TOOL | {"name": "git__log", "tool": "log", "input_schema": {"properties": kinds}}
    world.script(mcp_tools={"tools": [tool]}, mcp_call={"content": []})
    for name in ("git__log", "log"):
        world.corral("mcp", "call", name, "text=1", "count=2", "either=3", "any=4", "raw:=[5]")
    world.corral("mcp", "call", "git__log", "text=a=b", "mail=@home", "empty=")
    first, second, third = (asked["arguments"] for asked in world.daemon.asked("mcp.call"))
    assert first == second == {"text": "1", "count": 2, "either": "3", "any": 4, "raw": [5]}
    assert third == {"text": "a=b", "mail": "@home", "empty": ""}
    for words in (["x"], ["=1"], ["a:=oops"], ["a=1", "--args", "{}"]):
        assert world.corral("mcp", "call", "git__log", *words).returncode == 2


def test_a_call_prints_text_or_mcps_result(world: World) -> None:
    text = {"type": "text", "text": "two\nlines"}
    image = {"type": "image", "mimeType": "image/png", "data": "eA=="}
    resource = {"type": "resource", "resource": {"uri": "file:///x", "text": "inside"}}
    result: dict[str, object] = {"content": [text, image, resource], "isError": False}
    world.script(mcp_call=result)
    done = world.corral("mcp", "call", "git__log", "--args", '{"repo": "."}', "--timeout", "5s")
    assert (done.returncode, done.stdout.splitlines()[:2]) == (0, ["two", "lines"])
    assert "image/png" in done.stdout
    assert "inside" in done.stdout
    shown = world.corral("mcp", "call", "git__log", "--args", "-", "--json", stdin="{}")
    assert json.loads(shown.stdout) == result
    assert world.daemon.asked("mcp.call") == [
        {"name": "git__log", "arguments": {"repo": "."}, "timeout_s": 5.0},
        {"name": "git__log", "arguments": {}},
    ]
    world.script(mcp_call={"content": [], "structuredContent": {"n": 1}})
    assert json.loads(world.corral("mcp", "call", "x").stdout) == {"n": 1}


def test_an_error_of_a_tool_exits_1_with_its_text(world: World) -> None:
    result = {"content": [{"type": "text", "text": "no such repository"}], "isError": True}
    world.script(mcp_call=result)
    done = world.corral("mcp", "call", "git__log")
    assert (done.returncode, done.stdout) == (1, "no such repository\n")
    shown = world.corral("mcp", "call", "git__log", "--json")
    assert (shown.returncode, json.loads(shown.stdout)) == (1, result)


# --- about ----------------------------------------------------------------------------------------


def test_the_version_needs_no_daemon(tmp_path: Path) -> None:
    world = World(tmp_path)
    for word in ("version", "--version"):
        done = world.corral(word)
        assert done.returncode == 0
        assert re.fullmatch(r"corral \d+\.\d+\.\d+( \([0-9a-f]{12}\))?\n", done.stdout)
    assert set(json.loads(world.corral("version", "--json").stdout)) == {"version", "commit"}


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script(tmp_path: Path, shell: str) -> None:
    done = World(tmp_path).corral("completion", shell)
    assert (done.returncode, done.stderr) == (0, "")
    assert "_CORRAL_COMPLETE" in done.stdout


def completed(world: World, words: str) -> set[str]:
    """What TAB offers at the end of the words, in bash."""
    count = len(words.split()) - (0 if words.endswith(" ") else 1)
    variables = {"_CORRAL_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(count)}
    done = world.corral(environment=variables)
    assert done.stderr == ""
    return {line.partition(",")[2] for line in done.stdout.split()}


def test_tab_completes_commands_and_the_daemons_names(world: World) -> None:
    world.script(daemon_status=STATUS | {"teams": [{"name": "t", "labels": {"team": "red"}}]})
    assert completed(world, "corral sta") == {"status", "start", "stats"}
    assert completed(world, "corral show c") == {"crawler"}
    assert completed(world, "corral logs ") == {"echo", "crawler", "time"}
    assert completed(world, "corral logs crawler-") == {"crawler-0", "crawler-1"}
    assert completed(world, "corral restart -l te") == {"team=red"}
    assert completed(world, "corral help aud") == {"audit"}
    assert completed(world, "corral help audit ver") == {"verify"}
    assert completed(world, "corral audit ") == {"list", "verify"}
    assert completed(world, "corral audit --si") == {"--since"}
    assert completed(world, "corral audit -n 5 --act") == {"--action"}
    world.daemon.die()
    assert completed(world, "corral show c") == set()


WIDE = "w" * 200
LISTS: dict[str, object] = {
    "daemon.status": STATUS | {"agents": [entry(WIDE, "Initial", worker(WIDE, "Initial", pid=None, last_exit=EXITED))]},
    "task.list": {
        "tasks": [
            TASK
            | {"state": "failed", "objective": WIDE, "agent": WIDE}
            | {"error": {"code": -33009, "name": "WorkerFailed", "message": WIDE}}
        ]
    },
    "mcp.servers": {"servers": [entry("time", "Ready", worker("time-0"), tools=[WIDE, WIDE])]},
    "mcp.tools": {"tools": [{"name": "w" * 48, "description": WIDE, "input_schema": {}}]},
    "schedule.list": {"schedules": [{"name": WIDE, "cron": WIDE, "task": {"agent": WIDE}}]},
    "statistics.show": {"agents": {WIDE: {}}, "since": "2026-01-01T00:00:00Z"},
    "event.list": {"events": [{"seq": 7, "at": "2026-01-01T00:00:00Z", "type": "task.ended", "x": WIDE}]},
    "checkpoint.list": {"checkpoints": [{"id": 1, "agent": WIDE, "task": WIDE, "reason": WIDE}]},
    "memory.sessions": {"sessions": [{"agent": WIDE, "session": WIDE}]},
    "memory.stats": {"agents": [{"agent": WIDE}], "pool": {}},
    "memory.search": {"items": [{"key": WIDE, "session": WIDE, "value": {"a": WIDE}}]},
    "audit.list": {"records": [{"id": 1, "at": "2026-01-01T00:00:00Z", "action": WIDE}]},
}


def test_no_list_wraps_on_a_terminal_of_80_columns(world: World) -> None:
    world.daemon.scripts |= LISTS
    for words in (
        *("status", "tasks", "mcp servers", "mcp tools", "schedules", "stats", "top --once"),
        *("events", "checkpoint list", "memory list", "memory stats", "memory search a", "audit"),
    ):
        shown = world.on_terminal(*words.split(), "--no-color")
        assert "2" in shown or "w" in shown, words
        assert max(map(len, shown.splitlines())) <= 80, (words, shown)
        assert "T00:00:00" not in shown or words == "events", "times of tables are local"
    piped = world.corral("tasks").stdout
    assert WIDE in piped
    message = f'cannot go on with worker "{WIDE}": exited with status 7'
    failed = TASK | {"error": {"code": -33009, "name": "WorkerFailed", "message": message}}
    world.script(task_list={"tasks": [failed]})
    assert world.corral("tasks").stdout.rstrip().endswith("  WorkerFailed: exited with status 7")


def test_a_task_and_a_schedule_are_shown_as_text(world: World) -> None:
    about = {"boundaries": {"timeout_s": None, "max_tool_calls": 5}, "reason": "", "step": None}
    world.daemon.scripts |= {
        "task.show": TASK | about,
        "schedule.show": {"name": "m", "task": {"agent": "echo", "objective": "hi"}},
    }
    lines = world.corral("task", "show", "t-1").stdout.splitlines()
    fields = dict(line.split(maxsplit=1) for line in lines if len(line.split()) > 1)
    assert fields["boundaries.max_tool_calls"] == "5"
    assert not {"reason", "step", "boundaries"} & set(fields)
    shown = world.corral("schedule", "show", "m").stdout
    assert ("task.objective" in shown, "{" in shown) == (True, False)
