"""The export of a running daemon: added to an empty one, it gives the same agents, teams, workflows and schedules."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from corral.worker.contract.errors import Conflict, CorralError, NotFound
from daemon_process import AGENTS, DaemonProcess

CONFIG = f"""
[process]
environment = {{ SHARED = "everywhere" }}
[resources]
max_memory_bytes = "1GiB"
[agents.crew]
command = ["python", "{AGENTS}/crew_agent.py"]
environment = {{ TOKEN = "${{EXPORT_TOKEN}}", KEY = "${{secret:key}}", PLAIN = "plain $${{x}}" }}
labels = {{ team = "red" }}
autostart = false
[agents.idle]
command = ["sleep", "1000"]
protocol = "none"
requires = ["crew"]
autostart = false
[mcp.servers.time]
command = ["python", "-c", "pass"]
[schedules.sweep]
every = "1h"
command = ["true"]
[schedules.nightly]
cron = "0 3 * * *"
agent = "crew"
objective = "all"
input = {{ depth = 2 }}
"""

MORE = """
[stores.main]
kind = "postgres"
url = "postgres://one:${secret:key}@127.0.0.1:1/db"
[stores.notes]
kind = "files"
url = "notes"
[templates.base]
params.n = { type = "integer", default = 3 }
command = ["sleep", "${param.n}"]
protocol = "none"
environment = { TOKEN = "${EXPORT_TOKEN}", PRICE = "$$5 for ${param.n}" }
[templates.wide]
template = "base"
params.who = { type = "string" }
description = "for ${param.who}"
process = { working_directory = "sub" }
[agents.made]
template = "wide"
params = { who = "me" }
stores = ["main"]
autostart = false
[mcp.profiles.narrow]
tools = ["time__*"]
"""

TEAM = {"mode": "broadcast", "members": ["crew"]}
FLOW = {"steps": [{"name": "one", "agent": "crew", "objective": "${input.what}"}]}


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[DaemonProcess]:
    folder = tmp_path / "one"
    folder.mkdir()
    with DaemonProcess(folder, CONFIG, environ={"EXPORT_TOKEN": "a secret token"}) as daemon:
        spec = {"command": [sys.executable, "-c", "pass", "$HOME ${HOME}"], "autostart": False}
        daemon.call("agent.add", name="added", spec=spec, start=False)
        daemon.call("team.add", name="red", spec=TEAM)
        daemon.call("workflow.add", name="flow", spec=FLOW)
        task = {"agent": "red", "objective": "go"}
        daemon.call("schedule.add", name="hourly", task=task, every_s=3600.0)
        yield daemon


@pytest.fixture
def empty(tmp_path: Path) -> Iterator[DaemonProcess]:
    folder = tmp_path / "two"
    folder.mkdir()
    with DaemonProcess(folder, "") as daemon:
        yield daemon


def without_comments(text: str) -> list[str]:
    return [line for line in text.splitlines() if not line.startswith("#")]


def test_an_export_that_is_added_to_an_empty_daemon_is_exported_as_the_same_text(
    daemon: DaemonProcess, empty: DaemonProcess, tmp_path: Path
) -> None:
    first = daemon.corral("export")
    assert first.returncode == 0, first.stderr
    assert "a secret token" not in first.stdout
    os.environ["EXPORT_TOKEN"] = "${EXPORT_TOKEN}"
    try:
        (tmp_path / "export.toml").write_text(first.stdout)
        added = empty.corral("add", "--no-start", "--file", str(tmp_path / "export.toml"))
    finally:
        del os.environ["EXPORT_TOKEN"]
    assert added.returncode == 0, added.stderr
    second = empty.corral("export").stdout
    assert without_comments(second) == without_comments(first.stdout.replace("${EXPORT_TOKEN}", "$${EXPORT_TOKEN}"))
    for name in ("crew", "idle", "added", "time"):
        assert empty.call("agent.show", name=name)["spec"].keys() >= daemon.call("agent.show", name=name)["spec"].keys()
    (tmp_path / "again.toml").write_text(second)
    for name in ("hourly", "nightly", "sweep"):
        empty.call("schedule.rm", name=name)
    empty.call("agent.rm", names=["idle", "crew", "added", "time", "red", "flow"], cascade=True)
    again = empty.corral("add", "--no-start", "--file", str(tmp_path / "again.toml"))
    assert again.returncode == 0, again.stderr
    assert empty.corral("export").stdout == second


def test_an_export_is_a_configuration_file_that_corrald_takes(
    daemon: DaemonProcess, empty: DaemonProcess, tmp_path: Path
) -> None:
    daemon.config.write_text(CONFIG + MORE)
    daemon.call("daemon.reload")
    folder = tmp_path / "three"
    folder.mkdir()
    text = daemon.corral("export").stdout
    assert text.index("[stores.main]") < text.index("[templates.base]") < text.index("[agents.made]")
    with DaemonProcess(folder, text, environ={"EXPORT_TOKEN": "a secret token"}) as other:
        assert without_comments(other.corral("export").stdout) == without_comments(text)
        for method in ("template.list", "store.list"):
            one, two = (shown(each.call(method)) for each in (daemon, other))
            assert one == two, method
        for template in ("wide", "base"):
            one, two = (made_of(each, template) for each in (daemon, other))
            assert one == two, template
        assert (one["command"], one["process"]) == (["sleep", "3"], {"working_directory": str(daemon.folder)})
    (tmp_path / "export.toml").write_text(text)
    refused = empty.corral("add", "--no-start", "--file", str(tmp_path / "export.toml"))
    assert refused.returncode == 2, "its store is not there"
    assert "stores.main, stores.notes, templates.base, templates.wide, mcp.profiles.narrow" in refused.stderr
    chosen = daemon.call("daemon.export", names=["made"])
    assert chosen["names"] == ["main", "base", "wide", "made"]
    assert chosen["secrets"] == ["key"]


def shown(found: Any) -> Any:
    """What is told of templates or stores, but for their file."""
    [listed] = found.values()
    return [{k: v for k, v in each.items() if k not in ("source", "used_by")} for each in listed]


def made_of(daemon: DaemonProcess, template: str) -> Any:
    """The table that a template makes of an agent that is added."""
    params = {"who": "you"} if template == "wide" else {}
    spec = {"template": template, "params": params}
    daemon.call("agent.add", name=f"{template}-2", spec=spec, start=False)
    return daemon.call("agent.show", name=f"{template}-2")["template"]["spec"]


def test_names_and_labels_choose_what_is_exported_with_its_schedules(daemon: DaemonProcess) -> None:
    found = daemon.call("daemon.export", names=["crew"])
    assert found["names"] == ["crew", "nightly"]
    assert found["secrets"] == ["key"]
    assert daemon.call("daemon.export", selector="team=red")["names"] == ["crew", "nightly"]
    with pytest.raises(NotFound):
        daemon.call("daemon.export", names=["nobody"])


def test_a_token_without_admin_sees_no_plain_value_of_an_environment(daemon: DaemonProcess) -> None:
    token = daemon.call("token.add", name="reader", rights="read")["token"]
    with daemon.client() as client:
        client.call("auth.login", {"token": token})
        found: Any = client.call("daemon.export", {})
    assert "plain" not in found["toml"]
    assert "everywhere" not in found["toml"]
    assert "CREW_PLAIN" in found["hidden"]


def test_an_import_that_is_refused_in_the_end_leaves_nothing(empty: DaemonProcess) -> None:
    def names() -> list[str]:
        return list(empty.call("agent.select", all=True)["names"])

    before = names()
    spec = {"command": ["sleep", "1000"], "protocol": "none"}
    for schedule in ({"every": 60, "agent": "nobody", "objective": "x"}, {"every": 60}):
        with pytest.raises(CorralError):
            empty.call(
                "daemon.import",
                agents=[{"name": "one", "spec": spec}],
                teams={"red": {"mode": "broadcast", "members": ["one"]}},
                schedules={"good": {"every": 60, "agent": "one", "objective": "x"}, "bad": schedule},
            )
        assert names() == before
        assert empty.call("schedule.list") == {"schedules": []}
    with pytest.raises(Conflict):
        empty.call("daemon.import", agents=[{"name": "one", "spec": spec}] * 2)


def test_export_writes_a_new_file_for_its_owner_alone(daemon: DaemonProcess, tmp_path: Path) -> None:
    file = tmp_path / "crew.toml"
    assert daemon.corral("export", "crew", "-o", str(file)).returncode == 0
    assert file.stat().st_mode & 0o777 == 0o600
    assert daemon.corral("export", "-o", str(file)).returncode == 4
