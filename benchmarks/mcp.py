"""How long is the way through corral to an MCP server's tool?

One tool that says what it was told, one after the other and by 64 callers at once: by the least client (pipes, asyncio,
msgspec), by our own, by the official SDK's, through the daemon from a worker, from a control connection, from `corral mcp
serve` and over HTTP, and through other gateways in front of the same server. The others are installed into a
temporary folder, or `--peers FOLDER`; with --quick only what is in that folder takes part.
"""

import argparse
import contextlib
import json
import select
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from corral.worker.client.sync import Client

sys.path.append(str(Path(__file__).parent))  # `python -P` leaves out where `bench` is
import bench
import peers
from bench import BIN, BOUND_S, PYTHON, Daemon, Measure

HERE = Path(__file__).parent

ROUNDS, ROUNDS_QUICK = 9, 2

SIZE = {"warm": 200, "one": 1000, "many": 20_000}
SIZE_SLOW = {"warm": 50, "one": 200, "many": 1000}
"""For those who need ten times as long."""
SIZE_QUICK = {"warm": 5, "one": 20, "many": 200}

ROUND_S = 120.0
"""A round of the slowest ends within this."""

ECHO = [*PYTHON, "-P", str(HERE / "echo.py")]

CONFIG = """
[daemon]
http = "127.0.0.1:{port}"
[resources]
max_tool_calls_per_task = 1_000_000
[mcp.servers.echo]
command = {echo}
concurrency = "parallel"
[agents.worker]
command = {worker}
[agents.sdk]
entrypoint = "sdk_caller:agent"
process.working_directory = "{here}"
"""

Found = dict[str, list[float]]
Round = Callable[[Mapping[str, int]], Any]
"""Makes one round of a size; returns what `calling.measured` does."""


@dataclass(frozen=True)
class Way:
    """One way to the tool."""

    name: str
    what: str
    against: str | None
    run: Round
    is_slow: bool = False

    def measures(self) -> tuple[Measure, Measure]:
        """Its two rows."""
        one, many = f"{self.name}_us", f"{self.name}_rate"
        base = self.against
        return (
            Measure(one, f"{self.what}: one call", "µs", base and f"{base}_us"),
            Measure(many, f"{self.what}: 64 at once", "/s", base and f"{base}_rate"),
        )

    def part(self, size: Mapping[str, int]) -> Found:
        """One round."""
        found = self.run(size)
        return {f"{self.name}_us": found["each_us"], f"{self.name}_rate": [found["per_s"]]}


def main() -> None:
    options = bench.arguments(__doc__ or "", _add_options)
    rounds = ROUNDS_QUICK if options.quick else ROUNDS
    machine = bench.Machine()
    with bench.folder() as folder, contextlib.ExitStack() as stack:
        ways = [*_clients(stack), *_through_corral(stack, folder / "daemon")]
        where = options.peers or (None if options.quick else folder / "peers")
        if where is not None:
            ways += _through_others(stack, where, folder)

        def part(way: Way) -> Callable[[], Found]:
            size = SIZE_QUICK if options.quick else SIZE_SLOW if way.is_slow else SIZE
            return lambda: way.part(size)

        taken = bench.interleaved(rounds, [part(way) for way in ways])
    # All of the first kind, then all of the second.
    ones, many = zip(*(way.measures() for way in ways), strict=True)
    bench.report("mcp", [*ones, *many], taken, machine, options)


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--peers", metavar="FOLDER", type=Path, help="where other gateways are, or are put and kept")


class Caller:
    """A process of callers.py, which makes a round for each line that it is sent; a `with` ends it."""

    def __init__(self, kind: str, *arguments: str) -> None:
        self._process = subprocess.Popen(
            [*PYTHON, "-P", str(HERE / "callers.py"), kind, *arguments],
            env=peers.environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        try:
            assert self._line() == b"ready\n"
        except BaseException:
            self.__exit__(None, None, None)
            raise

    def run(self, size: Mapping[str, int]) -> Any:  # Any: JSON
        """One round."""
        assert self._process.stdin is not None, "asked for"
        self._process.stdin.write(json.dumps(dict(size)).encode() + b"\n")
        self._process.stdin.flush()
        return json.loads(self._line())

    def _line(self) -> bytes:
        assert self._process.stdout is not None, "asked for"
        ready, _, _ = select.select([self._process.stdout], [], [], ROUND_S)
        line = self._process.stdout.readline() if ready else b""
        assert line, f"{self._process.args!r} has ended, or does not answer"
        return line

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None, "asked for"
            pipe.close()
        self._process.terminate()
        self._process.wait(BOUND_S)


def _clients(stack: contextlib.ExitStack) -> list[Way]:
    """Those that start the server themselves, with nobody between."""

    def caller(*arguments: str) -> Round:
        return stack.enter_context(Caller(*arguments)).run

    return [
        Way("raw", "the least client", None, caller("raw", "echo", *ECHO)),
        Way("plain", "the same on asyncio's own loop", "raw", caller("plain", "echo", *ECHO)),
        Way("session", "corral's client", "raw", caller("session", *ECHO)),
        Way("sdk", "the official SDK's client", "raw", caller("sdk", *ECHO), is_slow=True),
    ]


def _through_corral(stack: contextlib.ExitStack, where: Path) -> list[Way]:
    """All of one daemon."""
    port = peers.free_port()
    worker = [*PYTHON, "-P", str(HERE / "callers.py"), "worker"]
    config = CONFIG.format(port=port, echo=json.dumps(ECHO), worker=json.dumps(worker), here=HERE)
    daemon = stack.enter_context(Daemon(where, config))
    daemon.await_ready()
    client = stack.enter_context(Client(daemon.socket))

    def task(agent: str) -> Round:
        def run(size: Mapping[str, int]) -> Any:  # Any: JSON
            asked = {"agent": agent, "objective": "a round", "input": dict(size)}
            done: Any = client.call("task.run", asked, timeout_s=ROUND_S)
            assert done["state"] == "succeeded", done
            return done["output"]

        return run

    def caller(*arguments: str) -> Round:
        return stack.enter_context(Caller(*arguments)).run

    serve = [str(BIN / "corral"), "--socket", daemon.socket, "mcp", "serve"]
    token = f"Authorization: Bearer {(where / 'state' / TOKEN).read_text().strip()}"
    return [
        Way("worker", "corral, from a worker", "raw", task("worker")),
        Way("agent", "corral, from an agent of the SDK", "raw", task("sdk")),
        Way("control", "corral, `mcp.call`", "raw", caller("control", daemon.socket)),
        Way("serve", "corral, `corral mcp serve`", "raw", caller("raw", "echo__echo", *serve)),
        Way("http", "corral, HTTP", "raw", caller("http", "echo__echo", str(port), "/mcp", token)),
    ]


TOKEN = "http.token"


def _through_others(stack: contextlib.ExitStack, where: Path, folder: Path) -> list[Way]:
    """Others in front of the same server, each with the client that suits it best."""
    found: list[Way] = []

    def over_http(name: str, what: str, port: int, command: list[str]) -> None:
        stack.enter_context(peers.listening(port, command, folder / f"{name}.log"))
        run = stack.enter_context(Caller("http", "echo", str(port), "/mcp")).run
        found.append(Way(name, what, "http", run, is_slow=True))

    programs = peers.from_pypi(where, "fastmcp")
    if programs is not None:
        command = [str(programs / "python"), "-c", peers.FASTMCP, *ECHO]
        run = stack.enter_context(Caller("raw", "echo", *command)).run
        found.append(Way("fastmcp", "FastMCP's proxy", "serve", run, is_slow=True))
    programs = peers.from_pypi(where, "mcp-proxy")
    if programs is not None:
        port = peers.free_port()
        command = [str(programs / "mcp-proxy"), "--port", str(port), "--log-level=ERROR", "--", *ECHO]
        over_http("mcp_proxy", "mcp-proxy, HTTP", port, command)
    programs = peers.from_npm(where, "supergateway")
    if programs is not None:
        port = peers.free_port()
        shape = ["--outputTransport", "streamableHttp", "--stateful", "--logLevel", "none"]
        server = ["--stdio", shlex.join(ECHO), "--port", str(port)]
        command = [str(programs / "supergateway"), *server, *shape]
        over_http("supergateway", "supergateway, HTTP", port, command)
    return found


if __name__ == "__main__":
    main()
