"""Tables that are set for names of the configuration file: how long they are in force, and what ends them."""

import json
from pathlib import Path
from typing import Any  # Any: the shape of an answer is the test's affair

import pytest

from corral.worker.contract.errors import InvalidParams, NotFound
from daemon_process import AGENTS, BOUND_S, DaemonProcess

pytestmark = pytest.mark.shell

A = """
[agents.a]
command = ["sleep", "${SECONDS_:-1000}"]
protocol = "none"
autostart = false
environment = { KEY = "${VALUE:-v}", COST = "5$$${secret:none}" }
"""
TEAM = """
[agents.m]
command = ["sleep", "1000"]
autostart = false
[agents.n]
command = ["sleep", "1000"]
autostart = false
[teams.duo]
mode = "route"
members = ["m", "n"]
"""
OTHER = """
[agents.other]
command = ["sleep", "1000"]
protocol = "none"
autostart = false
"""


def restart(daemon: DaemonProcess) -> None:
    assert daemon.process is not None, "it was started"
    daemon.process.kill()
    daemon.process.wait()
    daemon.start()


def title(daemon: DaemonProcess, name: str = "a") -> str:
    return str(daemon.call("agent.show", name=name)["spec"].get("title", ""))


def overridden(daemon: DaemonProcess, name: str = "a") -> int | None:
    shown = daemon.call("agent.show", name=name)
    status = shown.get("agent") or shown.get("team")
    found = status.get("overridden")
    return None if found is None else int(found)


def newest(daemon: DaemonProcess, name: str = "a") -> tuple[int, str, str]:
    found = daemon.call("revision.list", name=name)["revisions"][0]
    return found["revision"], found["state"], found["how"]


def test_what_is_set_is_in_force_until_the_file_changes_that_table(tmp_path: Path) -> None:
    with DaemonProcess(tmp_path, A + OTHER) as daemon:
        own = daemon.call("agent.show", name="a")
        assert "overridden" not in own["agent"]
        done = daemon.corral("set", "a", "title=Set", "tasks.max_attempts=5", "--why", "as agreed")
        assert done.returncode == 0, done.stderr
        assert (title(daemon), overridden(daemon)) == ("Set", 2)
        assert "set by revision 2" in daemon.corral("show", "a").stdout
        daemon.config.write_text(A + OTHER + 'title = "O"\n')
        assert daemon.call("daemon.reload")["overrides_ended"] == []
        assert (title(daemon), title(daemon, "other"), overridden(daemon)) == ("Set", "O", 2)
        restart(daemon)
        assert (title(daemon), overridden(daemon)) == ("Set", 2)
        assert newest(daemon) == (2, "current", "set")
        shown = daemon.call("agent.show", name="a")["spec"]
        assert shown == {**own["spec"], "title": "Set", "tasks": {"max_attempts": 5}}
        assert shown["command"] == ["sleep", "${SECONDS_:-1000}"]

        daemon.config.write_text(A + "priority = 1\n")
        with pytest.raises(InvalidParams):
            daemon.call("daemon.reload")
        daemon.config.write_text(A + 'description = "D"\n' + OTHER)
        dry = daemon.call("daemon.reload", dry_run=True)
        assert (dry["overrides_ended"], title(daemon)) == (["a"], "Set")
        assert daemon.call("daemon.reload")["overrides_ended"] == ["a"]
        assert (title(daemon), overridden(daemon)) == ("", None)
        assert newest(daemon) == (3, "current", "reload")
        restart(daemon)
        assert (title(daemon), overridden(daemon)) == ("", None)
        assert newest(daemon) == (3, "current", "reload")


KINDS = """
[templates.plain]
params.seconds = {{ type = "integer", default = 1000 }}
command = ["sleep", "${{param.seconds}}"]
protocol = "none"
autostart = false
description = "{text}"
"""
KIND = {
    "a": """
[agents.a]
command = ["sleep", "1000"]
protocol = "none"
autostart = false
""",
    "s": """
[mcp.servers.s]
command = ["sleep", "1000"]
""",
    "t": """
[agents.t]
template = "plain"
params = { seconds = 5 }
""",
}

Step = tuple[str, str, tuple[str | None, bool, str]]

STEPS: list[Step] = [
    ("start", "one", ("one", False, "file")),
    ("set", "S", ("S", True, "set")),
    ("reload", "one", ("S", True, "set")),  # another table of the file has changed
    ("restart", "one", ("S", True, "set")),
    ("rollback", "", ("one", False, "rollback")),
    ("restart", "one", ("one", False, "rollback")),
    ("rollback", "2", ("S", True, "rollback")),
    ("restart", "one", ("S", True, "rollback")),
    ("reload", "two", ("two", False, "reload")),
    ("set", "S", ("S", True, "set")),
    ("template", "other", ("S", True, "set")),  # for the agent that has it, a reload
    ("set", "two", ("two", False, "set")),  # the table means what the file says
    ("set", "S", ("S", True, "set")),
    ("restart", "three", ("three", False, "file")),  # the file has changed while no daemon ran
    ("set", "S", ("S", True, "set")),
    ("reload", "", (None, False, "set")),
    ("reload", "three", ("three", False, "reload")),
    ("set", "S", ("S", True, "set")),
    ("restart", "", (None, False, "set")),
    ("restart", "three", ("three", False, "file")),
]
"""Each step, the title in the file (or in a set), and then the title in force, whether it is set, how it came."""


@pytest.mark.long
def test_what_is_in_force_after_each_change_of_the_file_and_of_what_is_set(tmp_path: Path) -> None:
    text, written = "first", "one"

    def config() -> str:
        tables = [f'{table}title = "{written}"\n' for table in KIND.values() if written]
        return KINDS.format(text=text) + "".join(tables) + OTHER + f'title = "{step}"\n'

    step = 0
    with DaemonProcess(tmp_path, config()) as daemon:
        last = dict.fromkeys(KIND, 0)
        for step, (action, value, expected) in enumerate(STEPS):
            if action in ("reload", "restart", "template"):
                text, written = (value, written) if action == "template" else (text, value)
                daemon.config.write_text(config())
                restart(daemon) if action == "restart" else daemon.call("daemon.reload")
            for name in KIND:
                if action == "set":
                    daemon.call("agent.set", name=name, spec={"title": value})
                elif action == "rollback":
                    params = {"revision": int(value)} if value else {}
                    daemon.call("agent.rollback", name=name, **params)
                revision, _, how = newest(daemon, name)
                assert revision >= last[name], "numbers only grow"
                last[name] = revision
                if expected[0] is None:
                    with pytest.raises(NotFound):
                        daemon.call("agent.show", name=name)
                else:
                    how = "set" if (action, name, how) == ("template", "t", "reload") else how
                    found = title(daemon, name), overridden(daemon, name) is not None, how
                    assert found == expected, (step, action, name)


def test_a_team_of_the_file_is_set_and_comes_back(tmp_path: Path) -> None:
    with DaemonProcess(tmp_path, TEAM) as daemon:
        daemon.call("agent.set", name="duo", spec={"members": ["m"]})
        restart(daemon)
        assert daemon.call("team.show", name="duo")["spec"]["members"] == ["m"]
        assert overridden(daemon, "duo") == 2
        daemon.config.write_text(TEAM + OTHER)
        daemon.call("daemon.reload")
        assert overridden(daemon, "duo") == 2
        daemon.config.write_text(TEAM + 'title = "T"\n')
        assert daemon.call("daemon.reload")["overrides_ended"] == ["duo"]
        assert daemon.call("team.show", name="duo")["spec"]["members"] == ["m", "n"]
        daemon.call("agent.set", name="duo", spec={"members": ["m"]})
        daemon.call("agent.rollback", name="duo")
        assert overridden(daemon, "duo") is None


def test_what_no_longer_fits_the_file_is_refused_at_a_reload_and_ends_at_a_start(tmp_path: Path) -> None:
    with DaemonProcess(tmp_path, A + OTHER) as daemon:
        daemon.call("agent.set", name="a", spec={"requires": ["other"]})
        circle = A + OTHER + 'requires = ["a"]\n'
        daemon.config.write_text(circle)
        with pytest.raises(InvalidParams):
            daemon.call("daemon.reload")
        restart(daemon)
        assert overridden(daemon) is None
        assert newest(daemon) == (3, "current", "file")
        with pytest.raises(InvalidParams, match="disabled"):
            daemon.call("agent.set", name="a", spec={"disabled": True})
        with pytest.raises(InvalidParams):
            daemon.call("agent.set", name="a", spec={"no_key": 1})


def test_variables_of_what_is_set_are_those_of_the_file(tmp_path: Path) -> None:
    with DaemonProcess(tmp_path, A) as daemon:
        dotenv = daemon.config.parent / ".env"
        dotenv.write_text("LATER=one\n")
        daemon.call("daemon.reload")
        daemon.call("agent.set", name="a", spec={"title": "${LATER}", "labels": {"l": "a$$b"}})
        assert title(daemon) == "${LATER}"
        assert daemon.call("agent.list")["agents"][0]["title"] == "one"
        dotenv.write_text("LATER=two\n")
        daemon.call("daemon.reload")
        assert daemon.call("agent.list")["agents"][0]["title"] == "two"
        restart(daemon)
        assert daemon.call("agent.list")["agents"][0]["title"] == "two"
        assert overridden(daemon) is not None
        rows = daemon.corral("--json", "show", "a").stdout
        assert json.loads(rows)["spec"]["title"] == "${LATER}"


ROLLED = f"""
[process]
working_directory = "{AGENTS}"
[recovery]
restart_backoff_base = "1ms"
[agents.one]
entrypoint = "rolled_agent:agent"
warm = false
environment = {{ VERSION = "one" }}
"""


def end_of_set(daemon: DaemonProcess, version: str) -> str:
    """Sets the version of the agent, and returns the type of the event that ends the change."""
    with daemon.client() as client:
        client.call("event.follow", {"types": ["agent.rolled", "agent.taken_back"]})
        daemon.call("agent.set", name="one", spec={"environment": {"VERSION": version}})
        found: Any = next(client.notifications()).params["events"]
        return str(found[0]["type"])


def version(daemon: DaemonProcess) -> str:
    return str(daemon.call("task.run", agent="one", objective="version")["output"]["version"])


def test_a_set_under_load_rolls_and_one_that_fails_leaves_what_was_in_force(tmp_path: Path) -> None:
    with DaemonProcess(tmp_path, ROLLED) as daemon:
        daemon.await_worker("one-0", lambda w: w["state"] == "Ready")
        gate = tmp_path / "gate"
        with daemon.client() as client:
            client.call("event.follow", {"types": ["task.progress"]})
            held = daemon.call("task.submit", agent="one", objective="hold", input=str(gate))
            next(client.notifications())
        assert end_of_set(daemon, "bad-exit") == "agent.taken_back"
        assert overridden(daemon, "one") is None
        assert end_of_set(daemon, "two") == "agent.rolled"
        assert version(daemon) == "two"
        gate.touch()
        ended = daemon.call("task.wait", task=held["id"], timeout_s=BOUND_S)
        assert (ended["output"]["version"], ended["output"]["delivery"]) == ("one", 1)
        assert end_of_set(daemon, "bad-exit") == "agent.taken_back"
        assert version(daemon) == "two"
        daemon.call("daemon.reload")
        assert version(daemon) == "two"
        restart(daemon)
        daemon.await_worker("one-0", lambda w: w["state"] == "Ready")
        assert (version(daemon), overridden(daemon, "one")) == ("two", 3)


@pytest.mark.parametrize("has_file_changed", [False, True])
def test_a_change_goes_on_in_the_next_daemon_unless_the_file_has_changed_meanwhile(
    tmp_path: Path, has_file_changed: bool
) -> None:
    gate = tmp_path / "gate"
    slow = ROLLED + 'smoke = { objective = "hold", input = "%s", timeout = 60 }\n'
    with DaemonProcess(tmp_path, slow % gate) as daemon:
        daemon.await_worker("one-0", lambda w: w["state"] == "Ready")
        daemon.call("agent.set", name="one", spec={"environment": {"VERSION": "two"}})
        assert newest(daemon, "one")[:2] == (2, "rolling")
        if has_file_changed:
            daemon.config.write_text(slow % gate + 'title = "by hand"\n')
            restart(daemon)
            assert newest(daemon, "one") == (3, "current", "file")
            assert title(daemon, "one") == "by hand"
            return
        restart(daemon)
        assert newest(daemon, "one") == (2, "rolling", "set")
        daemon.await_worker("one-0", lambda w: w["state"] == "Ready")
        assert version(daemon) == "one", "the former one serves until the smoke task has succeeded"
        with daemon.client() as client:
            client.call("event.follow", {"types": ["revision.settled"]}, timeout_s=BOUND_S)
            gate.touch()
            next(client.notifications())
        assert newest(daemon, "one") == (2, "current", "set")
        assert (version(daemon), overridden(daemon, "one")) == ("two", 2)
