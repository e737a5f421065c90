"""Runs by name what repeats many times what a test does once: `make long NAME`, `make long list`.

Each is a program or a test with a number; further arguments are for it. Some need an environment of their own, which is made once.
"""

import argparse
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[1]

OWN = Path(sys.prefix)
"""The environment of the tests; those of single runs are folders of it."""


@dataclass(frozen=True)
class LongRun:
    """A long run: its command after the interpreter, and what it shows."""

    command: str
    shows: str
    minutes: int
    environ: Mapping[str, str] = field(default_factory=dict[str, str])
    environment: str = ""
    """What an environment of its own needs, which is named by `{environment}`."""


RUNS = {
    "changes": LongRun("tests/chaos/changes.py", "agents, servers and services are changed under load", 10),
    "chaos": LongRun("tests/chaos/chaos.py", "tasks while workers, launcher and daemon are killed", 40),
    "cluster-chaos": LongRun("tests/chaos/cluster.py", "three daemons while nodes and the engine are hurt", 10),
    "deploys": LongRun("tests/chaos/deploys.py", "the daemon is killed during deployments and rollbacks", 8),
    "engine-chaos": LongRun("tests/chaos/engines.py", "servers of NATS and Redis are killed and frozen under load", 4),
    "lines": LongRun("tests/chaos/lines.py", "numbered log lines through kills, rotation and compression", 20),
    "soak": LongRun(
        "tests/chaos/soak.py", "everything is used for hours, and whatever grows without end is named", 120
    ),
    "orphans": LongRun("tests/chaos/orphans.py", "no process outlives its worker, launcher or daemon", 25),
    "payments": LongRun("tests/chaos/payments.py", "1,000 payments are made once whatever interrupts them", 10),
    "upgrade-chaos": LongRun("tests/chaos/upgrades.py", "upgrades under load, with kills of daemon and launcher", 30),
    "cgroup-tier": LongRun(
        "tests/system/cgroup_tier/run.py", "limits by control groups, in a guest with controllers", 3
    ),
    "conformance": LongRun("tests/conformance/run.py", "the official conformance suite of MCP, both sides", 3),
    "environments": LongRun(
        "tests/environments.py", "tests with the system's Python, as an ordinary user, with another PATH", 20
    ),
    "existing-agents": LongRun(
        "examples/existing-agents/demo.py", "agents of others review this repository (1.5 GB to install)", 4
    ),
    "hostile": LongRun(
        "tests/support/hostile_scene.py",
        "attempts of a hostile agent, by level of isolation",
        5,
        environ={"PYTHONPATH": "tests/support"},
    ),
    "http-churn": LongRun(
        "-m pytest -q -s tests/faces/http_api/test_churn.py",
        "agents come and go over HTTP while tasks run",
        3,
        environ={"CORRAL_CHURN": "100"},
    ),
    "openapi": LongRun("tests/faces/http_api/all_operations.py", "schemathesis calls every operation", 3),
    "operations": LongRun(
        "-m pytest -q -s tests/system/test_operations.py",
        "eight clients start, stop, scale and remove at once",
        5,
        environ={"CORRAL_OPERATIONS": "1000"},
    ),
    "systemd": LongRun(
        "-m pytest -q tests/system/test_systemd.py",
        "50 kills of a service of systemd",
        5,
        environ={"CORRAL_KILLS": "50"},
    ),
    "crewai": LongRun(
        "-m pytest -q tests/system/test_frameworks.py -k crewai",
        "an agent of CrewAI, which needs an older mcp (1 GB to install)",
        2,
        environ={"CORRAL_CREWAI": "{environment}/bin/python"},
        environment="crewai",
    ),
    "openapi-client": LongRun(
        "tests/faces/http_api/generated_client.py {environment}",
        "a client that openapi-python-client generates",
        2,
        environment="openapi-python-client",
    ),
}


def main() -> int:
    """Runs the named run, or lists all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", nargs="?", choices=["list", *RUNS], default="list", metavar="NAME")
    parser.add_argument("--list", action="store_true", help="list the runs")
    options, arguments = parser.parse_known_args()
    if options.list or options.name == "list":
        for name, run in RUNS.items():
            print(f"{name:16} {run.minutes:3} min  {run.shows}")
        return 0
    run = RUNS[options.name]
    environment = OWN / options.name
    if run.environment:
        _environment(environment, run.environment)
    if options.name == "existing-agents":
        _existing_agents(OWN / "existing")
    words = [word.format(environment=environment) for word in shlex.split(run.command)]
    environ = {name: value.format(environment=environment) for name, value in run.environ.items()}
    return subprocess.call([sys.executable, "-P", *words, *arguments], cwd=ROOT, env={**os.environ, **environ})


def _environment(folder: Path, package: str, python: str = sys.executable) -> None:
    """Makes a virtual environment with a package, once."""
    if not (folder / "bin" / "pip").exists():
        subprocess.run([python, "-m", "venv", str(folder)], check=True)
    install = [str(folder / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check", package]
    subprocess.run(install, check=True)


def _existing_agents(folder: Path) -> None:
    """Installs the agents that the demo runs, once; fast-agent only where there is a Python 3.12."""
    wanted = (ROOT / "examples" / "existing-agents" / "package.json").read_text("utf-8")
    node = OWN / "node" / "bin"
    target = folder / "node"
    stamp = target / "installed.json"
    if not stamp.exists() or stamp.read_text("utf-8") != wanted:
        target.mkdir(parents=True, exist_ok=True)
        (target / "package.json").write_text(wanted, "utf-8")
        (target / "bin").unlink(missing_ok=True)
        (target / "bin").symlink_to(node)
        npm = ["npm", "install", f"--prefix={target}", "--no-package-lock", "--no-audit", "--no-fund"]
        subprocess.run(npm, env={**os.environ, "PATH": f"{node}:{os.environ['PATH']}"}, check=True)
        stamp.write_text(wanted, "utf-8")
    python = shutil.which(os.environ.get("PYTHON312", "python3.12"))
    if python is None:
        print("cannot find python3.12 (PYTHON312 names another): fast-agent is left out")
    else:
        _environment(folder / "python", "fast-agent-mcp", python)


if __name__ == "__main__":
    sys.exit(main())
