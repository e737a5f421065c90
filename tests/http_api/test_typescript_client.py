"""The TypeScript client: fresh, of true types, and used against a real daemon."""

import subprocess
import sys
from pathlib import Path

import pytest

from node_packages import MODULES, npm_program

FOLDER = Path(__file__).parents[2] / "clients" / "typescript"

needs_typescript = pytest.mark.skipif(
    not (MODULES / "typescript").is_dir(),
    reason="no typescript: make test could not reach a registry",
)


def test_the_client_is_generated_from_the_present_method_table() -> None:
    done = subprocess.run(
        [sys.executable, str(FOLDER / "generate.py"), "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@needs_typescript
def test_the_types_of_the_client_hold() -> None:
    done = subprocess.run(
        npm_program("tsc", "--project", str(FOLDER)), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
