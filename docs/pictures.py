"""Takes the pictures of the dashboard in docs/images, in a Chromium of the machine, from two daemons with agents at work.

    .venv/bin/python -P docs/pictures.py

It needs the npm packages of `make test`. Take them anew when the dashboard changes.
"""

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from threading import Event

from corral import Runtime

IMAGES = Path(__file__).parent / "images"
NODE = Path(sys.prefix) / "node"

AGENTS = """
import asyncio
import random

from corral.worker import Agent

crawler, planner, reader, reviewer = (Agent(name) for name in ("crawler", "planner", "reader", "reviewer"))


@crawler.task
async def crawl(task):
    await asyncio.sleep(task.input or random.uniform(0.3, 2))
    print("read", task.objective)
    return {"pages": 3}


@planner.task
async def plan(task):
    parts = [{"agent": "crawler", "objective": f"day {n}", "input": s} for n, s in ((1, 1.8), (2, 1.3), (3, 2.0))]
    found = await task.delegate_all(parts)
    await asyncio.sleep(0.4)
    return {"parts": len(found)}


@reader.task
async def read(task):
    await task.tool("cortex__cortex_search", query="herons")
    return "nothing new"


@reviewer.task
async def review(task):
    return "good"
"""

SCRIPT = """
import { createRequire } from "node:module";
const { chromium } = createRequire(process.argv[2] + "/")("playwright-core");
const { base, token, executablePath, pictures } = JSON.parse(process.argv[3]);
const browser = await chromium.launch({ executablePath, args: ["--no-sandbox", "--disable-dev-shm-usage"] });
for (const { path, view, ready, viewport, colorScheme, shown_ms } of pictures) {
  const context = await browser.newContext({ viewport, colorScheme });
  const page = await context.newPage();
  await page.goto(`${base}/`);
  await page.fill("#token", token);
  await page.click("button[type=submit]");
  await page.waitForSelector("#live[data-live=yes]");
  await page.evaluate((to) => { location.hash = to; }, `#/${view}`);
  await page.waitForSelector(ready);
  await page.waitForTimeout(shown_ms);
  await page.screenshot({ path });
  await context.close();
}
await browser.close();
"""


def picture(
    name: str, view: str, ready: str, *, width: int = 1200, height: int = 720, dark: bool = False, for_s: float = 2
) -> object:
    """Returns what the browser is to show for `for_s` seconds, once the selector `ready` is there, and then to save."""
    return {
        "path": str(IMAGES / name),
        "view": view,
        "ready": ready,
        "viewport": {"width": width, "height": height},
        "colorScheme": "dark" if dark else "light",
        "shown_ms": for_s * 1000,
    }


def taken(runtime: Runtime, state: Path, *pictures: object) -> None:
    """Has a browser take the pictures from the daemon of a runtime."""
    asked = {
        "base": f"http://{runtime.status().daemon.http}",
        "token": (state / "http.token").read_text().strip(),
        "executablePath": shutil.which("chromium") or shutil.which("chromium-browser"),
        "pictures": pictures,
    }
    command = [str(NODE / "bin" / "node"), "--input-type=module", "-", str(NODE / "node_modules"), json.dumps(asked)]
    subprocess.run(command, input=SCRIPT, text=True, check=True, timeout=120)


def config(folder: Path, **more: object) -> Mapping[str, object]:
    """Returns a configuration whose agents are in `folder`, and whose metrics have a point each second."""
    return {
        "daemon": {"http": "127.0.0.1:0"},
        "process": {"working_directory": str(folder)},
        "monitoring": {"metrics_interval": "1s"},
        **more,
    }


def healthy(folder: Path) -> None:
    """Takes the pictures of a daemon whose agents work, after a worker was killed and started again."""
    agents = {name: {"entrypoint": f"crew:{name}", "instances": 1} for name in ("planner", "reader", "reviewer")}
    agents["crawler"] = {"entrypoint": "crew:crawler", "instances": 4, "title": "Reads pages"}
    state = folder / "healthy"
    is_over = Event()

    def work() -> None:
        """Gives the agents tasks in waves, so that the curves of the page have a form."""
        with ThreadPoolExecutor(16) as pool:
            while not is_over.wait(1.5):
                tasks = [pool.submit(runtime.run_agent, "crawler", f"page {n}") for n in range(8)]
                tasks += [pool.submit(runtime.run_agent, name, "the week") for name in ("reader", "reviewer")]
                wait(tasks)

    with Runtime.start(config(folder, agents=agents), state) as runtime, ThreadPoolExecutor(2) as background:
        runtime.start_agents(all=True)
        task = runtime.execute_task("planner", "plan the week")
        working = [background.submit(work) for _ in range(2)]
        time.sleep(10)
        runtime.signal_agent("crawler-1", "KILL")
        taken(
            runtime,
            state,
            picture("dashboard.png", "", ".tile", width=1180, height=740, for_s=15),
            picture("dashboard-task.png", f"tasks/{task.id}", "svg"),
            picture("dashboard-agent.png", "agents/crawler", ".vrow", dark=True, for_s=10),
            picture("dashboard-phone.png", "", ".tile", width=390, height=760, for_s=10),
        )
        is_over.set()
        wait(working)


def failing(folder: Path) -> None:
    """Takes the picture of a daemon with several problems."""
    shell: dict[str, object] = {"protocol": "none"}
    agents: dict[str, object] = {
        "broken": {"command": ["sh", "-c", "echo cannot open the model: no such file >&2; exit 3"], **shell},
        "missing": {"command": ["/usr/bin/no-such-program"], **shell},
        "retrying": {
            "command": ["sh", "-c", "sleep 1.2; exit 1"],
            "recovery": {"max_restart_attempts": 1000, "restart_backoff_base": "1s"},
            **shell,
        },
        "crawler": {"entrypoint": "crew:crawler", "instances": 3},
    }
    mcp = {"servers": {"time": {"command": ["no-such-mcp-server"], "autostart": True}}}
    state = folder / "failing"
    with Runtime.start(config(folder, agents=agents, mcp=mcp), state) as runtime:
        time.sleep(25)
        taken(runtime, state, picture("dashboard-failing.png", "", ".tile"))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        Path(made, "crew.py").write_text(AGENTS)
        healthy(Path(made))
        failing(Path(made))
