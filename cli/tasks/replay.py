"""Replays the record of a task on an agent's code, in a process of the agent's interpreter and folder."""

import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from corral.worker.contract.errors import InvalidParams

from ..context import Session
from ..render import Record, inner, inners, items, word


def _given(session: Session, task_id: str) -> dict[str, Any]:
    """Returns the record of a task with its steps, and the records of those that it delegated."""
    record = session.call("task.show", {"task": task_id, "steps": True})
    if not items(record, "steps"):
        raise InvalidParams(f'cannot replay task "{task_id}": no steps of it are kept', key="ID", value=task_id)
    tasks = [session.call("task.show", {"task": each}) for each in items(record, "children")]
    return {"record": record, "tasks": tasks, "config": {}}


def saved(session: Session, task_id: str, path: str) -> int:
    """Writes the record to a file."""
    Path(path).write_text(json.dumps(_given(session, task_id), indent=2) + "\n")
    return 0


def _folder_of(status: Record, written: str) -> Path:
    """Returns the working directory of an agent: the written one, that of a running worker, else this one."""
    for worker in inners(status, "workers"):
        with suppress(OSError):  # it does not run, or is another user's
            written = written or os.readlink(f"/proc/{worker.get('pid')}/cwd")
    return Path(written or Path.cwd())


def replayed(session: Session, task_id: str, target: str | None, python: str | None) -> int:
    """Replays a task; returns the exit status of the process that has run the handler."""
    given = _given(session, task_id)
    folder = Path.cwd()
    environment: dict[str, str] = {}
    if target is None:
        agent = session.call("agent.show", {"name": word(given["record"], "agent")})
        spec = inner(agent, "spec")
        target = word(spec, "entrypoint")
        if not target:
            words = f'cannot replay task "{task_id}": its agent has no entrypoint: give --agent MODULE:AGENT'
            raise InvalidParams(words, key="--agent")
        python = python or word(spec, "python") or None
        folder = _folder_of(inner(agent, "agent"), word(inner(spec, "process"), "working_directory"))
        given["config"] = inner(spec, "config")
        environment = {key: str(value) for key, value in inner(spec, "environment").items()}
    done = subprocess.run(
        [python or sys.executable, "-P", "-m", "corral.worker", "--replay", target],
        input=json.dumps(given),
        text=True,
        cwd=folder,
        env={**os.environ, **environment},
        check=False,
    )
    return done.returncode
