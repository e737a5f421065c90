"""Schedules of the configuration file and of commands: their runs, their results, and what a reload or a kill leaves."""

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from corral.worker.contract.errors import Conflict, CorralError, InvalidParams
from daemon_process import DaemonProcess

FILE = """
[process]
working_directory = "{folder}"

[schedules.work]
cron = "0 3 * * *"
timezone = "Europe/Berlin"
command = ["sh", "-c", "echo run >>runs; echo printed $NAME; read line <gate; exit $line"]
environment = {{ NAME = "by work" }}
overlap = "{overlap}"

[agents.report]
type = "oneshot"
autostart = false
command = ["sh", "-c", "echo reported >>reports"]

[schedules.nightly]
every = "12h"
agent = "report"
"""


def shown(daemon: DaemonProcess, name: str) -> Any:  # the record
    return daemon.call("schedule.show", name=name)


def names(daemon: DaemonProcess) -> set[str]:
    return {record["name"] for record in daemon.call("schedule.list")["schedules"]}


def await_last_run(daemon: DaemonProcess, name: str, task: str) -> Any:  # the run
    """The last run of a schedule, as soon as it is that of a task which has ended."""
    with daemon.client() as client:
        client.call("event.follow", {"types": ["schedule.ended"], "since_time": 0.0}, timeout_s=30.0)
        for notification in client.notifications():
            events: Any = notification.params["events"]
            if any(event["task"] == task for event in events):
                return shown(daemon, name)["last_run"]
    raise AssertionError("the stream of events does not end")


def open_gate(daemon: DaemonProcess, status: int) -> None:
    with (daemon.folder / "gate").open("w") as gate:
        gate.write(f"{status}\n")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    os.mkfifo(tmp_path / "gate")
    return tmp_path


def test_a_command_of_the_file_runs_as_a_job_with_a_history_and_logs(folder: Path) -> None:
    with DaemonProcess(folder, FILE.format(folder=folder, overlap="skip")) as daemon:
        record = shown(daemon, "work")
        assert record["source"] == str(daemon.config)
        assert (record["task"]["agent"], record["command"][:2]) == ("work", ["sh", "-c"])
        assert datetime.fromisoformat(record["next_at"]).hour in (1, 2)
        (status,) = daemon.call("daemon.status", names=["work"])["agents"]
        assert (status["type"], status["job"]) == ("oneshot", "idle")

        first = daemon.call("schedule.run", name="work")
        open_gate(daemon, 4)
        assert daemon.call("task.wait", task=first["id"])["state"] == "failed"
        second = daemon.call("schedule.run", name="work")
        open_gate(daemon, 0)
        ended = daemon.call("task.wait", task=second["id"])
        assert (ended["state"], ended["schedule"]) == ("succeeded", "work")
        recent = shown(daemon, "work")["recent"]
        assert [(run["state"], run["code"], run["incarnation"]) for run in recent] == [
            ("succeeded", 0, 2),
            ("failed", 4, 1),
        ]
        assert "printed by work" in daemon.corral("logs", "work").stdout
        table = daemon.corral("schedule", "show", "work").stdout
        assert "failed, code 4" in table

        # Another one starts the job of an agent's table.
        task = daemon.call("schedule.run", name="nightly")
        assert daemon.call("task.wait", task=task["id"])["state"] == "succeeded"
        assert (folder / "reports").read_text() == "reported\n"

        with pytest.raises(Conflict):
            daemon.call("schedule.rm", name="work")
        with pytest.raises(Conflict):
            daemon.call("schedule.add_command", name="work", command=["true"], every_s=60)


def test_a_kill_of_the_daemon_during_a_run_leaves_no_process_and_a_true_history(folder: Path) -> None:
    with DaemonProcess(folder, FILE.format(folder=folder, overlap="skip")) as daemon:
        task = daemon.call("schedule.run", name="work")
        with (folder / "gate").open("w"):
            daemon.kill()  # the stop of this `with` checks that nothing is left
            daemon.start()
        run = await_last_run(daemon, "work", task["id"])
        assert run["state"] == "failed"
        record = shown(daemon, "work")
        assert (record["runs"], len(record["recent"])) == (1, 1)
        assert (folder / "runs").read_text() == "run\n"


def test_a_reload_follows_the_schedules_of_the_file_and_says_what_it_does(folder: Path) -> None:
    text = FILE.format(folder=folder, overlap="skip")
    with DaemonProcess(folder, text) as daemon:
        task = daemon.call("schedule.run", name="nightly")
        daemon.call("task.wait", task=task["id"])
        await_last_run(daemon, "nightly", task["id"])
        daemon.config.write_text(
            text.replace('every = "12h"', 'cron = "@daily"')
            .replace("[schedules.work]", "[schedules.other]")
            .replace('timezone = "Europe/Berlin"', "catch_up = false")
        )
        planned = daemon.call("daemon.reload")
        assert planned["schedules"] == {"nightly": "changed", "other": "added", "work": "removed"}
        assert names(daemon) == {"nightly", "other"}
        nightly = shown(daemon, "nightly")
        assert (nightly["cron"], nightly["every_s"], nightly["runs"]) == ("@daily", None, 1)
        daemon.config.write_text(text.replace("12h", "every"))
        assert daemon.corral("reload").returncode == 2
        assert names(daemon) == {"nightly", "other"}
        daemon.config.write_text(text)
        daemon.stop()
        daemon.start()
        assert names(daemon) == {"nightly", "work"}
        assert shown(daemon, "nightly")["last_run"]["task"] == task["id"]


def test_the_file_wins_over_a_schedule_of_its_name_until_it_has_it_no_more(folder: Path) -> None:
    text = FILE.format(folder=folder, overlap="skip")
    with DaemonProcess(folder, text.replace("schedules.nightly", "schedules.later")) as daemon:
        task = {"agent": "report", "objective": "added"}
        daemon.call("schedule.add", name="nightly", task=task, every_s=3600)
        daemon.config.write_text(text)
        daemon.call("daemon.reload")
        assert shown(daemon, "nightly")["every_s"] == 43_200
        events = daemon.call("event.list", types=["config.shadowed"])["events"]
        assert [event["agent"] for event in events] == ["nightly"]
        daemon.config.write_text(text.split("[schedules.nightly]")[0])
        daemon.call("daemon.reload")
        assert (shown(daemon, "nightly")["source"], names(daemon)) == ("store", {"nightly", "work"})


def test_a_time_that_has_come_runs_once_whatever_happens_to_the_daemon(folder: Path) -> None:
    soon = datetime.now(UTC) + timedelta(seconds=2)
    text = FILE.format(folder=folder, overlap="skip").replace('every = "12h"', f"at = {soon.isoformat()}")
    with DaemonProcess(folder, text) as daemon:
        with daemon.client() as client:
            client.call("event.follow", {"types": ["task.ended"], "since_time": 0.0}, timeout_s=30.0)
            next(client.notifications())
        daemon.kill()
        daemon.start()
        daemon.call("daemon.reload")
        record = shown(daemon, "nightly")
        assert (record["runs"], record["next_at"]) == (1, None)
        assert (folder / "reports").read_text() == "reported\n"


def test_a_run_replaces_the_one_before_where_the_schedule_says_so(folder: Path) -> None:
    text = FILE.format(folder=folder, overlap="replace").replace(
        'cron = "0 3 * * *"\ntimezone = "Europe/Berlin"', 'every = "2s"'
    )
    with DaemonProcess(folder, text) as daemon, daemon.client() as client:
        client.call("event.follow", {"types": ["task.ended"], "since_time": 0.0}, timeout_s=30.0)
        events: Any = next(client.notifications()).params["events"]
        assert (events[0]["state"], events[0]["agent"]) == ("cancelled", "work")
        daemon.call("schedule.pause", name="work")


def test_a_schedule_of_a_command_is_added_kept_and_removed_with_its_job(tmp_path: Path) -> None:
    with DaemonProcess(tmp_path, "") as daemon:
        done = daemon.corral(
            *("schedule", "add", "tidy", "--cron", "@hourly", "--time-limit", "5m"),
            *("--env", "A=1", "--cwd", str(tmp_path), "--", "sh", "-c", "echo $A >>tidied"),
        )
        assert (done.returncode, done.stdout) == (0, "added tidy\n")
        daemon.stop()
        daemon.start()
        task = daemon.corral("schedule", "run", "tidy").stdout.strip()
        assert daemon.call("task.wait", task=task)["state"] == "succeeded"
        assert (tmp_path / "tidied").read_text() == "1\n"
        (line,) = daemon.corral("schedules").stdout.splitlines()[1:]
        assert line.split()[:3] == ["tidy", "tidy", "@hourly"]
        again = daemon.corral("schedule", "add", "tidy", "--every", "1h", "--", "true")
        assert again.returncode == 4
        for params in ({"cron": "x"}, {"every_s": 5, "cron": "@daily"}, {}):
            with pytest.raises(CorralError):
                daemon.call("schedule.add_command", name="bad", command=["true"], **params)
        assert daemon.corral("schedule", "rm", "tidy").returncode == 0
        assert daemon.call("daemon.status")["agents"] == []


def test_a_start_time_alone_does_not_block_and_with_a_name_it_is_a_schedule(folder: Path) -> None:
    with DaemonProcess(folder, FILE.format(folder=folder, overlap="skip")) as daemon:
        done = daemon.corral("run", "report", "--at", "1h")
        assert done.returncode == 0
        assert daemon.call("task.show", task=done.stdout.strip())["state"] == "queued"
        named = daemon.corral("run", "report", "--at", "1h", "--name", "once", "--json")
        record = json.loads(named.stdout)
        assert (record["name"], record["at"], record["next_at"]) == ("once", record["at"], record["at"])
        task = {"agent": "report", "objective": "x"}
        with pytest.raises(InvalidParams):
            daemon.call("schedule.add", name="past", task=task, at=1e9)
