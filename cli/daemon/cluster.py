"""Implements `corral cluster`: starts an engine on this machine for a first try, and checks one that is there."""

import asyncio
import contextlib
import os
import signal
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import click

from corral.worker.contract.errors import SpawnFailed

from ..context import CommandGroup, Session, admit_msgspec, option

if TYPE_CHECKING:
    from corral.supervisor.cluster.engine.interface import Engine
    from corral.supervisor.cluster.engine.local_servers import LocalServers
    from corral.supervisor.cluster.lease.local_nodes import LocalNodes
    from corral.supervisor.config.declared.cluster import ClusterSettings

RESTART_S = 5.0
"""Seconds after which a node or server that has ended starts again: longer than a lease, so that its agents move."""

ENDS_MAX, ENDS_S = 3, 60.0
"""Number of ends of one program within so many seconds that ends all."""

ROUNDS = 20
"""Number of times that each operation is measured."""

END_SIGNALS = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
SIGNALS = END_SIGNALS | {signal.SIGCHLD}


class _Program(NamedTuple):
    """Represents a node or a server: `poll` returns its status once it has ended, `start` starts it again."""

    name: str
    log: Path
    poll: Callable[[], int | None]
    start: Callable[[], None]


cluster = CommandGroup("cluster", help="Start and check the engine of a cluster.")


@cluster.define("dev")
@option("--engine", "Which engine to start.", type=click.Choice(["nats", "redis"]), default="nats")
@option("--servers", "Number of servers: 1 or 3; Redis has 1.", type=click.IntRange(1, 3), default=1)
@option("--folder DIR", "Keep its store and logs there; else they are removed at the end.")
@option("--nodes", "Number of daemons; 0 starts none.", type=click.IntRange(0, 16), default=3)
@option(
    "--config FILE",
    "A configuration that each daemon includes, such as one with placed agents.",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
)
@option("--sync", "Write to the disk before each confirmation.")
def dev(
    session: Session,
    engine: Literal["nats", "redis"],
    servers: int,
    folder: str | None,
    nodes: int,
    config: Path | None,
    sync: bool,
) -> None:
    """Run an engine and daemons that use it on this machine until Ctrl-C.

    They listen on the loopback address alone, and end with this command, however that ends. One that ends by itself starts again
    after 5 s. It is for trials and tests: everything is on one disk.
    """
    from corral.supervisor.cluster.engine.local_servers import LocalServers  # noqa: PLC0415  # only for this command

    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    fsync: Literal["always", "usual"] = "always" if sync else "usual"
    from corral.supervisor.cluster.lease.local_nodes import LocalNodes  # noqa: PLC0415  # only for this command

    include = None if config is None else config.absolute()
    with contextlib.ExitStack() as stack:
        if folder is None:
            place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="corral-cluster-")))
        else:
            place = Path(folder).absolute()
        running = stack.enter_context(LocalServers(engine, servers, place, fsync=fsync))
        _serve(session, running, stack.enter_context(LocalNodes(engine, running.url, nodes, place, include)))


def _serve(session: Session, running: "LocalServers", daemons: "LocalNodes") -> None:
    pids = {number: process.pid for number, process in running.processes.items()}
    if session.json:
        session.print_json(
            {
                "engine": running.kind,
                "url": running.url,
                "folder": str(running.folder),
                "pids": list(pids.values()),
                "nodes": daemons.sockets,
            }
        )
    else:
        session.print(f'[cluster]\nengine = "{running.kind}"\nurl = "{running.url}"')
        many = "1 server" if running.count == 1 else f"{running.count} servers"
        for name, socket in daemons.sockets.items():
            session.print(f"# {name}: corral --socket {socket} nodes")
        session.note(f"{many} in {running.folder}; Ctrl-C ends them")
    _run(session, [*_servers(running), *_nodes(daemons)])


def _servers(running: "LocalServers") -> Iterator[_Program]:
    for number in running.processes:
        log = running.folder / f"{running.kind}-{number}" / "log"

        def start(number: int = number) -> None:
            running.start(number)
            running.wait(number)

        yield _Program(f"{running.kind} server {number}", log, partial(_status, running, number), start)


def _nodes(daemons: "LocalNodes") -> Iterator[_Program]:
    for name, folder in daemons.folders.items():
        yield _Program(name, folder / "corrald.log", partial(_status, daemons, name), partial(daemons.start, name))


def _status(programs: "LocalServers | LocalNodes", key: Any) -> int | None:  # Any: a number or a name
    """Returns the status with which a program has ended; None while it runs."""
    return programs.processes[key].poll()


def _run(session: Session, programs: Sequence[_Program]) -> None:
    due: dict[str, float] = {}
    ends = {each.name: deque[float](maxlen=ENDS_MAX) for each in programs}
    while True:
        wait_s = max(0.0, min(due.values()) - time.monotonic()) if due else None
        got = signal.sigwaitinfo(SIGNALS) if wait_s is None else signal.sigtimedwait(SIGNALS, wait_s)
        if got is not None and got.si_signo in END_SIGNALS:
            return
        for each in programs:
            now = time.monotonic()
            if each.name in due:
                if due[each.name] <= now:
                    del due[each.name]
                    each.start()
                    session.note(f"{each.name} runs again")
                continue
            if (status := each.poll()) is None:
                continue
            ends[each.name].append(now)
            if len(ends[each.name]) == ENDS_MAX and ends[each.name][0] > now - ENDS_S:
                raise SpawnFailed(
                    f"cannot go on: {each.name} ended {ENDS_MAX} times within {ENDS_S:.0f} s, the last time"
                    f" with {status}; see {each.log}",
                    result="exit",
                    status=status,
                )
            due[each.name] = now + RESTART_S
            session.note(f"{each.name} ended with {status}; it starts again in {RESTART_S:.0f} s")


@cluster.define("check")
@click.argument("url", metavar="URL")
def check(session: Session, url: str) -> None:
    """Test the engine at URL, and print its weaknesses.

    URL is the value of `[cluster] url`. A token is taken from $CORRAL_ENGINE_TOKEN. The keys and queues of the test are removed.
    """
    admit_msgspec()
    operations, weaknesses = asyncio.run(_check(_settings(url)))
    if session.printed_json({"operations_ms": operations, "weaknesses": list(weaknesses)}):
        return
    session.print_table(("OPERATION", "MEDIAN"), [[name, f"{ms:.2f} ms"] for name, ms in operations.items()])
    for line in weaknesses:
        session.print_line(f"! {line}")


def _settings(url: str) -> "ClusterSettings":
    from corral.supervisor.config.declared.cluster import decode_cluster  # noqa: PLC0415  # only for this command
    from corral.supervisor.config.decoding.decoder import Document  # noqa: PLC0415

    table: dict[str, object] = {"url": url, "engine": "redis" if "redis" in url.partition(":")[0] else "nats"}
    if token := os.environ.get("CORRAL_ENGINE_TOKEN"):
        table["token"] = token
    return decode_cluster(Document("the command line", ""), table)


async def _check(settings: "ClusterSettings") -> tuple[dict[str, float], tuple[str, ...]]:
    """Returns the median time of operations in milliseconds, and what the engine cannot promise."""
    from corral.supervisor.cluster.engine.connection import open_engine  # noqa: PLC0415  # only for this command

    engine = await open_engine(settings, start_s=5.0)
    try:
        return await _tried(engine), await engine.weaknesses()
    finally:
        await engine.close()


async def _tried(engine: "Engine") -> dict[str, float]:
    """Measures operations on a key and a queue of this process, and removes the key."""
    name = f"check/{os.getpid()}-{time.time_ns()}"
    times: dict[str, list[float]] = {"put": [], "get": [], "append": [], "take and settle": []}
    revision = 0
    for number in range(ROUNDS):
        began = time.perf_counter()
        revision = await engine.put(name, b"x", revision=revision, ttl_s=60)
        times["put"].append(time.perf_counter() - began)
        began = time.perf_counter()
        await engine.get(name)
        times["get"].append(time.perf_counter() - began)
        began = time.perf_counter()
        await engine.append("check", f"{name}/{number}", b"x")
        times["append"].append(time.perf_counter() - began)
        began = time.perf_counter()
        for taken in await engine.take("check", 2.0):
            await engine.settle(taken, "done")
        times["take and settle"].append(time.perf_counter() - began)
    await engine.put(name, None, revision=revision)
    return {key: sorted(found)[len(found) // 2] * 1000 for key, found in times.items()}
