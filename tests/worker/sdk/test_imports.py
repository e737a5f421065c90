"""`from corral.worker import Agent` costs a few milliseconds: modules that a handler's file does not need are not loaded."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.shell

LATE = {"asyncio", "traceback", "faulthandler", "importlib.util", "msgspec", "ssl", "subprocess"}
"""Modules that only a running worker needs."""


def test_importing_an_agent_loads_nothing_that_only_a_worker_needs() -> None:
    code = "import sys; from corral.worker import Agent; print(*sys.modules)"
    command = [sys.executable, "-I", "-c", code]
    loaded = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    assert LATE.isdisjoint(loaded)
