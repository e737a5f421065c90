"""Limits, budgets and fallbacks of models, tenants, and agents without a network."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from daemon_process import AGENTS, DaemonProcess, until
from model_provider import KEY, Provider
from strict_agent import NEVER, needs_strict, reported, strict

PRICES = "prices = { input = 1000000, output = 1000000 }"


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    process = Provider()
    yield process
    process.close()


def agent(name: str, models: str, more: str = "") -> str:
    """An agent that calls by plain HTTP, which starts in an instant."""
    return f"""
[agents."{name}"]
entrypoint = "model_caller:agent"
models = {models}
process.working_directory = "{AGENTS}"
{more}
"""


def model(provider: Provider, name: str, more: str = "", url: str = "") -> str:
    address = url or f"{provider.url}/v1"
    return f'[models.{name}]\nkind = "openai"\nbase_url = "{address}"\nkey = "{KEY}"\n{PRICES}\n{more}\n'


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory, provider: Provider) -> Iterator[DaemonProcess]:
    text = "".join(
        [
            model(provider, "plain", 'tenants = ["acme"]'),
            model(provider, "mapped", 'model = "in5+w5"'),
            model(provider, "poor", "max_cost_cents_per_day = 10"),
            model(provider, "poorer", 'max_cost_cents_per_day = 10\nfallback = ["mapped"]'),
            model(provider, "gone", 'fallback = ["mapped"]\nmax_retries = 1', "http://127.0.0.1:9/v1"),
            model(provider, "nowhere", "max_retries = 0", "http://127.0.0.1:9/v1"),
            model(provider, "locked").replace(KEY, "${secret:MISSING}"),
            model(provider, "forbidden"),
            model(provider, "narrow", "max_tokens_per_minute = 100\nmax_concurrent_calls = 4"),
            "[tenants.acme]\nmax_tokens_per_minute = 50\n",
            agent("free", '["plain", "mapped", "poor", "poorer", "gone", "nowhere", "locked", "narrow", "hasty"]'),
            model(provider, "hasty", 'timeout = "300ms"\nmax_retries = 0'),
            agent("wide", '["plain"]', "resources.max_concurrent_requests = 2"),
            agent("held", '["plain"]', "resources.max_tokens_per_minute = 50"),
            agent("acme/one", '["plain"]'),
        ]
    )
    with DaemonProcess(tmp_path_factory.mktemp("limits"), text) as process:
        process.call("agent.start", names=["*"])
        yield process


def run(daemon: DaemonProcess, agent: str, *calls: tuple[str, ...], **params: Any) -> Any:
    """Runs a task that calls models, each by its name in the configuration and a script; returns its record."""
    return daemon.call("task.run", agent=agent, objective="call", input=calls, **params)


def statuses(record: Any) -> list[int]:
    return [each["status"] for each in record["output"]]


def test_a_call_may_be_given_another_name_of_a_model(daemon: DaemonProcess) -> None:
    record = run(daemon, "free", ("mapped", "any"))
    assert (record["tokens_used"], record["output"][0]["body"]["model"]) == (10, "in5+w5")


def test_a_failing_provider_is_asked_again(daemon: DaemonProcess, provider: Provider) -> None:
    before = provider.get("/counts").get("requests", 0)
    record = run(daemon, "free", ("plain", "in5+w5+fail2x503"))
    assert (statuses(record), record["tokens_used"]) == ([200], 10)
    assert provider.get("/counts")["requests"] == before + 3


def test_another_model_answers_for_one_that_does_not(daemon: DaemonProcess) -> None:
    record = run(daemon, "free", ("gone", "any"), ("nowhere", "any"), ("locked", "any"))
    assert statuses(record) == [200, 502, 503]
    assert record["output"][0]["model"] == "mapped"
    assert record["tokens_used"] == 10
    used = {each["name"]: each["tokens_today"] for each in daemon.call("models.list")["models"]}
    assert used["gone"] == 0
    assert used["mapped"] >= 10
    assert "MISSING" in json.dumps(record["output"][2]["body"])


def test_a_model_that_has_used_its_day_refuses_and_has_its_fallback_answer(daemon: DaemonProcess) -> None:
    record = run(daemon, "free", ("poor", "in5+w5"), ("poor", "in5+w5"))
    assert statuses(record) == [200, 429]
    refusal = record["output"][1]
    assert refusal["body"]["error"]["corral"]["limit"] == "max_cost_cents_per_day"
    assert refusal["headers"]["x-should-retry"] == "false" or int(refusal["headers"]["retry-after"]) <= 60
    record = run(daemon, "free", ("poorer", "in9+w9"), ("poorer", "any"))
    assert (statuses(record), record["output"][1]["model"]) == ([200, 200], "mapped")


@pytest.mark.parametrize(("name", "owner"), [("held", "agent"), ("acme/one", "tenant")])
def test_an_agent_or_tenant_that_has_used_its_minute_is_refused(daemon: DaemonProcess, name: str, owner: str) -> None:
    record = run(daemon, name, ("plain", "in40+w20"), ("plain", "in40+w20"))
    assert statuses(record) == [200, 429]
    facts = record["output"][1]["body"]["error"]["corral"]
    assert facts == {**{"limit": "max_tokens_per_minute", "value": 50, "used": 60}, owner: name.partition("/")[0]}
    assert 1 <= int(record["output"][1]["headers"]["retry-after"]) <= 62


def test_a_provider_that_hangs_is_busy_or_answers_with_garbage_is_passed_on_as_it_is(
    daemon: DaemonProcess, provider: Provider
) -> None:
    hung_up = provider.get("/counts").get("hung_up", 0)
    record = run(daemon, "free", ("hasty", "hang"), ("plain", "busy30"))
    hung, busy = record["output"]
    assert (hung["status"], hung["body"]["error"]["corral"]["model"]) == (504, "hasty")
    assert (busy["status"], busy["headers"]["retry-after"]) == (429, "30")
    assert record["tokens_used"] == len('{"model": "hang"}') // 4  # the provider has the request
    until(lambda: provider.get("/counts").get("hung_up", 0) > hung_up)
    error = daemon.call("task.submit", agent="free", objective="call", input=[("plain", "garbage")])
    assert daemon.call("task.wait", task=error["id"])["tokens_used"] == 0
    assert statuses(run(daemon, "free", ("plain", "in5+w5"))) == [200]


def test_a_call_counts_for_the_task_that_its_header_or_its_trace_names(
    daemon: DaemonProcess, provider: Provider
) -> None:
    requests = provider.get("/counts").get("requests", 0)
    other = daemon.call("task.submit", agent="wide", objective="call", input=[("plain", "hang")])
    until(lambda: provider.get("/counts").get("requests", 0) > requests)
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    calls = [("plain", "in1+w1", "header"), ("plain", "in2+w2", "trace"), ("plain", "in4+w4")]
    record = run(daemon, "wide", *calls, traceparent=trace)
    assert record["tokens_used"] == 2 + 4  # the third names none of the two that run
    daemon.call("task.cancel", task=other["id"])
    assert daemon.call("task.wait", task=other["id"])["tokens_used"] == 0


def test_calls_that_run_together_pass_a_limit_by_those_under_way_at_most(
    daemon: DaemonProcess, provider: Provider
) -> None:
    served = provider.get("/counts").get("ended", 0)
    record = daemon.call("task.run", agent="free", objective="call", input={"together": [("narrow", "in25+w25")] * 40})
    found = statuses(record)
    assert set(found) == {200, 429}
    assert 2 <= found.count(200) <= 2 + 3
    assert record["tokens_used"] == 50 * found.count(200)
    assert provider.get("/counts")["ended"] == served + found.count(200)
    (last,) = run(daemon, "free", ("narrow", "in25+w25"))["output"]
    assert last["body"]["error"]["corral"]["limit"] == "max_tokens_per_minute"


def test_a_task_ends_when_its_calls_have_used_its_budget(daemon: DaemonProcess) -> None:
    record = daemon.call(
        "task.submit", agent="free", objective="call", input=[("plain", "in40+w20")] * 3, boundaries={"max_tokens": 100}
    )
    record = daemon.call("task.wait", task=record["id"])
    assert (record["state"], record["error"]["name"]) == ("failed", "ResourceLimitExceeded")
    assert record["tokens_used"] == 120
    record = run(daemon, "free", *[("plain", "in40+w10")] * 3, boundaries={"max_tokens": 100})
    assert statuses(record) == [200, 200, 429]
    assert record["output"][2]["body"]["error"]["corral"]["limit"] == "max_tokens"


def test_an_agent_has_its_own_models_alone(daemon: DaemonProcess) -> None:
    record = run(daemon, "free", ("forbidden", "w1"), ("/v1/files", "w1"))
    assert statuses(record) == [404, 404]


def test_costs_and_metrics_show_what_was_measured(daemon: DaemonProcess) -> None:
    record = run(daemon, "free", ("plain", "in5+w5"))
    assert record["cost_cents"] == 10
    shown = json.loads(daemon.corral("--json", "models").stdout)
    plain = next(each for each in shown if each["name"] == "plain")
    assert plain["used_by"] == ["acme/one", "free", "held", "wide"]
    assert (plain["state"], plain["kind"]) == ("up", "openai")
    found = daemon.call("cost.list")["costs"]
    free = next(each for each in found if each["name"] == "free")
    assert free["tokens"] >= 10
    assert KEY not in daemon.corral("models").stdout


STRICT = """
import json, os, socket, sys, urllib.request
def asked(url, key, body=None):
    request = urllib.request.Request(url, body, {"Authorization": f"Bearer {key}", "Content-Type": "application/json"})
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=20) as answer:
        return json.load(answer)
url, key = os.environ["OPENAI_BASE_URL"], os.environ["OPENAI_API_KEY"]
report = {"usage": asked(f"{url}/chat/completions", key, b'{"model": "in5+w5"}')["usage"]["total_tokens"]}
try:
    socket.create_connection(("127.0.0.1", PORT), timeout=5)
    report["other"] = "reached"
except OSError as error:
    report["other"] = type(error).__name__
json.dump(report, open('out/report.tmp', 'w')); os.rename('out/report.tmp', 'out/report')
"""


@needs_strict
@pytest.mark.parametrize("network", ["none", "proxy"])
def test_a_strict_agent_without_a_network_reaches_its_model_and_nothing_else(
    tmp_path: Path, provider: Provider, network: str
) -> None:
    code = STRICT.replace("PORT", provider.url.rpartition(":")[2])
    hosts = 'process.allowed_hosts = ["example.com"]' if network == "proxy" else ""
    more = f'{NEVER}\nmodels = ["plain"]\nprocess.network = "{network}"\n{hosts}'
    text = model(provider, "plain") + strict(tmp_path, code, more)
    with DaemonProcess(tmp_path, text) as daemon:
        assert reported(tmp_path) == {"usage": 10, "other": "ConnectionRefusedError"}
        found = daemon.call("models.list")["models"][0]
        assert (found["tokens_today"], found["cost_cents_today"]) == (10, 10)


@pytest.mark.long
def test_sums_of_the_day_outlive_the_daemon(tmp_path: Path, provider: Provider) -> None:
    text = model(provider, "plain", "max_cost_cents_per_day = 10") + agent("free", '["plain"]')
    with DaemonProcess(tmp_path, text) as daemon:
        assert statuses(run(daemon, "free", ("plain", "in5+w5"))) == [200]
        daemon.stop()
        daemon.start()
        assert daemon.call("models.list")["models"][0]["tokens_today"] == 10
        assert statuses(run(daemon, "free", ("plain", "in5+w5"))) == [429]


def test_an_answer_without_a_usage_is_estimated_and_marked(daemon: DaemonProcess) -> None:
    record = run(daemon, "free", ("plain", "w8+nousage"), ("plain", "in5+w5"))
    assert statuses(record) == [200, 200]
    words = " ".join(["word"] * 8)
    used = len('{"model": "w8+nousage"}') // 4 + -(-len(words) // 4)
    assert (record["tokens_estimated"], record["tokens_used"]) == (used, used + 10)
    assert "ESTIMATED" in daemon.corral("models").stdout
