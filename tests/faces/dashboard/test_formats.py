"""The quantities of the page, computed by node, against those of the command."""

import json
import random
import subprocess
from pathlib import Path

import pytest

from corral.cli import render
from corral.cli.screen.samples import milliseconds
from corral.supervisor.faces.dashboard.face import PAGE
from node_packages import NODE

pytestmark = pytest.mark.skipif(not Path(NODE).exists(), reason="no node")

SCRIPT = """
import {{ duration, milliseconds, percent, size }} from "{path}";
let text = "";
for await (const chunk of process.stdin) text += chunk;
const values = JSON.parse(text);
console.log(JSON.stringify(values.map((value) => [duration(value), size(value), milliseconds(value), percent(value)])));
"""


def test_the_page_formats_quantities_as_the_command_does() -> None:
    numbers = random.Random(7)
    values: list[float] = [0, 0.5, 1, 1.25, 2.5, 9.95, 59.5, 60, 119.5, 3600, 86_399.5, 172_800]
    values += [999.5, 1023, 1024, 102_348.8, 1048576, 1.15, 2.35, 0.0005, 99.95 * 1024]
    values += [numbers.random() * 10 ** numbers.randint(-4, 13) for _ in range(2000)]
    done = subprocess.run(
        [NODE, "--input-type=module", "-e", SCRIPT.format(path=PAGE / "parts" / "format.js")],
        input=json.dumps(values),
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    for value, found in zip(values, json.loads(done.stdout), strict=True):
        wanted = [render.duration(value), render.size(value), milliseconds({"x": value}, "x"), f"{value:.0f}%"]
        assert found == wanted, value


@pytest.mark.parametrize("script", sorted(PAGE.rglob("*.js")), ids=lambda path: path.name)
def test_each_script_is_read_by_node(script: Path) -> None:
    done = subprocess.run([NODE, "--check", str(script)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
