"""A task of a placed agent costs the engine four steps: it is appended, taken, its end is stored, and it is removed from its queue."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from cluster_of_daemons import cluster_of, home_of, placed
from corral.supervisor.cluster.engine.local_servers import LocalServers
from daemon_process import DaemonProcess

pytestmark = pytest.mark.shell

COUNT = 20
"""Number of tasks that are counted."""

STEPS = {
    "$JS.API.CONSUMER.MSG.NEXT": "take",
    "$JS.ACK": "settle",
    "$JS.API": "read",
    "corral.tasks": "append",
    "corral.keys.results": "end",
    "corral.say": "message",
}
"""The steps by the first words of the subject of a message to NATS."""


def run_tasks(node: DaemonProcess) -> None:
    """Runs the tasks, one after the other."""
    for number in range(COUNT):
        done = node.call("task.run", agent="single", objective="x", input=number)
        assert done["output"]["input"] == number


async def steps_of_nats(servers: LocalServers, work: Callable[[], Awaitable[None]]) -> Counter[str]:
    """Returns how often each step was requested while `work` ran."""
    import nats  # noqa: PLC0415  # only where it is installed

    found: Counter[str] = Counter()

    async def note(message: Any) -> None:
        for prefix, step in STEPS.items():
            is_delivery = message.reply.startswith("$JS.ACK")  # by the server, for a take
            if message.subject.startswith(prefix) and not is_delivery:
                found[step] += 1
                return

    module: Any = nats  # its annotations are not complete
    client = await module.connect(servers.url)
    await client.subscribe(">", cb=note)
    await client.flush()
    await work()
    await client.flush()
    await client.close()
    return found


async def steps_of_redis(servers: LocalServers, work: Callable[[], Awaitable[None]]) -> Counter[str]:
    """Returns how often each step was requested while `work` ran."""
    import redis.asyncio  # noqa: PLC0415  # only where it is installed

    found: Counter[str] = Counter()
    client: Any = redis.asyncio.from_url(servers.url)
    async with client.monitor() as monitor:

        async def read() -> None:
            while True:
                seen = await monitor.next_command()
                if seen["client_type"] == "lua":
                    continue
                words = str(seen["command"]).split()
                if words[0].upper() == "XREADGROUP":
                    found["take"] += 1
                elif words[0].upper() == "PUBLISH":
                    found["message"] += 1
                elif any(each.startswith("results/") for each in words):
                    found["end" if len(words) > 4 else "read"] += 1
                elif "{corral}:seen:" in str(seen["command"]):
                    found["append"] += 1
                elif " done " in str(seen["command"]):
                    found["settle"] += 1

        reading = asyncio.create_task(read())
        await work()
        await client.ping()
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
    await client.aclose()
    return found


@pytest.mark.parametrize("kind", ["nats", "redis"])
def test_an_empty_task_costs_four_steps_of_the_engine_and_one_message_from_another_node(
    tmp_path: Path, kind: str
) -> None:
    (folder := tmp_path / "work").mkdir()
    with cluster_of(tmp_path, kind, ["one", "two"], placed(folder)) as cluster:
        steps_of = {"nats": steps_of_nats, "redis": steps_of_redis}[kind]
        first = home_of(cluster)
        for name, messages in ((first, 0), (next(n for n in cluster.nodes if n != first), COUNT)):
            node = cluster.nodes[name]
            run_tasks(node)  # the scripts are loaded, and the consumers there

            async def work(node: DaemonProcess = node) -> None:
                await asyncio.to_thread(run_tasks, node)

            found = asyncio.run(steps_of(cluster.servers, work))
            assert (found["append"], found["end"]) == (COUNT, COUNT), found
            assert found["read"] <= COUNT / 2, found  # none, but where a sign of life of the watch is late
            assert found["message"] == messages, found
            assert COUNT - 1 <= found["settle"] <= COUNT + 1, found  # of the last one it may be later
            assert found["take"] <= 3 * COUNT, found  # and some while it waits
