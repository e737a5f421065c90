"""What `make test` installed from npm, for the tests that need it; without it they are skipped."""

import sys
from pathlib import Path

import pytest

NODE_FOLDER = Path(sys.prefix) / "node"

NODE = str(NODE_FOLDER / "bin" / "node")

MODULES = NODE_FOLDER / "node_modules"

needs_npm = pytest.mark.skipif(not MODULES.is_dir(), reason="no npm packages: make test could not reach a registry")


def npm_program(name: str, *arguments: str) -> list[str]:
    """The command that runs a program of an npm package, without npx between."""
    return [NODE, str(MODULES / ".bin" / name), *arguments]


def npx_command(name: str, *arguments: str) -> list[str]:
    """The same through npx, as people write it; it needs `npx_environment`, and nothing of the network."""
    npx = str(NODE_FOLDER / "bin" / "npx")
    return [npx, "--offline", "--prefix", str(NODE_FOLDER), name, *arguments]


def npx_environment(folder: Path) -> dict[str, str]:
    """What npx needs to find its node, and to keep its files out of the user's home."""
    path = f"{NODE_FOLDER / 'bin'}:/usr/bin:/bin"
    return {"PATH": path, "HOME": str(folder), "npm_config_cache": str(folder / "npm-cache")}
