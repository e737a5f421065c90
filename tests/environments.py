"""Runs tests in environments that machines of others have: a row each, with what has gone wrong there before.

All rows have the system's own Python (Debian 12: 3.11.2, which lacks what later versions of 3.11 have). Rows of an ordinary
user need root: the user has no entry but one in a copy of /etc/passwd, which is mounted for these tests alone.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]

USER = "an-ordinary-user-of-30-letters"
UID = 64321

PYTHON = "/usr/bin/python3"

ABSENT = ("node", "npm", "npx", "chromium", "redis-server", "nats-server", "podman", "docker", "runc", "crun", "bwrap")
"""Programs that a row has not."""

PACKED = ("agents/packages", "agents/deployment", "records/backup", "records/logs", "worker", "system/test_deploy.py")
SOCKETS = (
    "workers/process",
    "workers/zygote",
    "faces/socket",
    "machine",
    "system/test_daemon.py",
    "system/test_warm.py",
)
COMMANDS = ("system/test_exec.py", "system/test_exec_strict.py", "system/test_run_command.py", "system/test_doctor.py")
TOOLS = (
    *("mcp", "layout", "cluster/engine", "faces/dashboard", "system/test_compatibility.py"),
    *("system/test_conformance.py", "system/test_mcp_common_servers.py", "system/test_container.py"),
)


@dataclass(frozen=True)
class Row:
    """An environment, and the tests that it concerns."""

    shows: str
    tests: Sequence[str]
    is_user: bool = True
    closed: int = 0
    """Number of folders of PATH that the user may not read."""
    without: Sequence[str] = ()


ROWS = {
    "python": Row("the system's own Python", PACKED, is_user=False),
    "user": Row("an ordinary user with a long name", SOCKETS),
    "path": Row("folders of PATH that the user may not read", COMMANDS, closed=2),
    "tools": Row("no node, browser, container engine or store", TOOLS, without=ABSENT),
}


def main() -> int:
    """Runs the named rows, or all; returns 1 when one fails."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", nargs="*", metavar="ROW", help=", ".join(ROWS))
    parser.add_argument(
        "--environment",
        type=Path,
        default=Path(sys.prefix) / "system-python",
        help="virtual environment of the system's Python, which is made where it is not there",
    )
    options = parser.parse_args()
    if not options.environment.exists():
        subprocess.run([PYTHON, "-m", "venv", str(options.environment)], check=True)
        pip = [str(options.environment / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "--editable", f"{ROOT}[test]"], check=True)
    failed: list[str] = []
    for name in options.rows or ROWS:
        row = ROWS[name]
        if row.is_user and os.geteuid() != 0:
            print(f"{name}: left out: it needs root to become another user", flush=True)
            continue
        print(f"{name}: {row.shows}", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            if run(row, options.environment, Path(folder)) != 0:
                failed.append(name)
    print(f"failed: {', '.join(failed) or 'none'}")
    return 1 if failed else 0


def run(row: Row, environment: Path, folder: Path) -> int:
    """Runs the tests of a row; returns the exit status of pytest."""
    folder.chmod(0o755)
    home = folder / "home"
    home.mkdir()
    path = [
        *(str(closed(folder / f"closed-{number}")) for number in range(row.closed)),
        str(programs(row, folder / "bin")),
    ]
    command = [str(environment / "bin" / "python"), "-P", "-m", "pytest", "-q", "-n", "2", "--dist", "loadscope"]
    command += ["-p", "no:cacheprovider", "-m", "not long", *(f"tests/{each}" for each in row.tests)]
    environ = {"HOME": str(home), "PATH": ":".join(path), "LANG": "C.UTF-8"}
    if row.is_user:
        os.chown(home, UID, UID)
        environ |= {"USER": USER, "LOGNAME": USER}
        environ |= {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "safe.directory", "GIT_CONFIG_VALUE_0": "*"}
        command = as_user(command, folder, home)
    return subprocess.call(command, cwd=ROOT, env=environ)


def as_user(command: Sequence[str], folder: Path, home: Path) -> list[str]:
    """Returns the command of an ordinary user, whom no other process on this machine sees."""
    passwd = folder / "passwd"
    passwd.write_text(f"{Path('/etc/passwd').read_text('utf-8')}{USER}:x:{UID}:{UID}::{home}:/bin/sh\n", "utf-8")
    passwd.chmod(0o644)
    become = f'/bin/mount --bind {passwd} /etc/passwd && exec /usr/bin/setpriv --reuid={UID} --regid={UID} --clear-groups "$@"'
    return ["/usr/bin/unshare", "--mount", "/bin/sh", "-c", become, "sh", *command]


def closed(folder: Path) -> Path:
    """Makes a folder that root alone may read."""
    folder.mkdir(mode=0o700)
    return folder


def programs(row: Row, folder: Path) -> Path:
    """Makes the folder of PATH that has the system's programs, without some."""
    folder.mkdir()
    for each in (Path("/usr/sbin"), Path("/usr/bin")):
        for program in each.iterdir():
            link = folder / program.name
            if program.name not in row.without and shutil.which(program) and not link.is_symlink():
                link.symlink_to(program)
    return folder


if __name__ == "__main__":
    sys.exit(main())
