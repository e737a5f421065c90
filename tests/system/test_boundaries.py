"""What a task may do is held to by the daemon, whatever the worker does; and the worker serves on, or is replaced."""

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from corral.worker.contract.errors import InvalidParams, PermissionDenied, ResourceLimitExceeded, TaskFailed, Timeout
from daemon_process import AGENTS, BOUND_S, DaemonProcess

CONFIG = f"""
[process]
working_directory = "{AGENTS}"
[tasks]
cancel_grace = "200ms"
[recovery]
restart_backoff_base = "10ms"

[agents.crew]
entrypoint = "bounded_agent:agent"
[agents.pair]
entrypoint = "bounded_agent:agent"
instances = 2
[agents.wide]
entrypoint = "bounded_agent:agent"
resources.max_concurrent_requests = 2
[agents.granted]
entrypoint = "bounded_agent:agent"
control = "operate"
[agents.raw]
command = ["{sys.executable}", "{AGENTS}/tool_user.py"]
resources.max_concurrent_requests = 2
[agents.bill]
command = ["{sys.executable}", "{AGENTS}/raw_worker.py", "bills", "7", "3.5"]
[teams.both]
members = ["crew", "pair"]
mode = "broadcast"
[workflows.flow]
output = "${{steps.only.output}}"
[[workflows.flow.steps]]
name = "only"
agent = "crew"
objective = "echo"
input = "${{input}}"
[mcp.servers.odd]
command = ["{sys.executable}", "-I", "{AGENTS}/mcp_odd.py"]
"""


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    with DaemonProcess(tmp_path_factory.mktemp("boundaries"), CONFIG) as process:
        process.call("agent.start", names=["crew", "pair", "wide", "granted", "raw", "bill"])
        yield process


def run(daemon: DaemonProcess, objective: str, given: object = None, *, agent: str = "crew", **more: object) -> Any:
    return daemon.call("task.run", agent=agent, objective=objective, input=given, **more)


def succeeded(task: Any) -> Any:
    assert task["state"] == "succeeded", task["error"]
    return task["output"]


def serves_on(daemon: DaemonProcess, pid: int) -> None:
    assert succeeded(run(daemon, "pid")) == pid, "the same process takes the next task"


@pytest.fixture
def pid(daemon: DaemonProcess) -> int:
    """The process of the one worker of crew."""
    return int(succeeded(run(daemon, "pid")))


# -- before it is queued


@pytest.mark.parametrize(
    ("key", "fields"),
    [
        ("objective", {"objective": " "}),
        ("boundaries.timeout", {"boundaries": {"timeout": "soon"}}),
        ("boundaries.timeout", {"boundaries": {"timeout": "5s", "timeout_s": 6}}),
        ("boundaries.allowed_tools[1]", {"boundaries": {"allowed_tools": ["a", "{b}"]}}),
        ("allowed_tools[0]", {"allowed_tools": ["a b"]}),
        ("boundaries.max_tool_calls", {"boundaries": {"max_tool_calls": -1}}),
        ("boundaries.max_tokens", {"boundaries": {"max_tokens": "many"}}),
        ("boundaries.max_calls", {"boundaries": {"max_calls": 1}}),
        ("priority", {"priority": 11}),
        ("required_capabilities[0]", {"required_capabilities": [""]}),
        ("output_format.schema", {"output_format": {"schema": {"type": "integr"}}}),
        ("output_format.schema", {"output_format": {"schema": {"$ref": "https://example.org/s"}}}),
        ("output_format.schema", {"output_format": {"schema": {"pattern": "("}}}),
        ("output_format.schema", {"output_format": {"schema": {"description": "x" * 70_000}}}),
    ],
)
def test_a_field_that_is_wrong_is_named_and_nothing_is_queued(
    daemon: DaemonProcess, key: str, fields: Mapping[str, object]
) -> None:
    before = daemon.call("task.list")
    with pytest.raises(InvalidParams) as refused:
        daemon.call("task.submit", **{"agent": "crew", "objective": "echo", **fields})
    assert refused.value.data["key"] == key
    assert refused.value.data["reason"]
    assert daemon.call("task.list") == before


def test_a_worker_gets_the_limits_that_are_in_force(daemon: DaemonProcess) -> None:
    form = {"description": "an object", "schema": {"type": "object"}}
    bounds = {"timeout": "1m", "max_tool_calls": 900, "max_tokens": 5, "max_cost_cents": 2.5}
    task = run(
        daemon,
        "boundaries",
        boundaries={**bounds, "scope": "here", "constraints": ["be brief"]},
        allowed_tools=["odd__*"],
        output_format=form,
    )
    assert succeeded(task) == {
        "timeout_s": 60.0,
        "max_tool_calls": 50,
        "allowed_tools": ["odd__*"],
        "constraints": ["be brief"],
        "scope": "here",
        "max_tokens": 5,
        "max_cost_cents": 2.5,
        "output_format": form,
    }
    assert task["output_format"] == form
    assert (task["boundaries"]["timeout_s"], task["boundaries"]["timeout"]) == (60.0, None)


# -- the output


@pytest.mark.parametrize(
    ("schema", "output", "path", "rule"),
    [
        ({"type": "object"}, 3, "", "type"),
        ({"required": ["a"]}, {"b": 1}, "a", "required"),
        ({"properties": {"a": {"items": {"minimum": 3}}}}, {"a": [4, 2]}, "a[1]", "minimum"),
        (False, None, "", "falseSchema"),
    ],
)
def test_an_output_that_is_not_what_was_asked_for_fails_the_task(
    daemon: DaemonProcess, pid: int, schema: object, output: object, path: str, rule: str
) -> None:
    task = run(daemon, "echo", output, output_format={"schema": schema})
    assert (task["state"], task["error"]["code"]) == ("failed", TaskFailed.code)
    data = task["error"]["data"]
    assert (data["limit"], data["path"], data["rule"]) == ("output_format", path, rule)
    assert data["reason"]
    assert task["output"] is None
    serves_on(daemon, pid)


def test_an_output_that_is_what_was_asked_for_comes_through(daemon: DaemonProcess) -> None:
    schema = {"type": "array", "items": {"$ref": "#/$defs/n"}, "$defs": {"n": {"type": "integer"}}}
    assert succeeded(run(daemon, "echo", [1, 2], output_format={"schema": schema})) == [1, 2]
    assert succeeded(run(daemon, "echo", "x", output_format={"description": "a text"})) == "x"


def test_the_output_of_a_workflow_is_held_against_the_schema_and_a_teams_by_its_members(daemon: DaemonProcess) -> None:
    form = {"schema": {"type": "integer"}}
    assert succeeded(run(daemon, "echo", 1, agent="flow", output_format=form)) == 1
    task = run(daemon, "echo", "x", agent="flow", output_format=form)
    assert (task["state"], task["error"]["data"]["rule"]) == ("failed", "type")
    members = succeeded(run(daemon, "echo", 1, agent="both", output_format=form))
    assert [each["output"] for each in members] == [1, 1]
    task = run(daemon, "echo", "x", agent="both", output_format=form)
    assert task["state"] == "failed"


def test_an_output_that_is_too_long_fails_the_task_and_the_worker_serves_on(daemon: DaemonProcess, pid: int) -> None:
    task = run(daemon, "big", 11 * 1024 * 1024)
    assert (task["state"], task["error"]["code"]) == ("failed", ResourceLimitExceeded.code)
    serves_on(daemon, pid)


# -- tokens and money of a task


@pytest.mark.parametrize(
    ("boundaries", "limit"), [({"max_tokens": 9}, "max_tokens"), ({"max_cost_cents": 0.5}, "max_cost_cents")]
)
@pytest.mark.parametrize("then", ["wait", "return"])
def test_a_task_that_uses_more_than_it_may_is_ended_and_the_worker_serves_on(
    daemon: DaemonProcess, pid: int, boundaries: Mapping[str, object], limit: str, then: str
) -> None:
    given = {"tokens": 10, "cents": 0.6, "then": then}
    task = run(daemon, "use", given, boundaries=boundaries)
    assert (task["state"], task["error"]["code"]) == ("failed", ResourceLimitExceeded.code)
    data = task["error"]["data"]
    assert (data["limit"], data["value"]) == (limit, boundaries[limit])
    assert (task["tokens_used"], task["cost_cents"]) == (10, pytest.approx(0.6))
    serves_on(daemon, pid)


def test_a_task_that_uses_all_that_it_may_succeeds(daemon: DaemonProcess) -> None:
    task = run(daemon, "use", {"tokens": 10}, boundaries={"max_tokens": 10})
    assert (succeeded(task), task["tokens_used"]) == ("used", 10)


def test_what_is_reported_with_the_answer_counts_as_well(daemon: DaemonProcess) -> None:
    """The worker tells of 7 tokens and 3.5 cents when it answers."""
    enough = run(daemon, "x", agent="bill", boundaries={"max_tokens": 7, "max_cost_cents": 3.5})
    assert (succeeded(enough), enough["tokens_used"], enough["cost_cents"]) == ("done", 7, 3.5)
    task = run(daemon, "x", agent="bill", boundaries={"max_cost_cents": 3})
    assert (task["state"], task["error"]["data"]["limit"]) == ("failed", "max_cost_cents")
    assert task["output"] is None


def test_a_worker_that_does_not_let_go_of_a_task_beyond_its_limit_is_replaced(daemon: DaemonProcess, pid: int) -> None:
    task = run(daemon, "use", {"tokens": 10, "then": "hold"}, boundaries={"max_tokens": 9})
    assert task["error"]["data"]["limit"] == "max_tokens"
    assert succeeded(run(daemon, "pid")) != pid
    last = daemon.worker("crew-0")["last_exit"]
    assert last["result"] == "task-timeout"


def test_a_worker_serves_on_after_a_timeout_that_it_obeys(daemon: DaemonProcess, pid: int) -> None:
    task = run(daemon, "wait", boundaries={"timeout": "100ms"})
    assert (task["state"], task["error"]["code"]) == ("timeout", Timeout.code)
    assert task["error"]["data"]["value"] == 0.1
    serves_on(daemon, pid)


def test_calls_beyond_the_limit_and_of_other_tools_are_refused_and_the_worker_serves_on(
    daemon: DaemonProcess, pid: int
) -> None:
    for boundaries, error in (
        ({"max_tool_calls": 0}, ResourceLimitExceeded),
        ({"allowed_tools": ["odd__methods"]}, PermissionDenied),
    ):
        task = run(daemon, "tool", "odd__echo", boundaries=boundaries)
        assert (task["state"], task["error"]["code"]) == ("failed", error.code)
    assert succeeded(run(daemon, "tool", "odd__echo")) == "x"
    serves_on(daemon, pid)


def test_what_binds_a_task_binds_the_control_socket_inside_its_workers_tree(daemon: DaemonProcess) -> None:
    params = {"name": "odd__echo", "arguments": {"text": "x"}}
    asked = {"path": str(daemon.socket), "method": "mcp.call", "params": params}
    for allowed, code in ((["odd__methods"], PermissionDenied.code), (["odd__e*"], "ok")):
        task = run(daemon, "socket", asked, agent="granted", allowed_tools=allowed)
        assert succeeded(task) == code


def test_a_task_beyond_its_limit_is_not_tried_again(daemon: DaemonProcess) -> None:
    retry = {"max_attempts": 3, "retry_on": "any"}
    task = run(daemon, "use", {"tokens": 10}, boundaries={"max_tokens": 9}, retry=retry)
    assert (task["state"], task["attempt"]) == ("failed", 1)


# -- what a task gives away


def child_of(task: Any) -> Any:
    found = succeeded(task)
    assert "output" in found, found
    return found["output"]


def test_a_child_is_bound_by_what_binds_its_parent(daemon: DaemonProcess) -> None:
    asked = {
        "agent": "pair",
        "objective": "boundaries",
        "timeout_s": 250,
        "allowed_tools": ["odd__m*", "time__*"],
        "boundaries": {"max_tool_calls": 9, "max_tokens": 1000},
    }
    bounds = {"timeout_s": 100, "max_tool_calls": 2, "allowed_tools": ["odd__*"], "max_tokens": 50, "max_cost_cents": 4}
    given = child_of(run(daemon, "delegate", asked, boundaries=bounds))
    assert (given["timeout_s"], given["max_tool_calls"]) == (100.0, 2)
    assert given["allowed_tools"] == ["odd__m*"]
    assert (given["max_tokens"], given["max_cost_cents"]) == (50, 4.0)
    asked |= {"objective": "tools"}
    assert child_of(run(daemon, "delegate", asked, boundaries=bounds)) == ["odd__methods"]
    free: dict[str, object] = {"agent": "pair", "objective": "boundaries"}
    assert child_of(run(daemon, "delegate", free))["allowed_tools"] is None


def test_a_grandchild_is_bound_by_what_binds_the_first(daemon: DaemonProcess) -> None:
    below = {"agent": "pair", "objective": "tool", "input": "odd__echo"}
    between = {"agent": "wide", "objective": "delegate", "input": below}
    task = run(daemon, "delegate", between, allowed_tools=["odd__methods"])
    assert (task["state"], task["error"]["code"]) == ("failed", PermissionDenied.code)


def test_what_the_members_of_a_team_use_counts_for_its_task(daemon: DaemonProcess) -> None:
    task = run(daemon, "use", {"tokens": 6}, agent="both", boundaries={"max_tokens": 10})
    assert (task["state"], task["error"]["code"]) == ("failed", ResourceLimitExceeded.code)
    assert task["error"]["data"]["limit"] == "max_tokens"


def test_what_children_use_counts_for_their_parent(daemon: DaemonProcess, pid: int) -> None:
    once = {"agent": "pair", "objective": "use", "input": {"tokens": 6}}
    task = run(daemon, "in turn", [once, once], boundaries={"max_tokens": 10})
    assert (task["state"], task["error"]["code"]) == ("failed", ResourceLimitExceeded.code)
    assert task["error"]["data"]["limit"] == "max_tokens"
    assert len(task["children"]) == 2
    serves_on(daemon, pid)
    enough = run(daemon, "in turn", [once, once], boundaries={"max_tokens": 12})
    assert [each["output"] for each in succeeded(enough)] == ["used", "used"]
    assert enough["tokens_used"] == 0, "the record has what the task itself has used"


def test_a_worker_of_several_tasks_has_to_say_for_which_it_delegates(daemon: DaemonProcess) -> None:
    asked = {"agent": "pair", "objective": "echo"}
    held = daemon.call("task.submit", agent="raw", objective="hold")["id"]
    try:
        answer = succeeded(run(daemon, "task/delegate", asked, agent="raw"))
        assert (answer["code"], answer["data"]["key"]) == (InvalidParams.code, "task")
    finally:
        daemon.call("task.cancel", task=held)
    # A cancelled task counts until the worker has let go of it.
    daemon.await_worker("raw-0", lambda worker: worker["state"] in ("Ready", "Idle"))
    assert succeeded(run(daemon, "task/delegate", asked, agent="raw"))["state"] == "succeeded"


# -- budgets of an agent

BUDGETS = f"""
[process]
working_directory = "{AGENTS}"
[agents.thrifty]
entrypoint = "bounded_agent:agent"
instances = 2
resources.max_tokens_per_minute = TOKENS
tasks.max_cost_cents_per_day = CENTS
[agents.other]
entrypoint = "bounded_agent:agent"
"""


def budgets(tokens: int, cents: int) -> str:
    return BUDGETS.replace("TOKENS", str(tokens)).replace("CENTS", str(cents))


def await_event(daemon: DaemonProcess, kind: str) -> Any:
    with daemon.client() as client:
        client.call("event.follow", {"types": [kind], "since": 0}, timeout_s=BOUND_S)
        for notification in client.notifications():
            events: Any = notification.params["events"]
            if events:
                return events[0]
    raise AssertionError("the stream of events does not end")


def is_held(daemon: DaemonProcess, task_id: str, word: str) -> None:
    """It waits, while another agent's task comes and goes, and its record says for what."""
    succeeded(run(daemon, "use", {"tokens": 10**6, "cents": 10**6}, agent="other"))
    task = daemon.call("task.show", task=task_id)
    assert (task["state"], task["worker"]) == ("queued", None)
    assert word in task["reason"]


@pytest.mark.parametrize(
    ("given", "tokens", "cents", "key", "event"),
    [
        ({"tokens": 60}, 100, 0, "max_tokens_per_minute", "limit.tokens"),
        ({"cents": 60.5}, 0, 100, "max_cost_cents_per_day", "limit.cost"),
    ],
    ids=["tokens", "cost"],
)
def test_an_agent_that_has_used_up_its_budget_takes_no_task_until_it_has_more(
    tmp_path: Path, given: object, tokens: int, cents: int, key: str, event: str
) -> None:
    """It is the agent's, whichever of its workers has spent it; more comes by a reload here."""
    with DaemonProcess(tmp_path, budgets(tokens, cents)) as daemon:
        daemon.call("agent.start", names=["thrifty", "other"])
        for _ in range(2):
            succeeded(run(daemon, "use", given, agent="thrifty"))
        told = await_event(daemon, event)
        assert (told["key"], told["limit"], told["agent"]) == (key, 100, "thrifty")
        assert told["used"] in (120, 121)
        waits = daemon.call("task.submit", agent="thrifty", objective="echo", input=1)["id"]
        is_held(daemon, waits, key)
        daemon.config.write_text(budgets(tokens * 2, cents * 2))
        daemon.call("daemon.reload")
        assert daemon.call("task.wait", task=waits)["output"] == 1
        assert len(daemon.call("event.list", types=[event])["events"]) == 1


def test_a_day_of_costs_goes_on_in_the_next_daemon(tmp_path: Path) -> None:
    with DaemonProcess(tmp_path, budgets(0, 100)) as daemon:
        daemon.call("agent.start", names=["thrifty"])
        succeeded(run(daemon, "use", {"cents": 60}, agent="thrifty"))
        daemon.stop()
        daemon.start()
        daemon.call("agent.start", names=["thrifty", "other"])
        succeeded(run(daemon, "use", {"cents": 60}, agent="thrifty"))
        waits = daemon.call("task.submit", agent="thrifty", objective="echo", input=1)["id"]
        is_held(daemon, waits, "max_cost_cents_per_day")
        daemon.stop()
        daemon.start()
        daemon.call("agent.start", names=["thrifty", "other"])
        is_held(daemon, waits, "max_cost_cents_per_day")


def test_a_worker_is_given_as_many_tasks_at_once_as_it_may_have(daemon: DaemonProcess) -> None:
    held = [daemon.call("task.submit", agent="wide", objective="wait")["id"] for _ in range(3)]
    try:
        with daemon.client() as client:
            client.call("event.follow", {"types": ["task.progress"], "agent": "wide"}, timeout_s=BOUND_S)
            states = [daemon.call("task.show", task=each) for each in held]
            changes = client.notifications()
            while sum(each["progress"] is not None for each in states) < 2:
                next(changes)
                states = [daemon.call("task.show", task=each) for each in held]
        assert [each["state"] for each in states] == ["running", "running", "queued"]
    finally:
        for each in held:
            daemon.call("task.cancel", task=each)
