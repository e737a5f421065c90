"""The limits of a tenant in a whole daemon, changed by the file while it runs."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from corral.worker.contract.errors import NotFound, Overloaded, ResourceLimitExceeded
from daemon_process import AGENTS, DaemonProcess, until

CONFIG = f"""
[process]
working_directory = "{AGENTS}"
[tenants.other]
[agents."acme/live"]
entrypoint = "live_agent:agent"
[agents."acme/second"]
entrypoint = "live_agent:agent"
[agents."other/live"]
entrypoint = "live_agent:agent"
[agents.live]
entrypoint = "live_agent:agent"
"""
NOTHING = {"objective": "nothing"}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    folder: Path = tmp_path_factory.mktemp("tenants")
    with DaemonProcess(folder, f"{CONFIG}\n[tenants.acme]\n") as daemon:
        yield daemon


@pytest.fixture
def daemon(running: DaemonProcess) -> Iterator[DaemonProcess]:
    yield running
    for task in running.call("task.list", states=["queued", "running"])["tasks"]:
        running.call("task.cancel", task=task["id"])
    limited(running)


def limited(daemon: DaemonProcess, **limits: object) -> None:
    table = "".join(f"{key} = {value}\n" for key, value in limits.items())
    daemon.config.write_text(f"{CONFIG}\n[tenants.acme]\n{table}")
    daemon.call("daemon.reload")


def submitted(daemon: DaemonProcess, agent: str, objective: str, **params: object) -> Any:
    return daemon.call("task.submit", agent=agent, objective=objective, **params)


def begun(daemon: DaemonProcess, task: Any) -> None:
    until(lambda: daemon.call("task.show", task=task["id"])["state"] != "queued")


def quota(daemon: DaemonProcess, key: str) -> Any:
    found = daemon.call("quota.list")["quotas"]
    return next(each for each in found if (each["tenant"], each["key"]) == ("acme", f"tenants.{key}"))


def test_one_task_more_than_those_of_a_minute_is_refused_and_others_are_not(daemon: DaemonProcess) -> None:
    limited(daemon, max_tasks_per_minute=2)
    began = time.monotonic()
    for name in ("acme/live", "acme/second"):
        daemon.call("task.run", agent=name, **NOTHING)
    for _ in range(3):
        with pytest.raises(Overloaded) as refused:
            daemon.call("task.run", agent="acme/live", **NOTHING)
        data: Any = refused.value.data
        assert (data["limit"], data["value"], data["tenant"]) == ("max_tasks_per_minute", 2, "acme")
        # It is the time until the first of them is a minute old; the machine may take its time meanwhile.
        assert 60 - (time.monotonic() - began) - 0.01 <= data["retry_after_s"] <= 62
    daemon.call("task.run", agent="other/live", **NOTHING)
    daemon.call("task.run", agent="live", **NOTHING)
    found = quota(daemon, "max_tasks_per_minute")
    assert (found["limit"], found["used"], found["window_s"], found["refused"]) == (2, 2, 60, 3)
    events = daemon.call("event.list", types=["limit.tenant"])["events"]
    told = [each for each in events if each["key"] == "max_tasks_per_minute"]
    assert [(each["agent"], each["used"]) for each in told] == [("acme/live", 2)]
    limited(daemon, max_tasks_per_minute=3)
    daemon.call("task.run", agent="acme/live", **NOTHING)


def test_the_name_of_a_tenant_stands_for_all_that_is_its(daemon: DaemonProcess) -> None:
    limited(daemon, max_agents=7)
    found = daemon.call("quota.list", names=["acme"])["quotas"]
    assert {each["tenant"] for each in found if each["name"] is None} == {"acme"}
    assert {each["name"] for each in found} == {None, "acme/live", "acme/second"}
    with pytest.raises(NotFound):
        daemon.call("quota.list", names=["nobody"])


def test_a_key_that_is_known_costs_no_task_of_the_minute(daemon: DaemonProcess) -> None:
    limited(daemon, max_tasks_per_minute=100)
    before = quota(daemon, "max_tasks_per_minute")["used"]
    for _ in range(3):
        submitted(daemon, "acme/live", "nothing", idempotency_key="one")
    assert quota(daemon, "max_tasks_per_minute")["used"] == before + 1


def test_the_queue_of_a_tenant_is_of_all_its_agents(daemon: DaemonProcess) -> None:
    limited(daemon, max_queue_size=2)
    for name in ("acme/live", "acme/second"):
        begun(daemon, submitted(daemon, name, "wait"))
        submitted(daemon, name, "nothing")
    assert quota(daemon, "max_queue_size")["used"] == 2
    with pytest.raises(Overloaded) as refused:
        submitted(daemon, "acme/second", "nothing")
    assert (refused.value.data["limit"], refused.value.data["used"]) == ("max_queue_size", 2)
    submitted(daemon, "other/live", "nothing")


def test_the_longest_task_of_a_tenant_caps_that_of_the_task(daemon: DaemonProcess) -> None:
    limited(daemon, max_task_duration='"200ms"')
    ended = daemon.call("task.run", agent="acme/live", objective="wait", timeout_s=60)
    assert (ended["state"], ended["error"]["name"]) == ("timeout", "Timeout")
    assert daemon.call("task.run", agent="live", objective="wait", input=0.3)["state"] == "succeeded"


@pytest.mark.parametrize(
    ("key", "limit", "used"),
    [("max_tokens_per_minute", 1000, {"tokens": 600, "cents": 0}),
     ("max_cost_cents_per_day", 10, {"tokens": 0, "cents": 6})],
)  # fmt: skip
def test_what_all_agents_of_a_tenant_use_holds_all_of_them_back(
    daemon: DaemonProcess, key: str, limit: int, used: dict[str, int]
) -> None:
    limited(daemon, **{key: limit})
    for name in ("acme/live", "acme/second"):
        daemon.call("task.run", agent=name, objective="use", input=used)
    held = submitted(daemon, "acme/live", "nothing")
    shown = daemon.call("task.show", task=held["id"])
    assert shown["state"] == "queued"
    assert key in shown["reason"]
    assert "acme" in shown["reason"]
    assert (quota(daemon, key)["used"], quota(daemon, key)["refused"]) == (limit * 1.2, 1)
    daemon.call("task.run", agent="other/live", **NOTHING)
    limited(daemon, **{key: 2 * limit})
    assert daemon.call("task.wait", task=held["id"])["state"] == "succeeded"


def test_one_agent_more_than_the_limit_is_refused_at_add_at_scale_and_at_reload(daemon: DaemonProcess) -> None:
    limited(daemon, max_agents=3)
    spec = {"command": ["sleep", "600"], "protocol": "none"}
    daemon.call("agent.add", name="acme/third", spec=spec)
    with pytest.raises(ResourceLimitExceeded) as refused:
        daemon.call("agent.add", name="acme/fourth", spec=spec, start=False)
    data = refused.value.data
    assert (data["limit"], data["value"], data["tenant"]) == ("max_agents", 4, "acme")
    with pytest.raises(ResourceLimitExceeded):
        daemon.call("agent.scale", name="acme/third", instances=2)
    daemon.call("agent.add", name="other/third", spec=spec)
    before = daemon.config.read_text()
    daemon.config.write_text(before + '\n[agents."acme/fifth"]\ncommand = ["sleep", "1"]\n')
    with pytest.raises(ResourceLimitExceeded):
        daemon.call("daemon.reload")
    daemon.config.write_text(before)
    assert quota(daemon, "max_agents") | {"refused": 0} == {
        "name": None, "tenant": "acme", "key": "tenants.max_agents",
        "limit": 3, "used": 3, "window_s": None, "refused": 0,
    }  # fmt: skip
    limited(daemon, max_agents=4)
    daemon.call("agent.scale", name="acme/third", instances=2)
    daemon.call("agent.rm", names=["acme/third", "other/third"])


def test_a_worker_beyond_a_lower_limit_is_not_started_again(daemon: DaemonProcess) -> None:
    limited(daemon, max_agents=1)
    daemon.call("agent.stop", names=["acme/live"], all=False)
    with pytest.raises(ResourceLimitExceeded):
        daemon.call("agent.start", names=["acme/live"], all=False)
    limited(daemon, max_agents=2)
    daemon.call("agent.start", names=["acme/live"], all=False)


def test_quota_shows_the_limits_of_a_tenant_before_those_of_its_agents(daemon: DaemonProcess) -> None:
    limited(daemon, max_agents=7)
    lines = daemon.corral("quota", "acme/live").stdout.splitlines()
    assert [line.split()[:2] for line in lines[1:3]] == [
        ["acme/", "tenants.max_agents"],
        ["acme/live", "tasks.max_queue_size"],
    ]


def test_a_tenant_that_keeps_too_much_on_disk_keeps_no_more(daemon: DaemonProcess) -> None:
    folder = daemon.state_dir / "tenants" / "acme"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "big").write_bytes(b"x" * 2_000_000)
    limited(daemon, max_disk_bytes='"1MiB"')
    until(lambda: quota(daemon, "max_disk_bytes")["used"] > 2_000_000)
    with pytest.raises(ResourceLimitExceeded) as refused:
        daemon.call("task.run", agent="acme/live", **NOTHING)
    data: Any = refused.value.data
    assert (data["limit"], data["value"], data["tenant"]) == ("max_disk_bytes", 2**20, "acme")
    assert data["used"] > 2_000_000
    assert quota(daemon, "max_disk_bytes")["used"] == data["used"]
    daemon.call("task.run", agent="other/live", **NOTHING)
    (folder / "big").unlink()
    until(lambda: quota(daemon, "max_disk_bytes")["used"] < 2**20)
    daemon.call("task.run", agent="acme/live", **NOTHING)


def test_a_limit_that_is_set_at_run_time_frees_what_it_held_and_a_new_tenant_begins_anew(daemon: DaemonProcess) -> None:
    spec = {"entrypoint": "live_agent:agent", "process": {"working_directory": str(AGENTS)}}
    daemon.call("tenant.add", name="late", spec={"max_tokens_per_minute": 10})
    daemon.call("agent.add", name="late/live", spec=spec)
    used = {"tokens": 20, "cents": 20}
    daemon.call("task.run", agent="late/live", objective="use", input=used)
    held = submitted(daemon, "late/live", "nothing")
    assert "max_tokens_per_minute" in daemon.call("task.show", task=held["id"])["reason"]
    daemon.call("tenant.set", name="late", spec={"max_tokens_per_minute": 100})
    assert daemon.call("task.wait", task=held["id"])["state"] == "succeeded"
    daemon.call("tenant.rm", name="late")
    daemon.call("tenant.add", name="late", spec={"max_cost_cents_per_day": 10})
    daemon.call("agent.add", name="late/live", spec=spec)
    daemon.call("task.run", agent="late/live", **NOTHING)
    daemon.call("tenant.rm", name="late")
