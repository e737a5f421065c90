"""`corrald --check` warns of entrypoints that are not there, and runs nothing of the agents."""

import subprocess
import sys
from pathlib import Path

import pytest

from daemon_process import BIN, BOUND_S

AGENT = "from pathlib import Path\nPath('ran').touch()\nfrom corral.worker import Agent\nagent = Agent('x')\n"


def warnings_of(folder: Path, entrypoint: str, *lines: str) -> list[str]:
    config = folder / "corral.toml"
    config.write_text("\n".join(["# one", "[agents.a]", f'entrypoint = "{entrypoint}"', *lines, ""]))
    argv = [str(BIN / "corrald"), "--check", f"--config={config}"]
    done = subprocess.run(argv, cwd=folder, capture_output=True, text=True, timeout=BOUND_S, check=True)
    assert not (folder / "ran").exists(), "it was run"
    return done.stderr.splitlines()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "calendar.py").write_text(AGENT)
    (tmp_path / "crew" / "inner").mkdir(parents=True)
    (tmp_path / "crew" / "inner" / "one.py").write_text(AGENT)
    (tmp_path / "dynamic.py").write_text("def __getattr__(name): ...\n")
    (tmp_path / "broken.py").write_text("x = (\n")
    return tmp_path


@pytest.mark.parametrize(
    "entrypoint",
    ["calendar:agent", "calendar:Agent.run", "crew.inner.one:agent", "dynamic:agent", "corral.worker:Agent"],
)
def test_an_entrypoint_that_is_there_is_not_spoken_of(folder: Path, entrypoint: str) -> None:
    assert warnings_of(folder, entrypoint) == []


@pytest.mark.parametrize(
    ("entrypoint", "named"),
    [
        ("none:agent", '"none"'),
        ("crew.inner.two:agent", '"crew.inner.two"'),
        ("calendar.x:agent", '"calendar.x"'),
        ("calendar:agnet", 'did you mean "agent"?'),
        ("broken:agent", "broken.py"),
    ],
)
def test_one_that_is_not_is_named_with_its_line(folder: Path, entrypoint: str, named: str) -> None:
    (warning,) = warnings_of(folder, entrypoint)
    assert f'corral.toml:3: agents.a.entrypoint = "{entrypoint}"' in warning
    assert named in warning


def test_the_interpreter_and_the_folder_of_the_agent_are_asked(folder: Path) -> None:
    inner = folder / "crew" / "inner"
    more = (f'python = "{sys.executable}"', f'process.working_directory = "{inner}"')
    assert warnings_of(folder, "one:agent", *more) == []
    assert len(warnings_of(folder, "calendar:agent", *more)) == 1
    assert warnings_of(folder, "none:agent", 'python = "no-such-python"') == []
