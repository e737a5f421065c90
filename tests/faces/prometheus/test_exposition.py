"""The text of a scrape: its form, its labels, its limits; and the rules and the dashboard of examples/monitoring."""

import shutil
import subprocess
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families as read_text

from corral.supervisor.api.metrics.histogram import bucket_of
from corral.supervisor.faces.prometheus.exposition import encoded
from corral.supervisor.faces.prometheus.snapshot import (
    OTHERS,
    AgentFigures,
    PartFigures,
    Snapshot,
    WorkerFigures,
    summed,
)

pytestmark = pytest.mark.core

MONITORING = Path(__file__).parents[3] / "examples" / "monitoring"


def snapshot() -> Snapshot:
    agent = AgentFigures("crew", "agent", wanted=2, ok=7, failed=2, cancelled=1)
    for duration_ms in (0.5, 3.0, 3.0, 60_000.0, 1e12):
        agent.durations[bucket_of(duration_ms)] += 1
    agent.ended_s = 4.5
    agent.states.update({"Idle": 1, "Busy": 1})
    server = AgentFigures("time", "mcp", ok=3, tool_calls=3)
    worker = WorkerFigures("crew", "crew-0", 5_000_000, 0.25)
    parts = {"daemon": PartFigures(1, 60_000_000, 1.5)}
    return Snapshot([agent, server], [worker], parts=parts, degraded=["store"], alerts={"sent": 1})


def values(text: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in read_text(text)
        for sample in family.samples
    }


def test_the_text_has_every_figure_under_its_name() -> None:
    text, content_type = encoded(snapshot(), "")
    assert content_type.startswith("text/plain; version=")
    found = values(text.decode())

    def value(name: str, **labels: str) -> float:
        return found[name, frozenset(labels.items())]

    assert value("corral_tasks_total", agent="crew", outcome="ok") == 7
    assert value("corral_tasks_total", agent="crew", outcome="cancelled") == 1
    assert value("corral_task_duration_seconds_sum", agent="crew") == 4.5
    durations = {
        labels: number
        for (name, labels), number in found.items()
        if name == "corral_task_duration_seconds_bucket" and ("agent", "crew") in labels
    }
    counts = {float(dict(labels)["le"]): number for labels, number in durations.items()}
    assert [counts[each] for each in sorted(counts)] == [1, *[3] * 7, *[4] * 4, 5]
    assert sorted(counts)[:2] == [0.001024, 0.004096]
    assert value("corral_agent_workers", agent="crew", kind="agent", state="Busy") == 1
    assert value("corral_worker_memory_bytes", agent="crew", worker="crew-0") == 5_000_000
    assert value("corral_mcp_tool_calls_total", server="time", outcome="ok") == 3
    assert value("corral_process_cpu_seconds_total", part="daemon") == 1.5
    assert value("corral_degraded", part="store") == 1
    assert not any(name.startswith("corral_task") and ("agent", "time") in labels for name, labels in found)


def test_openmetrics_is_sent_to_those_who_ask_for_it() -> None:
    text, content_type = encoded(snapshot(), "application/openmetrics-text;version=1.0.0")
    assert content_type.startswith("application/openmetrics-text")
    assert text.endswith(b"# EOF\n")
    assert b"# TYPE corral_tasks counter\n" in text
    assert b"# TYPE corral_build info\n" in text


def test_a_caller_with_some_agents_sees_nothing_of_the_daemon() -> None:
    figures = snapshot()
    figures.parts = None
    text, _ = encoded(figures, "")
    assert b"corral_process" not in text
    assert b"corral_degraded" not in text
    assert b"corral_tasks_total" in text


def test_names_beyond_the_limit_are_summed_and_nothing_is_lost() -> None:
    figures = [AgentFigures(f"a{n:03}", "agent", ok=n) for n in range(10)]
    figures += [AgentFigures("s", "mcp", ok=1000), AgentFigures("t", "mcp", ok=1)]
    for figure in figures:
        figure.states["Idle"] = 1
    found = summed(figures, 4)
    assert [each.name for each in found] == ["a000", "a001", "a002", "a003", OTHERS, OTHERS]
    assert [(each.kind, each.ok) for each in found[4:]] == [("agent", 39), ("mcp", 1001)]
    assert [each.states["Idle"] for each in found[4:]] == [6, 2]
    assert summed(figures, 12) == figures


# -- what Prometheus itself says


@pytest.fixture(scope="module")
def promtool() -> str:
    found = shutil.which("promtool")
    if found is None:
        pytest.skip("promtool is not installed: it is in Debian's package prometheus")
    return found


def test_promtool_accepts_the_text(promtool: str) -> None:
    text, _ = encoded(snapshot(), "")
    done = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")


def test_promtool_accepts_the_rules_and_they_alert_when_they_should(promtool: str) -> None:
    for arguments in (["check", "rules", "corral.rules.yml"], ["test", "rules", "corral.rules.test.yml"]):
        done = subprocess.run([promtool, *arguments], cwd=MONITORING, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
