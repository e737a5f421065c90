"""The count of calls of models after kill -9 of the daemon, of the gateway and of both, against the provider's own count.

A call whose answer reached its caller is counted as the provider has told it. One that was under way at the kill is counted
as lost and estimated: the input by its bytes, the output by the part of a stream that had come.
"""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from daemon_process import AGENTS, DaemonProcess, until
from model_provider import KEY, Provider

INPUT, OUTPUT = 5, 5
SCRIPT = f"in{INPUT}+w{OUTPUT}"
REQUEST = len(f'{{"model": "{SCRIPT}", "stream": false}}') // 4
"""Tokens as which the request of a lost call counts."""
TASKS = 3
"""Number of tasks at a time, each with one call at a time."""


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    process = Provider()
    yield process
    process.close()


def config(provider: Provider, model: str = "", agent: str = "") -> str:
    return f"""
[models.main]
kind = "openai"
base_url = "{provider.url}/v1"
key = "{KEY}"
prices = {{ input = 1000000, output = 1000000 }}
max_retries = 0
{model}

[agents.loop]
entrypoint = "model_loop:agent"
models = ["main"]
process.working_directory = "{AGENTS}"
resources.max_concurrent_requests = {TASKS}
tasks.max_attempts = 100
tasks.retry_backoff_base = "0.1s"
{agent}
"""


def use(daemon: DaemonProcess) -> Any:
    """What is known of the model."""
    return daemon.call("models.list")["models"][0]


def await_tokens(daemon: DaemonProcess, tokens: int) -> None:
    """Returns when the model has used more."""
    enough = use(daemon)["tokens_today"] + tokens
    until(lambda: use(daemon)["tokens_today"] >= enough)


def submit(daemon: DaemonProcess, calls: int, script: str, **more: Any) -> str:
    task = daemon.call("task.submit", agent="loop", objective="call", input=[calls, script], **more)
    return str(task["id"])


def kill(daemon: DaemonProcess, what: str) -> None:
    """Kills one or both at a random moment of the calls, and starts the daemon again."""
    gateway = daemon.call("models.list")["gateway"]["pid"]
    if what in ("gateway", "both"):
        os.kill(gateway, signal.SIGKILL)
    if what in ("daemon", "both"):
        daemon.kill()
        daemon.start()


@pytest.mark.parametrize(
    "kills",
    [("daemon", "gateway", "both", "daemon"), pytest.param(("daemon", "gateway", "both") * 10, marks=pytest.mark.long)],
    ids=["few", "many"],
)
def test_every_call_is_counted_once_whatever_is_killed(
    tmp_path: Path, provider: Provider, kills: tuple[str, ...]
) -> None:
    with DaemonProcess(tmp_path, config(provider)) as daemon:
        daemon.call("agent.start", names=["*"])
        before = provider.get("/counts").get("ended", 0)
        tasks = [submit(daemon, 100_000, SCRIPT) for _ in range(TASKS)]
        for what in kills:
            await_tokens(daemon, 30 * (INPUT + OUTPUT))
            kill(daemon, what)
        await_tokens(daemon, 30 * (INPUT + OUTPUT))
        of_tasks_at_least = use(daemon)["tokens_today"]
        for task in tasks:
            daemon.call("task.cancel", task=task)
        records = [daemon.call("task.wait", task=task) for task in tasks]
        daemon.call("agent.stop", names=["loop"])
        found, served = use(daemon), provider.get("/counts")["ended"] - before
        counted, lost = found["tokens_today"], found["calls_estimated_today"]
        assert lost <= TASKS * (len(kills) + 1)
        answered, rest = divmod(counted - lost * REQUEST, INPUT + OUTPUT)
        assert rest == 0
        assert answered <= served <= answered + lost <= found["calls_today"]
        assert found["cost_cents_today"] == counted
        # Calls that a cancelled task makes until it stops count for the agent alone.
        of_tasks = sum(record["tokens_used"] for record in records)
        assert of_tasks_at_least <= of_tasks <= counted
        costs = daemon.call("cost.list")["total"]
        assert (costs["tokens"], costs["tasks"]) == (counted, TASKS)


def test_a_stream_that_the_death_of_the_daemon_cuts_counts_as_far_as_it_had_come(
    tmp_path: Path, provider: Provider
) -> None:
    with DaemonProcess(tmp_path, config(provider, agent='tasks.retry_on = "never"')) as daemon:
        daemon.call("agent.start", names=["*"])
        before = provider.get("/counts").get("streamed", 0)
        task = submit(daemon, 1, "in40+w4000+slow+stream")
        until(lambda: provider.get("/counts").get("streamed", 0) >= before + 80)
        daemon.kill()
        daemon.start()
        record = daemon.call("task.wait", task=task)
        assert record["state"] == "failed"
        assert 20 < record["tokens_used"] < 4000
        found = use(daemon)
        assert (found["calls_today"], found["calls_estimated_today"]) == (1, 1)
        assert found["tokens_today"] == record["tokens_used"]
        assert daemon.call("cost.list")["total"]["tokens"] == record["tokens_used"]


def test_budgets_hold_over_the_death_of_the_daemon(tmp_path: Path, provider: Provider) -> None:
    text = config(provider, agent="resources.max_tokens_per_minute = 2500")
    with DaemonProcess(tmp_path, text) as daemon:
        daemon.call("agent.start", names=["*"])
        task = submit(daemon, 100_000, SCRIPT, boundaries={"max_tokens": 2000})
        for _ in range(2):
            await_tokens(daemon, 300)
            daemon.kill()
            daemon.start()
        record = daemon.call("task.wait", task=task)
        assert 2000 <= record["tokens_used"] <= 2000 + INPUT + OUTPUT
        assert record["delivery"] == 3
        daemon.call("task.wait", task=submit(daemon, 100_000, SCRIPT))
        used = use(daemon)["tokens_today"]
        assert 2500 <= used <= 2500 + INPUT + OUTPUT
        daemon.kill()
        daemon.start()
        reason = daemon.call("task.show", task=submit(daemon, 1, SCRIPT))["reason"]
        assert "max_tokens_per_minute" in reason
