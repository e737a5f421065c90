"""Names the figures of a scrape by the conventions of Prometheus: base units, `_total` for counters, bounded labels.

A counter begins at 0 with the daemon, and that of an agent with the agent. prometheus_client is imported with this module,
and this module with the first scrape.
"""

import platform
from collections.abc import Callable, Iterable, Iterator, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, InfoMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from corral.supervisor.api.metrics.histogram import PER_DOUBLING, upper_ms

from .snapshot import AgentFigures, ModelFigures, Snapshot

BOUNDS = range(10 * PER_DOUBLING, 33 * PER_DOUBLING, 2 * PER_DOUBLING)
"""Buckets at whose upper ends a histogram is cut: 1 ms, and four times as much from each to the next, up to 72 minutes."""

Of = Callable[[AgentFigures], float]

Row = tuple[str, str, Of]
"""The name of a metric, its text, and where its figure is."""


def encoded(snapshot: Snapshot, accept: str) -> tuple[bytes, str]:
    """Returns the text of a snapshot in the format that `Accept` asks for, and its content type."""
    encoder, content_type = choose_encoder(accept)
    return encoder(_Figures(snapshot)), content_type


def metrics(snapshot: Snapshot) -> Iterator[Metric]:
    """Yields the metrics of a snapshot with their samples."""
    return _Figures(snapshot).collect()


class _Figures(Collector):
    """Collects the metrics of one snapshot."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def collect(self) -> Iterator[Metric]:
        """Yields each metric with all of its samples."""
        snapshot = self._snapshot
        yield InfoMetricFamily(
            "corral_build", "Version of the daemon.", {"version": snapshot.version, "python": platform.python_version()}
        )
        yield from _of_daemon(snapshot)
        yield from _of_workers(snapshot)
        yield from _of_tasks([each for each in snapshot.agents if each.kind != "mcp"])
        yield from _of_servers([each for each in snapshot.agents if each.kind == "mcp"])
        yield from _of_models(snapshot.models)


def _of_daemon(snapshot: Snapshot) -> Iterator[Metric]:
    if snapshot.parts is None:
        return
    yield GaugeMetricFamily(
        "corral_start_time_seconds", "When the daemon began to count, in Unix time.", snapshot.started_s
    )
    yield GaugeMetricFamily("corral_draining", "1 while the daemon takes no new work.", float(snapshot.is_draining))
    degraded = GaugeMetricFamily(
        "corral_degraded", "1 for each part of the daemon that does not work as it should.", labels=["part"]
    )
    for part in snapshot.degraded:
        degraded.add_metric([part], 1)
    yield degraded
    cpu = CounterMetricFamily(
        "corral_process_cpu_seconds", "Processor time of corral's own processes.", labels=["part"]
    )
    memory = GaugeMetricFamily(
        "corral_process_resident_memory_bytes", "Resident memory of corral's own processes.", labels=["part"]
    )
    count = GaugeMetricFamily("corral_processes", "Number of corral's own processes.", labels=["part"])
    for part, figures in snapshot.parts.items():
        cpu.add_metric([part], figures.cpu_s)
        memory.add_metric([part], figures.memory_bytes)
        count.add_metric([part], figures.processes)
    yield from (cpu, memory, count)
    methods = HistogramMetricFamily(
        "corral_method_duration_seconds", "Time from a call of a method of the daemon to its answer.", labels=["method"]
    )
    for method, (durations, total_s) in snapshot.methods.items():
        _add_durations(methods, [method], durations, total_s)
    yield methods
    alerts = CounterMetricFamily("corral_alerts", "Alerts by their result.", labels=["result"])
    for result, number in snapshot.alerts.items():
        alerts.add_metric([result], number)
    yield alerts


def _of_workers(snapshot: Snapshot) -> Iterator[Metric]:
    """Yields what agents and MCP servers have in common: `agent` is the name of either, `kind` agent or mcp."""
    found = [each for each in snapshot.agents if each.kind in ("agent", "mcp")]
    states = GaugeMetricFamily(
        "corral_agent_workers",
        "Number of workers in each state; a state without workers has no series.",
        labels=["agent", "kind", "state"],
    )
    for each in found:
        for state, number in each.states.items():
            states.add_metric([each.name, each.kind, state], number)
    yield states
    health = GaugeMetricFamily(
        "corral_agent_health_score",
        "0 to 100, as in corral status: how well an agent has done lately.",
        labels=["agent", "kind"],
    )
    for each in found:
        if each.health is not None:
            health.add_metric([each.name, each.kind], each.health)
    yield health
    gauges: list[Row] = [
        ("corral_agent_wanted_workers", "Number of workers that are to be up.", lambda each: each.wanted),
        (
            "corral_agent_memory_bytes",
            "Resident memory of all workers with their processes, by the last sample.",
            lambda each: each.memory_bytes,
        ),
        ("corral_agent_open_files", "Open files of all workers, by the last sample.", lambda each: each.open_files),
    ]
    yield from _figures(GaugeMetricFamily, gauges, found, ["agent", "kind"])
    counters: list[Row] = [
        (
            "corral_agent_cpu_seconds",
            "Processor time of all workers there were, with their processes, by the last sample.",
            lambda each: each.cpu_s,
        ),
        ("corral_worker_starts", "Processes of workers that were started.", lambda each: each.starts),
        ("corral_restarts", "Starts of workers after failures.", lambda each: each.restarts),
    ]
    yield from _figures(CounterMetricFamily, counters, found, ["agent", "kind"])
    lost = GaugeMetricFamily(
        "corral_log_lost_lines",
        "Log lines of the workers there are that could not be written.",
        labels=["agent", "kind"],
    )
    for each in found:
        if each.lost_lines:
            lost.add_metric([each.name, each.kind], each.lost_lines)
    yield lost
    yield from _of_each_worker(snapshot)


def _of_each_worker(snapshot: Snapshot) -> Iterator[Metric]:
    memory = GaugeMetricFamily(
        "corral_worker_memory_bytes",
        "Resident memory of a worker with its processes, by the last sample.",
        labels=["agent", "worker"],
    )
    cpu = GaugeMetricFamily(
        "corral_worker_cpu_ratio",
        "Share of one processor that a worker uses, over the last second or more.",
        labels=["agent", "worker"],
    )
    for worker in snapshot.workers:
        memory.add_metric([worker.agent, worker.worker], worker.memory_bytes)
        cpu.add_metric([worker.agent, worker.worker], worker.cpu_ratio)
    yield from (memory, cpu)


def _of_tasks(found: list[AgentFigures]) -> Iterator[Metric]:
    """Yields the tasks of agents, teams and workflows: `agent` is the name of any of them."""
    gauges: list[Row] = [
        ("corral_queue_depth", "Number of tasks that wait.", lambda each: each.queued),
        ("corral_tasks_running", "Number of tasks that run.", lambda each: each.running),
    ]
    yield from _figures(GaugeMetricFamily, gauges, found, ["agent"])
    tasks = CounterMetricFamily("corral_tasks", "Tasks that have ended, by outcome.", labels=["agent", "outcome"])
    durations = HistogramMetricFamily(
        "corral_task_duration_seconds", "Time from the begin of a task's last attempt to its end.", labels=["agent"]
    )
    for each in found:
        _add_outcomes(tasks, each)
        _add_durations(durations, [each.name], each.durations, each.ended_s)
    yield from (tasks, durations)
    counters: list[Row] = [
        ("corral_tokens", "Tokens that tasks have used.", lambda each: each.tokens),
        ("corral_cost_cents", "Cents that tasks have used.", lambda each: each.cost_cents),
        ("corral_tool_calls", "Tool calls of an agent's workers.", lambda each: each.tool_calls),
    ]
    yield from _figures(CounterMetricFamily, counters, found, ["agent"])


def _of_servers(found: list[AgentFigures]) -> Iterator[Metric]:
    calls = CounterMetricFamily(
        "corral_mcp_tool_calls", "Tool calls that have reached a server, by outcome.", labels=["server", "outcome"]
    )
    durations = HistogramMetricFamily(
        "corral_mcp_tool_call_duration_seconds", "Time that tool calls took.", labels=["server"]
    )
    for each in found:
        _add_outcomes(calls, each)
        _add_durations(durations, [each.name], each.durations, each.ended_s)
    yield from (calls, durations)
    gauges: list[Row] = [
        ("corral_mcp_calls_in_flight", "Number of requests that a server works on.", lambda each: each.in_flight),
        ("corral_mcp_calls_waiting", "Number of requests that wait for a server.", lambda each: each.waiting),
    ]
    yield from _figures(GaugeMetricFamily, gauges, found, ["server"])
    counters: list[Row] = [
        ("corral_mcp_retries", "Requests that were sent once more.", lambda each: each.retries),
        ("corral_mcp_refused", "Requests beyond max_calls_per_minute.", lambda each: each.refused),
    ]
    yield from _figures(CounterMetricFamily, counters, found, ["server"])


def _of_models(found: list[ModelFigures]) -> Iterator[Metric]:
    """Yields what the gateway has measured; a model that was not called has no series."""
    tables: list[tuple[str, str, str, Callable[[ModelFigures], Mapping[str, float]]]] = [
        ("corral_model_tokens", "Measured tokens of a model, by what they are.", "part", lambda each: each.tokens),
        (
            "corral_model_calls",
            "Calls of a model that were let pass, by outcome; recorded ones were answered from the record of their task.",
            "outcome",
            lambda each: each.calls,
        ),
        (
            "corral_model_refused",
            "Calls of a model that were refused, by limit or reason.",
            "limit",
            lambda each: each.refused,
        ),
    ]
    for name, text, label, of in tables:
        counter = CounterMetricFamily(name, text, labels=["model", label])
        for each in found:
            for value, count in of(each).items():
                counter.add_metric([each.name, value], count)
        yield counter
    cost = CounterMetricFamily("corral_model_cost_cents", "Measured cents of a model.", labels=["model"])
    for each in found:
        cost.add_metric([each.name], each.cost_cents)
    yield cost
    estimated = CounterMetricFamily(
        "corral_model_calls_estimated",
        "Calls of a model whose provider has told no usage, so that it is estimated.",
        labels=["model"],
    )
    for each in found:
        estimated.add_metric([each.name], each.estimated)
    yield estimated


def _figures(
    make: type[GaugeMetricFamily] | type[CounterMetricFamily],
    rows: Iterable[Row],
    found: Iterable[AgentFigures],
    labels: list[str],
) -> Iterator[Metric]:
    """Yields a metric for each row, with a figure of each found; `labels` are those of its name, and of its kind if two."""
    for name, text, of in rows:
        metric = make(name, text, labels=labels)
        for each in found:
            metric.add_metric([each.name, each.kind][: len(labels)], of(each))
        yield metric


def _add_durations(
    histogram: HistogramMetricFamily, labels: list[str], durations: Mapping[int, int], total_s: float
) -> None:
    """Adds durations in few buckets, which are sums of those in which they were counted; nothing before the first."""
    if not durations:
        return
    count = 0
    buckets: list[tuple[str, float]] = []
    left = sorted(durations.items(), reverse=True)
    for bound in BOUNDS:
        while left and left[-1][0] <= bound:
            count += left.pop()[1]
        buckets.append((f"{upper_ms(bound) / 1000:.6g}", count))
    buckets.append(("+Inf", count + sum(number for _, number in left)))
    histogram.add_metric(labels, buckets, total_s)


def _add_outcomes(counter: CounterMetricFamily, each: AgentFigures) -> None:
    for outcome in ("ok", "failed", "cancelled"):
        counter.add_metric([each.name, outcome], getattr(each, outcome))
