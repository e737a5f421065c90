"""Runs daemons of another version: the source tree of an older commit, with the dependencies of this one."""

import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
FOLDERS = ("src", "supervisor", "worker", "mcp", "cli")


def why_not(commit: str) -> str:
    """Returns why a commit cannot be had here, "" where it can."""
    shown = subprocess.run(
        ["git", "-C", str(ROOT), "cat-file", "-e", f"{commit}^{{commit}}"], capture_output=True, text=True, check=False
    )
    return shown.stderr.strip() or "it is not in the history" if shown.returncode else ""


def environ_of(commit: str, folder: Path) -> dict[str, str]:
    """Unpacks a commit into a folder; returns the environment in which its programs run."""
    folder.mkdir()
    packed = subprocess.run(["git", "-C", str(ROOT), "archive", commit, *FOLDERS], stdout=subprocess.PIPE, check=True)
    subprocess.run(["tar", "-x", "-C", str(folder)], input=packed.stdout, check=True)
    return {"PYTHONPATH": str(folder / "src")}
