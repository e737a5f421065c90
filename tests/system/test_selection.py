"""Globs, labels and --failed choose agents, on the command line and in every method, in a real daemon."""

import json
from pathlib import Path

import pytest

from daemon_process import DaemonProcess

CONFIG = """
[process]
shutdown_grace_period = "1s"
[recovery]
max_restart_attempts = 0
[agents.web-a]
command = ["sleep", "1000"]
protocol = "none"
labels = { team = "red", tier = "web" }
title = "First"
[agents.web-b]
command = ["sleep", "1000"]
protocol = "none"
instances = 2
labels = { team = "blue", tier = "web" }
[agents.idle]
command = ["sleep", "1000"]
protocol = "none"
autostart = false
labels = { team = "red" }
[agents.broken]
command = ["/nonexistent/program"]
protocol = "none"
[teams.all]
mode = "broadcast"
members = ["kind"]
labels = { team = "red" }
[agents.kind]
command = ["true"]
autostart = false
"""


def names_of(document: str) -> list[str]:
    found = json.loads(document)
    return [each["name"] for key in ("agents", "teams") for each in found[key]]


def pids(daemon: DaemonProcess, *names: str) -> list[int]:
    found = daemon.call("daemon.status", names=list(names))["agents"]
    return [worker["pid"] for entry in found for worker in entry["workers"]]


@pytest.mark.long
def test_globs_and_labels_choose_names_in_every_command(tmp_path: Path) -> None:
    with DaemonProcess(tmp_path, CONFIG) as daemon:
        daemon.await_worker("web-b-1", lambda worker: worker["state"] == "Ready")
        daemon.await_worker("broken-0", lambda worker: worker["state"] == "Terminated")

        def corral(*words: str, code: int = 0) -> str:
            done = daemon.corral(*words)
            assert done.returncode == code, (words, done.stdout, done.stderr)
            return done.stdout

        assert names_of(corral("status", "web-*", "--json")) == ["web-a", "web-b"]
        assert names_of(corral("status", "-l", "team=red", "--json")) == ["web-a", "idle", "all"]
        red = corral("status", "-l", "team=red", "-l", "tier!=web", "--json")
        assert names_of(red) == ["idle", "all"]
        assert names_of(corral("status", "--failed", "--json")) == ["broken"]
        assert names_of(corral("status", "--failed", "web-*", "--json")) == []
        assert json.loads(corral("status", "web-a", "--json"))["agents"][0]["title"] == "First"

        before = pids(daemon, "web-a", "web-b")
        assert "restarted web-a" in corral("restart", "web-*")
        after = pids(daemon, "web-a", "web-b")
        assert not set(before) & set(after)
        assert corral("restart", "web-b-[1]") == "restarted web-b-1 (Ready)\n"
        assert [a == b for a, b in zip(after, pids(daemon, "web-a", "web-b"), strict=True)] == [*(True, True, False)]
        # What does not run is passed over where a pattern chose it, and refused where it was named.
        assert corral("pause", "-l", "team=red") == "paused web-a (Ready)\n"
        corral("pause", "idle", code=4)
        corral("resume", "*")
        assert "web-b-0, web-b-1" in corral("signal", "-l", "team=blue", "CONT")
        shown = json.loads(corral("show", "web-*", "--json"))
        assert [each["agent"]["labels"]["team"] for each in shown] == ["red", "blue"]
        assert json.loads(corral("show", "web-a", "--json"))["spec"]["title"] == "First"
        assert corral("logs", "nothing-*", code=3) == ""
        corral("logs", "web-*")
        corral("stats", "-l", "team=red")
        for words in (["stop", "nix*"], ["rm", "-l", "team=green"], ["show", "x?"]):
            corral(*words, code=3)
        corral("restart", "-l", "team in (a)", code=2)

        # The record of a change has the names that a pattern stood for.
        records = daemon.call("audit.list", actions=["agent.restart"])["records"]
        assert [each["names"] for each in records][-3:-1] == [["web-a", "web-b"], ["web-b-1"]]
        corral("add", "extra", "--label", "team=green", "--protocol=none", "--", "sleep", "1000")
        assert corral("rm", "-l", "team=green") == "removed extra\n"


def test_a_label_that_changes_takes_effect_at_a_reload_without_a_restart(tmp_path: Path) -> None:
    with DaemonProcess(tmp_path, CONFIG) as daemon:
        daemon.await_worker("web-a-0", lambda worker: worker["state"] == "Ready")
        before = pids(daemon, "web-a")
        changed = CONFIG.replace('tier = "web" }\ntitle = "First"', 'tier = "db" }\ntitle = "2"')
        daemon.config.write_text(changed.replace('labels = { team = "red" }\n[agents.kind]', "[agents.kind]"))
        plan = daemon.call("daemon.reload")
        assert plan["changed"] == {"web-a": "live"}
        assert plan["teams"] == {"all": "changed"}
        found = daemon.call("daemon.status")["agents"]
        assert [each["title"] for each in found if each["labels"].get("tier") == "db"] == ["2"]
        assert daemon.call("agent.select", selector="tier=db")["names"] == ["web-a"]
        assert daemon.call("agent.select", selector="team=red")["names"] == ["web-a", "idle"]
        assert pids(daemon, "web-a") == before
