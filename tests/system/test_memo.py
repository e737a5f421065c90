"""An agent with a memo, which knows nothing of steps, is answered from the record of its task when its worker or daemon was killed."""

import json
import os
import random
import signal
from collections import Counter
from collections.abc import Generator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from daemon_process import DaemonProcess, until
from model_provider import KEY, Provider
from seeds import seeds

AGENT = '''
import http.client, json, os, signal, time, urllib.error, urllib.request
from pathlib import Path

from corral.worker import Agent

agent = Agent("asker")


def ask(script, api):
    key = os.environ["OPENAI_API_KEY"]
    address = os.environ["OPENAI_BASE_URL"] + "/chat/completions"
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    if api == "anthropic":
        address = os.environ["ANTHROPIC_BASE_URL"] + "/v1/messages"
    body = {"model": script, "max_tokens": 9, "stream": "stream" in script.split("+")}
    request = urllib.request.Request(address, json.dumps(body).encode(), headers)
    for _ in range(100):
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                return [answer.status, answer.read().decode(), answer.headers.get("X-Corral-Step")]
        except urllib.error.HTTPError as error:
            if error.code == 503:
                continue
            return [error.code, "", None]
        except (OSError, http.client.HTTPException):
            time.sleep(0.02)  # the gateway starts again


@agent.task
def run(task):
    """Makes the calls, and dies after some of them, in the first beginning."""
    found = []
    if task.input.get("step"):
        task.step("own", str, 1)
    for script in task.input["scripts"]:
        answer = ask(script, task.input.get("api", "openai"))
        with Path("answered.txt").open("a") as told:
            print(json.dumps(answer), file=told)
        found.append(answer)
        task.usage(1000)  # as adapters report what a framework says that it has used
        if len(found) == task.input.get("dies_after") and task.delivery <= task.input.get("deaths", 1):
            os.kill(os.getpid(), signal.SIGKILL)
    if task.input.get("fails") and not Path("mended").exists():
        raise ValueError("broken code")
    return found
'''

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
[models.main]
kind = "openai"
base_url = "{url}/v1"
key = "{key}"
prices = {{ input = 1000000, output = 1000000 }}
max_retries = 0
[models.claude]
kind = "anthropic"
base_url = "{url}"
key = "{key}"
[models.limited]
kind = "openai"
base_url = "{url}/v1"
key = "{key}"
max_tokens_per_minute = 25
[agents.asker]
entrypoint = "asker:agent"
models = ["main", "claude"]
memo = true
[agents.bounded]
entrypoint = "asker:agent"
models = ["main"]
memo = true
tasks.max_step_bytes = "1KiB"
[agents.few]
entrypoint = "asker:agent"
models = ["main"]
memo = true
tasks.max_steps = 2
[agents.poor]
entrypoint = "asker:agent"
models = ["limited"]
memo = true
[agents.plain]
entrypoint = "asker:agent"
models = ["main"]
"""


@pytest.fixture(scope="module")
def provider() -> Generator[Provider]:
    process = Provider()
    yield process
    process.close()


@pytest.fixture
def daemon(tmp_path: Path, provider: Provider) -> Generator[DaemonProcess]:
    (tmp_path / "asker.py").write_text(AGENT)
    with DaemonProcess(tmp_path, CONFIG.format(folder=tmp_path, url=provider.url, key=KEY)) as daemon:
        yield daemon


def served(provider: Provider) -> Counter[str]:
    """What the provider has counted."""
    return Counter[str](provider.get("/counts"))


def answers(daemon: DaemonProcess) -> list[str]:
    path = daemon.folder / "answered.txt"
    return path.read_text().splitlines() if path.exists() else []


def has_asked(daemon: DaemonProcess, number: int) -> bool:
    return len(set(answers(daemon))) >= number


def run(daemon: DaemonProcess, agent: str = "asker", **given: Any) -> Any:
    record = daemon.call("task.run", agent=agent, objective="ask", input=given)
    assert record["state"] == "succeeded", record["error"]
    return record


def steps_of(daemon: DaemonProcess, task: str) -> list[Any]:
    return daemon.call("task.show", task=task, steps=True)["steps"]  # type: ignore[no-any-return]  # its shape is known


def use(daemon: DaemonProcess) -> Any:
    return next(each for each in daemon.call("models.list")["models"] if each["name"] == "main")


@pytest.mark.parametrize("seed", seeds(12, 1))
def test_forty_calls_are_paid_once_each_whatever_is_killed(
    daemon: DaemonProcess, provider: Provider, seed: int
) -> None:
    chance, before = random.Random(seed), served(provider)
    scripts = [f"in5+w5+call{number}" + "+stream" * chance.randrange(2) for number in range(40)]
    task = daemon.call("task.submit", agent="asker", objective="ask", input={"scripts": scripts})["id"]
    kills = 0
    for number in sorted(chance.sample(range(1, 40), 7)):
        until(partial(has_asked, daemon, number))
        what = chance.choice(["worker", "daemon", "gateway"])
        pid = daemon.worker("asker-0")["pid"] if what == "worker" else daemon.call("models.list")["gateway"]["pid"]
        if what == "daemon":
            daemon.kill()
            daemon.start()
        elif pid is not None:
            with suppress(ProcessLookupError):  # it may have ended with the daemon that was killed before
                os.kill(pid, signal.SIGKILL)
        kills += 1
    record = daemon.call("task.wait", task=task)
    assert record["state"] == "succeeded", record["error"]
    assert [each[0] for each in record["output"]] == [200] * 40
    assert len({body for _, body, _ in record["output"]}) == 40
    made = (served(provider) - before)["ended"]
    assert 40 <= made <= 40 + kills
    steps = steps_of(daemon, task)
    assert len(steps) == 40 + len([each for each in steps if "#" in each["name"]])
    assert {(each["state"], each["kind"]) for each in steps} == {("done", "memo")}
    found = use(daemon)
    assert found["tokens_today"] <= made * 10 + found["calls_estimated_today"] * 30
    assert record["tokens_used"] <= found["tokens_today"]


@pytest.mark.parametrize(("api", "stream"), [("openai", ""), ("openai", "+stream"), ("anthropic", "+stream")])
def test_an_answer_from_the_record_is_the_same_byte_for_byte_and_costs_nothing(
    daemon: DaemonProcess, provider: Provider, api: str, stream: str
) -> None:
    before = served(provider)
    scripts = [f"in5+w5+{number}{stream}" for number in range(3)]
    record = run(daemon, scripts=scripts, api=api, dies_after=3)
    assert record["delivery"] == 2
    assert (served(provider) - before)["ended"] == 3
    told = [json.loads(each) for each in answers(daemon)]
    names = [each["name"] for each in steps_of(daemon, record["id"])]
    assert len(set(names)) == 3
    assert told[3:] == record["output"] == [[*each[:2], name] for each, name in zip(told[:3], names, strict=True)]
    assert record["tokens_used"] == 30, "the agent's own reports do not count, in neither beginning"


def test_answers_come_in_the_order_of_the_record_and_each_once(daemon: DaemonProcess, provider: Provider) -> None:
    before = served(provider)
    same = "in5+w5+same"
    record = run(daemon, scripts=[same, same, same], dies_after=2)
    assert (served(provider) - before)["ended"] == 3
    names = [each["name"] for each in steps_of(daemon, record["id"])]
    assert [each[2] for each in record["output"]] == [names[0], names[1], None]
    assert names == [names[0], f"{names[0]}#2", f"{names[0]}#3"]


def test_a_failure_is_not_kept_and_is_asked_again(daemon: DaemonProcess, provider: Provider) -> None:
    before = served(provider)
    record = run(daemon, scripts=["w1", "always400", "w2"], dies_after=3)
    assert [each[0] for each in record["output"]] == [200, 400, 200]
    assert [each["state"] for each in steps_of(daemon, record["id"])] == ["done", "done"]
    assert (served(provider) - before)["failed"] == 2


def test_what_is_beyond_the_bounds_of_steps_goes_out_again(daemon: DaemonProcess, provider: Provider) -> None:
    before = served(provider)
    record = run(daemon, agent="bounded", scripts=["w1", "w900", "w901+stream"], dies_after=3)
    assert len(steps_of(daemon, record["id"])) == 1
    assert (served(provider) - before)["ended"] == 1 + 2 * 2
    record = run(daemon, agent="few", scripts=["w1", "w2", "w3"], dies_after=3)
    assert len(steps_of(daemon, record["id"])) == 2
    assert (served(provider) - before)["ended"] == 5 + 2 + 2


def test_no_limit_holds_back_what_is_recorded(daemon: DaemonProcess) -> None:
    record = run(daemon, agent="poor", scripts=["in5+w5+1", "in5+w5+2", "in5+w5+3"], dies_after=3)
    assert [each[0] for each in record["output"]] == [200] * 3
    assert run(daemon, agent="poor", scripts=["w1"])["output"][0][0] == 429


def test_an_agent_with_a_memo_has_no_steps_of_its_own(daemon: DaemonProcess) -> None:
    record = daemon.call("task.run", agent="asker", objective="ask", input={"scripts": [], "step": True})
    assert (record["error"]["name"], record["error"]["data"]["key"]) == ("InvalidParams", "memo")


def test_a_retry_is_answered_from_the_record_of_the_task_that_it_replaces(
    daemon: DaemonProcess, provider: Provider
) -> None:
    before = served(provider)
    scripts = ["in5+w5+1", "in5+w5+2", "in5+w5+3"]
    old = daemon.call("task.run", agent="asker", objective="ask", input={"scripts": scripts, "fails": True})
    assert old["state"] == "failed"
    names = [each["name"] for each in steps_of(daemon, old["id"])]
    (daemon.folder / "mended").touch()
    retried = daemon.call("task.retry", task=old["id"], step=names[1])["retried"][0]["by"]
    record = daemon.call("task.wait", task=retried)
    assert [each[2] for each in record["output"]] == [names[0], None, None]
    assert (served(provider) - before)["ended"] == 3 + 2
    assert [each["name"] for each in steps_of(daemon, retried)] == names


def test_without_a_memo_and_without_durability_all_goes_out_again(daemon: DaemonProcess, provider: Provider) -> None:
    before = served(provider)
    record = run(daemon, agent="plain", scripts=["w1", "w2"], dies_after=2)
    assert steps_of(daemon, record["id"]) == []
    assert (served(provider) - before)["ended"] == 4
