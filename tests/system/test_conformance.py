"""The official conformance suite, shortly: one scenario of each kind, as `make long conformance` runs all of them."""

import asyncio
import sys
from pathlib import Path
from typing import Any

import pytest

from conformance.run import FOLDER, REVISIONS, SUITE, required, run
from corral.worker.contract.errors import CorralError, ToolFailed
from daemon_process import DaemonProcess
from free_ports import free_port
from node_packages import needs_npm

SCENARIOS = [
    ("2025-11-25", "server", "tools-call-elicitation"),
    ("2026-07-28", "server", "input-required-result-multi-round"),
    ("2026-07-28", "server", "tasks-mrtr-input"),
    ("2026-07-28", "client", "http-custom-headers"),
    ("2026-07-28", "client", "auth/scope-step-up"),
    ("2026-07-28", "client", "auth/dpop-nonce"),
    ("2026-07-28", "client", "auth/enterprise-managed-authorization"),
]


@needs_npm
@pytest.mark.parametrize(("revision", "leg", "scenario"), SCENARIOS)
def test_the_conformance_suite_passes(revision: str, leg: str, scenario: str, tmp_path: Path) -> None:
    rows = asyncio.run(run([revision], [leg], [scenario], tmp_path))
    assert {row.scenario: row.failed for row in rows} == {scenario: 0}


@needs_npm
@pytest.mark.parametrize("revision", REVISIONS)
def test_the_requirements_of_a_revision_are_read_whole(revision: str) -> None:
    text = (SUITE / "requirements" / f"{revision}.yaml").read_text()
    named = [line for line in text.splitlines() if line.startswith("  - ")]
    found = required(revision)
    assert sum(map(len, found.values())) == len(named)
    assert all(found.values())


FAR = """
[daemon]
http = "127.0.0.1:{port}"
[mcp.servers.near]
command = ["{python}", "-I", "{fixture}"]
"""

NEAR = """
[daemon]
secrets_file = "{secrets}"
[recovery]
restart_backoff_base = "10ms"
[mcp.servers.far]
url = "http://127.0.0.1:{port}/mcp?tools=all"
headers = {{ Authorization = "Bearer ${{secret:FAR_TOKEN}}" }}
"""


def text_of(daemon: DaemonProcess) -> Any:  # MCP's result
    result = daemon.call("mcp.call", name="far__near__test_simple_text")
    return result["content"][0]["text"]


def test_the_servers_of_one_daemon_are_used_by_another_over_http(tmp_path: Path) -> None:
    port = free_port()
    (tmp_path / "far").mkdir()
    (tmp_path / "near").mkdir()
    config = FAR.format(port=port, python=sys.executable, fixture=FOLDER / "fixture.py")
    with DaemonProcess(tmp_path / "far", config) as far:
        token = (far.state_dir / "http.token").read_text().strip()
        secrets = tmp_path / "secrets"
        secrets.touch(mode=0o600)
        secrets.write_text(f"FAR_TOKEN={token}\n")
        with DaemonProcess(tmp_path / "near", NEAR.format(port=port, secrets=secrets)) as near:
            assert text_of(near) == "This is a simple text response for testing."
            shown = str(near.call("daemon.status")) + str(near.call("agent.show", name="far"))
            process = Path(f"/proc/{near.worker('far-0')['pid']}/cmdline").read_text()
            assert token not in shown + process + near.log.read_text()
            # The other daemon forgets its sessions; the process of the server ends, and the next one opens its own.
            assert far.stop() == 0
            far.start()
            with pytest.raises(CorralError) as caught:
                text_of(near)
            assert caught.value.code == ToolFailed.code
            near.await_worker("far-0", lambda w: w["incarnation"] == 2 and w["state"] == "Ready")
            assert text_of(near) == "This is a simple text response for testing."
