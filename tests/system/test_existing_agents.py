"""The review by agents of frameworks that exist already; `make long existing-agents` adds those of the Agent Client Protocol."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.contract, pytest.mark.long]

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "examples" / "existing-agents" / "demo.py"
BOUND_S = 280
AGENTS = ("pydantic-ai", "openai-agents", "langgraph", "agno")


def test_agents_of_frameworks_are_killed_paused_hibernated_budgeted_traced_and_approved(tmp_path: Path) -> None:
    written = tmp_path / "table.json"
    done = subprocess.run(
        [sys.executable, "-P", str(DEMO), f"--table={written}", *AGENTS],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=BOUND_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(written.read_text())
    assert set(found) == set(AGENTS)
    for name, seen in found.items():
        assert "error" not in seen, (name, seen)
        assert (seen["job"], seen["killed"]) == ("yes", "attempt 2")
        whole = seen["tokens"].partition(" (")[0]  # beside calls that the kill cut off
        measured, served = whole.split(" = ")
        assert measured == served
        tasks, models, tools = map(int, seen["spans"].split(" + "))
        assert tasks == 4
        assert models > 8
        assert tools >= 6
    assert found["langgraph"]["approved"] == "1 times"
