"""A task whose worker or daemon is killed goes on at the step that it had not done: what had ended is not run again."""

import json
import os
import random
import signal
import sqlite3
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from corral.worker.contract.errors import Conflict, InvalidParams
from daemon_process import DaemonProcess, until
from seeds import seeds

AGENT = """
import asyncio, os
from pathlib import Path

from corral.worker import Agent, CorralError

agent = Agent("stepper")


def note(word):
    with Path("ran.txt").open("a") as ran:
        print(word, file=ran)
    return word


async def pay(number):
    note(f"pay {number}")
    await asyncio.sleep(0.005)
    return {"paid": number}


@agent.task
async def run(task):
    return await globals()[task.objective](task)


async def forty(task):
    found = [await task.step("pay", pay, number) for number in range(40)]
    return sum(each["paid"] for each in found)


async def gate(task):
    # one step of each kind, and a death in the midst
    seen = {"random": await task.random(), "uuid": await task.uuid(), "now": str(await task.now())}
    seen["plain"] = await task.step("plain", note, "plain")

    @task.step("decorated", retries=2, retry_backoff=0.001)
    async def decorated(word):
        if len([1 for line in Path("ran.txt").read_text().splitlines() if line == word]) < 2:
            note(word)
            raise ValueError("not yet")
        return note(word)

    seen["decorated"] = await decorated("decorated")
    result = await task.delegate("child", "child", input=7)
    seen["child"] = [result.id, result.output]
    seen["all"] = [each.output for each in await task.delegate_all([{"agent": "child", "objective": "child", "input": n} for n in (1, 2)])]
    seen["answer"] = await task.ask("go on?", ["yes", "no"])
    await task.sleep(0.01)
    if task.delivery == 1:
        os.kill(os.getpid(), 9)
    return seen


async def child(task):
    note(f"child {task.input}")
    return task.input * 2


async def wait(task):
    await task.step("first", note, "first")
    note("waits")
    result = await task.delegate("child", "slow")
    return result.output


async def slow(task):
    note("slow")
    while not Path("go").exists():
        await asyncio.sleep(0.02)
    return "slow"


async def departs(task):
    await task.step("one" if task.delivery == 1 else "other", note, "x")
    os.kill(os.getpid(), 9)


async def concurrent(task):
    async def chain(word):
        await asyncio.sleep(0.001 * task.delivery * (1 if word == "a" else 3 - task.delivery))
        return [await task.step(f"{word}{n}", note, f"{word}{n}") for n in range(3)]

    found = await asyncio.gather(chain("a"), chain("b"))
    if task.delivery == 1:
        os.kill(os.getpid(), 9)
    return found


async def fails(task):
    await task.step("good", note, "good")
    await task.step("later", note, "later")
    if not Path("mended").exists():
        raise ValueError("broken code")
    return await task.step("last", note, "last")


async def large(task):
    return await task.step("large", lambda: "x" * 3_000_000)


async def odd(task):
    return await task.step("odd", lambda: object())


async def tools(task):
    await task.step("first", note, "first")
    found = []
    for name in ("tools__look", task.input):
        try:
            found.append((await task.tool(name)).text)
        except CorralError as error:
            found.append(error.data.get("reason"))
    return found
"""

SERVER = """
import time
from pathlib import Path

from mcp.server.mcpserver import MCPServer
from mcp.types import ToolAnnotations

server = MCPServer("tools")


def called(name):
    with Path("calls.txt").open("a") as calls:
        print(name, file=calls)
    while name != "look" and not Path("go").exists():
        time.sleep(0.01)
    return name


@server.tool(annotations=ToolAnnotations(read_only_hint=True))
def look() -> str:
    return called("look")


@server.tool(annotations=ToolAnnotations(idempotent_hint=True))
def put() -> str:
    return called("put")


@server.tool()
def add() -> str:
    return called("add")


server.run("stdio")
"""

BLOCKING = """
import os
from pathlib import Path

from corral.worker import Agent

agent = Agent("blocking")


@agent.task
def run(task):
    def work(number):
        with Path("ran.txt").open("a") as ran:
            print("work", number, file=ran)
        return number * number

    @task.step("decorated")
    def decorated():
        return work(100)

    found = [task.step("work", work, number) for number in range(5)] + [decorated(), task.random(), str(task.now())]
    task.sleep(0.001)
    if task.delivery == 1:
        os.kill(os.getpid(), 9)
    return found
"""

CONFIG = """
[process]
working_directory = "{folder}"
[recovery]
restart_backoff_base = "1ms"
restart_backoff_max = "10ms"
max_restart_attempts = 1000
[tasks]
retry_backoff_base = "1ms"
max_attempts = 1000
[agents.stepper]
entrypoint = "stepper:agent"
[agents.child]
entrypoint = "stepper:agent"
instances = 2
[agents.free]
entrypoint = "stepper:agent"
tasks.step_order = "free"
[agents.bounded]
entrypoint = "stepper:agent"
tasks.max_steps = 5
[agents.blocking]
entrypoint = "blocking:agent"
[mcp.servers.tools]
command = ["{python}", "tools_server.py"]
"""


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[DaemonProcess]:
    (tmp_path / "stepper.py").write_text(AGENT)
    (tmp_path / "blocking.py").write_text(BLOCKING)
    (tmp_path / "tools_server.py").write_text(SERVER)
    with DaemonProcess(tmp_path, CONFIG.format(folder=tmp_path, python=sys.executable)) as daemon:
        yield daemon


def ran(daemon: DaemonProcess) -> list[str]:
    """Returns what the steps have noted."""
    path = daemon.folder / "ran.txt"
    return path.read_text().splitlines() if path.exists() else []


def has_paid(daemon: DaemonProcess, number: int) -> bool:
    return len(ran(daemon)) >= number


def steps_of(daemon: DaemonProcess, task: str) -> list[Any]:
    return daemon.call("task.show", task=task, steps=True)["steps"]  # type: ignore[no-any-return]  # its shape is known


@pytest.mark.parametrize("seed", seeds(2, 1))
def test_forty_steps_are_paid_once_each_whatever_is_killed(daemon: DaemonProcess, seed: int) -> None:
    chance = random.Random(seed)
    task = daemon.call("task.submit", agent="stepper", objective="forty")["id"]
    kills = 0
    for number in sorted(chance.sample(range(1, 40), 6)):
        until(partial(has_paid, daemon, number))
        if chance.random() < 0.5:
            pid = daemon.worker("stepper-0")["pid"]
            if pid is not None:
                with suppress(ProcessLookupError):  # an earlier kill of the daemon may be ending it just now
                    os.kill(pid, signal.SIGKILL)
        else:
            daemon.kill()
            daemon.start()
        kills += 1
    record = daemon.call("task.wait", task=task)
    assert record["state"] == "succeeded", record["error"]
    assert record["output"] == sum(range(40))
    counts = Counter(ran(daemon))
    assert len(counts) == 40
    assert counts.total() <= 40 + kills, counts
    assert [each["state"] for each in steps_of(daemon, task)] == ["done"] * 40
    assert [each["name"] for each in steps_of(daemon, task)][:3] == ["pay", "pay#2", "pay#3"]


def test_each_kind_of_step_is_answered_from_the_record_when_the_task_begins_again(daemon: DaemonProcess) -> None:
    (daemon.folder / "ran.txt").touch()
    task = daemon.call("task.submit", agent="stepper", objective="gate")["id"]
    until(lambda: daemon.call("approval.list")["approvals"])
    (question,) = daemon.call("approval.list")["approvals"]
    before = steps_of(daemon, task)
    daemon.call("approval.answer", approval=question["id"], answer="yes")
    record = daemon.call("task.wait", task=task)
    assert record["state"] == "succeeded", record["error"]
    assert record["delivery"] == 2
    seen = record["output"]
    assert seen["child"][1] == 14
    assert seen["all"] == [2, 4]
    assert seen["answer"] == "yes"
    kept = {each["name"]: each["result"] for each in before}
    assert (seen["random"], seen["uuid"]) == (kept["random"], kept["uuid"])
    counts = Counter(ran(daemon))
    assert counts == {"plain": 1, "decorated": 3, "child 7": 1, "child 1": 1, "child 2": 1}
    assert [(each["name"], each["kind"]) for each in steps_of(daemon, task)] == [
        ("random", "step"),
        ("uuid", "step"),
        ("now", "step"),
        ("plain", "step"),
        ("decorated", "step"),
        ("delegate:child", "delegate"),
        ("delegate:all", "delegate"),
        ("ask", "ask"),
        ("sleep", "sleep"),
    ]


@pytest.mark.parametrize("killed", ["worker", "daemon"])
def test_a_delegated_child_is_awaited_again_and_not_given_twice(daemon: DaemonProcess, killed: str) -> None:
    task = daemon.call("task.submit", agent="stepper", objective="wait")["id"]
    until(lambda: "slow" in ran(daemon))
    (child,) = daemon.call("task.show", task=task)["children"]
    if killed == "worker":
        os.kill(daemon.worker("stepper-0")["pid"], signal.SIGKILL)
        until(lambda: ran(daemon).count("waits") == 2)
        assert daemon.call("task.show", task=child)["state"] == "running"
    else:
        daemon.kill()
        daemon.start()
    (daemon.folder / "go").touch()
    record = daemon.call("task.wait", task=task)
    assert (record["state"], record["output"], record["children"]) == ("succeeded", "slow", [child])
    assert ran(daemon).count("first") == 1
    assert ran(daemon).count("slow") == (1 if killed == "worker" else 2)  # the child itself began again with the daemon


def test_a_beginning_that_departs_from_the_record_fails_naming_both(daemon: DaemonProcess) -> None:
    record = daemon.call("task.run", agent="stepper", objective="departs")
    assert record["state"] == "failed"
    error = record["error"]
    assert (error["name"], error["data"]["name"], error["data"]["kept"]) == ("Conflict", "other", "one")
    assert "the code has changed" in error["message"]


def test_steps_of_branches_that_run_side_by_side_need_the_free_order(daemon: DaemonProcess) -> None:
    record = daemon.call("task.run", agent="free", objective="concurrent")
    assert record["state"] == "succeeded", record["error"]
    assert record["output"] == [["a0", "a1", "a2"], ["b0", "b1", "b2"]]
    assert sorted(ran(daemon)) == ["a0", "a1", "a2", "b0", "b1", "b2"]


def test_a_retry_keeps_the_steps_that_ended_or_those_before_the_one_that_is_named(daemon: DaemonProcess) -> None:
    first = daemon.call("task.run", agent="stepper", objective="fails")
    assert first["state"] == "failed"
    (daemon.folder / "mended").touch()
    refused = daemon.call("task.retry", task=first["id"], step="nowhere")["failed"][0]["error"]
    assert (refused["name"], refused["data"]["known"]) == ("NotFound", ["good", "later"])
    done = daemon.corral("task", "retry", first["id"], "--from", "later")
    assert done.returncode == 0, done.stderr
    second = daemon.call("task.wait", task=done.stdout.strip())
    assert (second["output"], second["retried_from"]) == ("last", "later")
    assert ran(daemon) == ["good", "later", "later", "last"]
    shown = daemon.corral("task", "show", second["id"], "--steps").stdout
    assert [line.split()[1] for line in shown.splitlines()] == ["NAME", "good", "later", "last"]


def test_a_retry_without_a_step_goes_on_where_the_task_failed(daemon: DaemonProcess) -> None:
    first = daemon.call("task.run", agent="stepper", objective="fails")
    (daemon.folder / "mended").touch()
    (found,) = daemon.call("task.retry", task=first["id"])["retried"]
    assert daemon.call("task.wait", task=found["by"])["output"] == "last"
    assert ran(daemon) == ["good", "later", "last"]


@pytest.mark.parametrize(
    ("agent", "objective", "name", "told"),
    [
        ("stepper", "large", "ResourceLimitExceeded", "more than 1048576 (max_step_bytes)"),
        ("bounded", "forty", "ResourceLimitExceeded", "5 are permitted (max_steps)"),
        ("stepper", "odd", "InvalidParams", 'cannot keep the result of step "odd"'),
    ],
)
def test_a_step_beyond_its_bounds_fails_by_name(
    daemon: DaemonProcess, agent: str, objective: str, name: str, told: str
) -> None:
    error = daemon.call("task.run", agent=agent, objective=objective)["error"]
    assert (error["name"], told in error["message"]) == (name, True), error


def test_a_blocking_handler_has_the_same_steps(daemon: DaemonProcess) -> None:
    record = daemon.call("task.run", agent="blocking", objective="go")
    assert record["state"] == "succeeded", record["error"]
    assert record["output"][:6] == [0, 1, 4, 9, 16, 10000]
    assert Counter(ran(daemon)) == {f"work {n}": 1 for n in (0, 1, 2, 3, 4, 100)}


def test_steps_go_with_the_record_of_their_task(daemon: DaemonProcess) -> None:
    task = daemon.call("task.run", agent="stepper", objective="forty")["id"]
    assert daemon.stop() == 0
    path = daemon.state_dir / "corral.db"
    with sqlite3.connect(path) as store:
        assert store.execute("SELECT count(*) FROM task_step WHERE task = ?", (task,)).fetchone() == (40,)
        store.execute("DELETE FROM task WHERE id = ?", (task,))
        assert store.execute("SELECT count(*) FROM task_step").fetchone() == (0,)
    daemon.start()


@pytest.mark.parametrize(("tool", "output", "calls"), [("put", "put", 2), ("add", "unknown-end", 1)])
def test_a_tool_call_that_was_under_way_is_repeated_only_where_the_tool_permits_it(
    daemon: DaemonProcess, tool: str, output: str, calls: int
) -> None:
    task = daemon.call("task.submit", agent="stepper", objective="tools", input=f"tools__{tool}")["id"]
    made = daemon.folder / "calls.txt"
    until(lambda: made.exists() and tool in made.read_text())
    os.kill(daemon.worker("stepper-0")["pid"], signal.SIGKILL)
    until(lambda: daemon.call("task.show", task=task)["delivery"] == 2)
    (daemon.folder / "go").touch()
    record = daemon.call("task.wait", task=task)
    assert (record["state"], record["output"]) == ("succeeded", ["look", output]), record["error"]
    assert Counter(made.read_text().split()) == {"look": 1, tool: calls}


def test_a_replay_runs_the_code_against_the_record_and_does_nothing(daemon: DaemonProcess) -> None:
    (daemon.folder / "ran.txt").touch()
    task = daemon.call("task.submit", agent="stepper", objective="gate")["id"]
    until(lambda: daemon.call("approval.list")["approvals"])
    daemon.call("approval.answer", approval=1, answer="yes")
    record = daemon.call("task.wait", task=task)
    before = ran(daemon)
    done = daemon.corral("task", "replay", task)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == record["output"]
    assert ran(daemon) == before
    source = daemon.folder / "stepper.py"
    source.write_text(source.read_text().replace('task.step("plain"', 'task.step("other"'))
    departed = daemon.corral("task", "replay", task)
    assert departed.returncode == 4
    assert 'asks for "other" where an earlier one asked for "plain"' in departed.stderr
    assert ran(daemon) == before


def test_a_saved_record_is_a_test_of_an_agent(daemon: DaemonProcess, tmp_path: Path) -> None:
    task = daemon.call("task.run", agent="stepper", objective="forty")["id"]
    saved = tmp_path / "forty.json"
    assert daemon.corral("task", "replay", task, "--save", str(saved)).returncode == 0
    given = json.loads(saved.read_text())
    made: dict[str, Any] = {}
    exec(AGENT, made)
    before = ran(daemon)
    assert made["agent"].replay(given["record"], tasks=given["tasks"]) == sum(range(40))
    left_out = {**given["record"]["steps"][3], "result": None}
    cut = {**given["record"], "steps": [*given["record"]["steps"][:3], left_out, *given["record"]["steps"][4:]]}
    with pytest.raises(InvalidParams, match='no result of step 4, "pay#4"'):
        made["agent"].replay(cut)
    exec(AGENT.replace("range(40)", "range(39)"), made)
    with pytest.raises(Conflict, match="goes on with step 40"):
        made["agent"].replay(given["record"])
    exec(AGENT.replace("range(40)", "range(41)"), made)
    with pytest.raises(Conflict, match="the record ends before it"):
        made["agent"].replay(given["record"])
    assert ran(daemon) == before
