"""`corral import` as a user runs it: the converted file passes the check of corrald, and its programs run."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from daemon_process import BIN, BOUND_S, DaemonProcess, run_corral

COMPOSE = """
services:
  web:
    image: python:3.12
    command: python3 -c "import time; print('up ${WHO:-you}', flush=True); time.sleep(1000)"
    restart: unless-stopped
    environment: { API_KEY: abcdefgh123, OTHER_KEY_FILE: /x }
    ports: ["8000:8000"]
    depends_on: [other]
  other: { image: busybox, command: [sleep, "1000"], labels: { team: red } }
  db: { image: "postgres:16" }
"""


def checked(folder: Path, name: str = "corral.toml") -> None:
    done = subprocess.run(
        [str(BIN / "corrald"), "--config", str(folder / name), "--check"],
        capture_output=True,
        text=True,
        timeout=BOUND_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.long
def test_a_converted_compose_file_runs(tmp_path: Path) -> None:
    (tmp_path / "compose.yml").write_text(COMPOSE)
    done = run_corral(tmp_path, "import", "compose.yml", "--write", "out.toml")
    assert (done.returncode, done.stdout) == (0, "")
    assert "ports" in done.stderr
    assert "postgres:16" in done.stderr
    assert "environment.API_KEY" in done.stderr
    assert "abcdefgh123" not in done.stderr
    checked(tmp_path, "out.toml")
    assert (tmp_path / "out.toml").stat().st_mode & 0o777 == 0o600  # values may be secret
    assert run_corral(tmp_path, "import", "compose.yml", "--write", "out.toml").returncode == 4
    with DaemonProcess(tmp_path, (tmp_path / "out.toml").read_text()) as daemon:
        daemon.await_worker("web-0", lambda worker: worker["state"] == "Ready")
        assert daemon.worker("other-0")["state"] == "Ready"
        assert "up you" in daemon.corral("logs", "web").stdout


def test_a_converted_crontab_runs(tmp_path: Path) -> None:
    lines = 'A = b\n0 3 * * * echo "poll $A"\n@reboot echo "booted $A"\n'
    (tmp_path / "crontab").write_text(lines)
    assert run_corral(tmp_path, "import", "crontab", "--write", "out.toml").returncode == 0
    with DaemonProcess(tmp_path, (tmp_path / "out.toml").read_text()) as daemon:
        daemon.await_worker("echo_2-0", lambda worker: worker["state"] == "Terminated")
        task = daemon.corral("schedule", "run", "echo").stdout.strip()
        assert daemon.call("task.wait", task=task, timeout_s=BOUND_S)["state"] == "succeeded"
        logged = {record["text"] for record in daemon.call("log.read")["records"]}
        assert {"poll b", "booted b"} <= logged


def test_a_file_with_mcp_servers_is_imported_as_by_mcp_import(tmp_path: Path) -> None:
    servers = {"mcpServers": {"time": {"command": "mcp-server-time", "args": ["-v"]}}}
    (tmp_path / "editor.json").write_text(json.dumps(servers))
    done = run_corral(tmp_path, "import", "editor.json", "--write", "-")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("[mcp.servers.time]\n")


@pytest.mark.parametrize("name", ["nothing.yml", "unknown.txt"])
def test_a_file_that_cannot_be_imported_is_refused_in_one_line(tmp_path: Path, name: str) -> None:
    (tmp_path / "unknown.txt").write_text("what is this\n")
    done = run_corral(tmp_path, "import", name)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)


def test_the_sample_of_supervisord_is_converted(tmp_path: Path) -> None:
    """The file that echo_supervisord_conf writes, with its sample programs switched on."""
    program = shutil.which("echo_supervisord_conf", path=f"{BIN}:{os.environ['PATH']}")
    if program is None:
        pytest.skip("supervisor is not installed")
    sample = subprocess.run([program], capture_output=True, text=True, check=True).stdout
    text = sample.replace(";[program:", "[program:").replace(";command=", "command=")
    text = re.sub(r"(?m)^;([a-z_]+=|\[[a-z]+:)", r"\1", text)
    (tmp_path / "supervisord.conf").write_text(text)
    done = run_corral(tmp_path, "import", "supervisord.conf", "--write", "corral.toml")
    assert done.returncode == 0, done.stderr
    assert "[agents.theprogramname]" in (tmp_path / "corral.toml").read_text()


def test_the_sample_of_pm2_is_converted(tmp_path: Path) -> None:
    """The file that `pm2 init simple` writes; it is JavaScript, which node evaluates."""
    program = shutil.which("pm2")
    if program is None:
        pytest.skip("pm2 is not installed")
    environ = {**os.environ, "PM2_HOME": str(tmp_path / "pm2"), "PWD": str(tmp_path)}
    for words in (["init", "simple"], ["kill"]):  # it starts a daemon for everything
        subprocess.run([program, *words], cwd=tmp_path, env=environ, check=True, capture_output=True)
    done = run_corral(tmp_path, "import", "ecosystem.config.js", "--write", "corral.toml")
    assert done.returncode == 0, done.stderr
    checked(tmp_path)


@pytest.mark.long
@pytest.mark.skipif(shutil.which("node") is None, reason="there is no node")
def test_an_ecosystem_in_javascript_is_evaluated_by_node(tmp_path: Path) -> None:
    script = f"""
    console.log("noise");
    module.exports = {{ apps: [{{ name: "a", script: {json.dumps(sys.executable)},
      interpreter: "none", args: ["-c", "import time; time.sleep(" + 10 * 100 + ")"] }}] }};
    """
    (tmp_path / "ecosystem.config.cjs").write_text(script)
    done = run_corral(tmp_path, "import", "ecosystem.config.cjs", "--write", "corral.toml")
    assert done.returncode == 0, done.stderr
    checked(tmp_path)
    assert "time.sleep(1000)" in (tmp_path / "corral.toml").read_text()
    (tmp_path / "broken.config.js").write_text("throw new Error('no');")
    done = run_corral(tmp_path, "import", "broken.config.js")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
