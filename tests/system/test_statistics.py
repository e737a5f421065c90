"""The statistics of a running daemon: each figure against what was done, by the control socket and the command."""

import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from corral.worker.contract.errors import CorralError, NotFound
from daemon_process import AGENTS, BIN, BOUND_S, DaemonProcess

CONFIG = f"""
[tasks]
retry_backoff_base = "10ms"
[recovery]
restart_backoff_base = "10ms"
[agents.crew]
entrypoint = "crew_agent:agent"
process.working_directory = "{AGENTS}"
[agents.other]
entrypoint = "crew_agent:agent"
process.working_directory = "{AGENTS}"
[mcp.servers.state]
command = ["{sys.executable}", "-I", "{AGENTS}/mcp_state.py"]
"""


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    with DaemonProcess(tmp_path_factory.mktemp("statistics"), CONFIG) as process:
        process.call("agent.start", names=["crew", "other", "state"])
        yield process


def figures(daemon: DaemonProcess, *names: str) -> Any:
    return daemon.call("statistics.show", **({"names": list(names)} if names else {}))


def run(daemon: DaemonProcess, agent: str, objective: str, **more: object) -> Any:
    return daemon.call("task.run", agent=agent, objective=objective, **more)


def difference(before: Any, after: Any, group: str) -> dict[str, float]:
    return {
        key: after[group][key] - value
        for key, value in before[group].items()
        if isinstance(value, int) and isinstance(after[group][key], int)
    }


def test_every_task_that_ends_is_counted_once_with_what_became_of_it(daemon: DaemonProcess) -> None:
    before = figures(daemon)
    with ThreadPoolExecutor(8) as threads:
        done = list(threads.map(run, 40 * [daemon], 40 * ["crew"], 40 * ["echo"]))
    failed = [run(daemon, "crew", "raise because") for _ in range(3)]
    late = run(daemon, "crew", "wait", timeout_s=0.05)
    waiting = daemon.call("task.submit", agent="crew", objective="wait")
    daemon.call("task.cancel", task=waiting["id"])
    run(daemon, "other", "echo")
    after = figures(daemon)
    assert {each["state"] for each in [*done, *failed, late]} == {"succeeded", "failed", "timeout"}
    told = {
        "total": 46,
        "ok": 41,
        "failed": 4,
        "cancelled": 1,
        "tool_calls": 0,
        "tool_calls_last_minute": 0,
        "tokens": 0,
        "tokens_last_minute": 0,
    }
    assert difference(before, after, "executor") == told
    assert difference(before, after, "runtime") == {
        "restarts": 0,
        "spawned": 0,
        "active": 0,
        "executed": 46,
        "failed": 4,
    }
    crew = difference(before["agents"]["crew"], after["agents"]["crew"], "executor")
    assert crew == told | {"total": 45, "ok": 40}


def test_durations_are_those_of_the_handler_and_not_of_the_queue(daemon: DaemonProcess) -> None:
    with ThreadPoolExecutor(3) as threads:
        list(threads.map(run, 9 * [daemon], 9 * ["other"], 9 * ["echo"]))
    executor = figures(daemon)["agents"]["other"]["executor"]
    assert 0 < executor["p50_ms"] <= executor["p99_ms"]
    assert executor["average_ms"] > 0


def test_each_life_counts_and_its_processor_time_is_not_lost_with_it(daemon: DaemonProcess) -> None:
    before = figures(daemon, "crew")["agents"]["crew"]
    task = run(daemon, "crew", "die-once")
    assert task["state"] == "succeeded"
    after = figures(daemon, "crew")["agents"]["crew"]
    while not after["process"]["memory_bytes"]:  # it is soon looked at
        after = figures(daemon, "crew")["agents"]["crew"]
    assert after["runtime"]["spawned"] == before["runtime"]["spawned"] + 1
    assert (after["runtime"]["active"], after["process"]["active"]) == (1, 1)
    assert after["process"]["cpu_ms"] > before["process"]["cpu_ms"]
    daemon.call("agent.stop", names=["crew"])
    ended = figures(daemon, "crew")["agents"]["crew"]["process"]
    assert (ended["active"], ended["memory_bytes"]) == (0, 0)
    assert ended["cpu_ms"] >= after["process"]["cpu_ms"]
    daemon.call("agent.start", names=["crew"])


def test_tool_calls_count_for_who_made_them_and_for_the_server(daemon: DaemonProcess) -> None:
    before = figures(daemon)
    run(daemon, "crew", "tool state__put", input={"key": "a", "value": "1"})
    run(daemon, "crew", "tool state__get", input={"key": "a"})
    daemon.call("mcp.call", name="state__get", arguments={"key": "a"})
    with pytest.raises(CorralError):
        daemon.call("mcp.call", name="state__nothing", arguments={})
    after = figures(daemon)
    assert difference(before, after, "executor")["tool_calls"] == 3
    of_crew, was_crew = after["agents"]["crew"], before["agents"]["crew"]
    assert difference(was_crew, of_crew, "executor")["tool_calls"] == 2
    of_server, was_server = after["mcp_servers"]["state"], before["mcp_servers"]["state"]
    told = difference(was_server, of_server, "executor")
    assert (told["total"], told["ok"], told["tool_calls"]) == (3, 3, 3)
    assert of_server["executor"]["p50_ms"] > 0


def test_the_total_is_the_sum_of_its_parts_and_keeps_what_was_removed(daemon: DaemonProcess) -> None:
    spec = {"entrypoint": "crew_agent:agent", "process": {"working_directory": str(AGENTS)}}
    before = figures(daemon)
    daemon.call("agent.add", name="passing", spec=spec)
    run(daemon, "passing", "echo")
    daemon.call("agent.rm", name="passing")
    after = figures(daemon)
    assert "passing" not in after["agents"]
    assert difference(before, after, "executor")["ok"] == 1
    assert difference(before, after, "runtime")["spawned"] == 1
    assert after["process"]["cpu_ms"] > before["process"]["cpu_ms"]
    daemon.call("agent.add", name="passing", spec=spec, start=False)
    assert figures(daemon, "passing")["agents"]["passing"]["executor"]["total"] == 0
    daemon.call("agent.rm", name="passing")
    parts = [*after["agents"].values(), *after["mcp_servers"].values()]
    assert after["runtime"]["active"] == sum(part["runtime"]["active"] for part in parts)
    own = after["overhead"]
    assert (own["daemon"]["active"], own["launcher"]["active"]) == (1, 1)
    assert own["zygotes"]["active"] >= 1
    assert all(part["memory_bytes"] > 0 and part["cpu_ms"] > 0 for part in own.values())
    for key in ("active", "memory_bytes"):
        counted = [*(part["process"] for part in parts), *own.values()]
        assert after["process"][key] == sum(each[key] for each in counted)
    assert after["executor"]["total"] == 1 + sum(part["executor"]["total"] for part in after["agents"].values())


def test_names_choose_and_an_unknown_one_is_refused(daemon: DaemonProcess) -> None:
    told = figures(daemon, "crew", "state")
    assert (list(told["agents"]), list(told["mcp_servers"])) == (["crew"], ["state"])
    assert told["executor"]["total"] >= told["agents"]["crew"]["executor"]["total"]
    with pytest.raises(NotFound):
        figures(daemon, "nobody")


def test_the_command_prints_the_document_and_a_table(daemon: DaemonProcess) -> None:
    shown = daemon.corral("stats", "crew", "--json")
    document = json.loads(shown.stdout)
    assert list(document["agents"]) == ["crew"]
    lines = daemon.corral("stats").stdout.splitlines()
    names = [line.split()[0] for line in lines[2:-1]]
    assert lines[-1].startswith("corral itself")
    assert names == ["crew", "other", "cortex", "state", "(all)"]
    assert daemon.corral("stats", "nobody").returncode == 3


def test_top_reports_who_does_what_in_the_order_that_was_asked_for(daemon: DaemonProcess) -> None:
    task = daemon.call("task.submit", agent="other", objective="wait")
    daemon.await_worker("other-0", lambda worker: worker["state"] == "Busy")
    shown = daemon.corral("top", "--json", "-n", "2", "--interval", "100ms", "--sort", "tasks")
    first, second = (json.loads(line) for line in shown.stdout.splitlines())
    assert first["at"] < second["at"]
    assert (first["agents"][0]["name"], first["agents"][0]["running"]) == ("other", 1)
    by_name = json.loads(daemon.corral("top", "--json", "--once", "--sort", "name").stdout)
    names = [row["name"] for row in by_name["agents"]]
    assert names == sorted(names)
    daemon.call("task.cancel", task=task["id"])
    assert daemon.corral("top", "--once").stdout.count("\n") == 3 + len(names)
    assert daemon.corral("top", "--interval", "1ms").returncode == 2


def test_top_ends_when_the_daemon_does(tmp_path: Path) -> None:
    with DaemonProcess(tmp_path, "") as daemon:
        with subprocess.Popen(
            [str(BIN / "corral"), "--socket", str(daemon.socket), "top", "--interval", "100ms"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as top:
            assert top.stdout is not None
            assert top.stdout.readline()
            daemon.stop()
            _, said = top.communicate(timeout=BOUND_S)
        assert (top.returncode, said.count(b"\n")) == (6, 1)


def test_a_new_daemon_begins_anew(tmp_path: Path) -> None:
    with DaemonProcess(tmp_path, CONFIG) as daemon:
        daemon.call("agent.start", names=["crew"])
        run(daemon, "crew", "echo")
        before = figures(daemon)
        daemon.stop()
        daemon.start()
        after = figures(daemon)
    assert (before["executor"]["ok"], after["executor"]["ok"]) == (1, 0)
    assert before["since"] < after["since"]
