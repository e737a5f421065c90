"""Other gateways between a client and an MCP server, put into a folder of their own and started there.

They come from PyPI and npm, with whatever they need, so nothing of ours is mixed with theirs; a folder that has them
already is used as it is. Who cannot be had is left out with a word.
"""

import contextlib
import os
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


def _done(package: str, commands: Sequence[list[str]], where: Path) -> bool:
    for command in commands:
        done = subprocess.run(
            command, env=environment(), capture_output=True, timeout=INSTALL_S, check=False
        )
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
            command,
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            start_new_session=True,
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
