"""The history of metrics of a running daemon, against what was done: over a restart, a kill, a reload, and by the command."""

import json
import sqlite3
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from corral.cli.tasks.bench import Ended, report
from corral.worker.contract.errors import InvalidParams, NotFound
from daemon_process import DaemonProcess, until

AGENT = """
import os
from corral.worker import Agent

agent = Agent("spender")

@agent.task
async def run(task):
    task.usage(tokens=7, cost_cents=0.5)
    if task.input == "fail":
        raise ValueError("no")
    if task.input == "die":
        os._exit(3)
    return "done"
"""

CONFIG = """
[monitoring]
metrics_interval = "200ms"
[recovery]
restart_backoff_base = "1ms"
[tasks]
retry_on = "never"
[agents.spender]
entrypoint = "spender:agent"
[agents.idle]
command = ["sleep", "1000"]
protocol = "none"
[agents.asleep]
command = ["sleep", "1000"]
protocol = "none"
autostart = false
[agents.hidden]
command = ["sleep", "1000"]
protocol = "none"
monitoring.enable_metrics = false
[agents.gone]
command = ["/nowhere/program"]
protocol = "none"
"""


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    folder = tmp_path_factory.mktemp("metrics")
    (folder / "spender.py").write_text(AGENT)
    with DaemonProcess(folder, CONFIG) as process:
        process.await_worker("spender-0", lambda w: w["state"] == "Ready")
        yield process


def history(daemon: DaemonProcess, agent: str | None = "spender", **params: object) -> list[dict[str, Any]]:
    named = {} if agent is None else {"agent": agent}
    return list(daemon.call("metrics.history", **named, **params)["points"])


def summed(points: list[Any]) -> dict[str, float]:
    keys = ("ok", "failed", "executed", "tokens", "cost_cents", "restarts")
    return {key: sum(point[key] for point in points) for key in keys}


def run(daemon: DaemonProcess, count: int, given: object = None) -> None:
    def one(_: int) -> object:
        return daemon.call("task.run", agent="spender", objective="do", input=given)

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(one, range(count)))


def test_the_history_has_what_was_done_also_over_a_stop_and_a_kill(daemon: DaemonProcess) -> None:
    run(daemon, 30)
    run(daemon, 6, "fail")
    done = {"ok": 30, "failed": 6, "executed": 36, "tokens": 252, "cost_cents": 18.0, "restarts": 0}
    until(lambda: summed(history(daemon)), lambda found: found == done)
    assert summed(history(daemon, step_s=1)) == done
    assert summed(history(daemon, step_s=3600)) == done
    assert summed(history(daemon, None))["executed"] == 36
    run(daemon, 4)
    assert daemon.stop() == 0
    done |= {"ok": 34, "executed": 40, "tokens": 280, "cost_cents": 20.0}
    daemon.start()
    daemon.await_worker("spender-0", lambda w: w["state"] == "Ready")
    assert summed(history(daemon)) == done, "what came since the last step is kept by a stop"
    run(daemon, 2)
    done |= {"ok": 36, "executed": 42, "tokens": 294, "cost_cents": 21.0}
    until(lambda: summed(history(daemon)), lambda found: found == done)
    daemon.kill()
    daemon.start()
    daemon.await_worker("spender-0", lambda w: w["state"] == "Ready")
    for step_s in (1, 60, 3600):
        assert summed(history(daemon, step_s=step_s)) == done, "a restart is no jump"


def test_an_idle_agent_has_points_without_rows_and_one_that_is_left_out_has_none(daemon: DaemonProcess) -> None:
    def rows(name: str) -> int:
        path = f"file:{daemon.state_dir}/corral.db?mode=ro"
        with closing(sqlite3.connect(path, uri=True)) as store:
            # Those of the steps alone: a minute or an hour that ends meanwhile has a row of all that came in it.
            found = store.execute("SELECT count(*) FROM metric WHERE tier = 0 AND subject = ?", (name,))
            return int(found.fetchone()[0])

    def points() -> list[Any]:
        return history(daemon, "idle", step_s=0.2, since=time.time() - 600)

    def has_no_row_in_five_steps() -> bool:
        count, before = len(points()), rows("idle")
        until(points, lambda found: len(found) > count + 5)
        return rows("idle") == before

    until(points, lambda found: found and found[-1]["up"] == 1)
    asleep = rows("asleep")
    until(has_no_row_in_five_steps)  # its memory settles first
    assert rows("asleep") == asleep
    assert points()[-1]["processes"] == 1
    assert history(daemon, "asleep")[-1]["processes"] == 0
    assert history(daemon, "hidden") == []
    assert rows("hidden") == 0
    with pytest.raises(NotFound):
        history(daemon, "nobody")
    with pytest.raises(InvalidParams):
        history(daemon, "idle", since=10.0, until=5.0)


def test_restarts_and_failures_lower_the_health_and_a_worker_that_gave_up_has_none(daemon: DaemonProcess) -> None:
    def scores() -> dict[str, int]:
        status = daemon.call("daemon.status")
        return {each["name"]: each["health_score"] for each in status["agents"]}

    before = scores()["spender"]
    restarts = summed(history(daemon))["restarts"]
    found = daemon.call("task.run", agent="spender", objective="do", input="die")
    assert found["state"] == "failed"
    daemon.await_worker("spender-0", lambda w: w["restarts"] == 1 and w["state"] == "Ready")
    after = scores()
    assert after["spender"] < before - 10
    assert (after["idle"], after["gone"]) == (100, 0)
    until(lambda: summed(history(daemon))["restarts"], lambda now: now == restarts + 1)
    shown = daemon.call("statistics.show")["agents"]["spender"]["runtime"]
    assert (shown["restarts"], shown["health_score"]) == (1, after["spender"])


def test_the_present_figures_are_those_of_statistics(daemon: DaemonProcess) -> None:
    run(daemon, 5)
    total = daemon.call("statistics.show")["agents"]["spender"]["executor"]

    def present() -> Any:
        found = daemon.call("metrics.latest", names=["spender"])
        return found["agents"][0]["total"]

    until(present, lambda found: found["executed"] == total["total"])
    assert {key: present()[key] for key in ("ok", "failed", "tokens", "cost_cents")} == {
        key: total[key] for key in ("ok", "failed", "tokens", "cost_cents")
    }
    assert total["tokens_last_minute"] >= 35
    found = daemon.call("metrics.latest")
    assert found["daemon"]["total"]["memory_bytes"] > present()["memory_bytes"]
    assert found["daemon"]["last_minute"]["executions_per_minute"] > 0
    methods = daemon.call("statistics.show")["methods"]
    assert methods["task.run"]["count"] >= 5
    assert methods["task.run"]["p99_ms"] >= methods["task.run"]["p50_ms"] > 0


def test_the_present_figures_are_of_this_second_however_long_a_step_is(tmp_path: Path) -> None:
    (tmp_path / "spender.py").write_text(AGENT)
    with DaemonProcess(tmp_path, CONFIG.replace('"200ms"', '"1h"')) as daemon:
        before = daemon.call("metrics.latest")
        run(daemon, 3)

        def present() -> Any:
            return next(each for each in daemon.call("metrics.latest")["agents"] if each["name"] == "spender")

        begin = time.monotonic()
        found = until(present, lambda found: found["total"]["executed"] == 3)
        assert time.monotonic() - begin < 5, "a second, on a busy machine"
        assert (found["last_minute"]["executed"], found["last_minute"]["up"]) == (3, 1)
        assert daemon.call("metrics.latest")["at"] > before["at"]
        assert sum(point["executed"] for point in daemon.call("metrics.history", agent="spender")["points"]) == 0


def test_problems_are_named_with_the_reason(daemon: DaemonProcess) -> None:
    run(daemon, 9, "fail")
    top = until(
        lambda: daemon.call("metrics.top", since=0),
        lambda found: any(each["name"] == "spender" for each in found["problems"]),
    )
    assert [each["name"] for each in top["worst"]] == ["spender"]
    assert [each["name"] for each in top["problems"]] == ["spender"]
    assert "failed" in top["problems"][0]["reasons"][0]
    whole = summed(history(daemon, since=0))
    assert top["expensive"][0]["total"]["cost_cents"] == whole["cost_cents"]


def test_the_command_shows_tables_bars_and_documents(daemon: DaemonProcess) -> None:
    lines = daemon.corral("metrics", "spender", "--since", "1h").stdout.splitlines()
    assert lines[0].split()[:3] == ["TIME", "RUN/MIN", "DONE"]
    assert any(line.lstrip().startswith("runs/min") and "█" in line for line in lines)
    document = json.loads(daemon.corral("metrics", "spender", "--json").stdout)
    assert document["agent"] == "spender"
    assert summed(document["points"]) == summed(history(daemon))
    assert "problem: spender" in daemon.corral("metrics", "--top").stdout
    assert "(all)" in daemon.corral("metrics", "--now").stdout
    assert "no metrics" in daemon.corral("metrics", "hidden").stdout
    assert daemon.corral("metrics", "nobody").returncode == 3
    assert daemon.corral("metrics", "--since", "x").returncode == 2


def test_a_bench_counts_each_task_and_names_errors(daemon: DaemonProcess) -> None:
    done = daemon.corral("bench", "spender", "--tasks", "20", "--parallel", "4", "--json")
    document = json.loads(done.stdout)
    assert done.returncode == 0, done.stderr
    assert (document["tasks"], document["ok"], document["failed"]) == (20, 20, 0)
    latency = document["latency_ms"]
    assert 0 < latency["min"] <= latency["p50"] <= latency["p99"] <= latency["max"]
    assert document["run_ms"]["average"] <= latency["average"]
    failing = daemon.corral("bench", "spender", "--tasks", "3", "--input", "fail")
    assert failing.returncode == 1
    assert "3 TaskFailed" in failing.stdout
    missing = daemon.corral("bench", "nobody", "--tasks", "50", "--parallel", "5")
    assert (missing.returncode, missing.stdout) == (3, "")
    assert daemon.corral("bench", "spender", "--tasks", "0").returncode == 2


def test_the_figures_of_a_bench_are_those_of_the_definition() -> None:
    ended = [Ended(n / 1000, n / 2000) for n in range(1, 101)]
    found = report([*ended, Ended(0.5, error="Overloaded"), Ended(0.5, 0.1, "TaskFailed")], 2.0)
    assert found["throughput_per_s"] == 51.0
    assert found["errors"] == {"Overloaded": 1, "TaskFailed": 1}
    assert found["latency_ms"]["p50"] == 51.0
    assert found["latency_ms"]["p99"] == 500.0
    assert found["run_ms"]["max"] == 100.0
    assert report([], 1.0)["latency_ms"] is None


def test_collecting_is_stopped_and_begun_again_by_a_reload(daemon: DaemonProcess) -> None:
    def at() -> str:
        return str(daemon.call("metrics.latest")["at"])

    first = at()
    second = until(at, lambda found: found != first)
    until(at, lambda found: found not in (first, second))  # all before is in the store
    before = summed(history(daemon))
    off = CONFIG.replace('metrics_interval = "200ms"', "enable_metrics = false")
    daemon.config.write_text(off)
    assert "monitoring.enable_metrics" in daemon.call("daemon.reload")["keys"]["spender"]
    assert not daemon.call("metrics.latest")["enabled"]
    run(daemon, 3)
    assert summed(history(daemon)) == before
    assert "metrics are off" in daemon.corral("metrics", "--now").stdout
    daemon.config.write_text(CONFIG)
    daemon.call("daemon.reload")
    until(lambda: daemon.call("metrics.latest")["agents"])
    run(daemon, 2)
    until(lambda: summed(history(daemon))["executed"], lambda found: found == before["executed"] + 2)
