"""A daemon with an owner's victim and a hostile agent, on each level of isolation; and the table of what stops it.

`make long hostile` makes every attempt on every level that this machine gives, and writes what it finds into
the table of docs/explanation/hostile-agent.md.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import container_images
from daemon_process import AGENTS, DaemonProcess
from hostile_table import LEVELS, NOT_MEANT, PAGE, ROWS, cell
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


def name_on(level: str) -> str:
    """The name of the hostile agent: a tenant's, but for the level that no tenant's agent may have."""
    return "hostile" if level == "none" else "acme/hostile"


def of_the_owner(config: str) -> str:
    """The configuration with the hostile agent, and the one that it floods, as agents of the owner with a user of their own."""
    user = 'process.user = "nobody"'
    config = config.replace('[agents."acme/hostile"]', f"[agents.hostile]\n{user}")
    return config.replace('[agents."acme/idle"]', f"[agents.idle]\n{user}")


class Scene:
    """A daemon of one level, with an owner's victim and a hostile agent, and the places of what is not its own."""

    def __init__(self, daemon: DaemonProcess, given: dict[str, object], level: str) -> None:
        self.daemon = daemon
        self.given = given
        self.level = level

    def attempt(self, name: str) -> Any:  # {"got", "by"}
        agent = name_on(self.level)
        task = self.daemon.call("task.submit", agent=agent, objective=name, input=self.given)
        ended = self.daemon.call("task.wait", task=task["id"])
        assert ended["state"] == "succeeded", (name, ended["error"])
        return ended["output"]


@contextmanager
def staged(level: str) -> Generator[Scene]:
    """A scene on a level that this machine gives."""
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
        "ISOLATION": level if level in ("none", "strict", "container") else "basic",
    }
    config = CONFIG if level == "one-uid" else UIDS + CONFIG
    if level == "one-uid":
        config = config.replace("resources.max_processes = 50\n", "")
    if level == "none":
        config = of_the_owner(config)
    if level == "container":
        config += contained(folder)
    for word, value in words.items():
        config = config.replace(word, value)
    try:
        with DaemonProcess(folder, config) as daemon:
            daemon.call("agent.start", names=["victim", name_on(level), "bystander", "beta/bystander"])
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


def found_on(level: str) -> dict[str, str]:
    """What each attempt finds on a level: the words of the table where they are still true, else new ones."""
    cells: dict[str, str] = {}
    with staged(level) as scene:
        for name, row in ROWS.items():
            if row.get(level) == NOT_MEANT:
                cells[name] = NOT_MEANT
                continue
            outcome = scene.attempt(name)
            stopped = str(outcome["by"])
            words = (row[level], *row.values())  # those of the page, where they are still true
            known = next((each for each in words if each in stopped), stopped[:40])
            cells[name] = "gets there" if outcome["got"] else known
    return cells


def main() -> None:
    """Writes the table from a run."""
    by_level = {level: found_on(level) for level in LEVELS if not why_not(level)}
    lines: list[str] = []
    for line in PAGE.read_text().splitlines():
        name = line.strip("|").split("|")[0].strip().strip("`")
        if name in ROWS:
            cells = [by_level.get(level, {}).get(name) or cell(name, level) for level in LEVELS]
            what = line.strip("|").split("|")[1].strip()
            line = f"| `{name}` | {what} | {' | '.join(cells)} |"
        lines.append(line)
    PAGE.write_text("\n".join(lines) + "\n")
    sys.stdout.write(f"levels that ran: {', '.join(by_level)}\n")


if __name__ == "__main__":
    main()
