"""Templates in a running daemon: agents made by file, command and HTTP, what a changed template does, and what a restart keeps."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from corral.worker.contract.errors import InvalidParams
from daemon_process import DaemonProcess

pytestmark = pytest.mark.shell

SLEEPER = """
[templates.sleeper]
protocol = "none"
params.seconds = {{ type = "integer", minimum = 1 }}
params.team = {{ type = "string", default = "red" }}
command = ["sleep", "${{param.seconds}}"]
labels = {{ team = "${{param.team}}" }}
instances = {instances}
"""

OF_FILE = '[agents.one]\ntemplate = "sleeper"\nparams.seconds = {}\n'


def cmdline(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


def test_a_template_makes_agents_of_the_file_and_of_the_command_line_and_its_change_changes_both(
    tmp_path: Path,
) -> None:
    with DaemonProcess(tmp_path, SLEEPER.format(instances=1) + OF_FILE.format(601)) as daemon:
        added = daemon.corral("add", "two", "--template", "sleeper", "--set", "seconds=602", "--set", "team=blue")
        assert added.returncode == 0, added.stderr
        pids = {
            name: daemon.await_worker(f"{name}-0", lambda w: w["state"] == "Ready")["pid"] for name in ("one", "two")
        }
        assert cmdline(pids["one"]) == b"sleep\x00601\x00"
        assert cmdline(pids["two"]) == b"sleep\x00602\x00"
        assert daemon.call("agent.select", names=[], selector="team=blue")["names"] == ["two"]

        (mine,) = [t for t in daemon.call("template.list")["templates"] if t["name"] == "sleeper"]
        assert mine["used_by"] == ["one", "two"]
        assert [(p["name"], p["required"]) for p in mine["params"]] == [("seconds", True), ("team", False)]
        shown = daemon.call("agent.show", name="two")
        assert shown["spec"] == {"template": "sleeper", "params": {"seconds": 602, "team": "blue"}}
        assert shown["template"]["params"] == {"seconds": 602, "team": "blue"}
        assert shown["template"]["spec"]["command"] == ["sleep", "602"]
        assert shown["template"]["source"] == str(daemon.config)

        daemon.config.write_text(SLEEPER.format(instances=2) + OF_FILE.format(601))
        assert daemon.call("daemon.reload")["changed"] == {"one": "live", "two": "live"}
        for name, pid in pids.items():
            daemon.await_worker(f"{name}-1", lambda w: w["state"] == "Ready")
            assert daemon.worker(f"{name}-0")["pid"] == pid
        assert daemon.call("agent.show", name="two")["etag"] != shown["etag"]

        daemon.config.write_text(OF_FILE.format(601).replace("sleeper", "slept"))
        with pytest.raises(InvalidParams):
            daemon.call("daemon.reload")
        daemon.config.write_text('[agents.one]\ncommand = ["sleep", "601"]\nprotocol = "none"\n')
        with pytest.raises(InvalidParams, match="sleeper"):  # two has it still
            daemon.call("daemon.reload")
        assert daemon.worker("two-1")["state"] == "Ready"

        daemon.config.write_text(SLEEPER.format(instances=1).replace("red", "green"))
        daemon.call("agent.scale", name="two", instances=3)
        daemon.stop()
        daemon.start()
        daemon.await_worker("two-2", lambda w: w["state"] == "Ready")
        assert daemon.call("agent.show", name="two")["spec"]["instances"] == 3


def test_a_param_of_an_agent_is_set_and_comes_back_with_its_revision(tmp_path: Path) -> None:
    with DaemonProcess(tmp_path, SLEEPER.format(instances=1)) as daemon:
        spec = {"template": "sleeper", "params": {"seconds": 601}}
        daemon.call("agent.add", name="two", spec=spec)
        daemon.call("agent.set", name="two", spec={"params": {"seconds": 602}, "title": "Two"})
        changed = daemon.await_worker(
            "two-0", lambda w: w["state"] == "Ready" and cmdline(w["pid"]) == b"sleep\x00602\x00"
        )
        assert changed["restarts"] == 0
        shown = daemon.call("agent.show", name="two")
        assert shown["spec"] == {**spec, "params": {"seconds": 602}, "title": "Two"}
        with pytest.raises(InvalidParams):
            daemon.call("agent.set", name="two", spec={"params": {"seconds": "soon"}})
        exported = daemon.corral("export").stdout
        assert '"602"' in exported
        daemon.call("agent.set", name="two", spec={"params": {"seconds": 601}, "title": None})
        daemon.await_worker("two-0", lambda w: w["state"] == "Ready" and cmdline(w["pid"]) == b"sleep\x00601\x00")
        assert daemon.call("agent.show", name="two")["spec"] == spec


@pytest.mark.parametrize(
    ("spec", "param"),
    [
        ({"template": "sleeper"}, "seconds"),
        ({"template": "sleeper", "params": {"seconds": 0}}, "seconds"),
        ({"template": "sleeper", "params": {"seconds": 1, "tem": "x"}}, "tem"),
    ],
)
def test_a_param_that_does_not_fit_adds_nothing(daemon: DaemonProcess, spec: dict[str, object], param: str) -> None:
    with pytest.raises(InvalidParams) as caught:
        daemon.call("agent.add", name="bad", spec=spec)
    found = {key: caught.value.data[key] for key in ("agent", "template", "param")}
    assert found == {"agent": "bad", "template": "sleeper", "param": param}
    assert "bad" not in {each["name"] for each in daemon.call("daemon.status")["agents"]}


def test_hostile_params_are_refused_at_once(daemon: DaemonProcess) -> None:
    deep: object = 1
    for _ in range(300):
        deep = {"a": deep}
    for value in (deep, "x" * 2_000_000, [1] * 100_000):
        with pytest.raises(InvalidParams):
            daemon.call("agent.add", name="bad", spec={"template": "sleeper", "params": {"team": value}})
    assert daemon.call("daemon.ping") == {}


def test_the_commands_report_templates(daemon: DaemonProcess) -> None:
    listed = daemon.corral("templates")
    assert "sleeper" in listed.stdout
    assert "team=red" in listed.stdout
    assert daemon.corral("templates", "nobody").returncode == 3
    found = json.loads(daemon.corral("--json", "templates", "default").stdout)
    assert [each["source"] for each in found["templates"]] == ["built-in"]
    assert daemon.corral("add", "x", "--set", "a=b", "--", "sleep", "1").returncode == 2
    wrong = daemon.corral("add", "x", "--template", "sleeper", "--set", "seconds=soon")
    assert wrong.returncode == 2
    assert "seconds" in wrong.stderr


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    with DaemonProcess(tmp_path_factory.mktemp("templates"), SLEEPER.format(instances=1)) as process:
        yield process
