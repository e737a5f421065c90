"""A scrape of a real daemon: its figures are those of `statistics.show`, and rules and dashboard name what it has."""

import json
import re
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from daemon_process import AGENTS, BOUND_S, DaemonProcess

pytestmark = pytest.mark.shell

MONITORING = Path(__file__).parents[2] / "examples" / "monitoring"

CONFIG = f"""
[daemon]
http = "127.0.0.1:0"
[recovery]
restart_backoff_base = "10ms"
[agents.crew]
entrypoint = "crew_agent:agent"
process.working_directory = "{AGENTS}"
[agents.broken]
command = ["false"]
protocol = "none"
recovery.max_restart_attempts = 2
[mcp.servers.state]
command = ["{sys.executable}", "-I", "{AGENTS}/mcp_state.py"]
"""

Values = dict[tuple[str, frozenset[tuple[str, str]]], float]

METRIC = re.compile(r"\bcorral_[a-z_]+")


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    with DaemonProcess(tmp_path_factory.mktemp("prometheus"), CONFIG) as process:
        process.call("agent.start", names=["crew", "state"])
        process.await_worker("broken-0", lambda w: w["last_exit"]["result"] == "restart-limit")
        yield process


def get(daemon: DaemonProcess, token: str | None, path: str = "/metrics") -> tuple[int, str]:
    address = daemon.call("daemon.status", names=[])["daemon"]["http"]
    request = urllib.request.Request(f"http://{address}{path}")
    if token is not None:
        request.add_header("Authorization", f"Bearer {token}")
    try:
        with urllib.request.urlopen(request, timeout=BOUND_S) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def scrape(daemon: DaemonProcess, token: str | None = None) -> Values:
    status, text = get(daemon, token or (daemon.state_dir / "http.token").read_text().strip())
    assert status == 200, text
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(found: Values, name: str, **labels: str) -> float:
    return found[name, frozenset(labels.items())]


def test_a_scrape_has_the_figures_of_the_statistics(daemon: DaemonProcess) -> None:
    for objective in ("echo", "echo", "spend"):
        daemon.call("task.run", agent="crew", objective=objective)
    daemon.call("mcp.call", name="state__get", arguments={})
    found = scrape(daemon)
    shown = daemon.call("statistics.show")
    crew, state = shown["agents"]["crew"], shown["mcp_servers"]["state"]
    assert value(found, "corral_tasks_total", agent="crew", outcome="ok") == crew["executor"]["ok"]
    assert crew["executor"]["ok"] == 3
    calls = value(found, "corral_mcp_tool_calls_total", server="state", outcome="ok")
    assert calls == state["executor"]["ok"] == 1
    assert value(found, "corral_agent_workers", agent="crew", kind="agent", state="Idle") == 1
    assert value(found, "corral_restarts_total", agent="broken", kind="agent") == 2
    assert value(found, "corral_worker_starts_total", agent="broken", kind="agent") == 3
    assert value(found, "corral_process_resident_memory_bytes", part="daemon") > 10_000_000


def test_a_token_with_read_is_enough_and_sees_its_agents_alone(daemon: DaemonProcess) -> None:
    assert get(daemon, None)[0] == 401
    token = daemon.call("token.add", name="scraper", rights="read", agents=["crew"])["token"]
    found = scrape(daemon, token)
    agents = {dict(labels).get("agent") or dict(labels).get("server") for _, labels in found}
    assert agents == {"crew", None}
    assert not any(name.startswith("corral_process") for name, _ in found)


def test_what_is_no_scrape_is_refused(daemon: DaemonProcess) -> None:
    token = (daemon.state_dir / "http.token").read_text().strip()
    assert get(daemon, token, "/metrics/more")[0] == 404


def test_rules_and_dashboard_name_only_metrics_that_a_scrape_has(daemon: DaemonProcess) -> None:
    token = (daemon.state_dir / "http.token").read_text().strip()
    _, text = get(daemon, token)
    known = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE ")}
    known |= {f"{name}{end}" for name in known for end in ("_count", "_sum", "_bucket")}
    rules = yaml.safe_load((MONITORING / "corral.rules.yml").read_text())
    recorded = {rule.get("record") for group in rules["groups"] for rule in group["rules"]}
    asked = [rule["expr"] for group in rules["groups"] for rule in group["rules"]]
    board = json.loads((MONITORING / "corral.dashboard.json").read_text())
    asked += [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    asked += [each["definition"] for each in board["templating"]["list"] if "definition" in each]
    for record in filter(None, recorded):
        asked = [expression.replace(record, "") for expression in asked]
    named = {name for expression in asked for name in METRIC.findall(expression)}
    assert len(named) > 15
    assert named <= known, named - known


def test_metrics_that_are_switched_off_are_not_there_at_once(daemon: DaemonProcess) -> None:
    token = (daemon.state_dir / "http.token").read_text().strip()
    daemon.config.write_text(f"[monitoring]\nenable_metrics = false\n{CONFIG}")
    daemon.call("daemon.reload")
    assert get(daemon, token)[0] == 404
    own = CONFIG.replace("[agents.broken]", "[agents.broken]\nmonitoring.enable_metrics = false")
    daemon.config.write_text(own)
    daemon.call("daemon.reload")
    found = scrape(daemon)
    assert {dict(labels).get("agent") for _, labels in found} >= {"crew"}
    assert "broken" not in {dict(labels).get("agent") for _, labels in found}
    daemon.config.write_text(CONFIG)
    daemon.call("daemon.reload")
