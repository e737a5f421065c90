"""Every method of the table on a real daemon, with its result held against its schema: nothing wrong, nothing left out."""

import asyncio
import base64
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from corral import AgentRuntime, Runtime
from corral.supervisor.agents.packages.builder import build, scaffold
from corral.supervisor.records.events.catalog import CATALOGUE
from corral.worker.client.sync import Client
from corral.worker.methods.events import EventType
from corral.worker.methods.table import METHODS
from daemon_process import AGENTS, BOUND_S, DaemonProcess
from http_api_client import Api
from mcp_editor import serving as mcp_serving

ELSEWHERE = {
    **dict.fromkeys(("node.list", "node.drain", "node.resume"), "test_cluster_nodes.py"),
    "daemon.upgrade": "test_upgrade.py",
    **dict.fromkeys(("mcp.login", "mcp.finish_login", "mcp.logout"), "tests/agents/external/test_login.py"),
}
"""Methods that this daemon refuses, as it has joined no cluster and has no remote server, or that replace it -> the tests that call them."""

AGENT = f"""
entrypoint = "diarist_agent:agent"
process.working_directory = "{AGENTS}"
"""

CONFIG = f"""
[agents.ann]
{AGENT}
labels = {{ team = "red" }}
instances = {{ min = 1, max = 2 }}
[agents.bob]
{AGENT}
environment = {{ KEY = "${{secret:KEY}}" }}
autostart = false
[agents.crew]
entrypoint = "crew_agent:agent"
process.working_directory = "{AGENTS}"
tasks.max_attempts = 1
[agents.asks]
entrypoint = "questions_agent:agent"
process.working_directory = "{AGENTS}"
[mcp.servers.odd]
command = ["{sys.executable}", "-I", "{AGENTS / "mcp_odd.py"}", "--declares=tools", "--declares=prompts", "--declares=resources"]
[teams.duo]
mode = "broadcast"
members = ["ann", "crew"]
[workflows.digest]
steps = [{{ name = "read", agent = "crew", objective = "echo" }}]
"""


class Calls:
    """Calls methods over one connection, and checks each result."""

    def __init__(self, client: Client) -> None:
        self.called: set[str] = set()
        self._client = client

    def __call__(self, method: str, /, **params: object) -> Any:  # the result, whose shape the test knows
        """The result of a method, once it is what the method's schema says, with no key that the schema lacks."""
        self.called.add(method)
        result = self._client.call(method, params, timeout_s=BOUND_S, on_notification=lambda _: None)
        decoded = msgspec.convert(result, METHODS[method].result, strict=True)
        assert msgspec.to_builtins(decoded) == result, method
        return result


@pytest.fixture
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    with DaemonProcess(tmp_path_factory.mktemp("methods"), CONFIG) as process:
        process.call("agent.start", names=["ann", "crew"])
        yield process


def test_every_method_returns_what_its_schema_says_and_nothing_else(daemon: DaemonProcess) -> None:
    with daemon.client() as client:
        call = Calls(client)
        _daemon(call)
        _agents(call)
        _tasks(call)
        _approvals(call, daemon)
        _groups_and_schedules(call)
        _packages(call)
        _state(call)
        _tenants(call)
        _records(call)
        _servers(call)
        _rights(call)
    for name in ("mcp.attach", "daemon.follow", "event.follow", "log.follow"):
        with daemon.client() as client:
            last = Calls(client)
            last(name)
            call.called |= last.called
    with daemon.client() as client:
        last = Calls(client)
        last("daemon.emergency_stop")
        last("daemon.stop")
        call.called |= last.called
    assert daemon.process is not None, "it was started"
    daemon.process.wait(BOUND_S)
    assert call.called == METHODS.keys() - ELSEWHERE.keys(), "a method that is added is called here"


def test_the_types_of_events_are_reported_by_all_faces_alike(tmp_path: Path) -> None:
    config = '[daemon]\nhttp = "127.0.0.1:0"\n'
    with DaemonProcess(tmp_path, config) as daemon, mcp_serving(daemon.socket) as editor, daemon.client() as client:
        (found,) = Calls(client)("event.types", types=["worker.*"])["types"]
        assert (found["type"], found["meaning"]) == ("worker.state", "A worker has gone from one state to the next.")
        assert [each["name"] for each in found["fields"]] == ["from", "to", "reason"]
        everything = Calls(client)("event.types")["types"]
        assert [each["type"] for each in everything] == sorted(CATALOGUE)
        assert Calls(client)("event.types", types=["crew.*"]) == {"types": []}

        done = daemon.corral("call", "event.types", 'types=["worker.*"]')
        assert json.loads(done.stdout) == {"types": [found]}, done.stderr
        answered = Api(daemon).ask("GET", "/events/types", query={"types": "worker.*"})
        assert (answered.status, answered.json) == (200, {"types": [found]})
        editor.initialize()
        arguments = {"method": "event.types", "params": {"types": ["worker.*"]}}
        called = editor.ask(1, "tools/call", name="corral__call", arguments=arguments)["result"]
        assert called["structuredContent"]["result"] == {"types": [found]}
        with Runtime.connect(daemon.socket) as runtime:
            (told,) = runtime.list_event_types(types=["worker.*"]).types
        assert msgspec.to_builtins(told) == found

        async def ask() -> list[EventType]:
            async with await AgentRuntime.connect(daemon.socket) as runtime:
                return (await runtime.list_event_types(types=["worker.*"])).types

        assert asyncio.run(ask()) == [told]


def _daemon(call: Calls) -> None:
    call("daemon.ping")
    call("daemon.status")
    call("daemon.status", failed=True)
    call("daemon.doctor")
    call("daemon.schema", document="agent")
    call("daemon.log_level", level="info")
    call("daemon.reload", dry_run=True)
    call("daemon.reload")
    call("rpc.discover")
    call("statistics.show")
    assert call("metrics.latest")["daemon"]["total"]["up"] >= 1
    assert call("metrics.history")["points"]
    call("metrics.history", agent="ann", step_s=60.0)
    call("metrics.top")


def _agents(call: Calls) -> None:
    call("secret.set", name="KEY", secret="a")
    call("secret.list")
    call("secret.rotate", name="KEY", secret="b", restart=True)
    call("agent.show", name="ann")
    call("agent.show", name="duo")
    call("agent.select", selector="team=red")
    for name in ("start", "pause", "resume", "reset", "restart", "hibernate", "wake", "stop"):
        call(f"agent.{name}", names=["ann"])
    call("agent.start", names=["ann", "bob"])
    call("agent.scale", name="ann", instances=2)
    plain = {"command": ["sleep", "1000000"], "protocol": "none"}
    call("agent.add", name="plain", spec=plain)
    others = [{"name": "second", "spec": plain}, {"name": "third", "spec": {"command": ["/nowhere"]}}]
    call("agent.add_all", agents=others)
    assert call("agent.add_all", agents=others, present="keep", dry_run=True)["unchanged"]
    call("agent.signal", name="plain", signal="CONT")
    run = call("agent.exec", name="plain", argv=["cat"], stdin=True)["exec"]
    assert call("agent.exec_input", exec=run, data="aGk=", end=True)["written"] == 2
    assert call("agent.run_command", name="plain", argv=["echo", "hi"])["code"] == 0
    call("agent.list")
    call("models.list")
    call("agent.set", name="plain", spec={"title": "Sleeps", "labels": {"team": "blue"}})
    assert call("revision.list", name="plain")["revisions"][0]["how"] == "set"
    assert call("revision.diff", name="plain")["changes"][0]["key"] == "labels.team"
    assert call("agent.rollback", name="plain", dry_run=True)["revision"] is None
    assert call("agent.rollback", name="plain", revision=1)["of"] == 1
    assert call("revision.show", name="plain")["revision"]["of"] == 1
    call("runtime.stats")
    for name in ("quota.list", "store.list", "template.list"):
        call(name)
    assert call("agent.expose", name="crew", address="127.0.0.1:0")["name"] == "crew"
    call("agent.expose", name="crew", address=None)
    call("agent.show", name="third")
    call("agent.rm", names=["plain", "second", "third"])
    call("secret.rm", name="KEY", force=True)
    assert call("secret.list")["secrets"] == [{"name": "KEY", "source": None, "used_by": ["bob"]}]


def _tasks(call: Calls) -> None:
    ended = call("task.run", agent="crew", objective="echo", input=[1], session="talk")
    failed = call("task.run", agent="crew", objective="raise words")
    waiting = call("task.submit", agent="crew", objective="wait", deadline_s=3600)
    call("task.cancel", task=waiting["id"])
    call("task.wait", task=ended["id"])
    call("task.follow", task=failed["id"])
    call("task.show", task=ended["id"], calls=True)
    assert call("task.tree", task=failed["id"])["task"]["error"]["name"]
    assert call("task.log", task=failed["id"])["entries"][-1]["outcome"] == "failed"
    assert call("task.tree", task=call("task.run", agent="duo", objective="echo")["id"])["children"]
    call("task.list", agent="crew")
    retried = call("task.retry", tasks=[failed["id"], ended["id"]])
    assert (len(retried["retried"]), len(retried["failed"])) == (1, 1)
    call("task.discard", dead=True)
    assert call("cost.list", by="session")["total"]["tasks"] >= 1


def _approvals(call: Calls, daemon: DaemonProcess) -> None:
    with daemon.client() as client:
        client.call("event.follow", {"types": ["approval.asked"]}, timeout_s=BOUND_S)
        task = call("task.submit", agent="asks", objective="Go on?")["id"]
        number = next(client.notifications()) and call("approval.list", task=task)["approvals"][0]["id"]
    call("approval.show", approval=number)
    question = call("inbox.list", agent="asks")["items"][0]
    call("inbox.seen", items=[question["id"]])
    call("approval.answer", approval=number, answer="yes")
    call("task.wait", task=task)


def _groups_and_schedules(call: Calls) -> None:
    call("team.add", name="trio", spec={"mode": "route", "members": ["ann", "bob", "crew"]})
    call("workflow.add", name="short", spec={"steps": [{"name": "a", "agent": "crew", "objective": "echo"}]})
    for kind, name in (("team", "trio"), ("workflow", "short")):
        call(f"{kind}.list")
        call(f"{kind}.show", name=name)
        call(f"{kind}.rm", name=name)
    call("schedule.add", name="later", every_s=3600, task={"agent": "crew", "objective": "echo"})
    call("schedule.add_command", name="command", every_s=3600, command=["/bin/true"])
    for name in ("later", "command"):
        task = call("schedule.run", name=name)
        call("task.wait", task=task["id"])
    call("schedule.pause", name="later")
    call("schedule.resume", name="later")
    call("schedule.list")
    call("daemon.export")
    made = call("backup.make")
    assert call("backup.read", id=made["id"])["offset"] == 0
    call("backup.discard", id=made["id"])
    call("daemon.import", teams={"imported": {"mode": "route", "members": ["ann"]}})
    call("team.rm", name="imported")
    assert call("schedule.show", name="later")["upcoming"]
    call("schedule.rm", name="command")
    call("schedule.rm", name="later")


def _packages(call: Calls) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        scaffold(path / "greeter", "greeter")
        data = Path(build(path / "greeter", path / "x.corral").path).read_bytes()
    sent = call("package.upload", data=base64.b64encode(data).decode())
    call("package.add", upload=sent["upload"])
    call("package.list")
    number = call("deployment.create", package="greeter")["deployment"]
    for verb in ("promote", "abort"):
        call("deployment.create", package="greeter", canary_percent=50)
        call(f"deployment.{verb}", name="greeter")
    call("deployment.list")
    call("deployment.show", deployment=number)
    call("agent.rm", names=["greeter"])
    for name in ("show", "verify", "rm"):
        call(f"package.{name}", package="greeter@0.1.0")


def _state(call: Calls) -> None:
    call("task.run", agent="ann", objective="write", input="a page", session="diary")
    assert call("memory.sessions", agent="crew")["sessions"]
    call("memory.show", agent="crew", session="talk")
    call("memory.put", agent="ann", key="a", value={"b": [1]})
    call("memory.get", agent="ann", key="a")
    assert call("memory.search", agent="ann")["items"]
    assert call("memory.stats")["agents"]
    call("memory.delete", agent="ann", key="a")
    call("memory.cleanup")
    call("memory.expire", agent="crew", session="talk", ttl_s=3600)
    call("memory.pools")
    call("memory.clear", agent="crew")
    (saved, *_) = call("checkpoint.save", name="ann-0")["checkpoints"]
    call("checkpoint.list")
    call("checkpoint.show", checkpoint=saved["id"])
    call("checkpoint.restore", checkpoint=saved["id"])
    call("checkpoint.rm", checkpoints=[saved["id"]], force=True)


def _tenants(call: Calls) -> None:
    assert call("tenant.add", name="acme", spec={"max_agents": 5})["created"]
    assert call("tenant.list")["tenants"][0]["name"] == "acme"
    assert call("tenant.set", name="acme", spec={"max_agents": 6})["keys"] == ["max_agents"]
    assert call("tenant.show", name="acme")["spec"] == {"max_agents": 6}
    call("tenant.suspend", name="acme")
    call("tenant.resume", name="acme")
    assert call("tenant.rm", name="acme")["removed"] == ["acme"]


def _records(call: Calls) -> None:
    call("event.publish", type="price.changed", data=12)
    assert call("event.types")["types"]
    assert call("event.list", n=1000)["events"]
    assert call("log.read", n=1000)["records"]
    assert call("audit.list", n=1000)["records"]
    call("audit.verify")


def _servers(call: Calls) -> None:
    assert call("mcp.servers")["servers"]
    assert call("mcp.tools")["tools"]
    assert call("mcp.prompts")["prompts"]
    assert call("mcp.resources")["resources"]
    call("mcp.call", name="odd__echo", arguments={"text": "a"})
    call("mcp.read", uri="odd://a")
    call("agent.show", name="odd")
    call("mcp.logins")
    call("mcp.diff", name="odd")
    call("mcp.accept", name="odd")


def _rights(call: Calls) -> None:
    call("auth.whoami")
    token = call("token.add", name="ci", rights="admin")
    call("token.list")
    token = call("token.rotate", name="ci")
    call("token.add", name="reader", rights="read", agents=["web*"], expires_s=60)
    call("token.rm", name="reader")
    call("auth.login", token=token["token"])
