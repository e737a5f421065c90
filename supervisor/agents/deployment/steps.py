"""Computes the commands of an installation and the key of its environment. Pure: it starts nothing and reads no file.

Two installers are known: uv, and pip where uv is missing. Both resolve the requirements of a package to a lock (exact
versions with their hashes), and install nothing but that lock.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Literal

from msgspec import Struct

Argv = tuple[str, ...]

LOCK_NAME = "requirements.lock"
REPORT_NAME = "report.json"
KEY_DIGITS = 32
"""Number of hexadecimal digits of an environment's key, which is the name of its folder."""

PASSED = ("UV_*", "PIP_*", "SSL_CERT_FILE", "SSL_CERT_DIR", "*_PROXY", "*_proxy", "npm_config_*")
"""Variables of the daemon's environment that an installation sees: indexes, their credentials, proxies, certificates."""

LENT = (
    *("SSL_CERT_FILE", "SSL_CERT_DIR", "*_PROXY", "*_proxy"),
    *("UV_OFFLINE", "UV_NO_INDEX", "UV_FIND_LINKS", "UV_INDEX_URL", "UV_DEFAULT_INDEX"),
    *("PIP_NO_INDEX", "PIP_FIND_LINKS", "PIP_INDEX_URL", "npm_config_registry"),
)
"""Variables among them that the installation of a tenant sees, where no credentials are in them."""

KEPT = ("UV_PYTHON", "UV_PROJECT*", "UV_SYSTEM_PYTHON", "UV_TARGET", "UV_PREFIX", "PIP_TARGET")
"""Variables among them that would send an installation to another place, and do not pass."""


class Dependencies(Struct, frozen=True):
    """Holds what a package needs to be installed.

    `python` are requirements (PEP 508), `npm` names with their ranges (`left-pad@^1`), `requires_python` a specifier (PEP
    440) or "", `lock` the package's own lock or "", `install` the program of its script in the installed folder.
    `uses_python` is False where it has a command and no requirements: it gets no environment.
    """

    python: tuple[str, ...] = ()
    npm: tuple[str, ...] = ()
    requires_python: str = ""
    lock: str = ""
    install: tuple[str, ...] = ()
    uses_python: bool = True


class Tool(Struct, frozen=True):
    """Represents an installer of Python packages: uv, or the pip of `path`, an interpreter."""

    kind: Literal["uv", "pip"]
    path: str


def environment_key(lock: str, python: str, user: str) -> str:
    """Returns the name of the environment that has this lock, interpreter and owner.

    The owner is part of it, because the owner of an environment can change the programs of all that share it.
    """
    return hashlib.sha256("\0".join((lock, python, user)).encode()).hexdigest()[:KEY_DIGITS]


def passed_variables(environ: Mapping[str, str]) -> dict[str, str]:
    """Returns the variables of the daemon's environment that an installation sees."""
    return {
        name: value
        for name, value in environ.items()
        if any(fnmatchcase(name, pattern) for pattern in PASSED)
        and not any(fnmatchcase(name, pattern) for pattern in KEPT)
    }


def lent_variables(variables: Mapping[str, str]) -> dict[str, str]:
    """Returns those of the variables that the programs of a tenant may see: without an address that has credentials, or another secret."""
    return {
        name: value
        for name, value in variables.items()
        if any(fnmatchcase(name, pattern) for pattern in LENT) and "@" not in value
    }


def find_python(tool: Tool, specifier: str) -> Argv:
    """Returns the command that prints the path of an interpreter for a specifier (PEP 440)."""
    return (tool.path, "python", "find", "--system", "--no-python-downloads", specifier)


def resolve(tool: Tool, python: str, requirements: str, folder: str) -> Argv:
    """Returns the command that resolves the file `requirements` to a lock or a report in `folder`."""
    if tool.kind == "uv":
        options = ("--generate-hashes", "--no-header", "--no-annotate", "--quiet")
        output = ("--python", python, "--output-file", f"{folder}/{LOCK_NAME}")
        return (tool.path, "pip", "compile", *options, *output, requirements)
    options = ("--dry-run", "--ignore-installed", "--quiet", "--disable-pip-version-check")
    report = ("--report", f"{folder}/{REPORT_NAME}")
    return (tool.path, "-m", "pip", "install", *options, *report, "-r", requirements)


def lock_of_report(report: str) -> str:
    """Returns the lock that pip's report of a resolution stands for."""
    lines: list[str] = []
    for each in json.loads(report)["install"]:
        name, version = each["metadata"]["name"], each["metadata"]["version"]
        hashes = each["download_info"].get("archive_info", {}).get("hashes", {})
        if "sha256" not in hashes:
            raise ValueError(f"{name} {version} has no sha256")
        lines.append(f"{name}=={version} \\\n    --hash=sha256:{hashes['sha256']}\n")
    return "".join(sorted(lines))


def create(tool: Tool, python: str, environment: str) -> Argv:
    """Returns the command that creates an empty environment."""
    if tool.kind == "uv":
        return (tool.path, "venv", "--quiet", "--no-project", "--python", python, environment)
    return (python, "-m", "venv", environment)


def install(tool: Tool, environment: str, lock: str) -> Argv:
    """Returns the command that installs the file `lock` into an environment, and nothing else."""
    own = f"{environment}/bin/python"
    if tool.kind == "uv":
        options = ("--require-hashes", "--no-deps", "--python", own)
        return (tool.path, "pip", "install", *options, "-r", lock)
    quiet = ("--require-hashes", "--no-deps", "--disable-pip-version-check")
    return (own, "-m", "pip", "install", *quiet, "-r", lock)


def npm_install(npm: str, names: Sequence[str], *, locked: bool) -> Argv:
    """Returns the command that installs npm dependencies into the folder that it runs in.

    Scripts of npm packages do not run: the package's own `install` can run those that it needs.
    """
    options = ("--ignore-scripts", "--no-audit", "--no-fund")
    if locked:
        return (npm, "ci", *options)
    return (npm, "install", *options, *names)


def last_lines(output: str, count: int = 12) -> str:
    """Returns the last lines of an output that are not blank."""
    return "\n".join([line.rstrip() for line in output.splitlines() if line.strip()][-count:])
