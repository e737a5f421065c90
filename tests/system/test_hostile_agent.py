"""A tenant's hostile agent gets nowhere: each attempt on each level, and what stopped it, as docs/explanation/hostile-agent.md says."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import container_images
from daemon_process import AGENTS, DaemonProcess
from hostile_table import LEVELS, ROWS, cell
from tenant_uids import RANGE

SYSTEM_PYTHON = "/usr/bin/python3"
UIDS = f'[daemon]\ntenant_uids = "{RANGE}"\n'

CONFIG = """
[tenants.acme]
[tenants.beta]
[agents.victim]
command = ["PYTHON", "-I", "AGENTS/hostile_victim.py", "KEY", "NAME", "FOLDER/private/secret"]
protocol = "none"
ready = { log = "pid" }
[agents.bystander]
command = ["PYTHON", "-I", "AGENTS/hostile_agent.py"]
[agents."beta/bystander"]
command = ["PYTHON", "-I", "AGENTS/hostile_agent.py"]
capabilities = ["of-beta"]
[agents."acme/idle"]
command = ["PYTHON", "-I", "AGENTS/hostile_agent.py"]
tasks.max_queue_size = 5
[agents."acme/hostile"]
command = ["PYTHON", "-I", "AGENTS/hostile_agent.py"]
process.isolation = "ISOLATION"
monitoring = { max_log_file_bytes = "256KiB", max_log_files = 2, max_log_buffer_size = "64KiB" }
memory.max_keys_bytes = "1MiB"
resources.max_processes = 50
"""


def why_not(level: str) -> str:
    """Why a level cannot be had here; "" where it can."""
    if os.getuid() != 0:
        return "the table is of a daemon of root, which alone gives a tenant a uid of its own"
    if not os.access(SYSTEM_PYTHON, os.X_OK):
        return "the interpreter is not readable for another uid"
    if level == "strict" and shutil.which("bwrap") is None:
        return "bubblewrap is not installed"
    return container_images.why_not("runc") if level == "container" else ""


def contained(folder: Path) -> str:
    """The keys that make the hostile agent, whose table is the last one, run in an image."""
    image = container_images.python_rootfs(folder)
    python = image / SYSTEM_PYTHON.removeprefix("/")
    python.parent.mkdir(parents=True, exist_ok=True)
    python.symlink_to("/bin/python3")
    return f'process.image = "{image}"\nprocess.runtime = "runc"\nprocess.read_paths = ["AGENTS"]\n'


class Scene:
    """A daemon of one level, with an owner's victim and a hostile agent, and the places of what is not its own."""

    def __init__(self, daemon: DaemonProcess, given: dict[str, object], level: str) -> None:
        self.daemon = daemon
        self.given = given
        self.level = level

    def attempt(self, name: str) -> Any:  # {"got", "by"}
        task = self.daemon.call(
            "task.submit", agent="acme/hostile", objective=name, input=self.given
        )
        ended = self.daemon.call("task.wait", task=task["id"])
        assert ended["state"] == "succeeded", (name, ended["error"])
        return ended["output"]


@pytest.fixture(scope="module", params=LEVELS)
def scene(request: pytest.FixtureRequest) -> Iterator[Scene]:
    level = str(request.param)
    if reason := why_not(level):
        pytest.skip(reason)
    folder = Path(tempfile.mkdtemp(prefix="hostile-", dir="/tmp"))
    folder.chmod(0o711)
    (folder / "private").mkdir(0o700)
    name, key = f"corral-{folder.name}", str(os.getpid() + 1_000_000)
    words = {
        "PYTHON": SYSTEM_PYTHON,
        "AGENTS": str(AGENTS),
        "KEY": key,
        "NAME": name,
        "FOLDER": str(folder),
        "ISOLATION": level if level in ("strict", "container") else "basic",
    }
    config = CONFIG if level == "one-uid" else UIDS + CONFIG
    if level == "one-uid":
        config = config.replace("resources.max_processes = 50\n", "")
    if level == "container":
        config += contained(folder)
    for word, value in words.items():
        config = config.replace(word, value)
    try:
        with DaemonProcess(folder, config) as daemon:
            daemon.call(
                "agent.start", names=["victim", "acme/hostile", "bystander", "beta/bystander"]
            )
            victim = daemon.worker("victim-0")
            daemon.call("memory.put", agent="beta/bystander", key="secret", value="of beta")
            other = daemon.call("task.submit", agent="beta/bystander", objective="hang")
            assert daemon.process is not None
            given: dict[str, object] = {
                "file": str(folder / "private" / "secret"),
                "folder": str(folder / "private"),
                "state": str(daemon.state_dir),
                "config": str(daemon.config),
                "socket": str(daemon.socket),
                "pid": victim["pid"],
                "daemon": daemon.process.pid,
                "name": name,
                "key": int(key),
                "task": other["id"],
                "generation": 1,
            }
            yield Scene(daemon, given, level)
    finally:
        Path(f"/dev/shm/{name}").unlink(missing_ok=True)
        subprocess.run(["ipcrm", "-M", str(key)], stderr=subprocess.DEVNULL, check=False)  # our own
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.parametrize("name", ROWS)
def test_an_attempt_gets_where_the_table_says(scene: Scene, name: str) -> None:
    expected = cell(name, scene.level)
    found = scene.attempt(name)
    print(f"{scene.level} {name}: {found}")
    if expected == "gets there":
        assert found["got"], f"{name} is stopped now: {found['by']}; mend the table"
        return
    assert not found["got"], f"{name}: {found['by']}"
    assert expected in found["by"], f"{name}: {found['by']}"
    assert (scene.daemon.worker("victim-0") or {})["pid"] == scene.given["pid"]
    assert scene.daemon.call("daemon.ping") is not None


def test_forged_messages_change_nothing_of_another(scene: Scene) -> None:
    before = scene.daemon.call("task.show", task=scene.given["task"])
    for name in ("forge-progress", "forge-a-result"):
        scene.attempt(name)
    after = scene.daemon.call("task.show", task=scene.given["task"])
    for key in ("state", "progress", "output", "tokens_used", "cost_cents"):
        assert after.get(key) == before.get(key), key


def test_a_flood_of_the_log_stays_within_its_files(scene: Scene) -> None:
    scene.attempt("flood-the-log")
    folder = scene.daemon.state_dir / "logs" / "acme" / "hostile"
    size = sum(path.stat().st_size for path in folder.iterdir())
    assert size < 4 * 256 * 1024, size


def test_the_table_has_every_attempt() -> None:
    known = {"hang", "forge-progress", "forge-a-result", "flood-the-log"}
    text = (AGENTS / "hostile_agent.py").read_text()
    made = {
        line.split()[1].partition("(")[0].rstrip("_").replace("_", "-")
        for before, line in zip(text.splitlines(), text.splitlines()[1:], strict=False)
        if before == "@attempt"
    }
    assert made - known == set(ROWS)
