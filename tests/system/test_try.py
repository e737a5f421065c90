"""`corral try` runs one task on the agent of a file, under a daemon of its own of which nothing is left."""

import json
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemon_process import BIN, BOUND_S, marked

pytestmark = pytest.mark.shell

AGENT = """
import os
import time
from corral.worker import Agent

mine = Agent()
VERSION = 1


@mine.task
def run(task):
    print("works on", task.objective)
    if task.objective == "fail":
        raise ValueError("no")
    if task.objective == "wait":
        time.sleep(1000)
    return {"version": VERSION, "input": task.input, "key": os.environ.get("SOME_KEY")}


mine.run()
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "trial.py").write_text(AGENT)
    (tmp_path / "tmp").mkdir()
    return tmp_path


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """Starts the command in the folder, with a temporary folder of its own there."""
    environ = {**os.environ, "TMPDIR": str(folder / "tmp"), "SOME_KEY": "k"}
    return subprocess.Popen(
        [str(BIN / "corral"), "try", *arguments],
        cwd=folder,
        env=environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def until(lines: Iterator[str], words: str) -> str:
    """The next line that has the words."""
    return next(line for line in lines if words in line)


def assert_nothing_is_left(folder: Path) -> None:
    """No process and no file of it is there; the daemon that loses its starter needs a moment, which is bounded."""
    deadline = threading.Event()
    timer = threading.Timer(BOUND_S, deadline.set)
    timer.start()
    while not deadline.is_set() and (marked(folder) or any((folder / "tmp").iterdir())):
        os.sched_yield()
    timer.cancel()
    assert marked(folder) == []
    assert list((folder / "tmp").iterdir()) == []


def test_the_result_is_on_stdout_the_log_on_stderr_and_nothing_is_left(folder: Path) -> None:
    with start(folder, "trial.py", "count", "--input", "world", "--env", "SOME_KEY") as process:
        output, log = process.communicate(timeout=BOUND_S)
    assert process.returncode == 0, log
    assert json.loads(output) == {"version": 1, "input": "world", "key": "k"}
    assert "works on count" in log
    assert_nothing_is_left(folder)


@pytest.mark.long
@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (("trial:mine", "fail"), 1, "trial.py, line 14"),
        (("trial:other", "x"), 1, "it has mine"),
        (("trial", "wait", "--timeout", "200ms"), 5, "within"),
        (("none.py", "x"), 2, "no such file"),
        (("trial.py", "x", "--env", "NOT_SET_HERE"), 2, "--env"),
    ],
)
def test_the_exit_code_is_that_of_the_task(folder: Path, arguments: tuple[str, ...], status: int, words: str) -> None:
    with start(folder, *arguments) as process:
        output, log = process.communicate(timeout=BOUND_S)
    assert (process.returncode, output) == (status, ""), log
    assert words in log
    assert_nothing_is_left(folder)


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_nothing_is_left_of_one_that_is_interrupted_or_killed(folder: Path, number: int) -> None:
    with start(folder, "trial.py", "wait") as process:
        assert process.stderr is not None, "it is a pipe"
        until(iter(process.stderr), "works on wait")
        process.send_signal(number)
        assert process.wait(BOUND_S) == -number
    assert_nothing_is_left(folder)


def test_a_watched_agent_runs_again_when_its_source_changes(folder: Path) -> None:
    process = start(folder, "trial.py", "count", "--watch")
    alarm = threading.Timer(BOUND_S, process.kill)
    alarm.start()
    try:
        assert process.stdout is not None, "it is a pipe"
        lines = iter(process.stdout)
        until(lines, '"version": 1')
        (folder / "trial.py").write_text(AGENT.replace("VERSION = 1", "VERSION = 2"))
        until(lines, '"version": 2')
        process.send_signal(signal.SIGINT)
        assert process.wait(BOUND_S) == -signal.SIGINT
    finally:
        alarm.cancel()
        process.kill()
        process.communicate()
    assert_nothing_is_left(folder)
