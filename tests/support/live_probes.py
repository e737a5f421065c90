"""Probes of live keys about the life of workers, their logs, and what is kept: the others are in test_live_keys."""

import json
import os
import signal
from functools import partial
from urllib.request import urlopen

import pytest

from corral.worker.contract.errors import CorralError, Overloaded
from daemon_process import BOUND_S
from live_keys import BASE, Json, Live, probe

# --- recovery ------------------------------------------------------------------------------------


@probe("recovery.restart", "recovery.enable_auto_restart", "recovery.max_restart_attempts")
def _restart(live: Live) -> None:
    for key, value in (("restart", "never"), ("enable_auto_restart", False), ("max_restart_attempts", 0)):  # fmt: skip
        live.set(f"recovery.{key}", value, of="plain")
        live.call("agent.signal", name="plain-0", signal="SIGKILL")
        live.until(lambda: live.worker("plain-0"), lambda w: w["state"] == "Terminated")
        live.reset()
        live.call("agent.start", names=["plain"], all=False)
        live.ready("plain-0")


# --- templates -----------------------------------------------------------------------------------


@probe("template", "params")
def _template(live: Live) -> None:
    live.set("template", "named", of="plain")
    assert live.call("agent.show", name="plain")["template"]["spec"]["description"] == "x"
    live.set("params", {"name": "y"}, of="plain", template="named")
    assert live.call("agent.show", name="plain")["template"]["spec"]["description"] == "y"


# --- the daemon ----------------------------------------------------------------------------------


@probe("daemon.max_changes_per_minute")
def _changes(live: Live) -> None:
    live.set("daemon.max_changes_per_minute", 1)
    live.call("daemon.log_level", level="info")
    with pytest.raises(Overloaded):
        live.call("daemon.log_level", level="info")
    live.set("daemon.max_changes_per_minute", 0)
    live.call("daemon.log_level", level="info")


@probe("daemon.log_level")
def _log_level(live: Live) -> None:
    live.set("daemon.log_level", "error")
    assert live.call("daemon.status", names=[])["daemon"]["log_level"] == "error"


@probe("process.max_concurrent_processes")
def _processes(live: Live) -> None:
    live.set("process.max_concurrent_processes", 2)
    with pytest.raises(CorralError):
        live.call("agent.scale", name="plain", instances=2)


@probe("events.max_publish_per_second")
def _publish(live: Live) -> None:
    live.set("events.max_publish_per_second", 1)
    assert live.run("publish")["output"] == "Overloaded"


@probe("mcp.profiles")
def _profiles(live: Live) -> None:
    live.set("mcp.profiles", {"narrow": {"tools": []}})
    assert live.call("mcp.attach", profile="narrow") is not None


@probe("audit.arguments")
def _audit(live: Live) -> None:
    def newest() -> Json:
        live.call("mcp.call", name="state__get", arguments={})
        return live.call("audit.list", n=1)["records"][-1]

    live.set("audit.arguments", "keep")
    assert newest() is not None


@probe("tasks.retry_backoff_base", "tasks.retry_backoff_max")
def _retry_backoff(live: Live) -> None:
    live.set("tasks.retry_backoff_base", "1h")
    task = live.submit("die")
    live.await_task(task, lambda t: t["attempt"] == 1 and t["state"] == "queued")
    live.cancel(task)
    live.set("tasks.retry_backoff_max", "1ms", tasks={"retry_backoff_base": "1h", "retry_backoff_max": "1ms"})
    assert live.ended(live.submit("die"))["attempt"] == 3
    live.call("agent.reset", names=["live"], all=False)
    live.ready()


@probe("tasks.scale_up_after", "tasks.scale_down_after")
def _scaling(live: Live) -> None:
    span = {"min": 1, "max": 2}
    live.set("tasks.scale_up_after", "1h", instances=span)
    tasks = [live.busy(), live.submit("wait")]
    live.set("tasks.scale_up_after", "1ms", instances=span)
    live.await_task(tasks[1], lambda t: t["state"] == "running")
    live.cancel(*tasks)
    live.set("tasks.scale_down_after", "1ms", instances=span)
    live.until(live.status, lambda s: len(s["workers"]) == 1)


@probe("monitoring.heartbeat_timeout", "monitoring.heartbeat_interval")
def _heartbeats(live: Live) -> None:
    beats = {"heartbeat_interval": "100ms", "heartbeat_timeout": "2s"}
    live.set("monitoring.heartbeat_interval", "100ms", monitoring=beats)
    pid = live.worker()["pid"]
    assert live.run("wait", 3)["state"] == "succeeded"  # it beats as often as it was told
    os.kill(pid, signal.SIGSTOP)
    live.until(live.worker, lambda w: w["pid"] not in (None, pid))
    live.ready()


@probe("monitoring.stall_timeout")
def _stall(live: Live) -> None:
    pid = live.worker()["pid"]
    live.set("monitoring.stall_timeout", "200ms", tasks={"max_attempts": 1})
    task = live.submit("wait")
    live.until(live.worker, lambda w: w["pid"] not in (None, pid))
    live.ended(task)


@probe("monitoring.agent_log_level", "monitoring.enable_log_aggregation")
def _log_lines(live: Live) -> None:
    def said(word: str) -> list[str]:
        live.run("say", word)
        return [e["stream"] for e in live.call("log.read", names=["live"], grep=word)["records"]]

    assert "log" not in said("quietly")
    live.set("monitoring.agent_log_level", "debug")
    live.run("say", "loudly")
    live.until(lambda: said("loudly"), lambda streams: "log" in streams)
    live.set("monitoring.enable_log_aggregation", False)
    assert said("unheard") == []


@probe("monitoring.max_log_file_bytes", "monitoring.max_log_files")
def _log_files(live: Live) -> None:
    def files() -> int:
        live.run("say", "x" * 3000)
        return len([p for p in (live.daemon.state_dir / "logs").rglob("*live-0*") if p.is_file()])

    live.set("monitoring.max_log_file_bytes", "4KiB")
    live.until(files, lambda count: count >= 4)
    live.set("monitoring.max_log_files", 2, monitoring={"max_log_file_bytes": "4KiB", "max_log_files": 2})
    live.until(files, lambda count: count <= 3)


@probe("monitoring.alert", "monitoring.alert_url")
def _alerts(live: Live) -> None:
    told = live.daemon.folder / "alert"
    never = {"max_restart_attempts": 0}
    for key, value in (("alert", ["tee", str(told)]), ("alert_url", "http://127.0.0.1:9/")):
        live.set(f"monitoring.{key}", value, of="plain", recovery=never)
        live.call("agent.signal", name="plain-0", signal="SIGKILL")
        live.until(lambda: live.worker("plain-0"), lambda w: w["state"] == "Terminated")
        if key == "alert":
            live.until(told.exists, bool)
        else:
            live.until(live.daemon.log.read_text, lambda text: "by alert_url" in text)
        live.call("agent.start", names=["plain"], all=False)
        live.ready("plain-0")


@probe("recovery.actions", "recovery.failure_threshold", "recovery.enable_graceful_degradation")
def _actions(live: Live) -> None:
    done = live.daemon.folder / "done"
    sick = {"exec": ["false"], "interval": "50ms", "start_delay": 0}
    live.set("recovery.actions", {"mark": ["touch", str(done)]}, of="plain", health={**sick, "recovery": "mark"})
    live.until(done.exists, bool)
    live.set("recovery.failure_threshold", 1, of="plain", health=sick)
    live.until(lambda: live.status("plain"), lambda s: s["degraded"])
    pid = live.worker("plain-0")["pid"]
    live.set("recovery.enable_graceful_degradation", False, of="plain", health=sick)
    live.until(lambda: live.worker("plain-0"), lambda w: w["pid"] not in (None, pid))
    live.reset()
    live.call("agent.reset", names=["plain"], all=False)
    live.ready("plain-0")


@probe("recovery.restart_backoff_base", "recovery.restart_backoff_max")
def _restart_backoff(live: Live) -> None:
    slow = {"restart_backoff_base": "1h", "restart_backoff_max": "2h"}
    live.set("recovery.restart_backoff_max", "2h", of="plain", recovery=slow)
    live.call("agent.signal", name="plain-0", signal="SIGKILL")
    live.until(lambda: live.worker("plain-0"), lambda w: (w["next_start_in_s"] or 0) > 1000)
    live.set("recovery.restart_backoff_base", "1ms", of="plain")
    live.ready("plain-0")


@probe("recovery.healthy_after", "recovery.restart_window")
def _forgotten(live: Live) -> None:
    for key in ("healthy_after", "restart_window"):
        live.set(f"recovery.{key}", "1ms", of="plain")
        for _ in range(5):
            pid = live.ready("plain-0")["pid"]
            live.call("agent.signal", name="plain-0", signal="SIGKILL")
            live.until(lambda: live.worker("plain-0"), partial(_is_other, pid))
        live.ready("plain-0")


@probe(
    "recovery.enable_checkpointing",
    "recovery.checkpoint_interval",
    "recovery.max_checkpoints",
    "recovery.max_checkpoint_bytes",
)
def _checkpoints(live: Live) -> None:
    def count() -> int:
        return len(live.call("checkpoint.list", name="live")["checkpoints"])

    often = {"enable_checkpointing": True, "checkpoint_interval": "50ms"}
    live.set("recovery.enable_checkpointing", True, recovery=often)
    live.until(count, lambda n: n >= 3)
    live.set("recovery.max_checkpoints", 1, recovery={**often, "max_checkpoints": 1})
    live.until(count, lambda n: n <= 2)  # of each worker and each reason
    live.set("recovery.max_checkpoint_bytes", "1KiB")
    with pytest.raises(CorralError):
        live.call("checkpoint.save", name="live")


@probe("memory.retention")
def _session_retention(live: Live) -> None:
    live.run("recall", "a", session="old")
    live.set("memory.retention", "1ms")
    live.until(lambda: live.call("memory.sessions", agent="live")["sessions"], lambda found: not found)


@probe("max_calls_per_minute")
def _calls(live: Live) -> None:
    live.call("mcp.call", name="state__get", arguments={})
    live.set("max_calls_per_minute", 1, of="state")
    live.call("mcp.call", name="state__get", arguments={})
    with pytest.raises(CorralError):
        live.call("mcp.call", name="state__get", arguments={})


@probe("idle_timeout", "spares")
def _idle(live: Live) -> None:
    live.call("mcp.call", name="state__get", arguments={})
    live.set("spares", 1, of="state")
    live.call("mcp.call", name="state__get", arguments={})
    live.until(lambda: live.status("state"), lambda s: len(s["workers"]) == 2)
    live.reset()
    live.call("mcp.call", name="state__get", arguments={})
    live.set("idle_timeout", "50ms", of="state")
    live.until(lambda: live.worker("state-0"), lambda w: w["pid"] is None)


@probe("mcp.request_timeout", "mcp.max_request_timeout")
def _request_timeout(live: Live) -> None:
    live.call("mcp.call", name="state__get", arguments={})
    pid = live.worker("state-0")["pid"]
    for key in ("request_timeout", "max_request_timeout"):
        live.set(f"mcp.{key}", "200ms", of="state")
        os.kill(pid, signal.SIGSTOP)
        try:
            with pytest.raises(CorralError):
                live.call("mcp.call", name="state__pid", arguments={})
        finally:
            os.kill(pid, signal.SIGCONT)


@probe("events.retention", "audit.retention")
def _records(live: Live) -> None:
    def first() -> int:
        found = live.call("event.list", n=1000)
        events = found["events"]
        return int(events[0]["seq"] if events else found["newest"] + 1)

    before = first()
    live.set("events.retention", "1ms")
    live.until(first, lambda seq: seq > before)
    count = len(live.call("audit.list", n=1000)["records"])
    live.set("audit.retention", "1ms")
    live.until(lambda: len(live.call("audit.list", n=1000)["records"]), lambda n: n < count)


@probe("events.max_bytes")
def _event_bytes(live: Live) -> None:
    live.set("events.max_publish_per_second", 0)
    with live.daemon.client() as client:
        for n in range(100):
            client.call("event.publish", {"type": "live.big", "data": f"{n}" * 2000}, timeout_s=BOUND_S)

    def kept() -> int:
        return len(live.call("event.list", types=["live.big"], n=1000)["events"])

    before = live.until(kept, lambda count: count >= 90)
    live.set("events.max_bytes", "64KiB")
    live.until(kept, lambda count: count < before)


@probe("warm", "preload", "min_spare")
def _warm(live: Live) -> None:
    live.set("warm", True, preload=["colorsys"], min_spare=1)
    live.until(lambda: live.status()["warm"], lambda warm: warm and warm["spares"] == 1)
    live.reset()
    live.until(lambda: live.status()["warm"], lambda warm: not warm or not warm["spares"])


@probe("monitoring.alert_task_failures", "monitoring.alert_task_failures_window")
def _task_failures(live: Live) -> None:
    both = {"alert_task_failures": 1, "alert_task_failures_window": "1h"}
    live.set("monitoring.alert_task_failures", 1, monitoring=both)
    live.run("nothing")
    live.run("delegate", "no number")
    live.until(lambda: live.call("event.list", types=["agent.tasks_failing"])["events"], bool)


@probe("resources.max_tool_calls_per_minute")
def _calls_per_minute(live: Live) -> None:
    assert live.run("call", 3)["state"] == "succeeded"
    live.set("resources.max_tool_calls_per_minute", 1)
    assert isinstance(live.run("call", 3, timeout_s=3), str)


def _is_other(pid: int, worker: Json) -> bool:
    return worker["pid"] not in (None, pid)


@probe("http")
def _http(live: Live) -> None:
    live.set("http", "127.0.0.1:0")
    found = live.until(live.status, lambda entry: "url" in entry.get("service", {}))
    assert found["service"]["state"] == "open"


@probe("http_auth")
def _http_auth(live: Live) -> None:
    live.set("http_auth", "none", http="127.0.0.1:0")
    found = live.until(live.status, lambda entry: "url" in entry.get("service", {}))
    with urlopen(found["service"]["url"] + "/status", timeout=BOUND_S) as answer:
        assert json.loads(answer.read())["name"] == "live"


@probe("tenants", "tiers")
def _tenants(live: Live) -> None:
    agent = {"acme/plain": {**BASE["agents"]["plain"], "autostart": False}}
    one = {**BASE["agents"], **agent}
    for tables, most in (
        ({"tenants": {"acme": {"max_agents": 1}}}, 1),
        ({"tenants": {"acme": {"max_agents": 2}}}, 2),
        ({"tiers": {"free": {"max_agents": 3}}, "tenants": {"acme": {"tier": "free"}}}, 3),
        ({"tiers": {"free": {"max_agents": 4}}, "tenants": {"acme": {"tier": "free"}}}, 4),
    ):
        live.write({**BASE, **tables, "agents": one})
        found = live.call("quota.list", names=["acme/plain"])["quotas"]
        assert (found[0]["tenant"], found[0]["limit"], found[0]["used"]) == ("acme", most, 1)
