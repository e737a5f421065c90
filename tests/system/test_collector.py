"""Figures and log lines under a whole daemon, sent to a real receiver of OTLP."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from daemon_process import AGENTS, DaemonProcess
from otlp_receiver import Receiver, attributes_of

pytestmark = pytest.mark.shell

CREW = f"""
[telemetry]
otlp = "ADDRESS"
traces = false
metrics = true
metrics_interval = "100ms"
logs = true
[agents.echo]
entrypoint = "traced_agent:leads"
process.working_directory = "{AGENTS}"
[agents.printer]
protocol = "none"
command = ["sh", "-c", "printf 'one\\\\ntwo\\\\n\\\\377\\\\n'; exec sleep 3600"]
"""


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as found:
        yield found


def point(metric: Any, **labels: str) -> Any:  # Any: messages of protobuf
    data = getattr(metric, metric.WhichOneof("data"))
    (found,) = [each for each in data.data_points if attributes_of(each) == labels]
    return found


def test_a_collector_has_the_figures_of_metrics_and_the_lines_of_workers(tmp_path: Path, receiver: Receiver) -> None:
    began_ns = time.time_ns()
    with DaemonProcess(tmp_path, CREW.replace("ADDRESS", receiver.address)) as daemon:
        for _ in range(3):
            task = daemon.call("task.run", agent="echo", objective="say", input="hello")
            assert task["state"] == "succeeded"

        def has_counted(_: Receiver) -> bool:
            tasks = receiver.metrics.get("corral_tasks")
            return tasks is not None and point(tasks, agent="echo", outcome="ok").as_double == 3

        receiver.until(has_counted)
        receiver.until(lambda r: len([*printed(r)]) >= 3)
        seen = dict(receiver.metrics)  # those of its end have no wanted workers
    tasks = seen["corral_tasks"]
    assert (tasks.sum.aggregation_temporality, tasks.sum.is_monotonic) == (2, True)  # cumulative
    durations = point(seen["corral_task_duration_seconds"], agent="echo")
    assert (durations.count, sum(durations.bucket_counts)) == (3, 3)
    assert len(durations.bucket_counts) == len(durations.explicit_bounds) + 1
    assert seen["corral_task_duration_seconds"].unit == "s"
    assert durations.start_time_unix_nano <= durations.time_unix_nano
    ready = point(seen["corral_agent_wanted_workers"], agent="printer", kind="agent")
    assert ready.as_double == 1
    lines = [*printed(receiver)]
    assert [each.body for each in lines] == ["one", "two", b"\xff"]
    for line in lines:
        assert began_ns < line.time_ns < time.time_ns()
        assert line.attributes["gen_ai.agent.id"] == "printer-0"
        assert line.attributes["log.iostream"] == "stdout"


def test_lines_that_a_collector_refused_come_when_it_takes_them(tmp_path: Path, receiver: Receiver) -> None:
    receiver.status = 400
    config = CREW.replace("ADDRESS", receiver.address).replace("metrics = true", "metrics = false")
    with DaemonProcess(tmp_path, config):
        receiver.until(lambda r: r.requests >= 2)
        receiver.status = 200
        receiver.until(lambda r: len([*printed(r)]) >= 3)
    assert [each.body for each in printed(receiver)] == ["one", "two", b"\xff"]


def printed(receiver: Receiver) -> Iterator[Any]:
    for line in receiver.lines:
        if line.attributes["gen_ai.agent.name"] == "printer":
            yield line
