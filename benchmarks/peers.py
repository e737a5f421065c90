"""Programs of others that corral is compared with, put into a folder of their own and started there.

They come from PyPI, npm and Debian, with whatever they need, so nothing of ours is mixed with theirs and nothing is installed;
a folder that has them already is used as it is. Who cannot be had is left out with a word.
"""

import contextlib
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Generator, Sequence
from pathlib import Path

sys.path.append(str(Path(__file__).parent))  # `python -P` leaves out where `bench` is
import bench

INSTALL_S = 600.0

NODE_FOLDER = Path(sys.prefix) / "node"
"""Where `make test` puts node and npm."""

FASTMCP = """
import sys
from fastmcp.client.transports import StdioTransport
from fastmcp.server import create_proxy
server = StdioTransport(command=sys.argv[1], args=sys.argv[2:])
create_proxy(server).run(show_banner=False, log_level="ERROR")
"""


def environment() -> dict[str, str]:
    """With the node that the tests use, if there is one."""
    return {**bench.ENVIRON, "PATH": f"{NODE_FOLDER / 'bin'}:{bench.ENVIRON['PATH']}"}


def from_pypi(folder: Path, package: str) -> Path | None:
    """The folder of the programs of a package in a virtual environment, or None where it cannot be had."""
    where = folder / package
    if not (where / "bin" / "pip").exists():
        commands = [
            [sys.executable, "-m", "venv", str(where)],
            [str(where / "bin" / "pip"), "install", "--quiet", package],
        ]
        if not _done(package, commands, where):
            return None
    return where / "bin"


def from_npm(folder: Path, package: str) -> Path | None:
    """The folder of the programs of an npm package, or None where it cannot be had."""
    where = folder / "npm"
    programs = where / "node_modules" / ".bin"
    if not (programs / package).exists():
        where.mkdir(parents=True, exist_ok=True)
        quiet = ["--ignore-scripts", "--no-package-lock", "--no-audit", "--no-fund", "--silent"]
        if shutil.which("npm", path=environment()["PATH"]) is None:
            print(f"no npm: {package} is left out", file=sys.stderr)
            return None
        if not _done(package, [["npm", "install", "--prefix", str(where), package, *quiet]], where):
            return None
    return programs


def from_debian(folder: Path, package: str) -> Path | None:
    """The root of a Debian package that was unpacked with the libraries that are not installed, or None."""
    where = folder / f"debian-{package}"
    if not where.exists():
        if shutil.which("apt-get") is None or shutil.which("dpkg") is None:
            print(f"no apt-get: {package} is left out", file=sys.stderr)
            return None
        (where / "archives").mkdir(parents=True)
        names = [package, *_libraries(package)]
        try:
            _at(where / "archives", "apt-get", "download", *names)
            for archive in sorted((where / "archives").glob("*.deb")):
                _at(where, "dpkg", "-x", str(archive), ".")
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
            print(f"cannot download {package} (apt-get update?): it is left out", file=sys.stderr)
            shutil.rmtree(where)
            return None
    return where


def debian_environment(root: Path) -> dict[str, str]:
    """In which the programs of an unpacked package find each other and their libraries."""
    libraries = {str(path.parent) for path in root.rglob("*.so*")}
    return {
        **bench.ENVIRON,
        "PATH": f"{root / 'usr/bin'}:{bench.ENVIRON['PATH']}",
        "LD_LIBRARY_PATH": ":".join(sorted(libraries)),
    }


def _libraries(package: str) -> list[str]:
    """What a package needs of libraries that this machine lacks."""
    kinds = ("recommends", "suggests", "conflicts", "breaks", "replaces", "enhances")
    without = [f"--no-{kind}" for kind in kinds]
    text = _at(Path("/"), "apt-cache", "depends", "--recurse", *without, package)
    names = [line for line in text.splitlines() if re.match(r"lib[a-z0-9.+-]+$", line)]
    return [name for name in names if not _is_installed(name)]


def _is_installed(name: str) -> bool:
    done = subprocess.run(["dpkg-query", "-W", name], capture_output=True, check=False)
    return done.returncode == 0


def _at(where: Path, *command: str) -> str:
    done = subprocess.run(command, cwd=where, capture_output=True, timeout=INSTALL_S, check=True, text=True)
    return done.stdout


def _done(package: str, commands: Sequence[list[str]], where: Path) -> bool:
    for command in commands:
        done = subprocess.run(command, env=environment(), capture_output=True, timeout=INSTALL_S, check=False)
        if done.returncode != 0:
            print(f"cannot install {package}: it is left out", file=sys.stderr)
            shutil.rmtree(where, ignore_errors=True)
            return False
    return True


def free_port() -> int:
    """One that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def listening(port: int, command: Sequence[str], log: Path) -> Generator[None]:
    """A gateway that can be connected to; afterwards it is gone with all that it started."""
    with (
        log.open("ab") as said,
        subprocess.Popen(
            command, env=environment(), stdin=subprocess.DEVNULL, stdout=said, stderr=said, start_new_session=True
        ) as process,
    ):
        try:
            deadline = time.monotonic() + bench.BOUND_S
            while not _answers(port):
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline, f"{command} does not listen"
                time.sleep(0.05)
            yield
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, 9)


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1.0).close()
    except OSError:
        return False
    return True
