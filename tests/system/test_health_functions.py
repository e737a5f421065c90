"""Health checks and recoveries that an agent defines as functions run in the worker, and count like those of the file."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from corral import AgentRuntime, AgentStatus, Conflict, HealthMonitor, InvalidParams, NotFound
from daemon_process import BOUND_S, DaemonProcess

pytestmark = pytest.mark.shell

AGENT = """
import asyncio
import os
from pathlib import Path
from corral.worker import Agent

agent = Agent()


@agent.task
async def run(task):
    return os.getpid()


@agent.health("database", interval_s=0.05)
async def database():
    await asyncio.sleep(0)
    return "it is ill" if Path("ill").exists() else None


@agent.recovery("database")
def reconnect():
    with open("recoveries", "a") as file:
        file.write(f"{os.getpid()}\\n")
    if Path("mend").exists():
        os.remove("ill")
        os.remove("mend")


@agent.health("raises", interval_s=0.05)
def raises():
    if Path("raise").exists():
        raise OSError("no disk")


@agent.health("hangs", interval_s=0.05, timeout_s=0.2, threshold=2)
async def hangs():
    while Path("hang").exists():
        await asyncio.sleep(0.05)


agent.run()
"""

CONFIG = """
[agents.kept]
entrypoint = "kept:agent"
[agents.cold]
command = ["python", "kept.py"]
[[agents.cold.health]]
name = "raises"
exec = ["true"]
[recovery]
failure_threshold = 2
"""


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[DaemonProcess]:
    (tmp_path / "kept.py").write_text(AGENT)
    with DaemonProcess(tmp_path, CONFIG) as daemon:
        yield daemon


def test_a_function_fails_recovers_degrades_and_passes(daemon: DaemonProcess) -> None:
    daemon.await_worker("kept-0", lambda worker: worker["state"] == "Ready")
    daemon.await_worker("cold-0", lambda worker: worker["state"] == "Ready")
    names = [check["name"] for check in daemon.worker("kept-0")["health"]]
    assert names == ["database", "raises", "hangs"]
    own = {check["name"]: check for check in daemon.worker("cold-0")["health"]}
    assert own.keys() == {"database", "raises", "hangs"}, "the file replaces one of the same name"
    pid = daemon.call("task.run", agent="kept", objective="who")["output"]

    with daemon.client() as client:
        client.call("event.follow", {"types": ["health.*"]}, timeout_s=BOUND_S)

        def of_kept() -> Iterator[Any]:  # events, read freely
            for batch in client.notifications():
                found: Any = batch.params["events"]
                yield from (event for event in found if event["agent"] == "kept")

        events = of_kept()

        def next_of(check: str, kind: str) -> Any:
            return next(e for e in events if (e["check"], e["type"]) == (check, f"health.{kind}"))

        (daemon.folder / "ill").touch()
        assert next_of("database", "failed")["message"] == "it is ill"
        assert next_of("database", "recovery")["result"] == "done"
        next_of("database", "degraded")
        assert daemon.call("daemon.status", names=["kept"])["agents"][0]["degraded"] is True
        (daemon.folder / "mend").touch()
        next_of("database", "recovered")
        pids = set((daemon.folder / "recoveries").read_text().split())
        assert str(pid) in pids, "the recovery runs in the worker"

        (daemon.folder / "raise").touch()
        assert next_of("raises", "failed")["message"] == "OSError: no disk"
        (daemon.folder / "raise").unlink()
        next_of("raises", "passed")

        (daemon.folder / "hang").touch()
        next_of("hangs", "failed")
        (daemon.folder / "hang").unlink()
        assert daemon.call("task.run", agent="kept", objective="who")["output"] == pid


def test_functions_of_a_program_check_its_agents_and_repair_them(tmp_path: Path) -> None:
    async def test(daemon: DaemonProcess) -> None:
        ill, repaired = {"far"}, list[str]()

        def reachable(status: AgentStatus) -> object:
            return f"{status.name} is away" if status.name in ill else None

        async def reconnect(status: AgentStatus) -> None:
            repaired.append(status.name)
            ill.discard(status.name)
            raise RuntimeError("a recovery may fail")

        async def hangs(_: AgentStatus) -> None:
            await asyncio.sleep(BOUND_S)

        async with (
            await AgentRuntime.connect(daemon.socket) as runtime,
            HealthMonitor(runtime) as monitor,
            runtime.events(["check.*"]) as events,
            asyncio.timeout(BOUND_S),
        ):
            monitor.register_check("reachable", reachable, interval_s=0.05, threshold=2)
            monitor.register_recovery("reachable", reconnect)
            with pytest.raises(Conflict):
                monitor.register_check("reachable", reachable)
            with pytest.raises(InvalidParams):
                monitor.register_check("never", reachable, interval_s=0)
            with pytest.raises(NotFound):
                await monitor.monitor_agent("nobody")
            for agent in ("near", "far"):
                await monitor.monitor_agent(agent)
            told = aiter(events)
            failed, recovered = await anext(told), await anext(told)
            place = {"agent": "far", "check": "reachable"}
            assert (failed.type, failed["data"]) == ("check.failed", {**place, "message": "far is away"})
            assert (recovered.type, recovered["data"]) == ("check.recovered", place)
            assert (repaired, monitor.failing) == (["far"], {})
            await runtime.remove_agent("far")
            monitor.register_check("hangs", hangs, interval_s=0.05, timeout_s=0.1)
            await monitor.monitor_agent("near")
            hung = await anext(told)
            assert hung["data"] == {"agent": "near", "check": "hangs", "message": "it did not answer within 0.1 s"}
            assert monitor.failing.keys() == {("near", "hangs")}

    config = "".join(f'[agents.{name}]\ncommand = ["sleep", "1000"]\nprotocol = "none"\n' for name in ("near", "far"))
    with DaemonProcess(tmp_path, config) as daemon:
        asyncio.run(test(daemon))
