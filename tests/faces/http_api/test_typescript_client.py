"""The TypeScript client: fresh, of true types, and used against a real daemon."""

import subprocess
import sys
from pathlib import Path

import pytest

from daemon_process import AGENTS, BOUND_S, DaemonProcess
from node_packages import MODULES, NODE, npm_program

FOLDER = Path(__file__).parents[3] / "clients" / "typescript"

needs_typescript = pytest.mark.skipif(
    not (MODULES / "typescript").is_dir(), reason="no typescript: make test could not reach a registry"
)


def test_the_client_is_generated_from_the_present_method_table() -> None:
    done = subprocess.run(
        [sys.executable, str(FOLDER / "generate.py"), "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@needs_typescript
def test_the_types_of_the_client_hold() -> None:
    done = subprocess.run(npm_program("tsc", "--project", str(FOLDER)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.skipif(not Path(NODE).exists(), reason="no node")
def test_the_client_runs_a_task_and_follows_events_of_a_real_daemon(tmp_path: Path) -> None:
    with DaemonProcess(tmp_path, 'daemon.http = "127.0.0.1:0"') as daemon:
        address = f"http://{daemon.call('daemon.status')['daemon']['http']}"
        token = (daemon.state_dir / "http.token").read_text().strip()
        done = subprocess.run(
            [NODE, str(FOLDER / "client_test.ts"), address, str(AGENTS)],
            env={"CORRAL_TOKEN": token},
            capture_output=True,
            text=True,
            timeout=BOUND_S,
            check=False,
        )
    assert (done.returncode, done.stdout) == (0, "ok\n"), done.stderr
