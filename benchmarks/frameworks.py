"""What do thirty agents of a framework take until all are Ready: each with imports of its own, all with one set of imports?

Each agent names the graph of examples/frameworks/langgraph_agent.py, and has one worker. Apart: each has a zygote of its own, which imports it. Shared: `preload = ["langgraph.graph", …]`, so that one process imports
it for all. Counted is the PSS of corrald and all processes below it, and how many there are.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.append(str(Path(__file__).parent))  # `python -P` leaves out where `bench` is
import bench
from bench import Daemon, Measure

ROUNDS = 3
AGENTS, AGENTS_QUICK = 30, 2
EXAMPLES = Path(__file__).parents[1] / "examples" / "frameworks"
SETTLE_S = 1.0
"""Between the last Ready and a look at the memory."""

WAYS = {
    "apart": "",
    "shared": 'preload = ["langgraph.graph", "langgraph.prebuilt", "corral.worker.adapters.langgraph"]',
}

CONFIG = """
[agents.graph{number}]
entrypoint = "langgraph_agent:graph"
process.working_directory = "{folder}"
process.spawn_timeout = "300s"
{way}
"""

Found = dict[str, list[float]]


def main() -> None:
    options = bench.arguments(__doc__ or "")
    machine = bench.Machine()
    count = AGENTS_QUICK if options.quick else AGENTS
    with bench.folder() as folder:
        parts: list[Callable[[], Found]] = [lambda way=way: _ready(folder, way, count) for way in WAYS]
        taken = bench.interleaved(1 if options.quick else ROUNDS, parts)
    bench.report("frameworks", _measures(count), taken, machine, options)


def _measures(count: int) -> list[Measure]:
    rows: list[Measure] = []
    for way in WAYS:
        text = f"{count} agents of LangGraph, {way}"
        rows += [
            Measure(f"{way}_s", f"{text}: until all are Ready", "s", None if way == "apart" else "apart_s"),
            Measure(f"{way}_mb", f"{text}: memory", "MB", None if way == "apart" else "apart_mb"),
            Measure(f"{way}_count", f"{text}: corrald and below", "processes"),
        ]
    return rows


def _ready(folder: Path, way: str, count: int) -> Found:
    config = "mcp.servers.cortex.disabled = true\n" + "".join(
        CONFIG.format(number=number, folder=EXAMPLES, way=WAYS[way]) for number in range(count)
    )
    with Daemon(folder / way, config) as daemon:
        took_ms = daemon.await_ready()
        time.sleep(SETTLE_S)
        mb, processes = _tree(daemon.process.pid)
        return {f"{way}_s": [took_ms / 1000], f"{way}_mb": [mb], f"{way}_count": [processes]}


def _tree(pid: int) -> tuple[float, int]:
    """PSS in MB, and the number of processes, of one and all that it has started."""
    below = [_tree(child) for child in bench.children(pid)]
    return bench.memory_mb(pid)[1] + sum(mb for mb, _ in below), 1 + sum(n for _, n in below)


if __name__ == "__main__":
    main()
