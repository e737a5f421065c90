"""Teams and workflows through the whole: the daemon, real workers, the store, the command."""

import json
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from corral.worker.contract.errors import Conflict, InvalidParams, NotFound
from corral.worker.contract.records import ENDED
from daemon_process import AGENTS, BOUND_S, DaemonProcess


def agent(name: str, *more: str) -> str:
    return "\n".join(
        [
            f"[agents.{name}]",
            'entrypoint = "ensemble_agent:agent"',
            f'process.working_directory = "{AGENTS}"',
            'tasks.retry_backoff_base = "10ms"',
            'recovery.restart_backoff_base = "10ms"',
            *more,
            "",
        ]
    )


def steps(name: str, *tables: str) -> str:
    return "".join(f"[[workflows.{name}.steps]]\n{table}\n" for table in tables)


CREWS = (
    agent("ann", 'capabilities = ["words", "rare"]')
    + agent("ben", 'capabilities = ["words"]')
    + agent("cleo", 'capabilities = ["words"]', "tasks.max_queue_size = 1")
    + agent("chief")
    + '[workflows.report]\noutput = { first = "${steps.gather.output.input}", all = "${steps.each.output}" }\n'
    + steps(
        "report",
        'name = "gather"\nagent = "ann"\nobjective = "echo"\ninput = "${input.words}"',
        'name = "each"\nagent = "ben"\nobjective = "echo"\nfor_each = "${steps.gather.output.input}"\n'
        'input = "${index}: ${item}"\nmax_parallel = 2',
        'name = "never"\nagent = "ann"\nafter = ["gather"]\nwhen = "len(steps.gather.output.input) > 9"',
    )
    + "[workflows.fails]\n"
    + steps(
        "fails",
        'name = "waits"\nagent = "ann"\nobjective = "wait"',
        'name = "breaks"\nagent = "ben"\nobjective = "fail because"',
    )
    + '[workflows.late]\ntimeout = "200ms"\n'
    + steps("late", 'name = "waits"\nagent = "ann"\nobjective = "wait"')
    + "[workflows.held]\n"
    + steps("held", 'name = "waits"\nagent = "ann"\nobjective = "wait"')
    + "[workflows.many]\n"
    + steps("many", 'name = "each"\nagent = "cleo"\nobjective = "echo"\nfor_each = "${input}"\ninput = "${item}"')
    + '[teams.chorus]\nmode = "broadcast"\nmembers = ["ben", "report", "ann"]\n'
    + '[teams.pair]\nmode = "broadcast"\nmembers = ["ann", "ben"]\n'
    + '[teams.turns]\nmode = "route"\nrouting = "round-robin"\nmembers = ["ann", "ben"]\n'
    + '[teams.sticky]\nmode = "route"\nrouting = "sticky"\nmembers = ["ann", "ben"]\n'
    + '[teams.led]\nlead = "chief"\nmembers = ["ann", "many"]\n'
)


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    with DaemonProcess(tmp_path_factory.mktemp("crews"), CREWS) as process:
        process.call("agent.start", names=["ann", "ben", "cleo", "chief"])
        yield process


def run(daemon: DaemonProcess, name: str, objective: str = "echo", **more: object) -> Any:
    return daemon.call("task.run", agent=name, objective=objective, **more)


def children(daemon: DaemonProcess, task: Any) -> list[Any]:
    return [daemon.call("task.show", task=each) for each in task["children"]]


def step_events(daemon: DaemonProcess, task: str) -> list[tuple[str, str]]:
    events = daemon.call("event.list", types=["workflow.step"], task=task)["events"]
    return [(event["step"], event["state"]) for event in events]


def submit_and_await(daemon: DaemonProcess, name: str, objective: str, **more: object) -> tuple[str, str]:
    """Submits a task and waits for the progress message "waits" of one below it; returns both ids."""
    with daemon.client() as client:
        client.call("event.follow", {"types": ["task.progress"]}, timeout_s=BOUND_S)
        task = daemon.call("task.submit", agent=name, objective=objective, **more)
        for notification in client.notifications():
            events: Any = notification.params["events"]
            for event in events:
                if event["message"] == "waits":
                    return task["id"], event["task"]
    raise AssertionError("the stream of events does not end")


# --- workflows ------------------------------------------------------------------------------------


@pytest.mark.long
def test_a_workflow_hands_the_outputs_of_steps_to_the_next(daemon: DaemonProcess) -> None:
    task = run(daemon, "report", "make it", input={"words": ["a", "b", "c"]})
    assert task["state"] == "succeeded", task
    assert (task["kind"], task["worker"], task["attempt"]) == ("workflow", None, 1)
    assert task["output"]["first"] == ["a", "b", "c"]
    assert [each["input"] for each in task["output"]["all"]] == ["0: a", "1: b", "2: c"]
    below = {child["step"]: child for child in children(daemon, task)}
    assert below.keys() == {"gather", "each/0", "each/1", "each/2"}
    for step, child in below.items():
        assert (child["parent"], child["kind"], child["depth"]) == (task["id"], "task", 1)
        assert child["idempotency_key"] == f"{task['id']}/{step}"
        assert child["agent"] == ("ann" if step == "gather" else "ben")
    events = step_events(daemon, task["id"])
    assert set(events) == {
        ("gather", "started"),
        ("gather", "succeeded"),
        ("never", "skipped"),
        ("each", "started"),
        ("each", "succeeded"),
    }
    assert len(events) == 5


def test_a_step_that_fails_ends_the_workflow_and_what_is_under_way(daemon: DaemonProcess) -> None:
    task = run(daemon, "fails")
    assert task["state"] == "failed"
    assert task["error"]["name"] == "TaskFailed"
    data = task["error"]["data"]
    assert (data["workflow"], data["step"], data["exception"]) == ("fails", "breaks", "ValueError")
    for child in task["children"]:
        ended = daemon.call("task.wait", task=child)
        assert ended["state"] == ("cancelled" if ended["step"] == "waits" else "failed")
    assert ("breaks", "failed") in step_events(daemon, task["id"])


def test_an_expression_without_a_value_fails_the_task_by_step_and_key(daemon: DaemonProcess) -> None:
    done = daemon.corral("--json", "run", "report", "x", "--input", "{}")
    assert done.returncode == 1
    error = json.loads(done.stdout)["error"]
    assert (error["name"], error["data"]["step"], error["data"]["key"]) == ("TaskFailed", "gather", "input")


def test_a_workflow_that_takes_too_long_ends_as_timeout_with_its_steps(daemon: DaemonProcess) -> None:
    task = run(daemon, "late")
    assert (task["state"], task["error"]["name"]) == ("timeout", "Timeout")
    assert task["boundaries"]["timeout_s"] == 0.2
    for child in task["children"]:
        assert daemon.call("task.wait", task=child)["state"] in ("cancelled", "timeout")


def test_cancelling_a_workflow_cancels_its_steps(daemon: DaemonProcess) -> None:
    task, child = submit_and_await(daemon, "held", "x")
    running = {each["name"]: each["running"] for each in daemon.call("workflow.list")["workflows"]}
    assert running["held"] == 1
    assert daemon.call("task.cancel", task=task)["state"] == "cancelled"
    assert daemon.call("task.wait", task=child)["state"] == "cancelled"


def test_nobody_takes_the_place_of_a_step_by_its_key(daemon: DaemonProcess) -> None:
    task, _ = submit_and_await(daemon, "held", "x")
    key = f"{task}/later"
    with pytest.raises(InvalidParams) as refused:
        run(daemon, "ben", idempotency_key=key)
    assert refused.value.data == {"key": "idempotency_key", "task": task}
    asked = [{"agent": "ann", "idempotency_key": key}]
    assert run(daemon, "led", "lead", input=asked)["output"] == ["InvalidParams"]
    daemon.call("task.cancel", task=task)
    assert run(daemon, "ben", idempotency_key=key)["state"] == "succeeded"  # one like any other


def test_a_full_queue_is_waited_for(daemon: DaemonProcess) -> None:
    task = run(daemon, "many", input=list(range(6)))
    assert task["state"] == "succeeded", task
    assert [each["input"] for each in task["output"]["each"]] == list(range(6))


def test_a_workflow_that_is_retried_starts_anew(daemon: DaemonProcess) -> None:
    first = run(daemon, "fails")
    again = daemon.call("task.retry", task=first["id"])
    ended = daemon.call("task.wait", task=again["retried"][0]["by"])
    assert (ended["retry_of"], ended["state"]) == (first["id"], "failed")
    assert len(ended["children"]) == 2
    assert not set(ended["children"]) & set(first["children"])


# --- teams ----------------------------------------------------------------------------------------


def test_a_broadcast_answers_in_the_order_of_the_members(daemon: DaemonProcess) -> None:
    task = run(daemon, "chorus", input={"words": ["w"]})
    assert (task["state"], task["kind"]) == ("succeeded", "team")
    assert [each["member"] for each in task["output"]] == ["ben", "report", "ann"]
    assert {each["state"] for each in task["output"]} == {"succeeded"}
    assert task["output"][0]["output"]["agent"] == "ben"
    assert task["output"][1]["output"]["first"] == ["w"]
    assert [each["task"] for each in task["output"]] == [
        child["id"] for name in ("ben", "report", "ann") for child in children(daemon, task) if child["step"] == name
    ]


def test_an_output_format_is_for_each_member_and_for_the_whole_of_a_workflow(daemon: DaemonProcess) -> None:
    given: dict[str, list[str]] = {"words": []}
    for name in ("chorus", "turns", "report"):
        for kind, state in (("object", "succeeded"), ("number", "failed")):
            form = {"schema": {"type": kind}}
            task = run(daemon, name, input=given, output_format=form)
            assert task["state"] == state, task
            assert state == "succeeded" or task["error"]["name"] == "TaskFailed"


def test_a_broadcast_fails_only_when_all_members_do(daemon: DaemonProcess) -> None:
    part = run(daemon, "chorus", "fail-on ben", input={"words": []})
    assert part["state"] == "succeeded"
    assert [each["state"] for each in part["output"]] == ["failed", "succeeded", "succeeded"]
    assert part["output"][0]["error"]["name"] == "TaskFailed"
    none = run(daemon, "chorus", "fail")
    assert (none["state"], none["error"]["name"]) == ("failed", "TaskFailed")
    told = none["error"]["data"]["members"]
    assert [each["member"] for each in told] == ["ben", "report", "ann"]


def test_errors_that_are_long_together_leave_a_record_that_can_be_read(daemon: DaemonProcess) -> None:
    task = run(daemon, "pair", "fail-long 9000000")
    assert (task["state"], task["error"]["name"]) == ("failed", "TaskFailed")
    for told in [each["error"] for each in task["error"]["data"]["members"]]:
        assert told["name"] == "TaskFailed"
        assert (told["data"]["why"], told["data"]["omitted"]) == ("because", ["what"])
    assert daemon.call("task.show", task=task["id"]) == task
    for child in children(daemon, task):
        assert child["error"]["data"] == {"why": "because", "omitted": ["what"]}


def test_a_route_gives_each_task_to_one_member(daemon: DaemonProcess) -> None:
    went = [run(daemon, "turns", input=n)["output"]["agent"] for n in range(4)]
    assert Counter(went) == {"ann": 2, "ben": 2}
    keys = [f"key {n}" for n in range(8)]
    places = {key: run(daemon, "sticky", sticky_key=key)["output"]["agent"] for key in keys}
    assert set(places.values()) == {"ann", "ben"}
    for key, place in places.items():
        assert run(daemon, "sticky", sticky_key=key)["output"]["agent"] == place
    with pytest.raises(InvalidParams) as caught:
        run(daemon, "sticky")
    assert caught.value.data["key"] == "sticky_key"


def test_a_route_looks_for_what_is_required(daemon: DaemonProcess) -> None:
    went = {run(daemon, "turns", required_capabilities=["words", "rare"])["output"]["agent"] for _ in range(3)}
    assert went == {"ann"}
    with pytest.raises(NotFound):
        run(daemon, "turns", required_capabilities=["nothing"])


def test_the_error_of_the_member_is_that_of_the_team(daemon: DaemonProcess) -> None:
    task = run(daemon, "turns", "fail because")
    assert (task["state"], task["error"]["name"]) == ("failed", "TaskFailed")
    assert task["error"]["data"]["team"] == "turns"
    assert task["error"]["data"]["exception"] == "ValueError"


def test_a_lead_gets_the_list_of_its_members(daemon: DaemonProcess) -> None:
    told = run(daemon, "led", "context", context={"mine": 1})["output"]
    assert told["mine"] == 1
    assert told["team"] == {
        "name": "led",
        "members": [
            {"name": "ann", "kind": "agent", "capabilities": ["words", "rare"]},
            {"name": "many", "kind": "workflow", "capabilities": []},
        ],
    }


def test_a_lead_delegates_to_its_members_and_to_nobody_else(daemon: DaemonProcess) -> None:
    asked = [
        {"agent": "ann", "input": 1},
        {"agent": "many", "input": [2]},
        {"agent": "ben"},
        {"agent": "chorus"},
        {"capability": "rare"},
        {"capability": "words"},
    ]
    answers = run(daemon, "led", "lead", input=asked)["output"]
    assert answers[0]["agent"] == "ann"
    assert answers[1]["each"][0]["agent"] == "cleo"
    assert answers[2:4] == ["PermissionDenied", "PermissionDenied"]
    assert [answers[4]["agent"], answers[5]["agent"]] == ["ann", "ann"]
    free = run(daemon, "chief", "lead", input=[{"agent": "ben"}])["output"]
    assert free[0]["agent"] == "ben"


# --- a daemon that dies ---------------------------------------------------------------------------


def test_after_kill_9_a_workflow_goes_on_at_the_step_where_it_stood(tmp_path: Path) -> None:
    notes, gate = tmp_path / "notes", tmp_path / "gate"
    os.mkfifo(gate)
    config = agent("ann", "instances = 2", 'process.isolation = "none"') + "[workflows.long]\n"
    config += 'output = "${steps.last.output}"\n'
    config += steps(
        "long",
        f'name = "first"\nagent = "ann"\nobjective = "note {notes}"\ninput = "first"',
        'name = "each"\nagent = "crew"\nafter = ["first"]\nfor_each = ["open", "shut", "later"]\n'
        f'objective = "gate {gate}"\ninput = "${{item}}"\nmax_parallel = 2',
        f'name = "last"\nagent = "ann"\nobjective = "note {notes}"\n'
        'input = "${len(steps.each.output)} ${steps.each.output[1].attempt}"',
    )
    config += '[teams.crew]\nmode = "route"\nmembers = ["ann"]\n'
    with DaemonProcess(tmp_path, config) as daemon:
        daemon.call("agent.start", names=["ann"])
        task, _ = submit_and_await(daemon, "long", "x")
        before = Counter(child["step"] for child in children(daemon, shown(daemon, task)))
        assert before["first"] == before["each/1"] == 1
        daemon.kill()
        daemon.start()
        now = shown(daemon, task)
        assert (now["state"], now["attempt"]) == ("running", 1)
        gate_fd = os.open(gate, os.O_RDWR)
        try:
            os.write(gate_fd, b"..")
            ended = daemon.call("task.wait", task=task)
        finally:
            os.close(gate_fd)
        assert (ended["state"], ended["attempt"]) == ("succeeded", 1), ended
        assert ended["output"] == "3 2"
        assert notes.read_text().splitlines() == ["first", "3 2"]
        after = Counter(child["step"] for child in children(daemon, ended))
        assert after == {"first": 1, "each/0": 1, "each/1": 1, "each/2": 1, "last": 1}
        events = Counter(step_events(daemon, task))
        assert events["each", "resumed"] == events["last", "succeeded"] == 1
        assert events["first", "succeeded"] <= 1


def test_after_kill_9_nobody_is_passed_over_and_what_was_used_still_counts(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    own = ('process.isolation = "none"', 'environment = { OFFERED = "words" }')
    config = agent("ann", *own) + agent("ben", *own) + agent("cleo", *own)
    config += '[teams.all]\nmode = "broadcast"\nmax_parallel = 1\nmembers = ["ann", "ben"]\n'
    config += "[workflows.frugal]\n" + steps(
        "frugal",
        'name = "one"\nagent = "cleo"\nobjective = "use 60"',
        f'name = "all"\nagent = "all"\nafter = ["one"]\nobjective = "gate {gate}"\ninput = "shut"\n'
        'required_capabilities = ["words"]',
        'name = "two"\nagent = "cleo"\nafter = ["all"]\nobjective = "use 60"',
    )
    with DaemonProcess(tmp_path, config) as daemon:
        daemon.call("agent.start", names=["ann", "ben", "cleo"])
        bounds = {"max_tokens": 100}
        task, _ = submit_and_await(daemon, "frugal", "x", boundaries=bounds)
        daemon.kill()
        daemon.start()
        gate_fd = os.open(gate, os.O_RDWR)
        try:
            os.write(gate_fd, b"....")
            ended = daemon.call("task.wait", task=task)
        finally:
            os.close(gate_fd)
        of_step = {child["step"]: child for child in children(daemon, ended)}
        output = of_step["all"]["output"]
        assert [(each["member"], each["state"]) for each in output] == [("ann", "succeeded"), ("ben", "succeeded")]
        assert ended["state"] == "failed", ended
        assert (ended["error"]["name"], ended["error"]["data"]["limit"]) == ("ResourceLimitExceeded", "max_tokens")


def test_whatever_its_parts_do_an_end_of_the_whole_leaves_nothing(tmp_path: Path) -> None:
    config = agent("ann", "tasks.max_queue_size = 1")
    config += agent("ben", 'tasks.retry_on = "any"').replace('base = "10ms"', 'base = "60s"', 1)
    config += '[teams.pair]\nmode = "broadcast"\nmembers = ["ann", "ben"]\n[workflows.flow]\n'
    config += steps(
        "flow",
        'name = "back"\nagent = "ben"\nobjective = "fail"',  # waits a minute for its next attempt
        'name = "each"\nagent = "ann"\nobjective = "wait"\nfor_each = [1, 2, 3, 4]',
        'name = "team"\nagent = "pair"\nobjective = "wait"',
    )

    with DaemonProcess(tmp_path, config) as alone:

        def check(task: str, state: str) -> None:
            ended = alone.call("task.wait", task=task)
            assert ended["state"] == state
            left = ended["children"]
            while left:
                left = [*left[1:], *alone.call("task.wait", task=left[0])["children"]]
            tasks = alone.call("daemon.status")["tasks"]
            assert (tasks["queued"], tasks["running"]) == (0, 0)

        alone.call("agent.start", names=["ann", "ben"])
        task, _ = submit_and_await(alone, "flow", "x")
        alone.call("task.cancel", task=task)
        check(task, "cancelled")
        assert run(alone, "ann")["state"] == "succeeded"
        check(run(alone, "flow", "x", timeout_s=1)["id"], "timeout")
        assert run(alone, "ann")["state"] == "succeeded"
        task, _ = submit_and_await(alone, "flow", "x")
        assert alone.corral("emergency-stop").returncode == 0
        check(task, "cancelled")


def test_after_kill_9_a_step_that_nobody_took_has_failed_as_before(tmp_path: Path) -> None:
    notes, gate = tmp_path / "notes", tmp_path / "gate"
    os.mkfifo(gate)
    own = 'process.isolation = "none"'
    config = agent("ann", own) + agent("ben", own) + "[workflows.flow]\n"
    config += 'output = ["${steps.a.task}", "${steps.a.error.name}", "${steps.c.error.name}"]\n'
    config += steps(
        "flow",
        f'name = "a"\nagent = "ben"\nobjective = "note {notes}"\non_failure = "continue"',
        'name = "c"\ncapability = "rare"\nobjective = "echo"\non_failure = "continue"',
        f'name = "b"\nagent = "ann"\nafter = ["a", "c"]\nobjective = "gate {gate}"\ninput = "shut"',
    )
    with DaemonProcess(tmp_path, config) as daemon:
        daemon.call("agent.start", names=["ann"])
        daemon.call("agent.stop", names=["ben"])
        task, _ = submit_and_await(daemon, "flow", "x")
        refused = [each for each in children(daemon, shown(daemon, task)) if each["step"] != "b"]
        assert {each["step"]: each["state"] for each in refused} == {"a": "failed", "c": "failed"}
        daemon.call("agent.start", names=["ben"])
        daemon.kill()
        daemon.start()
        gate_fd = os.open(gate, os.O_RDWR)
        try:
            os.write(gate_fd, b"..")
            ended = daemon.call("task.wait", task=task)
        finally:
            os.close(gate_fd)
        first = next(each["id"] for each in refused if each["step"] == "a")
        assert ended["output"] == [first, "Conflict", "NotFound"], ended
        assert not notes.exists()
        assert daemon.corral("tasks").returncode == 0


def shown(daemon: DaemonProcess, task: str) -> Any:
    return daemon.call("task.show", task=task)


# --- coming and going -----------------------------------------------------------------------------

SMALL = agent("ann") + agent("ben") + '[teams.filed]\nmode = "route"\nmembers = ["ben"]\n'
ROUTE = {"mode": "route", "members": ["ann"]}


@pytest.fixture
def small(tmp_path: Path) -> Iterator[DaemonProcess]:
    with DaemonProcess(tmp_path, SMALL) as process:
        yield process


def names(daemon: DaemonProcess) -> set[str]:
    status = daemon.call("daemon.status")
    return {each["name"] for key in ("teams", "workflows") for each in status[key]}


def test_what_is_added_stays_until_it_is_removed(small: DaemonProcess) -> None:
    small.call("team.add", name="one", spec=ROUTE)
    flow = {"steps": [{"name": "s", "agent": "one", "objective": "echo", "input": "${input}"}]}
    small.call("workflow.add", name="two", spec=flow)
    assert small.call("workflow.show", name="two")["spec"] == flow
    assert small.call("agent.show", name="one")["team"]["members"] == ["ann"]
    small.call("agent.start", names=["ann"])
    assert run(small, "two", input=5)["output"] == {"s": {"agent": "ann", "input": 5}}
    small.kill()
    small.start()
    assert names(small) == {"filed", "one", "two"}
    assert small.call("workflow.show", name="two")["spec"] == flow
    with pytest.raises(Conflict) as caught:
        small.call("agent.rm", names=["ann"])
    assert caught.value.data["required_by"] == ["one"]
    with pytest.raises(Conflict) as caught:
        small.call("team.rm", name="one")
    assert caught.value.data["required_by"] == ["two"]
    assert set(small.call("agent.rm", names=["ann"], cascade=True)["removed"]) == {"ann", "one", "two"}
    assert names(small) == {"filed"}
    small.kill()
    small.start()
    assert names(small) == {"filed"}


def test_all_names_are_of_one_namespace(small: DaemonProcess) -> None:
    small.call("team.add", name="one", spec=ROUTE)
    for method, params in (
        ("team.add", {"name": "ann", "spec": ROUTE}),
        ("team.add", {"name": "one", "spec": ROUTE}),
        ("team.add", {"name": "cortex", "spec": ROUTE}),
        ("workflow.add", {"name": "one", "spec": {"steps": [{"name": "s", "agent": "ann"}]}}),
        ("agent.add", {"name": "one", "spec": {"command": ["true"]}}),
        ("agent.add", {"name": "one", "kind": "mcp", "spec": {"command": ["true"]}}),
    ):
        with pytest.raises(Conflict):
            small.call(method, **params)
    with pytest.raises(NotFound):
        small.call("workflow.show", name="one")
    with pytest.raises(InvalidParams) as caught:
        small.call("team.add", name="two", spec={"mode": "route", "members": ["nobody"]})
    assert caught.value.data["key"] == "teams.two.members"


def test_several_are_added_together_or_not_at_all(small: DaemonProcess, tmp_path: Path) -> None:
    file = tmp_path / "flows.toml"
    file.write_text(
        "[workflows.outer]\n"
        + steps("outer", 'name = "s"\nagent = "inner"')
        + "[workflows.inner]\n"
        + steps("inner", 'name = "s"\nagent = "ann"')
    )
    done = small.corral("workflow", "add", "--file", str(file))
    assert (done.returncode, done.stdout) == (0, "added workflow outer\nadded workflow inner\n")
    bad: dict[str, Any] = {"three": {"steps": [{"name": "s", "agent": "ann"}]}, "outer": {"steps": []}}
    with pytest.raises(Conflict):
        small.call("workflow.add", specs=bad)
    assert names(small) == {"filed", "outer", "inner"}


def test_a_reload_follows_the_file_and_refuses_what_would_break(small: DaemonProcess) -> None:
    small.call("team.add", name="one", spec=ROUTE)
    flow = "[workflows.new]\n" + steps("new", 'name = "s"\nagent = "filed"')
    small.config.write_text(SMALL.replace('members = ["ben"]', 'members = ["ben", "ann"]') + flow)
    planned = small.call("daemon.reload", dry_run=True)
    assert (planned["teams"], planned["workflows"]) == ({"filed": "changed"}, {"new": "added"})
    assert names(small) == {"filed", "one"}
    small.call("daemon.reload")
    assert names(small) == {"filed", "one", "new"}
    assert small.call("team.show", name="filed")["team"]["members"] == ["ben", "ann"]
    small.config.write_text(agent("ben"))
    with pytest.raises(InvalidParams) as caught:  # ann is gone, and a team that was added names it
        small.call("daemon.reload")
    assert caught.value.data["key"] == "teams.one.members"
    assert names(small) == {"filed", "one", "new"}
    small.config.write_text(agent("ann"))
    gone = small.call("daemon.reload")
    assert (gone["teams"], gone["workflows"]) == ({"filed": "removed"}, {"new": "removed"})
    assert names(small) == {"one"}
    small.config.write_text(agent("ann") + agent("one"))
    with pytest.raises(Conflict):
        small.call("daemon.reload")
    small.stop()
    small.start()  # where the file wins
    assert names(small) == set()
    assert small.call("agent.show", name="one")["agent"]["kind"] == "agent"


def test_what_the_store_holds_and_the_agents_no_longer_allow_is_left_out(small: DaemonProcess) -> None:
    small.call("team.add", name="one", spec=ROUTE)
    small.call("team.add", name="two", spec={"mode": "route", "members": ["one"]})
    small.stop()
    small.config.write_text(agent("ben"))
    small.start()
    assert names(small) == set()
    refused = small.call("event.list", types=["config.refused"])["events"]
    assert {event["agent"] for event in refused} == {"one", "two"}


def test_the_command_shows_runs_and_removes_them(small: DaemonProcess) -> None:
    add = ("team", "add", "duo", "--member", "ann", "--member", "ben", "--mode", "broadcast")
    assert small.corral(*add).returncode == 0
    small.call("agent.start", names=["ann", "ben"])
    done = small.corral("--json", "team", "run", "duo", "echo", "--input", "1")
    assert done.returncode == 0, done.stderr
    assert [each["member"] for each in json.loads(done.stdout)["output"]] == ["ann", "ben"]
    listed = json.loads(small.corral("--json", "team", "list").stdout)
    assert [each["name"] for each in listed] == ["filed", "duo"]
    for words in (("status",), ("status", "duo"), ("show", "duo"), ("team", "show", "duo")):
        shown = small.corral(*words)
        assert shown.returncode == 0, shown.stderr
        assert "broadcast" in shown.stdout
    assert small.corral("team", "show", "ann").returncode == 3
    assert small.corral("workflow", "rm", "duo").returncode == 3
    for words in (("stop", "duo"), ("scale", "duo", "2"), ("checkpoint", "save", "duo")):
        refused = small.corral("--json", *words)
        assert refused.returncode == 3, refused.stdout
        assert json.loads(refused.stdout)["error"]["data"] == {"name": "duo", "kind": "team"}
    for words in (("run", "dou", "echo"), ("stats", "dou")):
        refused = small.corral("--json", *words)
        assert "duo" in json.loads(refused.stdout)["error"]["data"]["known"]
    assert small.corral("rm", "ann").returncode == 4
    assert small.corral("team", "rm", "duo").returncode == 0
    assert small.corral("team", "add", "--member", "ann").returncode == 2
    assert small.corral("team", "add", "--file", "x.toml", "--member", "ann").returncode == 2
    assert names(small) == {"filed"}
    ended = daemon_tasks(small)
    assert ended
    assert set(ended.values()) <= ENDED


def daemon_tasks(daemon: DaemonProcess) -> dict[str, str]:
    return {task["id"]: task["state"] for task in daemon.call("task.list")["tasks"]}


# --- documents ------------------------------------------------------------------------------------

ROOT = Path(__file__).parents[2]


def test_the_example_does_what_it_says(tmp_path: Path) -> None:
    config = ROOT / "examples" / "newsroom" / "corral.toml"
    with DaemonProcess(tmp_path, "", f"--config={config}") as daemon:
        daemon.call("agent.start", all=True)
        report = run(daemon, "report", "the week", input={"topics": ["rivers", "bridges"]})
        assert report["state"] == "succeeded", report
        text = "the week: a story about rivers; a story about bridges"
        assert report["output"] == {"title": "the week", "text": text, "rejected": None}
        nothing = run(daemon, "report", "the week", input={"topics": []})
        assert nothing["output"]["rejected"] == "there was nothing to report"
        desk = run(daemon, "desk", "answer the readers", input=["why?", "how long?"])
        assert desk["output"] == ["a story about why?", "a story about how long?"]
