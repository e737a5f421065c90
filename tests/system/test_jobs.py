"""Jobs: commands that run to their end, what waits for their success, and what is left of it later."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from daemon_process import DaemonProcess


def job(daemon: DaemonProcess, name: str) -> Any:  # its state, and the agent's status
    (found,) = daemon.call("daemon.status", names=[name])["agents"]
    return found


def await_job(daemon: DaemonProcess, name: str, state: str) -> Any:  # the agent's status
    def is_so(worker: Any) -> bool:  # Any: a worker's status, which changes with the job's state
        return bool(job(daemon, name)["job"] == state)

    daemon.await_worker(f"{name}-0", is_so)
    return job(daemon, name)


def let_pass(daemon: DaemonProcess) -> None:
    """Lets the job through, which waits at its gate once."""
    with (daemon.folder / "gate").open("w") as gate:
        gate.write("go\n")
    daemon.await_worker("svc-0", lambda worker: worker["state"] == "Ready")


def lines(path: Path) -> list[str]:
    return path.read_text().split() if path.exists() else []


ORDER = """
[process]
working_directory = "{folder}"

[agents.slow]
type = "oneshot"
command = ["sh", "-c", "read line <gate; echo slow >>order"]

[agents.quick]
type = "oneshot"
command = ["sh", "-c", "echo quick >>order"]
recovery.restart = "never"

[agents.default]
type = "oneshot"
command = ["sh", "-c", "echo default >>order; echo a line"]

[agents.broken]
type = "oneshot"
command = ["sh", "-c", "test -e mended || {{ echo no table >&2; exit 3; }}"]
recovery.restart = "never"

[agents.retried]
type = "oneshot"
command = ["sh", "-c", "echo x >>tries; exit 1"]
recovery = {{ max_restart_attempts = 2, restart_backoff_base = "10ms" }}

[agents.late]
type = "oneshot"
command = ["sleep", "3600"]
timeout = "200ms"
autostart = false
recovery.restart = "never"

[agents.svc]
command = ["sh", "-c", "echo svc >>order; exec sleep 3600"]
protocol = "none"
requires = ["slow", "quick", "default"]

[agents.stuck]
command = ["sleep", "3600"]
protocol = "none"
requires = ["broken"]

[agents.wrong]
command = ["sh", "-c", "exit 0"]
protocol = "none"
recovery.restart = "never"

[agents.waits]
command = ["sleep", "3600"]
protocol = "none"
requires = ["wrong"]
"""


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    folder = tmp_path_factory.mktemp("jobs")
    os.mkfifo(folder / "gate")
    with DaemonProcess(folder, ORDER.format(folder=folder)) as process:
        yield process


def test_what_requires_jobs_starts_when_all_have_succeeded(daemon: DaemonProcess) -> None:
    await_job(daemon, "quick", "succeeded")
    await_job(daemon, "default", "succeeded")
    daemon.await_worker("svc-0", lambda worker: worker["reason"] == "waits for slow")
    daemon.await_worker("slow-0", lambda worker: worker["pid"] is not None)
    assert job(daemon, "slow")["job"] == "running"
    table = daemon.corral("status").stdout
    assert [line.split()[2] for line in table.splitlines() if line.startswith("slow")] == ["Running"]
    let_pass(daemon)
    order = lines(daemon.folder / "order")
    assert (sorted(order[:3]), order[3:]) == (["default", "quick", "slow"], ["svc"])
    done = job(daemon, "slow")
    assert (done["state"], done["type"], done["job"]) == ("Terminated", "oneshot", "succeeded")
    (worker,) = done["workers"]
    assert (worker["done"], worker["restarts"], done["wanted"]) == (True, 0, False)
    assert (worker["last_exit"]["result"], worker["last_exit"]["code"]) == ("exited", 0)
    assert "a line" in daemon.corral("logs", "default").stdout


def test_a_done_job_is_shown_as_such(daemon: DaemonProcess) -> None:
    await_job(daemon, "quick", "succeeded")
    (line,) = [line for line in daemon.corral("status").stdout.splitlines() if line.startswith("quick")]
    assert line.split()[1:3] == ["job", "Done"]


def test_one_that_has_succeeded_and_is_stopped_has_not_failed(daemon: DaemonProcess) -> None:
    daemon.call("agent.add", name="over", spec={"type": "oneshot", "command": ["true"]})
    await_job(daemon, "over", "succeeded")
    assert daemon.corral("stop", "over").stdout == "stopped over (Terminated)\n"
    assert job(daemon, "over")["job"] == "stopped"
    (line,) = [line for line in daemon.corral("status").stdout.splitlines() if line.startswith("over")]
    assert line.split()[1:3] == ["job", "Terminated"]
    daemon.call("agent.rm", name="over")


def test_what_waits_for_a_failed_job_says_why_and_goes_on_when_it_has_succeeded(daemon: DaemonProcess) -> None:
    daemon.await_worker("stuck-0", lambda worker: "no table" in worker["reason"])
    assert "corral start broken" in daemon.worker("stuck-0")["reason"]
    refused = daemon.corral("start", "broken")
    assert refused.returncode == 1
    assert "exited with status 3: no table" in refused.stderr
    assert daemon.corral("start", "stuck").returncode == 1
    (daemon.folder / "mended").touch()
    assert daemon.corral("start", "broken").returncode == 0
    daemon.await_worker("stuck-0", lambda worker: worker["state"] == "Ready")


def test_a_service_that_exits_gets_a_hint_to_write_a_job(daemon: DaemonProcess) -> None:
    daemon.await_worker("waits-0", lambda worker: 'type = "oneshot"' in worker["reason"])


def test_a_job_that_fails_is_retried_by_the_policy_and_a_start_waits_for_the_last_try(daemon: DaemonProcess) -> None:
    await_job(daemon, "retried", "failed")
    assert len(lines(daemon.folder / "tries")) == 3
    done = daemon.corral("start", "retried", "--json")
    error = json.loads(done.stdout)["error"]
    assert (done.returncode, error["data"]["result"]) == (1, "restart-limit")


def test_a_run_that_takes_too_long_fails_as_task_timeout(daemon: DaemonProcess) -> None:
    done = daemon.corral("start", "late", "--json")
    error = json.loads(done.stdout)["error"]
    assert (done.returncode, error["data"]["result"]) == (5, "task-timeout")


def test_a_start_of_all_leaves_jobs_that_are_done_or_not_to_start_by_themselves(daemon: DaemonProcess) -> None:
    for name in ("quick", "default"):
        await_job(daemon, name, "succeeded")
    if job(daemon, "slow")["job"] != "succeeded":
        let_pass(daemon)
    before = lines(daemon.folder / "order")
    late = job(daemon, "late")["workers"][0]["incarnation"]
    daemon.corral("start", "--all", "--no-wait")
    daemon.corral("restart", "svc")
    assert lines(daemon.folder / "order")[len(before) :].count("quick") == 0
    assert job(daemon, "late")["workers"][0]["incarnation"] == late
    daemon.corral("stop", "svc")
    gate = os.open(daemon.folder / "gate", os.O_RDWR)  # a writer that waits for no reader
    try:
        os.write(gate, b"go\n")
        assert daemon.corral("start", "svc").returncode == 0  # with what it requires
    finally:
        os.close(gate)
    again = lines(daemon.folder / "order")[len(before) :]
    assert (again.count("quick"), again.count("slow"), again[-1]) == (1, 1, "svc")


REMAIN = """
[agents.once]
type = "oneshot"
remain = true
command = ["sh", "-c", "echo {word} >>{folder}/once"]

[agents.each]
type = "oneshot"
command = ["sh", "-c", "echo x >>{folder}/each"]

[agents.svc]
command = ["sleep", "3600"]
protocol = "none"
requires = ["once", "each"]
"""


@pytest.mark.long
def test_a_success_that_remains_is_kept_over_a_restart_until_the_command_changes_or_it_is_stopped(
    tmp_path: Path,
) -> None:
    text = REMAIN.replace("{folder}", str(tmp_path))
    with DaemonProcess(tmp_path, text.format(word="a")) as daemon:
        daemon.await_worker("svc-0", lambda worker: worker["state"] == "Ready")
        daemon.stop()
        daemon.start()
        daemon.await_worker("svc-0", lambda worker: worker["state"] == "Ready")
        assert (lines(tmp_path / "once"), lines(tmp_path / "each")) == (["a"], ["x", "x"])
        assert job(daemon, "once")["job"] == "succeeded"
        assert daemon.corral("start", "once").returncode == 0
        assert lines(tmp_path / "once") == ["a"]
        assert daemon.corral("restart", "once").returncode == 0
        assert lines(tmp_path / "once") == ["a", "a"]
        daemon.config.write_text(text.format(word="b"))
        assert daemon.corral("reload").returncode == 0
        await_job(daemon, "once", "succeeded")
        assert lines(tmp_path / "once") == ["a", "a", "b"]
        # The store commits in order: what was noted before this is on disk.
        daemon.call("agent.add", name="last", spec={"command": ["true"]}, start=False)
        daemon.kill()
        daemon.start()
        daemon.await_worker("svc-0", lambda worker: worker["state"] == "Ready")
        assert lines(tmp_path / "once") == ["a", "a", "b"]
        daemon.corral("stop", "once")
        assert job(daemon, "once")["job"] == "stopped"
        daemon.stop()
        daemon.start()
        daemon.await_worker("svc-0", lambda worker: worker["state"] == "Ready")
        assert lines(tmp_path / "once") == ["a", "a", "b", "b"]


RUNS = """
[process]
working_directory = "{folder}"

[agents.work]
type = "oneshot"
autostart = false
command = ["sh", "-c", "echo run >>runs; read line <gate; exit $line"]
recovery.restart = "never"

[agents.fine]
type = "oneshot"
autostart = false
command = ["sh", "-c", "echo printed"]
"""


def open_gate(daemon: DaemonProcess, status: int) -> None:
    with (daemon.folder / "gate").open("w") as gate:
        gate.write(f"{status}\n")


def test_a_task_of_a_job_is_one_run_of_its_command(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "gate")
    with DaemonProcess(tmp_path, RUNS.format(folder=tmp_path)) as daemon:
        ended = json.loads(daemon.corral("run", "fine", "now", "--json").stdout)
        assert (ended["state"], ended["kind"], ended["worker"]) == ("succeeded", "job", "fine-0")
        assert ended["output"]["code"] == 0
        assert job(daemon, "fine")["job"] == "succeeded"

        first = daemon.call("task.submit", agent="work", objective="1")
        second = daemon.call("task.submit", agent="work", objective="2")
        third = daemon.call("task.submit", agent="work", objective="3")
        assert daemon.call("task.show", task=second["id"])["state"] == "queued"
        assert daemon.call("task.cancel", task=second["id"])["state"] == "cancelled"
        open_gate(daemon, 3)
        failed = daemon.call("task.wait", task=first["id"])
        assert failed["state"] == "failed"
        assert (failed["error"]["data"]["code"], failed["error"]["data"]["result"]) == (3, "exited")
        daemon.await_worker("work-0", lambda worker: worker["incarnation"] == 2)
        assert daemon.call("task.cancel", task=third["id"])["state"] == "cancelled"
        assert daemon.worker("work-0")["pid"] is None
        late = daemon.call("task.run", agent="work", objective="4", timeout_s=0.2)
        assert late["state"] == "timeout"

        refused = daemon.corral("run", "fine", "now", "--input", "1", "--json")
        assert json.loads(refused.stdout)["error"]["data"]["key"] == "input"

        broken = daemon.call("task.submit", agent="work", objective="5")
        waiting = daemon.call("task.submit", agent="work", objective="6")
        with (tmp_path / "gate").open("w"):  # as soon as the run waits for it
            before = len(lines(tmp_path / "runs"))
            daemon.kill()
        daemon.start()
        gone = daemon.call("task.wait", task=broken["id"])
        assert (gone["state"], gone["error"]["data"]["result"]) == ("failed", "daemon-gone")
        open_gate(daemon, 0)
        assert daemon.call("task.wait", task=waiting["id"])["state"] == "succeeded"
        assert len(lines(tmp_path / "runs")) == before + 1
