"""Calls of models through the gateway: official clients in a worker, a provider on loopback that counts for itself."""

import json
import os
import random
import signal
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from daemon_process import AGENTS, DaemonProcess, until
from model_provider import KEY, Provider

pytestmark = pytest.mark.long

PRICES = "prices = { input = 1000000, cached = 500000, cache_write = 2000000, output = 3000000 }"


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    process = Provider()
    yield process
    process.close()


def config(provider: Provider, more: str = "") -> str:
    return f"""
[models.main]
kind = "openai"
base_url = "{provider.url}/v1"
key = "${{secret:PROVIDER}}"
{PRICES}

[models.claude]
kind = "anthropic"
base_url = "{provider.url}"
key = "${{secret:PROVIDER}}"
{PRICES}

[models.gem]
kind = "gemini"
base_url = "{provider.url}"
key = "${{secret:PROVIDER}}"
{PRICES}

[models.mapped-gem]
kind = "gemini"
base_url = "{provider.url}"
key = "${{secret:PROVIDER}}"
model = "in5+w5"

[agents.caller]
entrypoint = "model_agent:agent"
models = ["main", "claude", "gem", "mapped-gem"]
process.working_directory = "{AGENTS}"
resources.max_concurrent_requests = 4
{more}
"""


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory, provider: Provider) -> Iterator[DaemonProcess]:
    folder = tmp_path_factory.mktemp("models")
    secrets = folder / "secrets"
    secrets.write_text(f"PROVIDER={KEY}\n")
    secrets.chmod(0o600)
    text = f'[daemon]\nsecrets_file = "{secrets}"\n{config(provider)}'
    with DaemonProcess(folder, text) as process:
        process.call("agent.start", names=["*"])
        yield process


def run(daemon: DaemonProcess, *calls: dict[str, Any], agent: str = "caller", **more: Any) -> Any:
    """Runs a task with these calls, and returns its record."""
    return daemon.call("task.run", agent=agent, objective="call", input={"calls": calls, **more})


def test_tokens_and_cost_of_a_call_are_those_that_the_provider_reports(daemon: DaemonProcess) -> None:
    record = run(daemon, {"api": "chat", "model": "in40+cached8+w12"})
    assert record["output"] == [{"tokens": 60, "text": " ".join(["word"] * 12)}]
    assert (record["tokens_used"], record["cost_cents"]) == (60, 40 + 4 + 36)
    record = run(daemon, {"api": "messages", "model": "in40+cached8+write2+w12"})
    assert (record["tokens_used"], record["cost_cents"]) == (62, 40 + 4 + 4 + 36)


def test_hundreds_of_random_calls_are_counted_as_the_provider_counts_them(
    daemon: DaemonProcess, provider: Provider
) -> None:
    seed = random.randrange(1 << 32)
    print("seed", seed)
    dice = random.Random(seed)
    before, models = provider.get("/counts"), daemon.call("models.list")["models"]
    told = 0
    for _ in range(8):
        calls = [random_call(dice) for _ in range(25)]
        told += run(daemon, *calls, together=dice.random() < 0.7)["tokens_used"]
    after = provider.get("/counts")
    parts = ("input", "cached", "write", "output")
    assert told == sum(after.get(part, 0) - before.get(part, 0) for part in parts)
    sums = daemon.call("models.list")["models"]
    assert sum(each["tokens_today"] for each in sums) - sum(each["tokens_today"] for each in models) == told
    assert not any(each["calls_estimated_today"] for each in sums)


def random_call(dice: random.Random) -> dict[str, Any]:
    """One call whose usage the provider tells, or that has none."""
    words = [f"in{dice.randrange(1, 500)}", f"w{dice.randrange(1, 60)}"]
    api = dice.choice(["chat", "chat", "responses", "embed", "messages", "messages", "count", "models"])
    if dice.random() < 0.4:
        words.append(f"cached{dice.randrange(1, 200)}")
    if dice.random() < 0.15 and api in ("chat", "messages"):
        words.append(dice.choice(["always400", "always404", "always422"]))
    elif dice.random() < 0.05 and api in ("chat", "messages"):
        words.append("fail1x503")
    if api == "embed":
        words = words[:1]
    stream = api in ("chat", "responses", "messages") and dice.random() < 0.5
    call = {"api": api, "model": "+".join([*words, f"n{dice.random()}"]), "stream": stream}
    return {**call, "asks": stream and dice.random() < 0.5}


def test_a_stream_that_its_caller_leaves_ends_at_the_provider_and_is_estimated(
    daemon: DaemonProcess, provider: Provider
) -> None:
    hung_up, before = provider.get("/counts").get("hung_up", 0), estimated(daemon)
    calls = [
        {"api": "chat", "model": "in40+w400+slow", "stream": True, "hang_up": 5},
        {"api": "messages", "model": "in40+w400+slow", "stream": True, "hang_up": 5},
    ]
    record = run(daemon, *calls)
    assert [each["words"] for each in record["output"]] == [5, 5]
    assert 40 < record["tokens_used"] < 400
    assert estimated(daemon) == before + 2
    until(lambda: provider.get("/counts").get("hung_up", 0) >= hung_up + 2)


def estimated(daemon: DaemonProcess) -> int:
    return sum(each["calls_estimated_today"] for each in daemon.call("models.list")["models"])


def test_a_stream_that_the_provider_cuts_is_an_error_of_the_client(daemon: DaemonProcess) -> None:
    record = run(
        daemon,
        {"api": "chat", "model": "w9+cut4", "stream": True},
        {"api": "messages", "model": "w9+cut4", "stream": True},
    )
    assert ["words" in each for each in record["output"]] == [False, False]
    assert record["tokens_used"] >= 8


def test_a_stream_is_passed_on_while_it_comes(daemon: DaemonProcess, provider: Provider) -> None:
    """The provider waits in the middle of its stream until the worker has the first words."""
    task = daemon.call(
        "task.submit",
        agent="caller",
        objective="call",
        input={"calls": [{"api": "chat", "model": "w9+gate", "stream": True, "hang_up": 3}]},
    )["id"]
    record = daemon.call("task.wait", task=task)
    provider.open()
    assert record["output"][0]["words"] == 3


def test_no_usage_is_shown_to_a_caller_that_has_not_asked_for_it(daemon: DaemonProcess) -> None:
    calls = [{"api": "chat", "model": "w9", "stream": True, "asks": asks} for asks in (False, True)]
    record = run(daemon, *calls)
    assert [each["tokens"] for each in record["output"]] == [None, 16]
    assert record["tokens_used"] == 32


def test_errors_of_the_provider_are_passed_on_and_its_key_is_not(daemon: DaemonProcess) -> None:
    calls = [{"api": api, "model": f"always{status}"} for api in ("chat", "messages") for status in (400, 401, 422)]
    found = run(daemon, *calls)["output"]
    assert [each["status"] for each in found] == [400, 401, 422] * 2
    assert "scripted" in json.dumps(found[0]["body"])
    assert KEY not in json.dumps(found)


def test_the_key_of_the_provider_is_in_no_process_that_others_can_read(
    daemon: DaemonProcess, provider: Provider
) -> None:
    found = run(
        daemon,
        environment=[
            "OPENAI_BASE_URL",
            "OPENAI_API_KEY",
            "ANTHROPIC_BASE_URL",
            "ANTHROPIC_API_KEY",
            "CORRAL_MODEL_MAIN_URL",
            "CORRAL_MODEL_CLAUDE_KEY",
        ],
    )["output"]
    assert len(found) == 6
    assert found["OPENAI_BASE_URL"].endswith("/main/v1")
    assert found["ANTHROPIC_BASE_URL"].endswith("/claude")
    assert len({found["OPENAI_API_KEY"], found["ANTHROPIC_API_KEY"]}) == 1
    assert KEY not in json.dumps(found)
    run(daemon, {"api": "chat", "model": "w1"})
    assert provider.get("/seen")[-1]["headers"]["authorization"] == f"Bearer {KEY}"
    pid = daemon.call("models.list")["gateway"]["pid"]
    for part in ("cmdline", "environ"):
        try:
            text = Path(f"/proc/{pid}/{part}").read_bytes()
        except PermissionError:
            continue  # not even that
        assert KEY.encode() not in text


def called(url: str, key: str) -> int:
    """Asks with a key, and returns the status."""
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {key}"})
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_what_an_agent_reports_of_measured_calls_is_not_added(daemon: DaemonProcess) -> None:
    assert run(daemon, report=500)["tokens_used"] == 500
    record = run(daemon, {"api": "chat", "model": "in40+w12"}, report_after=500)
    assert record["tokens_used"] == 52


def test_calls_of_several_tasks_of_one_worker_count_for_the_task_of_their_key(daemon: DaemonProcess) -> None:
    tasks = [
        daemon.call(
            "task.submit",
            agent="caller",
            objective="call",
            input={"calls": [{"api": "chat", "model": f"in100+w{number}+slow", "stream": True, "name": "main"}] * 3},
        )["id"]
        for number in (10, 20, 30)
    ]
    records = [daemon.call("task.wait", task=task) for task in tasks]
    assert [each["tokens_used"] for each in records] == [330, 360, 390]


def test_a_gateway_that_dies_is_replaced(daemon: DaemonProcess) -> None:
    run(daemon, {"api": "chat", "model": "w1"})
    gateway = daemon.call("models.list")["gateway"]
    os.kill(gateway["pid"], signal.SIGKILL)
    record = run(daemon, {"api": "chat", "model": "in40+w12", "retries": 8})
    assert record["tokens_used"] == 52
    assert daemon.call("models.list")["gateway"]["restarts"] == gateway["restarts"] + 1


def test_a_gateway_that_is_killed_loses_no_call_that_it_has_answered(daemon: DaemonProcess, provider: Provider) -> None:
    served, known = tokens_served(provider), tokens_measured(daemon)
    calls = [{"api": "chat", "model": "in5+w5", "retries": 9}] * 200
    task = daemon.call("task.submit", agent="caller", objective="call", input={"calls": calls})
    for _ in range(3):
        before = tokens_measured(daemon)
        while tokens_measured(daemon) < before + 100:
            pass
        os.kill(daemon.call("models.list")["gateway"]["pid"], signal.SIGKILL)
    record = daemon.call("task.wait", task=task["id"])
    answered = sum(each["tokens"] for each in record["output"])
    measured, served = tokens_measured(daemon) - known, tokens_served(provider) - served
    assert answered == 2000
    assert answered <= measured == record["tokens_used"]
    exact = measured - record["tokens_estimated"]
    assert exact <= served <= exact + 3 * 10  # one call under way at each kill


def tokens_served(provider: Provider) -> int:
    counts = provider.get("/counts")
    return int(counts.get("input", 0) + counts.get("output", 0) + counts.get("cached", 0))


def tokens_measured(daemon: DaemonProcess) -> int:
    models = {each["name"]: each for each in daemon.call("models.list")["models"]}
    return int(models["main"]["tokens_today"])


@pytest.mark.parametrize("script", ["w9+nousage", "w9+old"])
def test_a_stream_whose_provider_reports_no_usage_is_estimated_and_marked(daemon: DaemonProcess, script: str) -> None:
    before = estimated(daemon)
    record = run(daemon, *[{"api": "chat", "model": script, "stream": True}] * 2)
    assert [each["words"] for each in record["output"]] == [9, 9]
    assert record["tokens_used"] == record["tokens_estimated"] >= 18
    assert estimated(daemon) == before + 2


GENERATE = "v1beta/models/{}:generateContent"
STREAM = "v1beta/models/{}:streamGenerateContent?alt=sse"


class Gemini:
    """Calls by the REST API of Gemini, with the address and the key of a worker."""

    def __init__(self, daemon: DaemonProcess) -> None:
        names = ["GOOGLE_GEMINI_BASE_URL", "GEMINI_API_KEY", "CORRAL_MODEL_MAPPED_GEM_URL"]
        self.daemon = daemon
        self.env = run(daemon, environment=names)["output"]

    def call(self, path: str, *, where: str = "GOOGLE_GEMINI_BASE_URL", in_query: bool = False) -> tuple[int, str]:
        """Returns status and body."""
        key, url = self.env["GEMINI_API_KEY"], f"{self.env[where]}/{path}"
        if in_query:
            url += f"{'&' if '?' in path else '?'}key={key}"
        headers = {} if in_query else {"x-goog-api-key": key}
        body = b'{"contents": [{"role": "user", "parts": [{"text": "hello"}]}]}'
        request = urllib.request.Request(url, body, {**headers, "Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def use(self, name: str = "gem") -> tuple[int, float, int]:
        """Returns tokens, cents and estimated calls of a model."""
        models = {each["name"]: each for each in self.daemon.call("models.list")["models"]}
        keys = ("tokens_today", "cost_cents_today", "calls_estimated_today")
        tokens, cents, estimated = (models[name][key] for key in keys)
        return tokens, cents, estimated


@pytest.fixture
def gemini(daemon: DaemonProcess) -> Gemini:
    return Gemini(daemon)


@pytest.mark.parametrize("path", [GENERATE, STREAM, "v1beta/models/{}:streamGenerateContent"])
@pytest.mark.parametrize("in_query", [False, True])
def test_calls_of_gemini_are_counted_as_the_provider_reports_them(
    gemini: Gemini, provider: Provider, path: str, *, in_query: bool
) -> None:
    before = gemini.use()
    status, body = gemini.call(path.format("in40+cached8+w12"), in_query=in_query)
    assert (status, body.count("word")) == (200, 12)
    tokens, cents, estimated = gemini.use()
    assert tokens - before[0] == 60
    assert cents - before[1] == 40 + 4 + 36
    assert estimated == before[2]
    seen = provider.get("/seen")[-1]
    assert seen["headers"]["x-goog-api-key"] == KEY
    assert "corral-" not in json.dumps(seen)


def test_a_call_of_gemini_without_figures_is_estimated_and_counting_costs_nothing(gemini: Gemini) -> None:
    before = gemini.use()
    assert gemini.call("v1beta/models/m:countTokens")[0] == 200
    assert gemini.use() == before
    for path in (GENERATE, STREAM):
        assert gemini.call(path.format("w8+nousage"))[0] == 200
    tokens, _, estimated = gemini.use()
    assert estimated == before[2] + 2
    assert 16 <= tokens - before[0] < 200


def test_gemini_gets_the_name_of_the_table_and_errors_in_its_own_shape(gemini: Gemini, provider: Provider) -> None:
    status, _ = gemini.call(GENERATE.format("any"), where="CORRAL_MODEL_MAPPED_GEM_URL")
    assert status == 200
    assert provider.get("/seen")[-1]["path"] == "/v1beta/models/in5%2Bw5:generateContent"
    assert gemini.use("mapped-gem")[0] == 10
    status, body = gemini.call("v1beta/files")
    assert (status, json.loads(body)["error"]["status"]) == (404, "NOT_FOUND")


def test_the_key_of_a_worker_is_refused_when_it_has_ended(daemon: DaemonProcess) -> None:
    found = run(daemon, environment=["OPENAI_BASE_URL", "OPENAI_API_KEY"])["output"]
    url, key = f"{found['OPENAI_BASE_URL']}/models", found["OPENAI_API_KEY"]
    assert (called(url, key), called(url, f"{key[:-1]}x"), called(url, "")) == (200, 401, 401)
    daemon.call("agent.stop", names=["caller"])
    assert called(url, key) == 401


def test_a_reload_changes_prices_and_limits_of_a_model(tmp_path: Path, provider: Provider) -> None:
    text = config(provider).replace("${secret:PROVIDER}", KEY)
    with DaemonProcess(tmp_path, text) as daemon:
        worker = daemon.await_worker("caller-0", lambda worker: worker["state"] == "Ready")
        assert run(daemon, {"api": "chat", "model": "in40+w12"})["cost_cents"] == 40 + 36
        daemon.config.write_text(text.replace("output = 3000000 }", "output = 1000000 }\nmax_tokens_per_minute = 100"))
        daemon.call("daemon.reload")
        record = run(daemon, *[{"api": "chat", "model": "in40+w12"}] * 3)
        assert record["cost_cents"] == 52
        refused = record["output"][1:]
        assert [each["status"] for each in refused] == [429, 429]
        assert refused[0]["body"]["corral"]["limit"] == "max_tokens_per_minute"
        assert 1 <= int(refused[0]["headers"]["retry-after"]) <= 61
        assert daemon.worker("caller-0")["pid"] == worker["pid"]
