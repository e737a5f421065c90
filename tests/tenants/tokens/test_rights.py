"""The matrix of rights: every method of the table with every kind of token, over a real socket.

The expectation of a cell is derived from the table alone, so that a new method has its cells by itself.
"""

import json
from collections.abc import Iterator
from itertools import product
from typing import Any, Literal, get_args, get_origin

import msgspec
import pytest
from msgspec import Struct

from corral.worker.client.sync import Client
from corral.worker.contract import codec
from corral.worker.contract.errors import CorralError, InvalidParams, NotFound, PermissionDenied
from corral.worker.contract.records import TaskParams
from corral.worker.control.access import RIGHTS
from corral.worker.methods.table import METHODS
from daemon_process import BOUND_S, DaemonProcess

pytestmark = pytest.mark.shell

AGENT = """\
from corral.worker import Agent, Task
agent = Agent("secretary")
@agent.task
async def run(task: Task) -> str:
    return "done"
"""

CONFIG = """
[agents.secretary]
entrypoint = "quiet:agent"
autostart = false
labels = { team = "red" }
[agents.mine]
command = ["sleep", "1000"]
protocol = "none"
autostart = false
[teams.squad]
mode = "broadcast"
members = ["secretary"]
[schedules.nightly]
agent = "secretary"
objective = "look"
every = "1h"
"""

CLOSED = {
    "agent.add": "its table may name other agents, secrets and rights",
    "agent.add_all": "likewise",
    "agent.rollback": "likewise",
    "agent.set": "likewise",
    "audit.list": "records are about all",
    "audit.verify": "likewise",
    "backup.discard": "a backup has all",
    "backup.make": "likewise",
    "backup.read": "likewise",
    "daemon.doctor": "it is about the machine",
    "daemon.emergency_stop": "it stops all",
    "daemon.import": "an export has all",
    "daemon.log_level": "it is about the daemon",
    "daemon.reload": "likewise",
    "daemon.stop": "likewise",
    "daemon.upgrade": "likewise",
    "deployment.create": "packages are of all",
    "deployment.show": "likewise",
    "event.publish": "any agent may read it",
    "mcp.call": "tools are of servers that all share",
    "mcp.prompts": "likewise",
    "mcp.read": "likewise",
    "mcp.resources": "likewise",
    "mcp.tools": "likewise",
    "node.drain": "nodes are the machine's",
    "node.list": "likewise",
    "node.resume": "likewise",
    "package.add": "packages are of all",
    "package.list": "likewise",
    "package.rm": "likewise",
    "package.show": "likewise",
    "package.upload": "likewise",
    "package.verify": "likewise",
    "schedule.add_command": "it adds a job",
    "secret.list": "secrets are of all",
    "secret.rm": "likewise",
    "secret.rotate": "likewise",
    "secret.set": "likewise",
    "team.add": "its members may be other agents",
    "template.list": "agents are added by them, which such a caller cannot",
    "tenant.add": "tenants are of the owner",
    "tenant.list": "likewise",
    "tenant.resume": "likewise",
    "tenant.rm": "likewise",
    "tenant.set": "likewise",
    "tenant.show": "likewise",
    "tenant.suspend": "likewise",
    "token.add": "it would widen the scope",
    "token.list": "likewise",
    "token.rm": "likewise",
    "token.rotate": "likewise",
    "workflow.add": "its steps may be other agents",
}
"""Methods that a caller with some agents alone cannot call, each with the reason. A new one must be put here on purpose, or have a rule."""

SECRETS = ("secretary", "squad", "nightly")
"""Names that such a caller must not read anywhere."""


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    folder = tmp_path_factory.mktemp("matrix")
    (folder / "quiet.py").write_text(AGENT)
    with DaemonProcess(folder, CONFIG) as process:
        yield process


@pytest.fixture(scope="module")
def clients(daemon: DaemonProcess) -> Iterator[dict[str, Client]]:
    """A connection for each kind of token."""
    found: dict[str, Client] = {}
    for rights in RIGHTS:
        token = daemon.call("token.add", name=rights, rights=rights)["token"]
        found[rights] = daemon.client()
        found[rights].call("auth.login", {"token": token}, timeout_s=BOUND_S)
    token = daemon.call("token.add", name="scoped", rights="admin", agents=["mine", "other*"])
    found["scoped"] = daemon.client()
    found["scoped"].call("auth.login", {"token": token["token"]}, timeout_s=BOUND_S)
    yield found
    for client in found.values():
        client.close()


def answered(client: Client, method: str, params: dict[str, object]) -> object:
    """The result, or the error."""
    try:
        return client.call(method, params, timeout_s=BOUND_S)
    except CorralError as error:
        return error


def test_a_method_needs_its_right(clients: dict[str, Client], subtests: pytest.Subtests) -> None:
    for (name, entry), rights in product(sorted(METHODS.items()), RIGHTS):
        with subtests.test(name, rights=rights):
            # No method has this key: where the right is enough, that is the next mistake, and nothing is done.
            found = answered(clients[rights], name, {"no such key": 1})
            if RIGHTS.index(rights) < RIGHTS.index(entry.access.permission):
                assert isinstance(found, PermissionDenied)
                assert found.data["needs"] == entry.access.permission
            else:
                assert isinstance(found, InvalidParams)


def value_of(type_: Any, key: str) -> object:  # Any: a type as msgspec takes it
    """Some value of a type, with names where it can have them."""
    origin, inner = get_origin(type_), get_args(type_)
    if hasattr(type_, "__metadata__"):
        return value_of(inner[0], key)
    if type_ is TaskParams:
        return {"objective": "x", "agent": "secretary"}
    if type(None) in inner:
        return None
    if origin is Literal:
        return inner[0]
    if origin is list:
        return [value_of(inner[0], key)]
    if origin is dict:
        return {}
    if isinstance(type_, type) and issubclass(type_, Struct):
        return params_of(type_)
    return {str: "secretary", int: 1, float: 1.0, bool: False, object: "x"}[type_]


def params_of(params: type[Struct]) -> dict[str, object]:
    """Params about agents that are out of scope, for any method."""
    fields = msgspec.structs.fields(params)
    found = {each.name: value_of(each.type, each.name) for each in fields if each.required}
    keys = {each.name for each in fields}
    if "names" in keys:
        found["names"] = ["secretary"]
    elif "tasks" in keys:
        found["tasks"] = ["no-such-task"]
    elif "agent" in keys and "objective" in keys:
        found["agent"] = "secretary"
    if "checkpoint" in keys:
        found["checkpoint"] = 1
    if "command" in keys or params.__name__ == "ScheduleParams":
        found |= {"name": "new", "every_s": 3600}
    if "schema" in params.__name__.lower():
        found = {}
    return found


def test_a_method_is_restricted_to_the_agents_of_a_token_or_refused(
    clients: dict[str, Client], subtests: pytest.Subtests
) -> None:
    for name in sorted(METHODS.keys() - {"mcp.attach"}):  # which makes another connection of this one
        with subtests.test(name):
            check_that_it_is_restricted(clients["scoped"], name)


def check_that_it_is_restricted(scoped: Client, name: str) -> None:
    entry = METHODS[name]
    params = params_of(entry.params)
    if name == "secret.set":
        params["name"] = "KEY"
    rule = entry.access.scope
    if rule is not None and rule.target == "agent" and not (rule.lists or rule.sends):
        params["agent"] = "secretary"
    found = answered(scoped, name, params)
    if rule is None:
        assert isinstance(found, PermissionDenied)
        assert found.data["reason"] == "scope"
    elif rule.target != "nothing" and not (rule.lists or rule.sends):
        assert isinstance(found, NotFound), found
        unknown = json.loads(json.dumps(params).replace("secretary", "nowhere"))
        of_none = answered(scoped, name, unknown)
        assert isinstance(of_none, NotFound)
        same = json.dumps(of_none.to_wire()).replace("nowhere", "secretary")
        assert json.dumps(found.to_wire()) == same, "it must not know that the name is there"
    elif rule.lists:
        assert not isinstance(found, CorralError)
        for key, path in rule.lists:
            entries = codec.as_array((codec.as_object(found) or {})[key]) or []
            assert all((codec.as_object(each) or {})[path] == "mine" for each in entries)
    if not isinstance(found, CorralError) and name not in ("rpc.discover", "daemon.schema"):
        assert not any(each in json.dumps(found) for each in SECRETS)


def test_every_method_without_a_rule_is_closed_on_purpose() -> None:
    assert {name for name, entry in METHODS.items() if entry.access.scope is None} == set(CLOSED)


def test_what_chooses_all_chooses_those_in_scope(clients: dict[str, Client]) -> None:
    client = clients["scoped"]
    chosen = client.call("agent.select", {"all": True}, timeout_s=BOUND_S)
    assert chosen == {"names": ["mine"]}
    status: Any = client.call("daemon.status", {}, timeout_s=BOUND_S)
    assert [each["name"] for each in status["agents"]] == ["mine"]
    assert status["teams"] == []
    assert client.call("agent.stop", {"all": True}, timeout_s=BOUND_S)["names"] == ["mine"]  # type: ignore[index]  # likewise
    assert client.call("agent.reset", {"names": ["*"]}, timeout_s=BOUND_S)["names"] == ["mine"]  # type: ignore[index]  # likewise
    for params in ({"names": ["secre*"]}, {"selector": "team=red"}, {"names": ["secretary-0"]}):
        with pytest.raises(NotFound):
            client.call("agent.stop", params, timeout_s=BOUND_S)
    with pytest.raises(NotFound):
        client.call("schedule.show", {"name": "nightly"}, timeout_s=BOUND_S)
    with pytest.raises(PermissionDenied):
        client.call("agent.rm", {"names": ["mine"], "cascade": True}, timeout_s=BOUND_S)
    with pytest.raises(PermissionDenied):
        client.call("task.run", {"objective": "x", "capability": "y"}, timeout_s=BOUND_S)


def test_followers_see_events_in_scope_alone(daemon: DaemonProcess, clients: dict[str, Client]) -> None:
    with daemon.client() as client:
        token = daemon.call("token.rotate", name="scoped", overlap_s=600)["token"]
        client.call("auth.login", {"token": token}, timeout_s=BOUND_S)
        client.call("event.follow", {}, timeout_s=BOUND_S)
        for name in ("secretary", "mine"):
            daemon.call("agent.start", names=[name])
        for notification in client.notifications():
            events: Any = notification.params["events"]
            assert {each["agent"] for each in events} == {"mine"}
            if any(each["type"] == "worker.state" for each in events):
                break
        logs: Any = client.call("log.read", {}, timeout_s=BOUND_S)
        assert {each["agent"] for each in logs["records"]} <= {"mine"}
    for name in ("secretary", "mine"):
        daemon.call("agent.stop", names=[name])


def test_the_task_of_another_agent_is_not_there(daemon: DaemonProcess, clients: dict[str, Client]) -> None:
    client = clients["scoped"]
    task = daemon.call("task.submit", agent="squad", objective="x", when_down="queue")["id"]
    for name in ("task.show", "task.cancel", "task.wait", "task.tree", "task.follow", "task.log"):
        with pytest.raises(NotFound):
            client.call(name, {"task": task}, timeout_s=BOUND_S)
    with pytest.raises(NotFound):
        client.call("log.read", {"task": task}, timeout_s=BOUND_S)
    assert client.call("task.list", {}, timeout_s=BOUND_S)["tasks"] == []  # type: ignore[index]  # an object
    daemon.call("task.cancel", task=task)
