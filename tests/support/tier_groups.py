"""What the tests in the guest share: programs that meet limits, what a daemon tells of them, and what their groups hold."""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from daemon_process import AGENTS, BOUND_S, DaemonProcess

HOG = AGENTS / "hog.py"
MIB = 1024 * 1024

MOUNTED = Path("/sys/fs/cgroup")


def group_of(pid: int) -> Path:
    """The folder of a process's group."""
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        if line.startswith("0::"):
            return MOUNTED / line[3:].lstrip("/")
    raise AssertionError("this kernel has no cgroup2")


def worker_group(daemon: DaemonProcess, worker: str) -> Path:
    """The folder of a worker's group."""
    return group_of(daemon.worker(worker)["pid"])


def value(folder: Path, name: str) -> str:
    """The content of one file, without the newline."""
    return (folder / name).read_text().strip()


def figure(folder: Path, name: str, key: str) -> int:
    """One figure of a file of `key value` lines."""
    for line in (folder / name).read_text().splitlines():
        word, _, number = line.partition(" ")
        if word == key:
            return int(number)
    raise AssertionError(f"{folder / name} has no {key}")


def pids(folder: Path) -> set[int]:
    """The processes in a group and below it."""
    found: set[int] = set()
    for place, _, _ in os.walk(folder):
        found |= {int(word) for word in (Path(place) / "cgroup.procs").read_text().split()}
    return found


def below(folder: Path) -> list[str]:
    """The names of the groups directly below one."""
    return sorted(entry.name for entry in folder.iterdir() if entry.is_dir())


def program(name: str, *arguments: str, **limits: object) -> str:
    """An agent that runs hog.py with these arguments and `[resources]`."""
    command = json.dumps([sys.executable, str(HOG), *arguments])
    resources = "".join(f"resources.{key} = {json.dumps(limits[key])}\n" for key in limits)
    return (
        f'[agents.{name}]\nprotocol = "none"\ncommand = {command}\nautostart = false\n'
        f'recovery.restart = "never"\n{resources}'
    )


def start(daemon: DaemonProcess, *names: str, wait: bool = True) -> None:
    daemon.call("agent.start", names=list(names), wait=wait)


def ended(daemon: DaemonProcess, worker: str) -> Any:  # a worker's status
    """The worker as soon as it has ended."""
    return daemon.await_worker(worker, lambda w: w["state"] == "Terminated")


def change(daemon: DaemonProcess, name: str, assignment: str) -> None:
    """Changes one key as a person does."""
    done = daemon.corral("set", name, assignment, "--wait")
    assert done.returncode == 0, done.stderr


def event(daemon: DaemonProcess, kind: str, **fields: object) -> Any:  # an event
    """The first event of a type with these fields, of the past or to come."""
    with daemon.client() as client:
        client.call("event.follow", {"types": [kind], "since": 0}, timeout_s=BOUND_S)
        for note in client.notifications():
            found: Any = note.params["events"]
            for each in found:
                if fields.items() <= each.items():
                    return each
    raise AssertionError("the daemon hung up")


def lines(daemon: DaemonProcess, name: str, count: int) -> list[str]:
    """The first lines that an agent prints."""
    found: list[str] = []
    with daemon.client() as client:
        client.call("log.follow", {"names": [name], "n": 100}, timeout_s=BOUND_S)
        for note in client.notifications():
            records: Any = note.params["records"]
            found += [record["text"] for record in records]
            if len(found) >= count:
                return found[:count]
    raise AssertionError("the daemon hung up")


def await_value(folder: Path, name: str, wanted: str) -> None:
    deadline = time.monotonic() + BOUND_S
    while (found := value(folder, name)) != wanted:
        assert time.monotonic() < deadline, f"{folder / name} is {found}, not {wanted}"
