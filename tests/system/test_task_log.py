"""`corral logs --task`, `corral run --logs` and {task} of log.read and log.follow: what one task has printed and logged, and no other."""

import os
import pty
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from corral.worker.contract.errors import InvalidParams, NotFound
from daemon_process import BIN, BOUND_S, DaemonProcess

PROGRAMS = Path(__file__).parents[1] / "support" / "programs"

CONFIG = f"""
[process]
working_directory = "{PROGRAMS}"
[agents.talks]
entrypoint = "talking_agent:agent"
[agents.both]
entrypoint = "talking_agent:both"
resources.max_concurrent_requests = 2
[agents.dies]
entrypoint = "talking_agent:dies"
"""

TASKS = 12


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    made = DaemonProcess(tmp_path_factory.mktemp("talking"), CONFIG)
    yield made
    made.stop()


def submit(daemon: DaemonProcess, agent: str, objective: str, **more: object) -> str:
    return str(daemon.call("task.submit", agent=agent, objective=objective, **more)["id"])


def lines(daemon: DaemonProcess, task: str, **more: object) -> list[str]:
    found: Any = daemon.call("log.read", task=task, **more)["records"]
    return [record["text"] for record in found]


def spoken(objective: str) -> list[str]:
    """What a task says, sorted: messages and prints come over two ways, and keep no order between them."""
    printed = [f"{objective} prints {number}" for number in (*range(5), "last")]
    return [f"{objective} logs", *printed]


def said(found: list[str]) -> list[str]:
    prints = [text for text in found if " prints " in text]
    assert prints == sorted(prints), "in order"
    return sorted(found)


def followed(daemon: DaemonProcess, task: str) -> list[str]:
    """Follows the lines of a task until the daemon says that there will be no more."""
    found: list[str] = []
    with daemon.client() as client:
        client.call("log.follow", {"task": task}, timeout_s=BOUND_S)
        for notification in client.notifications():
            if notification.method == "log.end":
                return found
            records: Any = notification.params["records"]
            found += [record["text"] for record in records]
    raise AssertionError("the daemon is gone")


def corral(daemon: DaemonProcess, *words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [str(BIN / "corral"), f"--socket={daemon.socket}", *words],
        capture_output=True,
        text=True,
        timeout=BOUND_S,
        check=False,
    )


def test_each_of_many_tasks_on_one_worker_has_its_own_lines(daemon: DaemonProcess) -> None:
    ids = {f"word{number}": submit(daemon, "talks", f"word{number}") for number in range(TASKS)}
    last = list(ids)[-1]
    assert said(followed(daemon, ids[last])) == spoken(last), "it is queued when this begins"
    for objective, task in ids.items():
        assert said(lines(daemon, task)) == spoken(objective)
    assert said(followed(daemon, ids["word0"])) == spoken("word0"), "it has ended"
    assert lines(daemon, ids[last], n=2) == lines(daemon, ids[last])[-2:]
    assert lines(daemon, ids[last], stream="log") == [f"{last} logs"]
    assert lines(daemon, ids[last], grep="prints 3") == [f"{last} prints 3"]


def test_messages_of_tasks_at_the_same_time_are_distinguished_and_prints_are_of_both(
    daemon: DaemonProcess, tmp_path: Path
) -> None:
    go = tmp_path / "go"
    ids = [submit(daemon, "both", name, input=str(go)) for name in ("one", "two")]
    with daemon.client() as client:
        client.call("log.follow", {"names": ["both"], "n": 100}, timeout_s=BOUND_S)
        seen: set[str] = set()
        for notification in client.notifications():
            records: Any = notification.params["records"]
            seen |= {record["text"] for record in records}
            if {"one prints", "two prints"} <= seen:
                break
    go.touch()
    for name, task in zip(("one", "two"), ids, strict=True):
        daemon.call("task.wait", task=task)
        found = lines(daemon, task)
        assert [text for text in found if text.endswith("logs")] == [f"{name} logs"]
        assert f"{name} prints" in found


def test_a_task_that_is_tried_again_has_the_lines_of_all_attempts(daemon: DaemonProcess) -> None:
    retry = {"max_attempts": 3, "retry_on": "worker-death"}
    task = submit(daemon, "dies", "x", retry=retry)
    assert followed(daemon, task)[-1] == "attempt 2 prints"
    found = [text for text in lines(daemon, task) if "attempt" in text]
    assert found == ["attempt 1 prints", "attempt 2 prints"]


def test_after_a_restart_of_the_daemon_the_lines_are_found_by_the_record(daemon: DaemonProcess) -> None:
    task = submit(daemon, "talks", "before")
    daemon.call("task.wait", task=task)
    daemon.stop()
    daemon.start()
    assert said(lines(daemon, task)) == spoken("before")


def test_what_selects_a_task_goes_with_no_names_and_an_unknown_one_is_said(daemon: DaemonProcess) -> None:
    with pytest.raises(NotFound):
        daemon.call("log.read", task="nobody")
    task = submit(daemon, "talks", "x")
    daemon.call("task.wait", task=task)
    with pytest.raises(InvalidParams):
        daemon.call("log.read", task=task, names=["talks"])
    assert corral(daemon, "logs", "--task", task, "talks").returncode == 2
    assert corral(daemon, "run", "talks", "x", "--logs", "--detach").returncode == 2


def test_run_prints_the_lines_on_stderr_in_order_and_then_the_result(daemon: DaemonProcess) -> None:
    done = corral(daemon, "run", "talks", "said", "--logs")
    assert (done.returncode, done.stdout) == (0, "said\n")
    texts = [line.split(maxsplit=3)[3] for line in done.stderr.splitlines() if " talks-0 " in line]
    assert said([text.removesuffix(" step=1") for text in texts]) == spoken("said")


def on_terminal(daemon: DaemonProcess, *words: str) -> str:
    ours, theirs = pty.openpty()
    command = [str(BIN / "corral"), f"--socket={daemon.socket}", "--no-color", *words]
    environ = {**os.environ, "TZ": "Asia/Tokyo", "COLUMNS": "80"}
    with subprocess.Popen(command, stdout=theirs, env=environ) as process:
        os.close(theirs)
        shown = b""
        try:
            while piece := os.read(ours, 65_536):
                shown += piece
        except OSError:  # EIO: the other end is closed
            pass
        assert process.wait(BOUND_S) == 0
    os.close(ours)
    return shown.decode().replace("\r\n", "\n")


def test_a_terminal_has_local_times_and_a_pipe_those_of_the_daemon(daemon: DaemonProcess) -> None:
    task = submit(daemon, "talks", "time")
    daemon.call("task.wait", task=task)
    (at,) = {record["at"] for record in daemon.call("log.read", task=task, n=1)["records"]}
    utc = f"{at[:23]}Z talks-0 "
    hour = (int(at[11:13]) + 9) % 24
    piped = corral(daemon, "logs", "--task", task, "-n1").stdout
    assert piped.startswith(utc)
    local = on_terminal(daemon, "logs", "--task", task, "-n1")
    assert re.match(rf"(\d\d-\d\d )?{hour:02d}{at[13:19]}(\.\d{{3}})? talks-0 ", local), local
    assert on_terminal(daemon, "logs", "--task", task, "-n1", "--utc").startswith(utc)
    assert on_terminal(daemon, "logs", "--task", task, "-n1", "--no-time").startswith("talks-0 ")
