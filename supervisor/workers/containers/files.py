"""Keeps a folder for each container, with what its engine needs, and removes containers that nobody leads any more.

Every folder has `plan.json`: how the container is removed, and how a command is run in it. A folder whose container is
gone is removed by the caller. Blocking calls are made in threads.
"""

import contextlib
import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from msgspec import Struct
from msgspec import json as fast_json

from .plan import Plan

MONITOR = str(Path(__file__).with_name("monitor.py"))
"""Path of the program that leads the unit of a container."""

REMOVE_S = 15.0
"""Seconds that the removal of a container may take."""

logger = logging.getLogger(__name__)


class Record(Struct, frozen=True):
    """Represents `plan.json`."""

    remove: list[str]
    enter: list[str]
    folder_option: str
    env: dict[str, str]


def folder_of(root: Path, unit: str) -> str:
    """Returns the path of the folder of one container."""
    return f"{root}/{unit.replace('#', '.').replace('/', '+')}"


def make(folder: str, owner: tuple[int, int]) -> str:
    """Makes the folder of a container, and in it the temporary folder of its user; returns the path of that."""
    os.makedirs(folder, mode=0o711)
    temporary = f"{folder}/tmp"
    os.mkdir(temporary, 0o700)
    if os.getuid() == 0:
        os.chown(temporary, *owner)
    return temporary


def write(folder: str, plan: Plan, env: Mapping[str, str]) -> list[str]:
    """Writes the files of a container, which only this user reads; returns the command line of its monitor."""
    record = Record(list(plan.remove), list(plan.enter), plan.folder_option, dict(env))
    for name, text in {**plan.files, "plan.json": fast_json.encode(record).decode()}.items():
        fd = os.open(f"{folder}/{name}", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(fd, "w", encoding="utf-8") as file:
            file.write(text)
    given = {
        "run": plan.run,
        "remove": plan.remove,
        "env": dict(env),
        "pid_file": plan.pid_file,
        "outcome": plan.outcome,
        "record": f"{folder}/plan.json",
    }
    return [sys.executable, "-I", "-S", MONITOR, json.dumps(given)]


def discard(folder: str) -> None:
    """Removes a folder that no container was made of."""
    shutil.rmtree(folder, ignore_errors=True)


def record_of(folder: str) -> Record | None:
    """Returns how a container is entered and removed; None where that is not known."""
    try:
        return fast_json.decode(Path(folder, "plan.json").read_bytes(), type=Record)
    except (OSError, ValueError):
        return None


def entering(record: Record, argv: Sequence[str], options: Sequence[str]) -> list[str]:
    """Returns the command line that runs a command in a container."""
    index = record.enter.index("@options")
    return [*record.enter[:index], *options, *record.enter[index + 1 :], *argv]


def has_started(folder: str) -> bool:
    """Returns whether the engine has noted a first process of the container."""
    try:
        return os.stat(f"{folder}/pid").st_size > 0
    except OSError:
        return False


def failure_of(folder: str) -> str:
    """Returns why a container has not started; empty where it has."""
    reasons = {
        "126": "its program cannot be executed in the image",
        "127": "its program is not in the image",
        "125": "the engine did not start it; its messages are in the log",
    }
    with contextlib.suppress(OSError):
        code = Path(folder, "outcome").read_text("ascii")
        return f"the container has not started: {reasons.get(code, reasons['125'])}"
    return ""


def remove(folder: str) -> None:
    """Removes the container of a folder, if there is one; blocks."""
    record = record_of(folder)
    if record is None:
        return
    try:
        subprocess.run(
            record.remove, env=record.env, stdin=subprocess.DEVNULL, capture_output=True,
            timeout=REMOVE_S, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        logger.warning('cannot remove the container of "%s": %s', folder, error)
