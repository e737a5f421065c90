"""Programs and state of earlier releases work with this daemon: worker, client, CLI, state folder, documented imports.

77a0c2c is the release before the rooms, 320445c3 the one before the groups.
"""

import ast
import json
import re
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from daemon_process import BOUND_S, DaemonProcess

RELEASES = ("77a0c2c", "320445c3")
ROOT = Path(__file__).parents[2]

AGENT = """
from corral.worker import Agent

agent = Agent("old", capabilities=["echo"])
saved = {"count": 0}

@agent.task
async def run(task):
    saved["count"] += 1
    print("echoes", task.objective)
    await task.progress(0.5, "half")
    await task.remember("last", task.objective)
    task.memory.add("user", task.objective)
    return {"said": task.objective, "last": await task.recall("last"), "turns": task.memory.turns}

@agent.checkpoint
def save():
    return saved

@agent.restore
def restore(data):
    saved.update(data)
"""

CLIENT = """
import sys
from corral.worker.client import SOCKET_PATH_BYTES_MAX, Client, await_daemon
from corral.worker.errors import NotFound

with await_daemon(sys.argv[1], patience_s=10) as client:
    print(client.call("task.run", {"agent": "echo", "objective": "from the client"})["output"]["said"])
    try:
        client.call("agent.start", {"names": ["nobody"]})
    except NotFound as error:
        print("NotFound", error.code)
"""

RUNTIME = """
import asyncio, sys
from corral import AgentRuntime, TaskFailed

async def main():
    async with await AgentRuntime.connect(sys.argv[1]) as runtime:
        print((await runtime.run_agent("echo", "from the runtime", on_progress=print))["said"])
        print((await runtime.status(["echo"])).agents[0].workers[0].id)
        async with runtime.events(["task.*"], since=0) as events:
            async for event in events:
                print(event.type)
                break

asyncio.run(main())
"""


@pytest.fixture(scope="module", params=RELEASES)
def release(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Unpacks a release; returns the folder to import its package from."""
    git = shutil.which("git")
    if git is None:
        pytest.skip("git is not installed")
    found = subprocess.run([git, "-C", ROOT, "archive", request.param], capture_output=True, check=False)
    if found.returncode:
        pytest.skip(f"the repository has no commit {request.param}: {found.stderr.decode().strip()}")
    folder = tmp_path_factory.mktemp("release")
    subprocess.run(["tar", "-x", "-C", folder], input=found.stdout, check=True)
    return folder / "src"


@contextmanager
def importing_from(source: Path) -> Generator[None, None, None]:
    """Lets programs that are started inside the block import corral from `source`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(source))
        yield


def run(source: Path, *command: str) -> str:
    with importing_from(source):
        done = subprocess.run(
            [sys.executable, "-P", *command], capture_output=True, text=True, timeout=BOUND_S, check=False
        )
    assert done.returncode == 0, done.stderr
    return done.stdout


def config(folder: Path, source: Path) -> str:
    """Configures one agent, as a command that imports the SDK of the release."""
    (folder / "echoes.py").write_text(AGENT)
    command = json.dumps([sys.executable, "-P", "-m", "corral.worker", "echoes:agent"])
    return f"""
[agents.echo]
command = {command}
protocol = "corral"
environment.PYTHONPATH = "{source}"
process.working_directory = "{folder}"
"""


def test_a_worker_of_the_release_serves_tasks(tmp_path: Path, release: Path) -> None:
    with DaemonProcess(tmp_path, config(tmp_path, release)) as daemon:
        daemon.call("agent.start", names=["echo"])
        pid = daemon.worker("echo-0")["pid"]
        assert str(release) in Path(f"/proc/{pid}/environ").read_text("utf-8", "replace")
        for turn in range(2):
            task = daemon.call("task.run", agent="echo", objective=f"turn {turn}", session="s")
            assert task["output"] == {"said": f"turn {turn}", "last": f"turn {turn}", "turns": turn}
        assert daemon.call("task.run", capability="echo", objective="by capability")["output"]
        daemon.call("agent.hibernate", names=["echo"])
        daemon.call("agent.wake", names=["echo"])
        (checkpoint,) = daemon.call("checkpoint.save", name="echo")["checkpoints"]
        shown = daemon.call("checkpoint.show", checkpoint=checkpoint["id"])
        assert shown["data"] == {"count": 3}
        lines = daemon.call("log.read", names=["echo"])["records"]
        assert "echoes turn 0" in [each["text"] for each in lines]


def test_clients_of_the_release_drive_the_daemon(tmp_path: Path, release: Path) -> None:
    with DaemonProcess(tmp_path, config(tmp_path, release)) as daemon:
        socket = str(daemon.socket)
        daemon.call("agent.start", names=["echo"])
        assert run(release, "-c", CLIENT, socket).split("\n")[:2] == ["from the client", "NotFound -33001"]
        said = run(
            release, "-c", RUNTIME, socket
        ).split()  # with its progress, where it has taken long enough to have some
        assert " ".join(said).endswith("from the runtime echo-0 task.queued")
        cli = ("-m", "corral.cli", "--socket", socket)
        assert json.loads(run(release, *cli, "run", "echo", "from the CLI", "--json"))["output"]
        assert "echo " in run(release, *cli, "status")
        assert "echoes from the CLI" in run(release, *cli, "logs", "echo")
        assert "echo" in run(release, *cli, "stop", "echo")


def test_the_state_of_a_daemon_of_the_release_is_continued(tmp_path: Path, release: Path) -> None:
    added = config(tmp_path, release)
    table = {"entrypoint": "echoes:agent", "process": {"working_directory": str(tmp_path)}}
    with importing_from(release):
        daemon = DaemonProcess(tmp_path, added)
    with daemon:
        assert str(release) in _launcher(daemon), _launcher(daemon)
        daemon.call("agent.start", names=["echo"])
        daemon.call("agent.add", name="late", spec=table)
        ended = daemon.call("task.run", agent="late", objective="first", session="s")
        daemon.call("agent.stop", names=["echo"])
        waiting = daemon.call("task.submit", agent="late", objective="later", at=4e9)
        head = daemon.call("audit.verify")["head"]
        daemon.call("memory.put", agent="late", key="k", value={"n": 1})
        assert daemon.stop() == 0
        daemon.start()
        assert str(release) not in _launcher(daemon)
        assert daemon.call("task.show", task=ended["id"])["output"] == ended["output"]
        assert daemon.call("task.show", task=waiting["id"])["state"] == "queued"
        assert daemon.call("memory.get", agent="late", key="k")["value"] == {"n": 1}
        lines = daemon.call("log.read", names=["late"])["records"]
        assert "echoes first" in [each["text"] for each in lines]
        verified = daemon.call("audit.verify", head=head)
        assert verified["ok"]
        daemon.call("agent.start", names=["late"])
        again = daemon.call("task.run", agent="late", objective="second", session="s")
        assert again["output"]["turns"] == 1
        assert again["output"]["last"] == "second"


def documented_imports(text: str) -> set[str]:
    """Returns the imports of corral in a program, or in the programs of a page."""
    found = re.findall(r"^ *(?:from corral[\w.]* import (?:\([^)]*\)|.*)|import corral[\w.]*)", text, re.MULTILINE)
    return {ast.unparse(ast.parse(textwrap.dedent(each))) for each in found}


def test_the_documented_imports_of_the_release_go_on_working(release: Path) -> None:
    root = release.parent
    pages = [root / "README.md", *root.glob("docs/**/*.md"), *root.glob("examples/**/*.py")]
    imports = set[str]().union(*(documented_imports(page.read_text()) for page in pages))
    assert len(imports) > 5
    subprocess.run([sys.executable, "-P", "-c", "\n".join(sorted(imports))], timeout=BOUND_S, check=True)


def _launcher(daemon: DaemonProcess) -> str:
    """Returns the command line of the launcher, which is run by its path in the daemon's package."""
    pid = daemon.call("daemon.status")["daemon"]["launcher_pid"]
    return Path(f"/proc/{pid}/cmdline").read_text()
