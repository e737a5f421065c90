"""Each key that "takes effect at once" does: a probe for each changes it under a running daemon and sees the effect.

The keys are those of the table itself (`diff.changed`, `diff.LIVE`): a new live key without a probe fails.
"""

import copy
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

import live_probes
from corral.supervisor.config.decoding.keys import fields_of
from corral.supervisor.config.spec import diff, spec
from corral.worker.contract.errors import CorralError
from daemon_process import BOUND_S, DaemonProcess
from live_keys import BASE, PROBES, Json, Live, Probe, inline, probe

AT_EACH_USE = "it is read at each use, which cannot be seen from outside; the tests of its room show it"
SHOWN_ELSEWHERE: dict[str, str] = {
    "mcp.list_limit": "test_long_lists.py::test_the_limit_and_the_pinned_tools_are_live",
    "mcp.pinned": "test_long_lists.py::test_the_limit_and_the_pinned_tools_are_live",
    "rolling": "test_rolling.py::test_a_worker_that_may_not_have_another_beside_it_finishes_first_and_is_started_anew",
    "smoke": "test_rolling.py::test_the_smoke_task_decides_whether_a_version_gets_others",
    "expose": "test_exposed_agents.py::test_a_client_learns_of_agents_that_are_added_changed_and_removed",
    "input_schema": "test_exposed_agents.py::test_a_reload_changes_the_schemas_without_a_restart",
    "output_schema": "test_exposed_agents.py::test_a_reload_changes_the_schemas_without_a_restart",
    "task_support": "test_exposed_agents.py::test_a_tool_that_requires_a_task_is_refused_to_clients_without_tasks",
    "ask_missing": "test_exposed_agents.py::test_a_person_is_asked_for_required_arguments_that_a_call_leaves_out",
    "control": "test_rights.py::test_a_grant_is_taken_back_by_a_reload_without_a_restart",
    "placement": "test_cluster_placement.py::test_labels_choose_nodes_and_a_reload_adds_changes_and_removes",
    "mcp.on_tool_change": "test_tool_pins.py::test_a_reload_that_holds_what_has_changed_needs_no_restart",
    "models": "test_models.py::test_a_reload_changes_prices_and_limits_of_a_model",
    "stores": "test_stores.py::test_a_reload_rolls_the_workers_of_a_store_whose_address_has_changed",
    "memory.pool": "test_memory.py::test_a_reload_changes_a_pool_and_the_agents_in_it",
    "pools": "test_memory.py::test_a_reload_changes_a_pool_and_the_agents_in_it",
    "monitoring.enable_metrics": "test_metrics.py::test_collecting_is_stopped_and_begun_again_by_a_reload",
    "daemon.journal": "test_daemon_log.py::test_a_reload_turns_the_copies_of_workers_lines_on_and_off",
}
"""Live key -> the test that changes it under a running daemon."""

NOT_SEEN: dict[str, str] = {
    "audit.max_bytes": AT_EACH_USE,
    "concurrency": AT_EACH_USE,
    "memo": AT_EACH_USE,
    "mcp.enable_mcp_logging": AT_EACH_USE,
    "mcp.max_retries": AT_EACH_USE,
    "mcp.probe_timeout": "it is read when a server is greeted, at its next start",
    "mcp.protocol_version": "an agent speaks no MCP; what does is restarted",
    "memory.cleanup_interval": AT_EACH_USE,
    "memory.compression": AT_EACH_USE,
    "memory.max_pool_bytes": AT_EACH_USE,
    "metrics.health_window": AT_EACH_USE,
    "metrics.problem_average": AT_EACH_USE,
    "metrics.problem_average_tasks": AT_EACH_USE,
    "metrics.problem_error_percent": AT_EACH_USE,
    "metrics.problem_error_tasks": AT_EACH_USE,
    "metrics.retention": AT_EACH_USE,
    "monitoring.max_log_buffer_size": AT_EACH_USE,
    "monitoring.metrics_interval": AT_EACH_USE,
    "packages.max_bytes": AT_EACH_USE,
    "packages.require_signature": AT_EACH_USE,
    "packages.trusted_keys": AT_EACH_USE,
    "recovery.checkpoint_retention": "a worker that is to begin with a checkpoint keeps it longer",
    "remain": "it is read when a job ends, and when it is asked for again",
    "tasks.max_step_bytes": AT_EACH_USE,
    "tasks.max_steps": AT_EACH_USE,
    "tasks.record_tool_calls": AT_EACH_USE,
    "tasks.step_order": AT_EACH_USE,
    "tasks.routing": AT_EACH_USE,
    "tasks.cancel_grace": AT_EACH_USE,
    "timeout": "it is read when a job starts",
    "tasks.best_max_load_percent": AT_EACH_USE,
    "tasks.best_min_success_percent": AT_EACH_USE,
    "tasks.capability_routing": AT_EACH_USE,
}
"""Live key without a probe -> why."""


assert live_probes.__doc__, "it is imported for its probes"


def live_keys() -> set[str]:
    """The keys that a reload reports as taking effect at once, as agents and as the daemon have them."""
    found = {key for key, field in fields_of(spec.Spec).items() if field.change == "live"}
    for name, section in spec.SECTIONS.items():
        found |= {f"{name}.{key}" for key, field in fields_of(section).items() if field.change == "live"}
    return found | diff.LIVE


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    text = "".join(f"{key} = {inline(value)}\n" for key, value in BASE.items())
    with DaemonProcess(tmp_path_factory.mktemp("live"), text) as process:
        process.await_worker("live-0", lambda w: w["state"] == "Ready")
        yield process


@pytest.fixture
def live(daemon: DaemonProcess) -> Iterator[Live]:
    found = Live(daemon)
    yield found
    found.reset()
    open_ones = found.call("task.list", states=["queued", "running"])["tasks"]
    found.cancel(*open_ones)
    for name in ("live", "plain"):
        found.call("agent.start", names=[name], all=False)


# --- of an agent ---------------------------------------------------------------------------------


@probe("title", "description", "labels")
def _words(live: Live) -> None:
    live.set("title", "Live one", description="It lives.", labels={"team": "red"})
    shown = live.shown()
    assert (shown["title"], shown["description"]) == ("Live one", "It lives.")
    assert [a["name"] for a in live.call("daemon.status", selector="team=red")["agents"]] == ["live"]


@probe("instances")
def _instances(live: Live) -> None:
    live.set("instances", 2)
    live.ready("live-1")
    live.reset()
    live.until(live.status, lambda s: len(s["workers"]) == 1)


@probe("capabilities")
def _capabilities(live: Live) -> None:
    live.set("capabilities", ["configured"])
    task = live.call("task.run", capability="configured", objective="nothing")
    assert task["agent"] == "live"


@probe("tools")
def _tools(live: Live) -> None:
    assert "state__get" in live.run("tools")["output"]
    live.set("tools", [])
    assert live.run("tools")["output"] == []


@probe("denied_tools")
def _denied(live: Live) -> None:
    live.set("denied_tools", ["state__*"])
    assert [t for t in live.run("tools")["output"] if t.startswith("state__")] == []


@probe("requires")
def _requires(live: Live) -> None:
    live.call("agent.stop", names=["live"], all=False)
    live.call("agent.stop", names=["plain"], all=False)
    live.set("requires", ["plain"])
    live.call("agent.start", names=["live"], all=False)
    assert live.ready("plain-0")["pid"]


@probe("autostart")
def _autostart(live: Live) -> None:
    tables = copy.deepcopy(BASE)
    tables["agents"]["late"] = {**BASE["agents"]["plain"], "autostart": False}
    live.write(tables)
    assert live.worker("late-0")["pid"] is None
    del tables["agents"]["late"]["autostart"]
    assert live.write(tables)["changed"] == {"late": "live"}
    live.ready("late-0")


@probe("hibernate_after")
def _hibernate(live: Live) -> None:
    live.set("hibernate_after", "100ms")
    live.until(live.worker, lambda w: w["pid"] is None)
    live.reset()
    live.run("nothing")


@probe("health", "monitoring.health_check_interval")
def _health(live: Live) -> None:
    live.set("health", {"exec": ["true"]}, of="plain", monitoring={"health_check_interval": "50ms"})
    live.until(lambda: live.worker("plain-0"), lambda w: w["health"] and w["health"][0]["healthy"])


@probe("ready", "process.spawn_timeout")
def _ready(live: Live) -> None:
    live.set("ready", {"log": "never"}, of="plain", process={"spawn_timeout": "200ms"})
    with pytest.raises(CorralError):
        live.call("agent.restart", names=["plain"], all=False)
    assert live.worker("plain-0")["last_exit"]["result"] == "start-timeout"
    live.reset()
    live.call("agent.reset", names=["plain"], all=False)
    live.ready("plain-0")


@probe("process.stop_signal", "process.shutdown_grace_period")
def _stop(live: Live) -> None:
    live.set("process.stop_signal", "SIGHUP", of="plain", process={"shutdown_grace_period": "200ms", "stop_signal": "SIGHUP"})  # fmt: skip
    live.call("agent.stop", names=["plain"], all=False)
    assert live.worker("plain-0")["last_exit"]["signal"] == "SIGHUP"
    live.call("agent.start", names=["plain"], all=False)


@probe("process.drain_timeout")
def _drain(live: Live) -> None:
    live.call("agent.start", names=["served"])
    (listen,) = live.status("served")["listen"]
    host, _, port = listen["bound"].rpartition(":")
    with socket.create_connection((host, int(port)), BOUND_S) as client:
        client.sendall(b"0\n")
        assert client.recv(100)
        client.sendall(b"1000\n")  # longer than its default, and than any test
        short = {"drain_timeout": "100ms", "shutdown_grace_period": "100ms"}
        live.set("process.drain_timeout", "100ms", of="served", process=short)
        live.call("agent.restart", names=["served"])
    assert live.worker("served-0")["last_exit"]["forced"]
    live.call("agent.stop", names=["served"])


# --- limits of tasks -----------------------------------------------------------------------------


@probe("resources.max_task_duration")
def _duration(live: Live) -> None:
    live.set("resources.max_task_duration", "100ms")
    assert live.run("wait") == "Timeout"


@probe("resources.max_memory_bytes")
def _memory(live: Live) -> None:
    pid = live.worker()["pid"]
    live.set("resources.max_memory_bytes", "64KiB")
    live.until(live.worker, lambda w: w["last_exit"] and w["last_exit"]["result"] == "oom")
    live.reset()
    assert live.ready()["pid"] != pid


@probe("resources.cpu_limit_percent")
def _cpu(live: Live) -> None:
    live.run("spin", 1.0)
    assert live.worker()["throttled_s"] == 0
    pid = live.worker()["pid"]
    live.set("resources.cpu_limit_percent", 25)
    spinning = live.submit("spin", 30.0)
    live.until(live.worker, lambda w: w["throttled_s"] > 0)
    live.reset()
    live.until(live.worker, lambda w: not w["throttled"])
    live.cancel(spinning)
    assert live.worker()["pid"] == pid


@probe("resources.max_tool_calls_per_task")
def _tool_calls(live: Live) -> None:
    assert live.run("call", 2)["state"] == "succeeded"
    live.set("resources.max_tool_calls_per_task", 1)
    assert live.run("call", 2) == "ResourceLimitExceeded"


@probe("resources.max_output_size_bytes")
def _output(live: Live) -> None:
    live.set("resources.max_output_size_bytes", 1000)
    assert live.run("big", 2000) == "ResourceLimitExceeded"
    live.set("resources.max_output_size_bytes", "11MiB")
    assert live.run("big", (10 << 20) + 1)["state"] == "succeeded"


@probe("resources.max_concurrent_requests")
def _requests(live: Live) -> None:
    first = live.busy()
    live.set("resources.max_concurrent_requests", 2)
    second = live.busy()
    assert live.call("task.show", task=first["id"])["state"] == "running"
    live.cancel(first, second)


@probe("resources.max_tokens_per_minute", "tasks.max_cost_cents_per_day")
def _budgets(live: Live) -> None:
    live.set("resources.max_tokens_per_minute", 10)
    live.run("use", {"tokens": 50, "cents": 0})
    waits = live.submit("nothing")
    live.await_task(waits, lambda t: t["state"] == "queued" and "max_tokens_per_minute" in t["reason"])
    live.reset()
    assert live.ended(waits)["state"] == "succeeded"
    live.set("tasks.max_cost_cents_per_day", 10)
    live.run("use", {"tokens": 0, "cents": 50})
    waits = live.submit("nothing")
    live.await_task(waits, lambda t: t["state"] == "queued" and "max_cost_cents_per_day" in t["reason"])
    live.reset()
    assert live.ended(waits)["state"] == "succeeded"


@probe("tasks.max_attempts", "tasks.retry_on")
def _attempts(live: Live) -> None:
    def attempts() -> int:
        return int(live.ended(live.submit("die"))["attempt"])

    for key, value, expected in (("max_attempts", 2, 2), ("retry_on", "never", 1)):
        live.set(f"tasks.{key}", value)
        assert attempts() == expected
        live.call("agent.reset", names=["live"], all=False)
        live.ready()


@probe("tasks.default_priority")
def _priority(live: Live) -> None:
    live.set("tasks.default_priority", 9)
    assert live.run("nothing")["priority"] == 9


@probe("tasks.max_queue_size", "tasks.max_total_queue_size", "tasks.max_total_queue_bytes")
def _queue(live: Live) -> None:
    running = live.busy()
    waiting = live.submit("nothing", "x" * (600 << 10))
    for key, value in (("max_queue_size", 1), ("max_total_queue_size", 1), ("max_total_queue_bytes", "1MiB")):  # fmt: skip
        live.set(f"tasks.{key}", value)
        with pytest.raises(CorralError):
            live.submit("nothing", "x" * (600 << 10))
    live.cancel(running)
    live.ended(waiting)


@probe("tasks.queue_timeout")
def _queue_timeout(live: Live) -> None:
    running = live.busy()
    live.set("tasks.queue_timeout", "50ms")
    assert live.run("nothing") == "Timeout"
    live.cancel(running)


@probe("tasks.when_down")
def _when_down(live: Live) -> None:
    live.call("agent.stop", names=["live"], all=False)
    live.set("tasks.when_down", "queue")
    task = live.submit("nothing")
    assert task["state"] == "queued"
    live.call("agent.start", names=["live"], all=False)
    assert live.ended(task)["state"] == "succeeded"


@probe("tasks.result_retention", "tasks.dead_letter_retention")
def _retention(live: Live) -> None:
    good, bad = live.run("nothing"), live.ended(live.submit("delegate", "no number"))

    def is_gone(task: Json) -> bool:
        try:
            return not live.call("task.show", task=task["id"])
        except CorralError as error:
            return error.name == "NotFound"

    live.set("tasks.result_retention", "1ms")
    live.until(lambda: is_gone(good), bool)
    assert not is_gone(bad)
    live.set("tasks.dead_letter_retention", "1ms")
    live.until(lambda: is_gone(bad), bool)


@probe("tasks.max_delegation_depth", "tasks.max_children")
def _delegation(live: Live) -> None:
    wide = {"max_concurrent_requests": 9}
    live.set("tasks.max_delegation_depth", 1, resources=wide)
    assert live.run("deeper", 2) == "ResourceLimitExceeded"
    assert live.run("delegate", 2)["state"] == "succeeded"
    live.set("tasks.max_children", 1, resources=wide)
    assert live.run("delegate", 2) == "ResourceLimitExceeded"


# --- memory --------------------------------------------------------------------------------------


@probe("memory.max_session_bytes", "memory.overflow")
def _sessions(live: Live) -> None:
    live.set("memory.max_session_bytes", "1KiB")
    found = [live.run("recall", "x" * 500, session="s")["output"] for _ in range(3)]
    assert found[-1] == 2  # the oldest were removed
    live.set("memory.overflow", "refuse", memory={"max_session_bytes": "1KiB", "overflow": "refuse"})
    assert live.run("recall", "x" * 900, session="s") == "ResourceLimitExceeded"


@probe("memory.max_sessions", "memory.session_overflow")
def _session_count(live: Live) -> None:
    live.set("memory.session_overflow", "refuse", memory={"max_sessions": 1, "session_overflow": "refuse"})
    live.call("memory.clear", agent="live")
    assert live.run("recall", "a", session="one")["state"] == "succeeded"
    assert live.run("recall", "a", session="two") == "ResourceLimitExceeded"


@probe("memory.max_keys", "memory.max_keys_bytes")
def _keys(live: Live) -> None:
    def put(name: str, value: str) -> str:
        try:
            live.call("memory.put", agent="live", key=name, value=value)
        except CorralError as error:
            return error.name
        return ""

    assert put("a", "x") == put("b", "x" * 4096) == ""
    live.set("memory.max_keys", 2)
    assert put("c", "x") == "ResourceLimitExceeded"
    live.set("memory.max_keys_bytes", "1KiB")
    assert put("c", "x" * 4096) == "ResourceLimitExceeded"
    for name in ("a", "b"):
        live.call("memory.delete", agent="live", key=name)


# --- the test ------------------------------------------------------------------------------------


@pytest.mark.parametrize("probing", dict.fromkeys(PROBES.values()), ids=lambda p: p.__name__[1:])
def test_a_live_key_takes_effect_at_once(live: Live, probing: Probe) -> None:
    probing(live)


def test_every_live_key_has_a_probe() -> None:
    keys = live_keys()
    told = (PROBES.keys(), SHOWN_ELSEWHERE.keys(), NOT_SEEN.keys())
    assert sorted(keys.difference(*told)) == []
    assert set().union(*told) <= keys
    for place in SHOWN_ELSEWHERE.values():
        file, _, name = place.partition("::")
        assert f"def {name}(" in (Path(__file__).parent / file).read_text("utf-8")
