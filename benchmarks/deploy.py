"""How long does a deployment take with a warm cache, and how much disk, beside `pip install` into a new environment?

A package requires twenty wheels of 1 MB each, in a folder. `pip` makes an environment and installs the same twenty from there.
A deployment is measured from the call to the answer: read, verified, resolved, installed, unpacked, one new worker Ready, the old one
replaced. Its environment is made anew (other versions are locked each time, all in uv's cache), or shared with the version
before. The disk is what the folders have grown by, a file with several names counted once.
"""

import itertools
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parent))  # `python -P` leaves out where `bench` is
sys.path.append(str(Path(__file__).parents[1] / "tests" / "support"))
import bench
from bench import Measure

from corral.supervisor.agents.packages.builder import build
from corral.worker.client.sync import Client
from wheels import offline, wheel

ROUNDS = 5
WHEELS, WHEELS_QUICK = 20, 1
WHEEL_BYTES = 1_000_000
ANSWER_S = 120.0

AGENT = """
from corral.worker import Agent

agent = Agent("kit")


@agent.task
def run(task):
    return "done"
"""

Found = dict[str, list[float]]


def main() -> None:
    options = bench.arguments(__doc__ or "")
    machine = bench.Machine()
    count = WHEELS_QUICK if options.quick else WHEELS
    rounds = 1 if options.quick else ROUNDS
    with bench.folder() as folder:
        links = folder / "links"
        for version, number in itertools.product(range(rounds + 2), range(count)):
            body = f"DATA = {os.urandom(WHEEL_BYTES // 2).hex()!r}\n"
            wheel(links, f"part{number}", f"1.{version}", body=body)
        bench.ENVIRON.update(offline(links, folder / "cache"))
        with bench.Daemon(folder / "daemon", "") as daemon:
            site = _Site(folder, daemon.socket, count)
            site.deploy(rounds + 1)  # the agent is there, and the cache has been begun
            numbers = itertools.count()
            parts: list[Callable[[], Mapping[str, list[float]]]] = [
                lambda: site.by_pip(next(numbers)),
                site.by_deployment,
            ]
            taken = bench.interleaved(rounds, parts)
    bench.report("deploy", _measures(count), taken, machine, options)


def _measures(count: int) -> list[Measure]:
    whose = f"{count} distributions"
    return [
        Measure("pip_ms", f"{whose}: venv and pip install", "ms"),
        Measure("fresh_ms", f"{whose}: deployment, new environment from a warm cache", "ms", "pip_ms"),
        Measure("shared_ms", f"{whose}: deployment, shared environment", "ms", "pip_ms"),
        Measure("pip_mb", f"{whose}: venv and pip install, disk", "MB"),
        Measure("fresh_mb", f"{whose}: deployment, new environment, disk", "MB", "pip_mb"),
        Measure("shared_mb", f"{whose}: deployment, shared environment, disk", "MB", "pip_mb"),
    ]


class _Site:
    """Deploys versions of one package to a daemon, and installs the same by pip."""

    def __init__(self, folder: Path, socket: str, count: int) -> None:
        self._folder = folder
        self._socket = socket
        self._count = count
        self._versions = itertools.count(1)
        self._rounds = itertools.count()

    def _requirements(self, version: int) -> list[str]:
        return [f"part{number}==1.{version}" for number in range(self._count)]

    def by_pip(self, number: int) -> Found:
        """Makes an environment and installs into it."""
        target = self._folder / f"pip-{number}"
        began = time.perf_counter()
        subprocess.run([sys.executable, "-m", "venv", str(target)], check=True)
        command = [str(target / "bin" / "python"), "-m", "pip", "install", "--quiet", "--no-cache-dir"]
        wanted = self._requirements(number)
        subprocess.run([*command, *wanted], check=True, env=bench.ENVIRON)
        taken_ms = (time.perf_counter() - began) * 1000
        return {"pip_ms": [taken_ms], "pip_mb": [size_mb(target)]}

    def by_deployment(self) -> Found:
        """Deploys with versions that no environment has, then once more with the same."""
        version = next(self._rounds)
        self._warm(version)
        found: Found = {}
        for name in ("fresh", "shared"):
            before = size_mb(self._folder / "daemon" / "state", self._folder / "cache")
            found[f"{name}_ms"] = [self.deploy(version)]
            after = size_mb(self._folder / "daemon" / "state", self._folder / "cache")
            found[f"{name}_mb"] = [after - before]
        return found

    def _warm(self, version: int) -> None:
        """Has uv's cache filled with what is to be installed."""
        target = self._folder / f"warm-{version}"
        uv = str(bench.BIN / "uv")
        subprocess.run([uv, "venv", "--quiet", str(target)], check=True, env=bench.ENVIRON)
        command = [uv, "pip", "install", "--quiet", "--python", str(target / "bin" / "python")]
        subprocess.run([*command, *self._requirements(version)], check=True, env=bench.ENVIRON)

    def deploy(self, version: int) -> float:
        """Builds, adds and deploys a version with these requirements; returns the milliseconds of the deployment."""
        number = next(self._versions)
        sources = self._folder / f"source-{number}"
        sources.mkdir()
        (sources / "kit.py").write_text(AGENT)
        wanted = ", ".join(f'"{each}"' for each in self._requirements(version))
        (sources / "package.toml").write_text(
            f'name = "kit"\nversion = "{number}"\nentrypoint = "kit:agent"\ndependencies = [{wanted}]\n'
        )
        target = self._folder / f"kit-{number}.corral"
        build(sources, target)
        added = [str(bench.BIN / "corral"), "--socket", self._socket, "package", "add", str(target)]
        subprocess.run(added, check=True, stdout=subprocess.DEVNULL)
        with Client(self._socket) as client:
            began = time.perf_counter()
            asked = {"package": f"kit@{number}"}
            record: Any = client.call("deployment.create", asked, timeout_s=ANSWER_S)
            taken_ms = (time.perf_counter() - began) * 1000
        assert record["state"] == "current", record
        return taken_ms


def size_mb(*folders: Path) -> float:
    """The disk that folders take, a file with several names counted once."""
    sizes: dict[tuple[int, int], int] = {}
    for folder in folders:
        for path in folder.rglob("*"):
            try:
                found = path.lstat()
            except OSError:
                continue
            sizes[found.st_dev, found.st_ino] = found.st_blocks * 512
    return sum(sizes.values()) / 1_000_000


if __name__ == "__main__":
    main()
