"""Images for tests of containers, made by hand: no registry is asked."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import pytest

APPLETS = [
    "cat",
    "dd",
    "echo",
    "env",
    "grep",
    "head",
    "id",
    "kill",
    "ls",
    "mkdir",
    "pwd",
    "sh",
    "sleep",
    "stty",
    "touch",
    "true",
    "tty",
    "wget",
]


@cache
def why_not(engine: str) -> str:
    """Why an engine cannot run here; "" if it can."""
    path = os.environ["PATH"] + ":/usr/sbin:/sbin"
    if os.getuid() != 0:
        return "needs root"
    if shutil.which("busybox", path=path) is None:
        return "no busybox is installed"
    program = shutil.which(engine, path=path)
    if program is None:
        return f"{engine} is not installed"
    probe = {"docker": ["version"], "podman": ["info"], "runc": ["--version"]}[engine]
    done = subprocess.run([program, *probe], capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else f"{engine}: {done.stderr.strip()[-200:]}"


def skip_without(engine: str) -> None:
    """Skips a test where an engine cannot run."""
    if reason := why_not(engine):
        pytest.skip(reason)


def rootfs(folder: Path) -> Path:
    """Makes a root file system of busybox, and returns it."""
    busybox = shutil.which("busybox")
    assert busybox is not None, "the test was skipped without it"
    root = folder / "rootfs"
    for name in ("bin", "proc", "sys", "dev", "tmp", "etc", "run"):
        (root / name).mkdir(parents=True)
    shutil.copy(busybox, root / "bin" / "busybox")
    for name in APPLETS:
        (root / "bin" / name).symlink_to("busybox")
    (root / "bin" / "broken").write_text("no program")
    _copy_libraries(root, [Path(busybox)])  # none, where busybox is a static one
    return root


def _copy_libraries(root: Path, programs: Iterable[Path]) -> None:
    """Copies the libraries of the system that programs need, to the same paths below a root."""
    listed = subprocess.run(["ldd", *map(str, programs)], capture_output=True, text=True, check=False).stdout
    for word in set(listed.split()):
        path = Path(word.rstrip(":"))
        if word.startswith(("/lib", "/usr/lib")) and path.is_file():
            target = root / path.relative_to("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)


def python_rootfs(folder: Path) -> Path:
    """Adds this machine's Python to a root file system: its installation and the libraries of the system, copied."""
    root = rootfs(folder)
    base = Path(sys.base_prefix)
    shutil.copytree(
        base, root / base.relative_to("/"), symlinks=True,
        ignore=shutil.ignore_patterns("test", "site-packages", "__pycache__", "*.a", "idlelib"),
    )  # fmt: skip
    libraries = {Path(sys.base_prefix) / "bin" / "python3"}
    libraries |= set((base / "lib").glob("python3.*/lib-dynload/*.so"))
    _copy_libraries(root, libraries)
    (root / "bin" / "python3").symlink_to(base / "bin" / "python3")
    return root
