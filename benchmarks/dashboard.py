"""What does an open dashboard cost the daemon, and how soon is an event on the screen?

One daemon with many workers that do nothing, and a real Chromium (playwright-core from npm, as in the tests) with one page. The processor
time and the memory are those of corrald alone, without and with the page, in alternation. An event is published over the socket; its
latency ends with the second frame after the page has drawn it: both clocks are those of this machine, and events are stamped in milliseconds.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from corral.worker.client.sync import Client

sys.path.append(str(Path(__file__).parent))  # `python -P` leaves out where `bench` is
import bench
from bench import Daemon, Measure


@dataclass(frozen=True)
class Size:
    """How much of everything."""

    rounds: int
    workers: int
    watch_s: float
    events: int


WHOLE = Size(rounds=3, workers=1000, watch_s=15.0, events=200)
QUICK = Size(rounds=1, workers=10, watch_s=1.0, events=5)

GAP_S = 0.04
"""Seconds between two events: not one for each message of the stream."""

SETTLE_S = 3.0

CONFIG = """
process.max_concurrent_processes = {workers}
daemon.http = "127.0.0.1:0"

[agents.crowd]
command = ["sleep", "inf"]
protocol = "none"
instances = {workers}
"""

MODULES = Path(sys.prefix) / "node" / "node_modules"

SCRIPT = """
import { createRequire } from "node:module";
import { createInterface } from "node:readline";
const [modules, executablePath, url, token, view] = process.argv.slice(1);
const { chromium } = createRequire(`${modules}/`)("playwright-core");
const browser = await chromium.launch({ executablePath, args: ["--no-sandbox", "--disable-dev-shm-usage"] });
const page = await browser.newPage({ viewport: { width: 1440, height: 900 } });
await page.goto(url);
await page.fill("#token", token);
await page.click("button[type=submit]");
await page.waitForSelector("#live[data-live=yes]");
await page.evaluate(async (view) => {
  location.hash = view;
  window.late = [];
  const { onEvents } = await import("/dashboard/parts/model.js");
  onEvents((events) => requestAnimationFrame(() => requestAnimationFrame(() => {
    for (const event of events) if (event.type === "bench.tick") window.late.push(Date.now() - Date.parse(event.at));
  })));
}, view);
await page.waitForSelector(".vrow");
console.log("open");
for await (const line of createInterface({ input: process.stdin })) {
  if (line === "end") break;
  await page.waitForFunction((count) => window.late.length >= count, Number(line));
  console.log(JSON.stringify(await page.evaluate(() => window.late.splice(0))));
}
await browser.close();
process.exit(0);
"""


def chromium() -> str | None:
    """The program, where there is one that can be used."""
    if not (MODULES / "playwright-core").is_dir():
        return None
    return shutil.which("chromium") or shutil.which("chromium-browser")


class Page:
    """A page that is open in Chromium; a `with` closes it."""

    def __init__(self, program: str, url: str, token: str, view: str) -> None:
        node = str(MODULES.parent / "bin" / "node")
        command = [node, "--input-type=module", "-e", SCRIPT, str(MODULES), program]
        self._process = subprocess.Popen(
            [*command, url, token, view], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._out.readline() == "open\n", "the page did not open"

    @property
    def _out(self) -> IO[str]:
        assert self._process.stdout is not None, "it is a pipe"
        return self._process.stdout

    def latencies(self, count: int) -> list[float]:
        """The latencies of the next `count` events, in ms."""
        self._say(str(count))
        return [float(value) for value in json.loads(self._out.readline())]

    def _say(self, line: str) -> None:
        assert self._process.stdin is not None, "it is a pipe"
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()

    def __enter__(self) -> "Page":
        return self

    def __exit__(self, *_: object) -> None:
        self._say("end")
        self._process.wait(bench.BOUND_S)
        self._out.close()


def watched(daemon: Daemon, name: str, watch_s: float) -> dict[str, list[float]]:
    """The processor time, in percent of one processor, and the memory of the daemon."""
    time.sleep(min(SETTLE_S, watch_s))
    before, began = bench.cpu_s(daemon.process.pid), time.perf_counter()
    time.sleep(watch_s)
    used_s = bench.cpu_s(daemon.process.pid) - before
    rss, _ = bench.memory_mb(daemon.process.pid)
    percent = 100 * used_s / (time.perf_counter() - began)
    return {f"{name}_cpu": [percent], f"{name}_rss": [rss]}


def ticks(daemon: Daemon, page: Page, count: int) -> list[float]:
    """The latencies of events that are published one after the other."""
    with Client(daemon.socket) as client:
        for number in range(count):
            params = {"type": "bench.tick", "data": number}
            client.call("event.publish", params, timeout_s=bench.BOUND_S)
            time.sleep(GAP_S)
    return page.latencies(count)


def measures(size: Size, with_page: bool) -> list[Measure]:
    """The rows."""
    n = f"{size.workers:,} workers"
    found = [
        Measure("none_cpu", f"CPU of corrald with {n}, no page open", "%"),
        Measure("none_rss", f"RSS of corrald with {n}, no page open", "MB"),
    ]
    if with_page:
        found += [
            Measure("open_cpu", "the same CPU, one page open", "%"),
            Measure("open_rss", "the same RSS, one page open", "MB", "none_rss"),
            Measure("pixel", "an event to the screen", "ms"),
        ]
    return found


def main() -> None:
    """Takes the figures and reports them."""
    options = bench.arguments(__doc__ or "")
    size = QUICK if options.quick else WHOLE
    machine = bench.Machine()
    program = chromium()
    notes = [] if program else ["open_cpu: there is no Chromium, or no playwright-core"]
    with bench.folder() as folder:
        daemon = Daemon(folder / "daemon", CONFIG.format(workers=size.workers))
        daemon.await_ready()
        with Client(daemon.socket) as client:
            status: Any = client.call("daemon.status", timeout_s=bench.BOUND_S)
        url = f"http://{status['daemon']['http']}/"
        token = (folder / "daemon" / "state" / "http.token").read_text().strip()

        def without() -> dict[str, list[float]]:
            return watched(daemon, "none", size.watch_s)

        def opened() -> dict[str, list[float]]:
            assert program is not None, "else this is no part"
            with Page(program, url, token, "#/events") as page:
                found = watched(daemon, "open", size.watch_s)
                return {**found, "pixel": ticks(daemon, page, size.events)}

        parts = [without, opened] if program else [without]
        rounds = bench.interleaved(size.rounds, parts)
        daemon.stop_ms()
    bench.report("dashboard", measures(size, program is not None), rounds, machine, options, notes)


if __name__ == "__main__":
    os.umask(0o022)
    main()
