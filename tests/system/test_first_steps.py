"""From an empty folder: `corral init`, a daemon, a task; then `corral edit` of the running configuration."""

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from daemon_process import BIN, BOUND_S, DaemonProcess, run_corral


def typed(folder: Path, words: list[str], answers: str, **variables: str) -> tuple[int, str]:
    """Runs the command on a terminal, types the answers, and returns its status and what it wrote."""
    ours, theirs = pty.openpty()
    command = [str(BIN / "corral"), *words]
    environ = {**os.environ, "TERM": "xterm", **variables}
    with subprocess.Popen(command, cwd=folder, stdin=theirs, stdout=theirs, stderr=theirs, env=environ) as process:
        os.close(theirs)
        os.write(ours, answers.encode())
        seen = b""
        while chunk := _read(ours):
            seen += chunk
        os.close(ours)
        return process.wait(BOUND_S), seen.decode()


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 65_536)
    except OSError:  # EIO: the last process has closed the other side
        return b""


def test_what_init_writes_runs_at_once(tmp_path: Path) -> None:
    done = run_corral(tmp_path, "init", "--yes")
    assert done.returncode == 0, done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"corral.toml", "hello.py"}
    again = run_corral(tmp_path, "init")
    assert (again.returncode, again.stdout) == (4, "")  # nothing is overwritten
    config = (tmp_path / "corral.toml").read_text()
    with DaemonProcess(tmp_path, config) as daemon:
        ran = daemon.corral("run", "hello", "world")
        assert (ran.returncode, ran.stdout) == (0, "hello, world\n"), ran.stderr


@pytest.mark.parametrize("template", ["agent", "program", "tools"])
def test_every_template_passes_the_check(tmp_path: Path, template: str) -> None:
    done = run_corral(tmp_path, "init", "sub", "--template", template, "--name", "calendar", "--json")
    assert json.loads(done.stdout)["problem"] is None
    if template == "program":
        quoted = ["sh", "-c", 'echo "a\\b"']
        run_corral(tmp_path, "init", "other", "--template", template, "--", *quoted)
        config = (tmp_path / "other/corral.toml").read_text()
        assert json.loads(config.partition("command = ")[2].partition("\n")[0]) == quoted


def test_init_asks_on_a_terminal_and_replaces_only_after_a_yes(tmp_path: Path) -> None:
    status, _ = typed(tmp_path, ["init"], "program\nweb\nsleep 1000\n")
    config = tmp_path / "corral.toml"
    assert (status, "[agents.web]" in config.read_text()) == (0, True)
    assert '["sleep", "1000"]' in config.read_text()
    status, _ = typed(tmp_path, ["init"], "program\nother\nsleep 1\n\n")
    assert (status, "[agents.web]" in config.read_text()) == (4, True)
    status, _ = typed(tmp_path, ["init"], "program\nother\nsleep 1\nyes\n")
    assert (status, "[agents.other]" in config.read_text()) == (0, True)
    assert "[agents.web]" in (tmp_path / "corral.toml.old").read_text()


CONFIG = """
[agents.one]
command = ["sleep", "1000"]
protocol = "none"
"""
MORE = CONFIG + '[agents.two]\ncommand = ["sleep", "1000"]\nprotocol = "none"\n'
BROKEN = CONFIG + "instnaces = 3\n"

EDITOR = """
import pathlib, sys
folder = pathlib.Path(__file__).parent
target = pathlib.Path(sys.argv[1])
turns = folder / "turns"
turn = len(turns.read_text()) if turns.exists() else 0
turns.write_text("x" * (turn + 1))
text = (folder / f"text{turn}").read_text()
if text == "EXIT":
    sys.exit(3)
target.write_text(text)
other = folder / "meanwhile"
if other.exists():
    pathlib.Path(folder / "corral.toml").write_text(other.read_text())
"""


class Editor:
    """A program in place of an editor: at each start it writes the next text."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "editor.py").write_text(EDITOR)

    def edit(self, daemon: DaemonProcess, answers: str, *texts: str, path: str = "") -> tuple[int, str]:
        (self.folder / "turns").unlink(missing_ok=True)
        for number, text in enumerate(texts):
            (self.folder / f"text{number}").write_text(text)
        words = ["--socket", str(daemon.socket), "edit", *([path] if path else [])]
        program = f"{sys.executable} {self.folder / 'editor.py'}"
        return typed(self.folder, words, answers, EDITOR=program, VISUAL="")

    def copies(self) -> list[Path]:
        return [path for path in self.folder.iterdir() if path.name.startswith((".edit", ".save"))]


def test_edit_checks_saves_and_applies_and_loses_no_text(tmp_path: Path) -> None:
    editor = Editor(tmp_path)
    with DaemonProcess(tmp_path, CONFIG) as daemon:
        daemon.config.chmod(0o640)

        def names() -> list[str]:
            return [entry["name"] for entry in daemon.call("daemon.status")["agents"]]

        assert editor.edit(daemon, "", CONFIG)[0] == 0
        assert (names(), editor.copies()) == (["one"], [])
        # A mistake is shown and can be mended; the change is applied.
        status, seen = editor.edit(daemon, "e\ny\n", BROKEN, MORE)
        assert status == 0, seen
        assert "instnaces" in seen
        assert "+ two" in seen
        assert (names(), daemon.config.read_text(), editor.copies()) == (["one", "two"], MORE, [])
        assert daemon.config.stat().st_mode & 0o777 == 0o640
        # Applied later, on request.
        assert editor.edit(daemon, "n\n", CONFIG)[0] == 0
        assert names() == ["one", "two"]
        # Given up, an editor that fails, a change meanwhile: nothing is saved, and no text is lost.
        assert editor.edit(daemon, "g\n", BROKEN)[0] == 8
        assert [path.read_text() for path in editor.copies()] == [BROKEN]
        editor.copies()[0].unlink()
        assert editor.edit(daemon, "", "EXIT")[0] == 8
        assert (daemon.config.read_text(), editor.copies()) == (CONFIG, [])
        (tmp_path / "meanwhile").write_text(CONFIG + "# mine\n")
        status, seen = editor.edit(daemon, "", MORE)
        assert (status, daemon.config.read_text()) == (4, CONFIG + "# mine\n"), seen
        assert [path.read_text() for path in editor.copies()] == [MORE]


def test_edit_of_an_included_file_may_name_agents_of_the_others(tmp_path: Path) -> None:
    editor = Editor(tmp_path)
    part = tmp_path / "conf.d" / "more.toml"
    part.parent.mkdir()
    two = '[agents.two]\ncommand = ["sleep", "1000"]\nprotocol = "none"\n'
    part.write_text(two)
    with DaemonProcess(tmp_path, 'include = ["conf.d/*.toml"]\n' + CONFIG) as daemon:
        changed = two + 'requires = ["one"]\n'
        status, seen = editor.edit(daemon, "s\ny\n", changed, path=str(part))
        assert (status, part.read_text()) == (0, changed), seen
        assert "~ two" in seen
        assert daemon.call("agent.show", name="two")["spec"]["requires"] == ["one"]
        assert [path.name for path in part.parent.iterdir()] == ["more.toml"]


def test_edit_without_a_terminal_or_a_file_is_refused(tmp_path: Path) -> None:
    done = run_corral(tmp_path, "edit", str(tmp_path / "corral.toml"))
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    words = ["--socket", str(tmp_path / "none.sock"), "edit", "nothing.toml"]
    assert typed(tmp_path, words, "", EDITOR="true", VISUAL="")[0] == 3
