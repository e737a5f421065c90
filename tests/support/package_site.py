"""Makes packages of a small agent, and a daemon that installs from a folder of wheels."""

import shutil
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from corral.supervisor.agents.packages.builder import build
from corral.worker.client.sync import Client
from corral.worker.contract.errors import CorralError
from daemon_process import BOUND_S, DaemonProcess
from wheels import offline, wheel

SOURCE = """
import os
import alpha
from corral.worker import Agent

agent = Agent("kit")


@agent.task
def run(task):
    if task.objective == "smoke" and {fails_smoke}:
        raise RuntimeError("it smokes")
    return {{"version": "{version}", "alpha": alpha.VERSION, "cwd": os.getcwd(), "pid": os.getpid()}}
"""

SOURCE_ALONE = """
from corral.worker import Agent

agent = Agent("kit")


@agent.task
def run(task):
    return "done"
"""

PACKAGE = """
name = "kit"
version = "{version}"
entrypoint = "kit:agent"
instances = {instances}
{keys}
"""

USUAL = 'dependencies = ["alpha"]'

CONFIG = """
[daemon]
log_level = "info"
[monitoring]
metrics_interval = "100ms"
"""


def package(
    folder: Path,
    version: str,
    *,
    keys: str = USUAL,
    source: str | None = None,
    files: Mapping[str, str] | None = None,
    instances: int = 1,
    fails_smoke: bool = False,
) -> Path:
    """Builds one version of the package kit, and returns its file."""
    sources = folder / f"source-{version}"
    shutil.rmtree(sources, ignore_errors=True)
    sources.mkdir(parents=True)
    text = SOURCE.format(version=version, fails_smoke=fails_smoke) if source is None else source
    about = PACKAGE.format(version=version, keys=keys, instances=instances)
    for name, content in {"kit.py": text, "package.toml": about, **(files or {})}.items():
        (sources / name).write_text(content)
        (sources / name).chmod(0o755 if name.endswith(".sh") else 0o644)
    target = folder / f"kit-{version}.corral"
    build(sources, target)
    return target


class Site:
    """A daemon in a folder, with wheels of alpha and beta beside it."""

    def __init__(self, folder: Path, config: str = CONFIG) -> None:
        self.folder = folder
        links = folder / "links"
        wheel(links, "alpha", "1.0")
        wheel(links, "alpha", "2.0")
        wheel(links, "beta", "1.0", requires=["alpha<2"])
        self.daemon = DaemonProcess(folder, config, environ=offline(links, folder / "cache"))

    def __enter__(self) -> Self:
        self.daemon.__enter__()
        return self

    def __exit__(self, *why: Any) -> None:
        self.daemon.__exit__(*why)

    def add(self, version: str, **changes: Any) -> None:
        """Builds a version and adds it to the daemon's packages."""
        added = package(self.folder, version, **changes)
        done = self.daemon.corral("package", "add", str(added))
        assert done.returncode == 0, done.stderr

    def deploy(self, reference: str, **params: object) -> Any:  # a deployment, as JSON
        """Deploys a package, and returns the record of the deployment."""
        with self.daemon.client() as client:
            asked = {"package": reference, **params}
            return client.call("deployment.create", asked, timeout_s=2 * BOUND_S)

    def ask(self) -> Any:  # what the handler returns
        """Runs one task on the agent kit, and returns its output."""
        record = self.daemon.call("task.run", agent="kit", objective="work")
        assert record["state"] == "succeeded", record
        return record["output"]

    def left(self) -> list[str]:
        """The names of all that is installed, and of all environments."""
        state = self.daemon.state_dir
        folders = (state / "installed", state / "environments")
        return sorted(each.name for folder in folders if folder.is_dir() for each in folder.iterdir())


def await_state(client: Client, version: str, state: str) -> None:
    """Waits until a deployment of a version is in a state; the client follows `deployment.state`."""
    for notification in client.notifications():
        found: Any = notification.params["events"]
        if any((each["version"], each["state"]) == (version, state) for each in found):
            return


class Load:
    """Runs tasks on the agent kit, one after the other, in several threads, while a `with` lasts."""

    def __init__(self, site: Site, threads: int = 2) -> None:
        self._site = site
        self._threads = [threading.Thread(target=self._run) for _ in range(threads)]
        self._is_over = threading.Event()
        self.answers: list[str] = []
        """The version that answered each task."""
        self.failures: list[str] = []

    def _run(self) -> None:
        with self._site.daemon.client() as client:
            while not self._is_over.is_set():
                asked = {"agent": "kit", "objective": "work"}
                try:
                    record: Any = client.call("task.run", asked, timeout_s=BOUND_S)
                except CorralError as error:
                    self.failures.append(error.message)
                    continue
                if record["state"] == "succeeded":
                    self.answers.append(record["output"]["version"])
                else:
                    self.failures.append(str(record["error"]))

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join(BOUND_S)
