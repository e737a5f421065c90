"""Traces under a whole daemon: one of parents and children from the caller to the tool, sent to a real receiver of OTLP."""

import http.client
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from daemon_process import AGENTS, BIN, BOUND_S, DaemonProcess
from otlp_receiver import Received, Receiver

pytestmark = pytest.mark.shell

TRACE, ABOVE = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
GIVEN = f"00-{TRACE}-{ABOVE}-01"

CREW = f"""
[daemon]
http = "127.0.0.1:0"
[telemetry]
otlp = "ADDRESS"
[tasks]
retry_backoff_base = "1ms"
[agents.leads]
entrypoint = "traced_agent:leads"
process.working_directory = "{AGENTS}"
tasks.retry_on = "any"
[agents.helps]
entrypoint = "traced_agent:helps"
process.working_directory = "{AGENTS}"
[mcp.servers.traced]
command = ["{sys.executable}", "{AGENTS / "mcp_traced.py"}"]
"""


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    with Receiver() as found:
        yield found


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory, receiver: Receiver) -> Iterator[DaemonProcess]:
    config = CREW.replace("ADDRESS", receiver.address)
    with DaemonProcess(tmp_path_factory.mktemp("d"), config) as found:
        yield found


def post(daemon: DaemonProcess, path: str, body: object, headers: Mapping[str, str]) -> Any:
    address = str(daemon.call("daemon.status")["daemon"]["http"])
    token = (daemon.state_dir / "http.token").read_text().strip()
    connection = http.client.HTTPConnection(address)
    whole = {"Authorization": f"Bearer {token}", "Content-Type": "application/json", **headers}
    connection.request("POST", path, json.dumps(body), whole)
    answer = connection.getresponse()
    found = json.loads(answer.read())
    connection.close()
    assert answer.status == 200, found
    return found


def of_task(spans: list[Received], name: str, task: str) -> Received:
    (found,) = [each for each in spans if each.name == name and each.attributes.get("corral.task.id") == task]
    return found


def until_ended(receiver: Receiver, task: str) -> list[Received]:
    """All spans, when that of the task has arrived; the others of it were sent before."""
    return receiver.until(
        lambda r: any(
            each.attributes.get("corral.task.state") and each.attributes["corral.task.id"] == task for each in r.spans
        )
    )


def context_of(span: Received) -> str:
    return f"00-{span.trace}-{span.span}-01"


def test_one_trace_goes_from_a_request_through_a_delegation_to_the_tool(
    daemon: DaemonProcess, receiver: Receiver
) -> None:
    run = {"objective": "delegate"}
    task = post(daemon, "/api/v1/agents/leads/run", run, {"traceparent": GIVEN})
    assert task["traceparent"] == GIVEN
    child = task["children"][0]
    spans = until_ended(receiver, task["id"])
    lead, attempt = (of_task(spans, name, task["id"]) for name in ("invoke_agent leads", "attempt 1"))
    help_, inner = (of_task(spans, name, child) for name in ("invoke_agent helps", "attempt 1"))
    tool = of_task(spans, "execute_tool traced__where", child)
    chain = [lead, attempt, help_, inner, tool]
    assert [each.parent for each in chain] == [ABOVE, *(each.span for each in chain[:-1])]
    assert {each.trace for each in chain} == {TRACE}
    assert all(each.start_ns <= each.end_ns for each in chain)
    for name, owner in ((task["id"], lead), (child, help_)):
        assert of_task(spans, "queue", name).parent == owner.span
    assert (lead.kind, help_.kind, tool.kind) == (2, 1, 3)  # server, internal, client
    assert lead.attributes["gen_ai.agent.name"] == "leads"
    assert tool.attributes["gen_ai.tool.name"] == "traced__where"
    assert tool.attributes["gen_ai.operation.name"] == "execute_tool"
    # What a handler and the server of the tool were given.
    assert task["output"]["own"] == context_of(attempt)
    assert task["output"]["below"] == {"child": context_of(inner), "tool": context_of(tool)}


def test_the_attempts_of_a_task_are_spans_and_the_failed_one_says_why(
    daemon: DaemonProcess, receiver: Receiver
) -> None:
    environ = {"TRACEPARENT": GIVEN}
    done = subprocess.run(
        [str(BIN / "corral"), f"--socket={daemon.socket}", "--json", "run", "leads", "fail once"],
        env={**os.environ, **environ},
        capture_output=True,
        check=True,
    )
    task = json.loads(done.stdout)["id"]
    spans = until_ended(receiver, task)
    first, second = (of_task(spans, name, task) for name in ("attempt 1", "attempt 2"))
    whole = of_task(spans, "invoke_agent leads", task)
    assert (whole.trace, whole.parent) == (TRACE, ABOVE)
    assert first.parent == second.parent == whole.span
    assert (first.is_error, first.attributes["error.type"]) == (True, "TaskFailed")
    assert (second.is_error, whole.is_error) == (False, False)


def test_a_client_that_has_no_trace_begins_one_with_its_tool_call(daemon: DaemonProcess, receiver: Receiver) -> None:
    answered = daemon.call("mcp.call", name="traced__where")["content"][0]["text"]
    spans = receiver.until(lambda r: any(each.span in answered for each in r.spans))
    (tool,) = [each for each in spans if each.span in answered]
    assert (context_of(tool), tool.parent) == (answered, "")
    asked = daemon.call("mcp.call", name="traced__where", traceparent=GIVEN)
    assert TRACE in asked["content"][0]["text"]


def test_a_trace_that_its_caller_does_not_record_is_passed_on_and_not_sent(
    daemon: DaemonProcess, receiver: Receiver
) -> None:
    silent = f"00-{'ab' * 16}-{ABOVE}-00"
    task = daemon.call("task.run", agent="leads", objective="say", traceparent=silent)
    assert task["output"].startswith(f"00-{'ab' * 16}-")
    assert task["output"].endswith("-00")
    ended = daemon.call("task.run", agent="leads", objective="say")["id"]
    spans = until_ended(receiver, ended)
    assert not [each for each in spans if each.trace == "ab" * 16]


@pytest.mark.parametrize("given", ["x", f"00-{'0' * 32}-{ABOVE}-01", f"{GIVEN}-more"])
def test_a_header_that_is_no_trace_context_is_ignored(daemon: DaemonProcess, given: str) -> None:
    task = post(daemon, "/api/v1/agents/leads/run", {"objective": "say"}, {"traceparent": given})
    assert task["traceparent"] is None
    assert task["output"].startswith("00-")


def _is_told_once(folder: Path, config: str, receiver: Receiver) -> None:
    before = receiver.requests
    with DaemonProcess(folder, config) as daemon:
        for _ in range(20):
            task = daemon.call("task.run", agent="leads", objective="say")
            assert task["state"] == "succeeded"
        receiver.until(lambda r: r.requests > before)
        daemon.stop()  # it does not wait for the collector
        daemon.start()
        events = daemon.call("event.list", types=["daemon.degraded"])["events"]
        (told,) = [each for each in events if each["part"] == "telemetry"]
        assert told["lost"] > 0


@pytest.mark.long
def test_a_collector_that_takes_nothing_costs_spans_alone_and_that_is_reported_once(tmp_path: Path) -> None:
    with Receiver() as receiver:
        config = CREW.replace("ADDRESS", receiver.address)
        for status in (503, None):  # it refuses, and it does not answer
            receiver.status = status
            folder = tmp_path / str(status)
            folder.mkdir()
            _is_told_once(folder, config, receiver)


@pytest.mark.long
def test_without_telemetry_a_context_is_passed_on_and_nothing_is_imported(tmp_path: Path) -> None:
    config = CREW.replace('otlp = "ADDRESS"', "")
    with DaemonProcess(tmp_path, config) as daemon:
        assert daemon.process is not None
        task = daemon.call("task.run", agent="leads", objective="delegate", traceparent=GIVEN)
        assert task["output"] == {"own": GIVEN, "below": {"child": GIVEN, "tool": GIVEN}}
        plain = daemon.call("task.run", agent="leads", objective="say")
        assert (plain["output"], plain["traceparent"]) == (None, None)
        maps = Path(f"/proc/{daemon.process.pid}/maps").read_text()
        assert "google/_upb" not in maps  # what encodes protobuf
    code = "import sys, corral.supervisor.daemon.composition.groups; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "opentelemetry" not in done.stdout


def test_a_daemon_without_the_extra_refuses_to_start_and_names_it(tmp_path: Path) -> None:
    hiding = tmp_path / "opentelemetry"
    hiding.mkdir()
    (hiding / "__init__.py").touch()
    config = tmp_path / "corral.toml"
    config.write_text('[telemetry]\notlp = "http://127.0.0.1:9"\n')
    state = [f"--socket={tmp_path / 'c.sock'}", f"--state-dir={tmp_path / 'state'}"]
    done = subprocess.run(
        [str(BIN / "corrald"), f"--config={config}", *state],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=BOUND_S,
    )
    assert done.returncode == 2
    assert "corral[otel]" in done.stderr
