"""Whoever calls the tool in benchmarks/mcp.py: `callers.py KIND ARGUMENT…`, one process each.

For each line on stdin, the size of a round as JSON, one line of figures goes to stdout. `worker` is no such program but a
worker of a daemon without the SDK, and `agent` one with it: theirs come and go with a task.
"""

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any

import msgspec
import uvloop

sys.path.append(str(Path(__file__).parent))  # `python -P` leaves out where `calling` is
from calling import ARGUMENTS, HELLO, Call, Http, Raw, encode, measured

BEAT_S = 5.0

TOOL = "echo__echo"
"""Under the name by which corral offers it."""


@contextlib.contextmanager
def started(command: list[str]) -> Any:  # a generator of the process and our ends of its pipes
    """A server's process; it has gone afterwards."""
    read_fd, its_stdout = os.pipe()
    its_stdin, write_fd = os.pipe()
    with subprocess.Popen(command, stdin=its_stdin, stdout=its_stdout) as process:
        os.close(its_stdin)
        os.close(its_stdout)
        try:
            yield read_fd, write_fd
        finally:
            process.kill()


@contextlib.asynccontextmanager
async def raw(tool: str, *command: str) -> AsyncGenerator[Call, None]:
    """The least: pipes, asyncio, msgspec. Before a gateway it makes the gateway's figures its own."""
    with started([*command]) as fds:
        client = await Raw.over_pipes(*fds)
        await client.request("initialize", HELLO)
        client.notify("notifications/initialized")
        params = {"name": tool, "arguments": ARGUMENTS}
        yield lambda: client.request("tools/call", params)


@contextlib.asynccontextmanager
async def session(*command: str) -> AsyncGenerator[Call, None]:
    """Our own client."""
    from corral.mcp.upstream.session import Listener, Session, Terms  # noqa: PLC0415  the others need not have it

    with started([*command]) as fds:
        ours = Session("echo", Terms(30), Listener())
        await ours.open(*fds, timeout_s=30)
        params = {"name": "echo", "arguments": ARGUMENTS}
        yield lambda: ours.request("tools/call", params)
        ours.close()


@contextlib.asynccontextmanager
async def control(path: str) -> AsyncGenerator[Call, None]:
    """One connection to the daemon's socket, as the `corral` command has."""
    client = await Raw.over_socket(path)
    params = {"name": TOOL, "arguments": ARGUMENTS}
    yield lambda: client.request("mcp.call", params)


@contextlib.asynccontextmanager
async def http(tool: str, port: str, path: str, *headers: str) -> AsyncGenerator[Call, None]:
    """Streamable HTTP."""
    client = Http(int(port), path, dict(each.split(": ", 1) for each in headers))
    await client.open()
    params = {"name": tool, "arguments": ARGUMENTS}
    yield lambda: client.request("tools/call", params)


@contextlib.asynccontextmanager
async def sdk(*command: str) -> AsyncGenerator[Call, None]:
    """The official SDK's client."""
    from mcp.client.stdio import stdio_client  # noqa: PLC0415  as above

    from mcp import ClientSession, StdioServerParameters  # noqa: PLC0415  only this one has it

    server = StdioServerParameters(command=command[0], args=[*command[1:]])
    async with stdio_client(server) as streams, ClientSession(*streams) as theirs:
        await theirs.initialize()
        yield lambda: theirs.call_tool("echo", dict(ARGUMENTS))


KINDS: dict[str, Callable[..., Any]] = {
    "raw": raw,
    "plain": raw,
    "session": session,
    "control": control,
    "http": http,
    "sdk": sdk,
}


async def serve(kind: str, *arguments: str) -> None:
    """Measures a round whenever it is told to."""
    loop = asyncio.get_running_loop()
    async with KINDS[kind](*arguments) as call:
        print("ready", flush=True)
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            print(encode(await measured(call, msgspec.json.decode(line))).decode(), flush=True)


async def work() -> None:
    """A worker that speaks corral's protocol by itself, as little of it as it needs."""

    async def answer(message: Any) -> object:
        if message["method"] == "initialize":
            return {"protocolVersion": "1", "name": "worker", "version": "1", "capabilities": []}
        if message["method"] != "task/run":
            return {}
        params = {"name": TOOL, "arguments": ARGUMENTS, "task": message["params"]["task"]}
        call = lambda: client.request("tools/call", params)  # noqa: E731  one line of use
        return {"output": await measured(call, message["params"]["input"])}

    client = await Raw.over_pipes(os.dup(0), os.dup(1), on_request=answer)
    while not client.ended.is_set():
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(client.ended.wait(), BEAT_S)
        client.notify("heartbeat")


if __name__ == "__main__":
    run = asyncio.run if sys.argv[1] == "plain" else uvloop.run
    run(work() if sys.argv[1] == "worker" else serve(*sys.argv[1:]))
