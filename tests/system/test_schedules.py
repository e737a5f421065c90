"""Schedules through the whole: made, due, skipped, refused, and made up for after a kill -9."""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from corral.worker.contract.errors import Conflict, InvalidParams, NotFound, ResourceLimitExceeded
from daemon_process import AGENTS, BOUND_S, DaemonProcess
from system.test_clock import YEAR_S, WallClock

CREW = f"""
[agents.crew]
entrypoint = "crew_agent:agent"
instances = 2
capabilities = ["pairing"]
process.working_directory = "{AGENTS}"

[agents.absent]
entrypoint = "crew_agent:agent"
autostart = false
process.working_directory = "{AGENTS}"
"""

MOVED = CREW.replace('capabilities = ["pairing"]', "").replace("autostart = false", 'capabilities = ["pairing"]')
"""Another agent has the capability."""

ECHO = {"agent": "crew", "objective": "echo"}


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    with DaemonProcess(tmp_path_factory.mktemp("schedules"), CREW) as process:
        yield process


def printed(daemon: DaemonProcess, *arguments: str, code: int = 0) -> Any:  # the JSON document
    done = daemon.corral(*arguments, "--json")
    assert done.returncode == code, done
    return json.loads(done.stdout)


def await_events(daemon: DaemonProcess, kind: str, schedule: str, count: int = 1) -> list[Any]:
    """The first events of a type about a schedule, since the daemon's start."""
    found: list[Any] = []
    with daemon.client() as client:
        client.call("event.follow", {"types": [kind], "since_time": 0.0}, timeout_s=BOUND_S)
        for notification in client.notifications():
            events: Any = notification.params["events"]
            found += [event for event in events if event["schedule"] == schedule]
            if len(found) >= count:
                return found
    raise AssertionError("the stream of events does not end")


def await_runs(daemon: DaemonProcess, name: str, count: int) -> list[Any]:
    """The tasks of a schedule, oldest first, as soon as there are so many."""
    with daemon.client() as client:
        client.call("event.follow", {"types": ["task.queued"]}, timeout_s=BOUND_S)
        notifications = client.notifications()
        while True:
            tasks = daemon.call("task.list", schedule=name)["tasks"]
            if len(tasks) >= count:
                return list(reversed(tasks))
            next(notifications)


def test_a_schedule_makes_a_task_each_time_under_a_key_of_its_own(daemon: DaemonProcess) -> None:
    done = daemon.corral("run", "crew", "echo", "--every", "1s", "--name", "tick", "--input", "7")
    assert (done.returncode, done.stdout) == (0, "tick\n")
    tasks = await_runs(daemon, "tick", 2)
    record = printed(daemon, "schedule", "show", "tick")
    assert len(record["upcoming"]) == 5
    assert record["runs"] >= 2
    printed(daemon, "schedule", "rm", "tick")
    keys = [task["idempotency_key"] for task in tasks]
    assert len(set(keys)) == len(keys)
    times = [datetime.fromisoformat(key.removeprefix("tick@")) for key in keys]
    assert times[1] - times[0] >= timedelta(seconds=1)
    ended = printed(daemon, "task", "wait", tasks[0]["id"])
    assert (ended["schedule"], ended["output"]["input"]) == ("tick", 7)


def test_schedules_are_listed_paused_resumed_run_and_removed(daemon: DaemonProcess) -> None:
    asked = ["run", "crew", "echo", "--cron", "0 6 * * mon", "--timezone", "Europe/Berlin"]
    made = printed(daemon, *asked, "--name", "weekly", "--overlap", "queue", "--no-catch-up")
    assert (made["cron"], made["overlap"], made["catch_up"]) == ("0 6 * * mon", "queue", False)
    following = datetime.fromisoformat(made["next_at"])
    assert (following.weekday(), following.minute) == (0, 0)
    assert following.hour in (4, 5)
    unnamed = printed(daemon, "run", "crew", "echo", "--every", "1d", "--at", "2h")
    assert unnamed["name"].startswith("crew-")
    listed = printed(daemon, "schedule", "list")
    assert {record["name"] for record in listed} == {"weekly", unnamed["name"]}
    assert listed == printed(daemon, "schedules")
    shown = daemon.corral("schedules").stdout
    assert "weekly" in shown
    assert "every 1d" in shown
    (paused,) = printed(daemon, "schedule", "pause", "weekly")["schedules"]
    assert (paused["paused"], paused["next_at"]) == (True, None)
    (resumed,) = printed(daemon, "schedule", "resume", "weekly")["schedules"]
    assert (resumed["paused"], resumed["next_at"]) == (False, made["next_at"])
    task = daemon.corral("schedule", "run", "weekly").stdout.strip()
    assert printed(daemon, "task", "wait", task)["schedule"] == "weekly"
    refused = printed(daemon, "schedule", "rm", "weekly", "weakly", code=3)
    assert refused["error"]["data"]["name"] == "weakly"
    assert len(printed(daemon, "schedules")) == 2  # nothing has become of the other
    removed = printed(daemon, "schedule", "rm", "weekly", unnamed["name"])
    assert removed == {"removed": ["weekly", unnamed["name"]]}
    assert printed(daemon, "schedules") == []
    assert printed(daemon, "schedule", "show", "weekly", code=3)["error"]["name"] == "NotFound"
    actions = [record["action"] for record in daemon.call("audit.list", name="weekly")["records"]]
    assert actions == ["schedule.add", "schedule.pause", "schedule.resume", "schedule.rm"]


REFUSED: list[tuple[dict[str, object], type[Exception], str | None]] = [
    ({"cron": "61 * * * *"}, InvalidParams, "cron"),
    ({"cron": "* * * * *", "timezone": "Mars/Olympus"}, InvalidParams, "timezone"),
    ({}, InvalidParams, "every_s"),
    ({"every_s": 5, "task": {**ECHO, "at": 4e9}}, InvalidParams, "task.at"),
    ({"every_s": 5, "task": {**ECHO, "idempotency_key": "k"}}, InvalidParams, "task.idempotency_key"),
    ({"every_s": 5, "task": {"objective": "echo"}}, InvalidParams, "task.agent"),
    ({"every_s": 5, "task": {"agent": "nobody", "objective": "echo"}}, NotFound, None),
    ({"every_s": 5, "task": {**ECHO, "input": "x" * 70_000}}, ResourceLimitExceeded, None),
]


@pytest.mark.parametrize(("params", "error", "key"), REFUSED)
def test_a_schedule_that_could_never_work_is_refused(
    daemon: DaemonProcess, params: dict[str, object], error: type[Exception], key: str | None
) -> None:
    with pytest.raises(error) as refused:
        daemon.call("schedule.add", **{"task": ECHO, "name": "bad", **params})
    facts: dict[str, object] = getattr(refused.value, "data", {})
    assert key is None or facts["key"] == key
    assert daemon.call("schedule.list")["schedules"] == []


def test_a_name_is_given_once(daemon: DaemonProcess) -> None:
    daemon.call("schedule.add", name="one", task=ECHO, every_s=3600)
    with pytest.raises(Conflict):
        daemon.call("schedule.add", name="one", task=ECHO, every_s=3600)
    daemon.call("schedule.rm", name="one")


def test_a_run_that_is_due_while_the_last_one_goes_on_is_skipped_unless_it_may_queue(daemon: DaemonProcess) -> None:
    wait = {"agent": "crew", "objective": "wait"}
    daemon.call("schedule.add", name="slow", task=wait, every_s=1)
    (skipped,) = await_events(daemon, "schedule.skipped", "slow")[:1]
    record = daemon.call("schedule.show", name="slow")
    daemon.call("schedule.rm", name="slow")
    assert record["skipped"] >= 1
    assert record["last_task"] in skipped["reason"]
    (task,) = daemon.call("task.list", schedule="slow")["tasks"]
    daemon.call("task.cancel", task=task["id"])
    daemon.call("schedule.add", name="eager", task=wait, every_s=1, overlap="queue")
    tasks = await_runs(daemon, "eager", 2)
    daemon.call("schedule.rm", name="eager")
    for each in daemon.call("task.list", schedule="eager")["tasks"]:
        daemon.call("task.cancel", task=each["id"])
    assert [task["state"] for task in tasks[:2]] == ["running", "running"]


def test_a_task_that_is_not_accepted_is_reported_and_the_schedule_goes_on(daemon: DaemonProcess) -> None:
    daemon.call("schedule.add", name="vain", task={**ECHO, "agent": "absent"}, every_s=1)
    events = await_events(daemon, "schedule.refused", "vain", 2)
    assert {event["error"] for event in events} == {"Conflict"}
    record = daemon.call("schedule.show", name="vain")
    daemon.call("schedule.rm", name="vain")
    assert record["refused"] >= 2
    assert (record["runs"], record["last_error"]["name"]) == (0, "Conflict")


# -- a daemon that dies


def row(daemon: DaemonProcess, name: str) -> tuple[Any, ...]:
    with closing(sqlite3.connect(daemon.state_dir / "corral.db")) as connection:
        found: Any = connection.execute("SELECT * FROM schedule WHERE name = ?", (name,)).fetchone()
    assert found is not None
    return tuple(found)


def write(daemon: DaemonProcess, sql: str, *values: object) -> None:
    with closing(sqlite3.connect(daemon.state_dir / "corral.db")) as connection:
        assert connection.execute(sql, values).rowcount == 1
        connection.commit()


def set_back(daemon: DaemonProcess, name: str, by_s: float) -> None:
    """As if the daemon had been down for so long when the run is due."""
    write(daemon, "UPDATE schedule SET next_at = next_at - ? WHERE name = ?", by_s, name)


def test_what_was_missed_is_made_up_for_once_and_what_is_damaged_keeps_nothing_else_from_running(
    tmp_path: Path,
) -> None:
    with DaemonProcess(tmp_path, CREW) as daemon:
        for name in ("due", "lenient", "broken", "paused"):
            more = {"catch_up": False} if name == "lenient" else {}
            daemon.call("schedule.add", name=name, task=ECHO, every_s=3600, **more)
        daemon.call("schedule.pause", name="paused")
        daemon.kill()
        for name in ("due", "lenient"):
            set_back(daemon, name, 100 * 3600)
        write(daemon, "UPDATE schedule SET record = x'7b7d' WHERE name = 'broken'")
        daemon.start()
        (task,) = await_runs(daemon, "due", 1)
        (skipped,) = await_events(daemon, "schedule.skipped", "lenient")
        (broken,) = await_events(daemon, "schedule.corrupted", "broken")
        assert "no daemon ran" in skipped["reason"]
        assert broken["reason"]
        shown = {record["name"]: record for record in daemon.call("schedule.list")["schedules"]}
        assert shown.keys() == {"due", "lenient", "paused"}
        assert shown["paused"]["next_at"] is None
        counts = [(shown[n]["runs"], shown[n]["skipped"]) for n in ("due", "lenient", "paused")]
        assert counts == [(1, 0), (0, 1), (0, 0)]
        assert shown["due"]["last_task"] == task["id"]
        assert shown["due"]["next_at"] > task["created_at"]


@pytest.mark.parametrize("whom", [{"agent": "crew"}, {"capability": "pairing"}])
def test_a_kill_between_a_task_and_the_note_of_it_makes_no_second_one(tmp_path: Path, whom: dict[str, str]) -> None:
    with DaemonProcess(tmp_path, CREW) as daemon:
        task = {**whom, "objective": "echo"}
        daemon.call("schedule.add", name="once", task=task, every_s=3600)
        daemon.kill()
        set_back(daemon, "once", 3600)
        before = row(daemon, "once")
        daemon.start()
        (first,) = await_runs(daemon, "once", 1)
        daemon.kill()
        write(daemon, "INSERT OR REPLACE INTO schedule VALUES (?, ?, ?, ?, ?)", *before)
        daemon.config.write_text(MOVED)
        daemon.start()
        while (record := daemon.call("schedule.show", name="once"))["last_task"] is None:
            daemon.call("task.run", agent="crew", objective="echo")
        assert record["last_task"] == first["id"]
        assert [t["id"] for t in daemon.call("task.list", schedule="once")["tasks"]] == [first["id"]]


@pytest.mark.long
def test_a_wall_clock_that_jumps_a_year_makes_one_run_and_goes_on_from_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = WallClock(tmp_path, monkeypatch)
    with DaemonProcess(tmp_path, CREW) as daemon:
        monkeypatch.delenv("LD_PRELOAD")
        daemon.call("schedule.add", name="tick", task=ECHO, every_s=1)
        seen = len(await_runs(daemon, "tick", 1))
        for offset_s in (YEAR_S, -YEAR_S):
            clock.jump(offset_s)
            tasks = await_runs(daemon, "tick", seen + 2)
            # Newest first is by the wall clock, which went back: sorted by when they were made up.
            seen = len(tasks)
        daemon.call("schedule.rm", name="tick")
        record = daemon.call("event.list", types=["task.queued"])["events"]
        keys = [task["idempotency_key"] for task in daemon.call("task.list", schedule="tick")["tasks"]]
        assert len(set(keys)) == len(keys) == len(record)
        years = {datetime.fromisoformat(key.removeprefix("tick@")).year for key in keys}
        assert len(years) == 3
        # Each came a second after the one before, or at the jump: nothing like a year of seconds.
        assert len(keys) < 60
