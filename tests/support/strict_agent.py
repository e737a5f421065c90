"""A strict agent that runs Python code and reports into a file, for the tests of the level strict."""

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from corral.supervisor.machine.isolation import availability
from daemon_process import BOUND_S

TRIAL = availability.tried(os.environ)
needs_strict = pytest.mark.skipif(bool(TRIAL.problem), reason=TRIAL.problem)
WRITE = "import json, os, sys; json.dump({expression}, open('out/report.tmp', 'w')); os.rename('out/report.tmp', 'out/report')"
NEVER = 'recovery.restart = "never"'


def strict(folder: Path, code: str, more: str = "", name: str = "kept") -> str:
    """A strict agent that runs Python in `folder`, where it may write to out/."""
    (folder / "out").mkdir(exist_ok=True)
    words = json.dumps([sys.executable, "-c", code])
    return (
        f'[agents.{name}]\nprotocol = "none"\ncommand = {words}\nprocess.isolation = "strict"\n'
        f'process.working_directory = "{folder}"\nprocess.write_paths = ["{folder}/out"]\n{more}\n'
    )


def until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + BOUND_S
    while not is_so():
        assert time.monotonic() < deadline
        os.sched_yield()


def reported(folder: Path) -> Any:  # JSON
    path = folder / "out" / "report"
    until(path.exists)
    return json.loads(path.read_text())
