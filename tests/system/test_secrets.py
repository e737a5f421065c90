"""Secrets by reference under a whole daemon: they reach the process that names them, and nobody else."""

import http.server
import json
import subprocess
import sys
import threading
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import Queue

import pytest

from corral.worker.contract.errors import CorralError, SpawnFailed
from daemon_process import AGENTS, BIN, BOUND_S, DaemonProcess

OLD, NEW, OTHER, TOKEN = ("hunter2-old", "hunter2-new", "hunter2-other", "hunter2-token")
EVERY = (OLD, NEW, OTHER, TOKEN)

ODD = f'["{sys.executable}", "{AGENTS / "odd_worker.py"}", "serve"]'

CONFIG = f"""
[daemon]
secrets_file = "secrets"
log_level = "debug"
[process.environment]
SHARED = "x-${{secret:OTHER}}"
[agents.app]
command = {ODD}
environment = {{ KEY = "${{secret:KEY}}", PLAIN = "$KEY" }}
[agents.bystander]
command = {ODD}
process.environment = {{ SHARED = "none" }}
[agents.lost]
command = {ODD}
autostart = false
environment = {{ KEY = "${{secret:NOWHERE}}" }}
[mcp.servers.remote]
url = "http://127.0.0.1:PORT/mcp?a=b&token=hunter2-query"
headers = {{ Authorization = "Bearer ${{secret:TOKEN}}", X-Plain = "shown" }}
process.connect_ports = []
process.read_paths = []
process.environment = {{}}
"""


def keep(folder: Path, **secrets: str) -> None:
    file = folder / "secrets"
    file.touch(mode=0o600)
    file.write_text("".join(f"{name}={value}\n" for name, value in secrets.items()))


@contextmanager
def web() -> Generator[tuple[int, Queue[dict[str, str]]], None, None]:
    """A server that is none of MCP; the port, and the headers of what it was asked."""
    heard: Queue[dict[str, str]] = Queue()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            heard.put({"path": self.path, **{k.lower(): v for k, v in self.headers.items()}})
            self.send_response(500)
            self.end_headers()

        do_GET = do_POST

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its own name
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_address[1], heard
        finally:
            server.shutdown()
            thread.join(BOUND_S)


@pytest.fixture(scope="module")
def heard() -> Iterator[tuple[int, Queue[dict[str, str]]]]:
    with web() as found:
        yield found


@pytest.fixture(scope="module")
def daemon(
    tmp_path_factory: pytest.TempPathFactory, heard: tuple[int, Queue[dict[str, str]]]
) -> Iterator[DaemonProcess]:
    folder = tmp_path_factory.mktemp("secrets")
    keep(folder, KEY=OLD, OTHER=OTHER, TOKEN=TOKEN)
    with DaemonProcess(folder, CONFIG.replace("PORT", str(heard[0]))) as process:
        yield process


def environment(daemon: DaemonProcess, agent: str) -> dict[str, str]:
    """What a worker was started with; it must not say so itself, or its words would be kept."""
    worker = daemon.await_worker(f"{agent}-0", lambda worker: worker["state"] == "Ready")
    variables = Path(f"/proc/{worker['pid']}/environ").read_text().split("\0")
    return {name: value for name, _, value in (each.partition("=") for each in variables)}


def test_a_secret_is_what_it_was_when_the_process_started(daemon: DaemonProcess) -> None:
    keep(daemon.folder, KEY=OLD, OTHER=OTHER, TOKEN=TOKEN)
    daemon.call("agent.restart", names=["app"])
    got = environment(daemon, "app")
    assert (got["KEY"], got["SHARED"], got["PLAIN"]) == (OLD, f"x-{OTHER}", "$KEY")
    keep(daemon.folder, KEY=NEW, OTHER=OTHER, TOKEN=TOKEN)
    assert environment(daemon, "app")["KEY"] == OLD
    daemon.call("agent.restart", names=["app"])
    assert environment(daemon, "app")["KEY"] == NEW


def test_others_get_nothing_of_it(daemon: DaemonProcess) -> None:
    values = " ".join(environment(daemon, "bystander").values())
    assert [each for each in EVERY if each in values] == []


def test_a_start_that_lacks_a_secret_fails_by_name(daemon: DaemonProcess) -> None:
    with pytest.raises(SpawnFailed) as caught:
        daemon.call("agent.start", names=["lost"])
    text = caught.value.message
    assert {'"lost"', '"NOWHERE"', '"KEY"'} <= {w.strip(":;") for w in text.split()}
    assert daemon.worker("lost-0")["last_exit"]["result"] == "exec-failed"


def test_a_malformed_reference_is_refused_with_the_configuration(tmp_path: Path) -> None:
    file = tmp_path / "corral.toml"
    file.write_text(f'[agents.a]\ncommand = {ODD}\nenvironment = {{ KEY = "${{secret:KEY" }}\n')
    done = subprocess.run(
        [str(BIN / "corrald"), f"--config={file}", "--check"],
        capture_output=True,
        text=True,
        timeout=BOUND_S,
        check=False,
    )
    assert (done.returncode, "agents.a.environment.KEY" in done.stderr) == (2, True)


def test_a_file_that_others_may_read_gives_no_secret(daemon: DaemonProcess) -> None:
    file = daemon.folder / "secrets"
    file.chmod(0o644)
    try:
        with pytest.raises(SpawnFailed) as caught:
            daemon.call("agent.restart", names=["bystander", "app"])
    finally:
        file.chmod(0o600)
    assert str(file) in caught.value.message
    daemon.call("agent.start", names=["app", "bystander"])


def test_the_headers_of_a_remote_server_have_it_inside_landlock(
    daemon: DaemonProcess, heard: tuple[int, Queue[dict[str, str]]]
) -> None:
    with pytest.raises(CorralError) as caught:
        daemon.call("mcp.tools", server="remote")
    asked = heard[1].get(timeout=BOUND_S)
    assert (asked["authorization"], asked["x-plain"]) == (f"Bearer {TOKEN}", "shown")
    assert asked["path"] == "/mcp?a=b&token=hunter2-query"
    assert TOKEN not in caught.value.message
    shown = daemon.call("agent.show", name="remote")["spec"]
    assert shown["url"].endswith("/mcp?a=b&token=***")
    assert shown["headers"] == {"Authorization": "***", "X-Plain": "***"}


@pytest.mark.long
def test_the_check_and_the_doctor_name_what_is_missing(daemon: DaemonProcess) -> None:
    found = [each for each in daemon.call("daemon.doctor")["findings"] if each["topic"] == "secrets"]
    assert [each["verdict"] for each in found] == ["warning"]
    assert any("NOWHERE" in each["found"] for each in found)
    done = subprocess.run(
        [str(BIN / "corrald"), f"--config={daemon.config}", "--check"],
        capture_output=True,
        text=True,
        timeout=BOUND_S,
        check=False,
    )
    assert done.returncode == 0
    lines = [line for line in done.stderr.splitlines() if "cannot expand" in line]
    assert ["NOWHERE" in line for line in lines] == [True]


def test_no_secret_is_anywhere_but_in_its_process(daemon: DaemonProcess) -> None:
    environment(daemon, "app")
    said = [
        daemon.corral(*words).stdout
        for words in (
            ("--json", "status"),
            ("--json", "show", "app"),
            ("--json", "show", "remote"),
            ("--json", "show", "lost"),
            ("--json", "doctor"),
            ("--json", "events", "-n", "1000"),
            ("--json", "audit", "-n", "1000"),
        )
    ]
    assert all(said)
    said.append(json.dumps(daemon.call("mcp.servers")))
    pids = [daemon.pid, daemon.call("daemon.status")["daemon"]["launcher_pid"]]
    pids.append(daemon.worker("app-0")["pid"])
    files = [path for path in daemon.state_dir.rglob("*") if path.is_file()]
    files += [daemon.log, *(Path(f"/proc/{pid}/cmdline") for pid in pids)]
    files += [Path(f"/proc/{pid}/environ") for pid in pids[:2]]
    said += [path.read_bytes().decode("utf-8", "replace") for path in files]
    assert [(each, text) for each in EVERY for text in said if each in text] == []
