"""The Makefile: which environment it uses, and how single benchmarks and long runs are started by name."""

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import environments
import long_runs

ROOT = Path(__file__).parents[2]

MAKE = shutil.which("make")

pytestmark = pytest.mark.skipif(MAKE is None, reason="there is no make")


def made(folder: Path, *words: str) -> str:
    """Returns the commands that make would run in a folder."""
    command = ["make", "-n", "-f", str(ROOT / "Makefile"), *words]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    (tmp_path / "tests" / "support" / "node").mkdir(parents=True)
    (tmp_path / "tests" / "support" / "node" / "package.json").touch()
    (tmp_path / "pyproject.toml").touch()
    return tmp_path


def test_a_fresh_checkout_gets_an_environment(checkout: Path) -> None:
    assert "\n.venv/bin/python -P examples/crew/demo.py" in made(checkout, "demo")


def test_an_environment_of_pip_install_is_left_alone(checkout: Path) -> None:
    (checkout / ".venv" / "lib" / "python3" / "site-packages" / "corral").mkdir(parents=True)
    commands = made(checkout, "demo")
    assert "\nbuild/venv/bin/python -P examples/crew/demo.py" in commands
    assert ".venv" not in commands.replace("build/venv", "")


@pytest.mark.parametrize("name", ["_editable_impl_corral.pth", "__editable__.corral-1.0.0.pth"])
def test_an_editable_environment_is_used(checkout: Path, name: str) -> None:
    packages = checkout / ".venv" / "lib" / "python3" / "site-packages"
    packages.mkdir(parents=True)
    (packages / name).touch()
    assert "\n.venv/bin/python -P examples/crew/demo.py" in made(checkout, "demo")


def test_a_name_behind_bench_or_long_is_run_alone(checkout: Path) -> None:
    assert "-P benchmarks/run.py tasks --quick\n" in made(checkout, "bench", "tasks", "ARGS=--quick")
    assert "-P tests/long_runs.py chaos" in made(checkout, "long", "chaos")
    assert "-m long" in made(checkout, "long")
    assert "tests/long_runs.py" not in made(checkout, "long")


@pytest.mark.parametrize("program", ["benchmarks/run.py", "tests/long_runs.py"])
def test_names_are_listed(program: str) -> None:
    command = [sys.executable, "-P", str(ROOT / program)]
    listed = subprocess.run([*command, "--list"], check=True, capture_output=True, text=True).stdout
    assert subprocess.run([*command, "list"], check=True, capture_output=True, text=True).stdout == listed
    assert all(len(line.split()) > 2 for line in listed.splitlines())
    assert {"benchmarks/run.py": "tasks", "tests/long_runs.py": "chaos"}[program] in listed


def test_a_benchmark_that_is_named_gets_its_own_options() -> None:
    command = [sys.executable, "-P", str(ROOT / "benchmarks" / "run.py"), "cluster-simulation", "--help"]
    assert "cluster_simulation" in subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.mark.parametrize("name", sorted(long_runs.RUNS))
def test_the_program_of_a_long_run_exists(name: str) -> None:
    words = shlex.split(long_runs.RUNS[name].command)
    programs = [word for word in words if word.endswith(".py")]
    assert programs
    assert all((ROOT / word).exists() for word in programs)


def test_the_tests_of_each_environment_exist() -> None:
    named = [ROOT / "tests" / each for row in environments.ROWS.values() for each in row.tests]
    assert [str(each) for each in named if not each.exists()] == []
