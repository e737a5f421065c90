"""What the tests of upgrades ask of a daemon before, over and after them."""

import sys
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Event

from daemon_process import AGENTS, BOUND_S, DaemonProcess, until


def lives(daemon: DaemonProcess) -> dict[str, tuple[int, int, str]]:
    """The pid, the start time and the state of each worker."""
    found: dict[str, tuple[int, int, str]] = {}
    for agent in daemon.call("daemon.status")["agents"]:
        for worker in agent["workers"]:
            pid = worker["pid"]
            started = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]) if pid else 0
            found[worker["id"]] = pid, started, worker["state"]
    return found


def other_python(folder: Path, fault: str) -> str:
    """The path of an interpreter whose corral has a fault."""
    path = folder / f"python-{fault}"
    path.write_text(f'#!/bin/sh\nexec "{sys.executable}" -P "{AGENTS / "other_program.py"}" {fault} "$@"\n')
    path.chmod(0o755)
    return str(path)


@contextmanager
def asking(ask: Callable[[], object], count: int = 2) -> Generator[list[object]]:
    """What is asked over and over, and may not fail; yields the answers, which grow."""
    is_over = Event()
    answers: list[object] = []

    def repeat() -> None:
        while not is_over.is_set():
            answers.append(ask())

    with ThreadPoolExecutor(count) as pool:
        callers = [pool.submit(repeat) for _ in range(count)]
        until(lambda: len(answers) > 10 or any(each.done() for each in callers))
        try:
            yield answers
        finally:
            is_over.set()
        for each in callers:
            each.result(BOUND_S)


def upgrade_twice(daemon: DaemonProcess, *answers: list[object]) -> None:
    """Upgrades, and waits for one more of each of the answers after it."""
    for number in (1, 2):
        assert daemon.call("daemon.upgrade")["upgrades"] == number
        for each in answers:
            await_another(each)


def await_another(answers: list[object]) -> None:
    before = len(answers)
    until(lambda: len(answers) > before)


def check_unchanged(daemon: DaemonProcess, before: dict[str, tuple[int, int, str]], upgrades: int) -> None:
    assert lives(daemon) == before
    status = daemon.call("daemon.status")["daemon"]
    assert (status["pid"], status["upgrades"]) == (daemon.pid, upgrades)
