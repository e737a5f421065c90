"""The MCP servers that people use most, as npm and PyPI have them, all under one daemon.

Each has a life of its own, and all lives are lived at once, for a start takes most of a second of processor time: it is
listed, called, killed, called again, restarted, called once more, and stopped. Each test looks at one of them.
"""

import http.server
import json
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from corral.worker.contract.errors import Timeout
from daemon_process import BOUND_S, DaemonProcess, marked, until
from node_packages import needs_npm, npm_program, npx_command, npx_environment

PAGE = b"<html><head><title>Page</title></head><body><article><h1>Corral</h1><p>a fenced place for animals</p></article></body></html>"

WRITES = 40


@dataclass(frozen=True)
class Server:
    """How one is started, and what is asked of it; `{folder}` is a folder of its own, `{page}` the test's web page."""

    command: list[str]
    tool: str
    arguments: Mapping[str, object]
    answers: str
    """What its answer contains."""
    options: Mapping[str, object] = field(default_factory=dict[str, object])
    environment: Mapping[str, str] = field(default_factory=dict[str, str])


ECHO = ("echo", {"message": "moo"}, "moo")

NPM = {
    "everything": Server(npm_program("mcp-server-everything"), *ECHO),
    "by-npx": Server(npx_command("mcp-server-everything"), *ECHO),
    "memory": Server(
        npm_program("mcp-server-memory"),
        "read_graph",
        {},
        "entities",
        environment={"MEMORY_FILE_PATH": "{folder}/memory.json"},
    ),
    "filesystem": Server(
        npm_program("mcp-server-filesystem", "{folder}"), "read_text_file", {"path": "{folder}/hay"}, "a needle"
    ),
    "thinking": Server(
        npm_program("mcp-server-sequential-thinking"),
        "sequentialthinking",
        {"thought": "hm", "thoughtNumber": 1, "totalThoughts": 2, "nextThoughtNeeded": True},
        '"thoughtNumber": 1',
    ),
}

PYPI = {
    "time": Server(
        [sys.executable, "-m", "mcp_server_time"],
        "convert_time",
        {"source_timezone": "UTC", "time": "12:00", "target_timezone": "Asia/Tokyo"},
        "+9.0h",
    ),
    "git": Server([sys.executable, "-m", "mcp_server_git"], "git_log", {"repo_path": "{folder}"}, "the first change"),
    "fetch": Server(
        [sys.executable, "-m", "mcp_server_fetch", "--allow-private-ips"],
        "fetch",
        {"url": "{page}"},
        "a fenced place for animals",
        environment={"PATH": "/nowhere"},  # where it finds a node, it has npm install packages
    ),
}

SERVERS = NPM | PYPI

ODDITIES = {
    # It asks for the client's roots as soon as it may, and does not end while that is unanswered.
    "asking": Server(npm_program("mcp-server-everything"), *ECHO, options={"relays": ["roots"]}),
    "graph": Server(
        npm_program("mcp-server-memory"),
        "read_graph",
        {},
        "entities",
        environment={"MEMORY_FILE_PATH": "{folder}/graph.json"},
    ),
}

NAMES = [pytest.param(name, marks=needs_npm if name in NPM else []) for name in SERVERS]


@dataclass
class Life:
    """What became of one server; what could not be done any more is missing."""

    tools: list[str] = field(default_factory=list[str])
    texts: list[str] = field(default_factory=list[str])
    pids: list[set[int]] = field(default_factory=list[set[int]])
    """Its processes, after each of the three calls."""
    left: list[int] | None = None
    """Those that were there after the stop."""
    last_exit: Any = None


class Page(http.server.BaseHTTPRequestHandler):
    """One page for whoever asks, and no robots.txt."""

    def do_GET(self) -> None:
        is_page = self.path == "/page"
        self.send_response(200 if is_page else 404)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(PAGE if is_page else b"")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the library's name
        return


@pytest.fixture(scope="module")
def page() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}/page"
        server.shutdown()
        thread.join(BOUND_S)


@pytest.fixture(scope="module")
def daemon(page: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    folder = tmp_path_factory.mktemp("servers")
    config = ['process.shutdown_grace_period = "8s"', 'recovery.restart_backoff_base = "10ms"']
    for name, server in (SERVERS | ODDITIES).items():
        if name not in PYPI and needs_npm.args[0]:
            continue
        own = folder / name
        own.mkdir()
        facts = {"folder": str(own), "page": page}
        environment = dict(server.environment)
        if name == "by-npx":
            environment |= npx_environment(own)
        keys: dict[str, object] = {
            "command": [each.format(**facts) for each in server.command],
            "process.working_directory": str(own),
            **{f"environment.{key}": value.format(**facts) for key, value in environment.items()},
            **server.options,
        }
        # JSON's strings and lists are TOML's.
        config += [f"[mcp.servers.{name}]", *(f"{key} = {json.dumps(keys[key])}" for key in keys)]
    if (folder / "filesystem").is_dir():  # there is npm
        (folder / "filesystem" / "hay").write_text("a needle\n")
    repository(folder / "git")
    with DaemonProcess(folder, "\n".join(config)) as process:
        yield process


def repository(folder: Path) -> None:
    """A git repository of one commit."""
    git = ["git", "-C", str(folder), "-c", "user.name=Ada", "-c", "user.email=ada@example.org"]
    for command in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "the first change"]):
        subprocess.run([*git, *command], check=True)


@pytest.fixture(scope="module")
def lives(daemon: DaemonProcess, page: str) -> dict[str, Life]:
    """The lives of all servers, lived at the same time."""
    lives = {name: Life() for name in SERVERS if (daemon.folder / name).is_dir()}
    with ThreadPoolExecutor(len(lives)) as pool:
        for each in [pool.submit(live, daemon, name, page, lives[name]) for name in lives]:
            each.exception()  # what is missing is told by the test of that server
    return lives


def live(daemon: DaemonProcess, name: str, page: str, life: Life) -> None:
    """Fills in a server's life as far as it comes."""

    def call() -> None:
        life.texts.append(said(daemon, name, server.tool, arguments))
        life.pids.append(set(marked(folder)))

    server, folder = SERVERS[name], daemon.folder / name
    arguments = {
        key: value.format(folder=folder, page=page) if isinstance(value, str) else value
        for key, value in server.arguments.items()
    }
    life.tools = [each["tool"] for each in daemon.call("mcp.tools", server=name)["tools"]]
    call()
    leader = daemon.worker(f"{name}-0")
    kill(leader["pid"])
    daemon.await_worker(f"{name}-0", lambda now: now["pid"] != leader["pid"])
    call()
    daemon.call("agent.restart", names=[name])
    call()
    daemon.call("agent.stop", names=[name])
    life.left = marked(folder)
    life.last_exit = daemon.worker(f"{name}-0")["last_exit"]


def kill(pid: int) -> None:
    """Returns when it is dead."""
    pidfd = os.pidfd_open(pid)
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        assert select.select([pidfd], [], [], BOUND_S)[0]
    finally:
        os.close(pidfd)


def said(daemon: DaemonProcess, server: str, tool: str, arguments: Mapping[str, object]) -> str:
    """The text that a tool answers."""
    result = daemon.call("mcp.call", name=f"{server}__{tool}", arguments=arguments)
    assert not result.get("isError"), result
    return str(result["content"][0]["text"])


def at_once(count: int, do: Callable[[int], None]) -> None:
    """Does the same so many times, overlapping."""
    with ThreadPoolExecutor(count) as pool:
        for each in [pool.submit(do, number) for number in range(count)]:
            each.result(BOUND_S)


@pytest.mark.parametrize("name", NAMES)
def test_a_server_is_listed_and_called_before_and_after_it_was_killed_and_restarted(
    name: str, lives: dict[str, Life]
) -> None:
    life, server = lives[name], SERVERS[name]
    assert server.tool in life.tools
    assert len(life.texts) == 3
    for text in life.texts:
        assert server.answers in text


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_left_of_a_server_that_was_killed_restarted_or_stopped(name: str, lives: dict[str, Life]) -> None:
    first, second, third = lives[name].pids
    assert first
    assert not first & second
    assert not second & third
    assert lives[name].left == []


@pytest.mark.parametrize("name", NAMES)
def test_a_server_ends_by_itself_when_its_input_does(name: str, lives: dict[str, Life]) -> None:
    ended = lives[name].last_exit
    assert (ended["result"], ended["forced"]) == ("stopped", False)


@needs_npm
def test_a_server_behind_npx_is_several_processes(lives: dict[str, Life]) -> None:
    assert all(len(pids) >= 3 for pids in lives["by-npx"].pids)


@needs_npm
def test_a_server_that_loses_overlapping_writes_keeps_those_of_forty_callers(daemon: DaemonProcess) -> None:
    def create(number: int) -> None:
        entity = {"name": f"n{number}", "entityType": "number", "observations": [f"{number}"]}
        said(daemon, "graph", "create_entities", {"entities": [entity]})

    at_once(WRITES, create)
    graph = json.loads(said(daemon, "graph", "read_graph", {}))
    assert {each["name"] for each in graph["entities"]} == {f"n{n}" for n in range(WRITES)}


@needs_npm
def test_a_server_that_goes_on_after_a_cancel_is_called_again(daemon: DaemonProcess) -> None:
    long = "asking__trigger-long-running-operation"
    said(daemon, "asking", *ECHO[:2])
    with pytest.raises(Timeout):
        daemon.call("mcp.call", name=long, arguments={"duration": 2, "steps": 4}, timeout_s=0.2)
    # Its progress, and whatever else it says of the call that nobody waits for, comes during this one.
    text = said(daemon, "asking", long.partition("__")[2], {"duration": 2.5, "steps": 1})
    assert "completed" in text
    assert said(daemon, "asking", *ECHO[:2]).endswith("moo")
    assert daemon.worker("asking-0")["restarts"] == 0


@needs_npm
def test_a_server_that_asked_its_client_ends_by_itself_when_its_input_does(daemon: DaemonProcess) -> None:
    said(daemon, "asking", *ECHO[:2])
    # It asks 350 ms after its start, and says what became of it.
    until(lambda: daemon.call("log.read", names=["asking"], grep="roots")["records"])
    daemon.call("agent.stop", names=["asking"])
    ended = daemon.worker("asking-0")["last_exit"]
    assert (ended["result"], ended["code"], ended["forced"]) == ("stopped", 0, False)
