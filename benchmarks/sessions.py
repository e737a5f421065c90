"""What memory do the MCP servers of ten editor sessions take: private copies of each, and one pool for all?

Five servers that many have: everything, memory and filesystem from npm, time and git from PyPI. Each session greets its
servers, lists their tools and calls one of each. Private: it starts all five. corral: it starts one `corral mcp serve`. Counted is the
PSS of all processes below the benchmark's, daemon and launcher included, and how many there are.
"""

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parent))  # `python -P` leaves out where `bench` is
import bench
import peers
from bench import BIN, PYTHON, Daemon, Measure
from calling import HELLO

ROUNDS = 3
SESSIONS, SESSIONS_QUICK = (1, 10), (2,)
CORTEX = "mcp.servers.cortex.disabled = true\n"
"""It would be a sixth server, which nobody has a private copy of."""

SETTLE_S = 0.5
"""Between the last answer and a look at the memory."""


@dataclass(frozen=True)
class Server:
    """One server, and a tool of it that changes nothing."""

    name: str
    command: list[str]
    tool: str
    arguments: Mapping[str, object]


Found = dict[str, list[float]]


def main() -> None:
    options = bench.arguments(__doc__ or "")
    machine = bench.Machine()
    counts = SESSIONS_QUICK if options.quick else SESSIONS
    with bench.folder() as folder:
        servers = _servers(folder)
        if options.quick:
            servers = servers[-3:-1]
        parts: list[Callable[[], Found]] = []
        for count in counts:
            parts.append(lambda count=count: _private(servers, count))
            parts.append(lambda count=count: _pooled(folder, servers, count))
        if not options.quick:
            bench.interleaved(1, parts[:2])  # fills the page cache
        taken = bench.interleaved(1 if options.quick else ROUNDS, parts)
    bench.report("sessions", _measures(counts, len(servers)), taken, machine, options)


def _measures(counts: Sequence[int], servers: int) -> list[Measure]:
    rows: list[Measure] = []
    for count in counts:
        whose = f"{count} session{'s' if count > 1 else ''} of {servers} servers"
        private, pooled = f"private_{count}", f"corral_{count}"
        rows += [
            Measure(private, f"{whose}: private copies", "MB"),
            Measure(pooled, f"{whose}: corral, all of it", "MB", private),
            Measure(f"{pooled}_daemon", f"{whose}: corral, corrald and launcher", "MB"),
            Measure(f"{pooled}_serve", f"{whose}: corral, each `corral mcp serve`", "MB"),
            Measure(f"{private}_count", f"{whose}: private copies", "processes"),
            Measure(f"{pooled}_count", f"{whose}: corral", "processes", f"{private}_count"),
        ]
    return rows


def _servers(folder: Path) -> list[Server]:
    """Those of npm only where `make test` has installed them; the last three are one of npm and those of PyPI."""
    subprocess.run(["git", "init", "-q", str(folder / "repository")], check=True)
    (folder / "files").mkdir()
    found = [
        Server("time", [*PYTHON, "-m", "mcp_server_time"], "get_current_time", {"timezone": "UTC"}),
        Server("git", [*PYTHON, "-m", "mcp_server_git"], "git_status", {"repo_path": str(folder / "repository")}),
    ]
    programs = peers.NODE_FOLDER / "node_modules" / ".bin"
    if not programs.is_dir():
        print("no npm packages: their three servers are left out", file=sys.stderr)
        return found

    def of_npm(name: str, tool: str, arguments: Mapping[str, object], *more: str) -> Server:
        node = str(peers.NODE_FOLDER / "bin" / "node")
        command = [node, str(programs / f"mcp-server-{name}"), *more]
        return Server(name, command, tool, arguments)

    files = str(folder / "files")
    return [
        of_npm("everything", "echo", {"message": "moo"}),
        of_npm("memory", "read_graph", {}),
        of_npm("filesystem", "list_directory", {"path": files}, files),
        *found,
    ]


class Client:
    """An editor's connection to one server, which it has started; a `with` ends both."""

    def __init__(self, command: Sequence[str]) -> None:
        self.process = subprocess.Popen(
            command, env=peers.environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        self._last_id = 0
        self._send("initialize", HELLO)

    def use(self, tools: Mapping[str, Mapping[str, object]]) -> None:
        """Greets it, lists its tools, and calls some."""
        self._receive()
        self._tell("notifications/initialized")
        self._send("tools/list", {})
        listed = {tool["name"] for tool in self._receive()["tools"]}
        assert tools.keys() <= listed, listed
        for name, arguments in tools.items():
            self._send("tools/call", {"name": name, "arguments": arguments})
            result = self._receive()
            assert not result.get("isError"), result

    def _send(self, method: str, params: Mapping[str, object]) -> None:
        self._last_id += 1
        self._tell(method, id=self._last_id, params=params)

    def _tell(self, method: str, **more: object) -> None:
        assert self.process.stdin is not None, "asked for"
        said = {"jsonrpc": "2.0", "method": method, **more}
        self.process.stdin.write(json.dumps(said).encode() + b"\n")
        self.process.stdin.flush()

    def _receive(self) -> Any:  # Any: JSON
        """The result of what was sent last."""
        assert self.process.stdout is not None, "asked for"
        for line in self.process.stdout:
            message = json.loads(line)
            if message.get("id") == self._last_id and "method" not in message:
                assert "result" in message, message
                return message["result"]
        raise AssertionError(f"{self.process.args!r} has ended")

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None, "asked for"
            pipe.close()
        self.process.terminate()
        self.process.wait(bench.BOUND_S)


def _private(servers: Sequence[Server], count: int) -> Found:
    with contextlib.ExitStack() as stack:
        clients = [(server, stack.enter_context(Client(server.command))) for _ in range(count) for server in servers]
        for server, client in clients:
            client.use({server.tool: server.arguments})
        time.sleep(SETTLE_S)
        trees = [_tree(client.process.pid) for _, client in clients]
        name = f"private_{count}"
        return {name: [sum(mb for mb, _ in trees)], f"{name}_count": [sum(n for _, n in trees)]}


def _pooled(folder: Path, servers: Sequence[Server], count: int) -> Found:
    config = CORTEX + "\n".join(
        f"[mcp.servers.{server.name}]\ncommand = {json.dumps(server.command)}" for server in servers
    )
    tools = {f"{server.name}__{server.tool}": server.arguments for server in servers}
    with Daemon(folder / "daemon", config) as daemon, contextlib.ExitStack() as stack:
        serve = [str(BIN / "corral"), "--socket", daemon.socket, "mcp", "serve"]
        clients = [stack.enter_context(Client(serve)) for _ in range(count)]
        for client in clients:
            client.use(tools)
        time.sleep(SETTLE_S)
        own_mb = [bench.memory_mb(pid)[1] for pid in (daemon.process.pid, daemon.launcher)]
        serves = [_tree(client.process.pid) for client in clients]
        whole_mb, processes = _tree(daemon.process.pid)
        name = f"corral_{count}"
        return {
            name: [whole_mb + sum(mb for mb, _ in serves)],
            f"{name}_count": [processes + sum(n for _, n in serves)],
            f"{name}_daemon": [sum(own_mb)],
            f"{name}_serve": [mb for mb, _ in serves],
        }


def _tree(pid: int) -> tuple[float, int]:
    """PSS in MB, and the number of processes, of one and all that it has started."""
    below = [_tree(child) for child in bench.children(pid)]
    return bench.memory_mb(pid)[1] + sum(mb for mb, _ in below), 1 + sum(n for _, n in below)


if __name__ == "__main__":
    main()
