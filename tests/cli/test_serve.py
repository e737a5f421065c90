"""`corral mcp serve` as a process between a client on its pipes and a daemon of a few lines."""

import asyncio
import json
import select
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from corral import __version__
from corral.mcp.endpoint import server
from corral.mcp.protocol import messages
from corral.worker.contract.errors import NotFound
from corral.worker.contract.mcp_info import INSTRUCTIONS
from mcp_editor import CORRAL, LISTS_CHANGED, META, MIB, MODERN, Message, serving
from scripted_daemon import BOUND_S, SILENCE, Caller, ScriptedDaemon

pytestmark = pytest.mark.shell


def face_scripts(**more: object) -> dict[str, object]:
    """What a daemon answers to a client that attaches."""
    return {
        "mcp.attach": {},
        "initialize": {"protocolVersion": "2025-06-18", "capabilities": {}, "serverInfo": {}},
        "tools/list": {"tools": [{"name": "time__now", "inputSchema": {"type": "object"}}]},
        "logging/setLevel": {},
        "resources/subscribe": {},
        **more,
    }


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "corral.sock"


# -- without a daemon


class Nothing:
    """An Provider of nothing, for the words of the face."""

    instructions = INSTRUCTIONS

    async def listed(self, kind: object) -> list[dict[str, object]]:
        return []

    def watch(self, on_change: object) -> Callable[[], None]:
        return lambda: None


class NoLink:
    """A way back to nobody."""

    def notify(self, method: str, params: Mapping[str, object]) -> None:
        raise AssertionError(method)

    async def ask(self, method: str, params: Mapping[str, object]) -> object:
        raise AssertionError(method)


def of_face(*requests: tuple[str, Mapping[str, object]]) -> list[Message]:
    """What the daemon's own face answers to one client."""

    async def run() -> list[Message]:
        nothing: Any = Nothing()  # as far as it is asked
        one = server.McpEndpoint(nothing, version=__version__, tasks=nothing)
        link = NoLink()
        answers = [await one.request(n, *request, link) for n, request in enumerate(requests)]
        one.close()
        return answers

    return asyncio.run(run())


@pytest.mark.parametrize("version", [*messages.LEGACY_VERSIONS, "2019-01-01"])
def test_without_a_daemon_a_client_gets_what_the_daemon_would_answer(path: Path, version: str) -> None:
    params: Message = {"protocolVersion": version, "capabilities": {}, "clientInfo": {"name": "e"}}
    lists = ["tools/list", "prompts/list", "resources/list", "resources/templates/list", "ping"]
    requests: list[tuple[str, Message]] = [("initialize", params)]
    requests += [(method, {}) for method in lists]
    with serving(path) as editor:
        answers = [editor.ask(n, method, **given)["result"] for n, (method, given) in enumerate(requests)]
        assert answers == of_face(*requests)
        assert editor.leave() == 0


def test_without_a_daemon_a_client_of_2026_gets_what_the_daemon_would_answer(path: Path) -> None:
    lists = ["tools/list", "prompts/list", "resources/list", "resources/templates/list"]
    requests = [(method, {"_meta": MODERN}) for method in ("server/discover", *lists)]
    with serving(path) as editor:
        answers = [editor.ask(n, method, **given)["result"] for n, (method, given) in enumerate(requests)]
        assert answers == of_face(*requests)
        refused = editor.ask("x", "tools/list", _meta={**MODERN, META + "protocolVersion": "2099-01-01"})
        assert refused["error"]["code"] == -32022
        assert refused["error"]["data"]["supported"] == list(messages.MODERN_VERSIONS)
        refused = editor.ask("y", "ping", _meta=MODERN)
        assert "error" in refused


def test_without_a_daemon_a_call_says_so_and_the_session_goes_on(path: Path) -> None:
    with serving(path) as editor:
        editor.initialize()
        called = editor.ask(1, "tools/call", name="time__now", arguments={})["result"]
        assert called["isError"] is True
        assert called["_meta"]["corral/error"]["name"] == "Unreachable"
        assert "corrald" in called["content"][0]["text"]
        assert editor.ask(2, "prompts/get", name="x")["error"]["code"] == -33000
        assert editor.ask(3, "resources/subscribe", uri="file:///x")["error"]["code"] == -33000
        assert editor.ask(4, "ping")["result"] == {}
        assert editor.leave() == 0


def test_what_is_no_request_is_answered_and_the_next_one_is_served(path: Path) -> None:
    with serving(path) as editor:
        for line, code in (
            (b"{", -32700),
            (b"[]", -32600),
            (b'{"id":null,"method":"x"}', -32600),
            (b'{"jsonrpc":"2.0","id":true,"method":"ping"}', -32600),
        ):
            editor.send_raw(line + b"\n")
            assert editor.next()["error"]["code"] == code
        editor.send_raw(b"\n \n" + b'{"jsonrpc":"2.0","id":9,"method":"ping"}\n')
        assert editor.next()["id"] == 9


# -- with one


def test_a_daemon_is_attached_to_as_the_options_say_and_lines_pass_as_they_are(path: Path) -> None:
    options = ("--only", "time__*", "--only=x__*", "--deny", "x__y", "--read-only", "--profile", "p")
    strange = b'{"jsonrpc":"2.0", "params" :{"name":"\\u00e9\\ud83d\\ude00"},"id":"\\u00e9","method":"tools/call"}'
    answer: Message = {"content": []}
    with ScriptedDaemon(path, face_scripts(**{"tools/call": answer})) as daemon:
        with serving(path, *options) as editor:
            editor.send_raw(strange + b"\n")
            assert editor.next() == {"jsonrpc": "2.0", "id": "é", "result": {"content": []}}
            assert editor.leave() == 0
        attach = {"only": ["time__*", "x__*"], "deny": ["x__y"], "read_only": True, "profile": "p"}
        assert daemon.calls == [("mcp.attach", attach), ("tools/call", {"name": "é😀"})]


def test_when_the_daemon_comes_the_session_is_its_and_the_client_learns_of_new_lists(path: Path) -> None:
    with serving(path) as editor:
        editor.initialize()
        editor.ask(1, "logging/setLevel", level="warning")
        assert editor.ask(2, "tools/list")["result"] == {"tools": []}
        with ScriptedDaemon(path, face_scripts()) as daemon:
            told = editor.await_told(LISTS_CHANGED)
            assert {message["method"] for message in told} == LISTS_CHANGED
            assert editor.ask(3, "tools/list")["result"]["tools"][0]["name"] == "time__now"
            methods = [method for method, _ in daemon.calls]
            assert methods == [
                "mcp.attach",
                "initialize",
                "notifications/initialized",
                "logging/setLevel",
                "tools/list",
            ]
            assert daemon.asked("initialize")[0]["capabilities"] == {"roots": {}}
            assert daemon.asked("logging/setLevel") == [{"level": "warning"}]


def test_when_the_daemon_dies_what_is_in_flight_ends_and_the_next_one_has_the_session(path: Path) -> None:
    def hang(caller: Caller, _: object) -> object:
        caller.peer.request("roots/list", {}, deadline=None)  # and asks the client something
        caller.flush()
        return SILENCE

    with serving(path) as editor:
        with ScriptedDaemon(path, face_scripts(**{"tools/call": hang, "prompts/list": SILENCE})):
            editor.initialize()
            assert editor.ask(1, "resources/subscribe", uri="file:///x")["result"] == {}
            assert editor.ask(2, "resources/subscribe", uri="file:///y")["result"] == {}
            editor.ask(3, "resources/unsubscribe", uri="file:///y")
            editor.send({"id": 4, "method": "prompts/list"})
            editor.send({"id": 5, "method": "tools/call", "params": {"name": "a__b"}})
            asked = editor.next()
            assert asked["method"] == "roots/list"
        lost = [editor.next() for _ in range(3)]
        assert {"requestId": asked["id"]}.items() <= lost[0]["params"].items()
        assert lost[0]["method"] == "notifications/cancelled"
        assert lost[1] == {"jsonrpc": "2.0", "id": 4, "result": {"prompts": []}}
        assert lost[2]["id"] == 5
        assert lost[2]["result"]["_meta"]["corral/error"]["name"] == "WorkerFailed"
        with ScriptedDaemon(path, face_scripts()) as daemon:
            told = editor.await_told({*LISTS_CHANGED, "notifications/resources/updated"})
            assert told[-1]["params"] == {"uri": "file:///x"}
            editor.send({"id": asked["id"], "result": {"roots": []}})  # asked by the one before
            assert editor.ask(6, "tools/list")["result"]["tools"]
            assert daemon.asked("resources/subscribe") == [{"uri": "file:///x"}]
            assert len(daemon.asked("initialize")) == len(daemon.asked("mcp.attach")) == 1
            assert daemon.dropped == 0


def test_a_client_of_2026_goes_on_listening_from_one_daemon_to_the_next(path: Path) -> None:
    acknowledged = "notifications/subscriptions/acknowledged"
    stamp = {META + "subscriptionId": "l"}

    def listen(caller: Caller, params: dict[str, object]) -> object:
        caller.notify(acknowledged, {"notifications": params["notifications"], "_meta": stamp})
        caller.notify("notifications/prompts/list_changed", {"_meta": stamp})
        return SILENCE

    wanted = {"toolsListChanged": True, "resourceSubscriptions": ["file:///x"]}
    with serving(path) as editor:
        params = {"notifications": wanted, "_meta": MODERN}
        editor.send({"id": "l", "method": "subscriptions/listen", "params": params})
        first = editor.next()
        assert first["method"] == acknowledged
        assert first["params"] == {"notifications": wanted, "_meta": stamp}
        for _ in range(2):
            with ScriptedDaemon(path, face_scripts(**{"subscriptions/listen": listen})) as daemon:
                told = editor.await_told({"notifications/prompts/list_changed"})
                assert [message["method"] for message in told] == [
                    "notifications/tools/list_changed",
                    "notifications/resources/updated",
                    "notifications/prompts/list_changed",
                ]
                assert all(message["params"]["_meta"] == stamp for message in told)
                assert len(daemon.asked("subscriptions/listen")) == 1
        editor.send({"method": "notifications/cancelled", "params": {"requestId": "l"}})
        assert "result" in editor.ask(0, "tools/list", _meta=MODERN)  # it has read the line before
        with ScriptedDaemon(path, face_scripts()) as daemon:
            assert "tools" in editor.ask(1, "tools/list", _meta=MODERN)["result"]
            daemon.wait_until(lambda: bool(daemon.asked("mcp.attach")))
            assert daemon.asked("subscriptions/listen") == []


def test_what_the_client_has_cancelled_is_not_answered(path: Path) -> None:
    answers: list[Callable[[], None]] = []

    def late(caller: Caller, _: object) -> object:
        line = b'{"jsonrpc":"2.0","id":"slow","result":{}}\n'
        answers.append(lambda: caller.send_raw(line))
        return SILENCE

    with ScriptedDaemon(path, face_scripts(**{"tools/call": late})) as daemon, serving(path) as editor:
        editor.send({"id": "slow", "method": "tools/call", "params": {"name": "a__b"}})
        daemon.wait_until(lambda: bool(daemon.asked("tools/call")))
        editor.send({"method": "notifications/cancelled", "params": {"requestId": "slow"}})
        daemon.wait_until(lambda: bool(daemon.withdrawn))
        answers[0]()
        assert editor.ask("next", "tools/list")["result"]["tools"]


def test_a_refusal_of_the_daemon_ends_it_with_the_reason(path: Path) -> None:
    def refuse(_caller: Caller, params: dict[str, object]) -> object:
        raise NotFound('cannot find profile "p"', profile="p")

    with ScriptedDaemon(path, {"mcp.attach": refuse}), serving(path, "--profile", "p") as editor:
        assert editor.process.wait(BOUND_S) == NotFound.exit_status
        out, err = editor.process.communicate()
        assert (out, err) == (b"", b'corral: cannot find profile "p"\n')


def test_a_daemon_that_refuses_a_session_that_began_is_one_that_is_away(path: Path) -> None:
    def refuse(_caller: Caller, params: dict[str, object]) -> object:
        raise NotFound('cannot find profile "p"', profile="p")

    with serving(path, "--profile", "p") as editor:
        editor.initialize()
        with ScriptedDaemon(path, {"mcp.attach": refuse}) as daemon:
            daemon.wait_until(lambda: len(daemon.asked("mcp.attach")) > 1)
            called = editor.ask(1, "tools/call", name="a__b")["result"]
            assert called["_meta"]["corral/error"]["name"] == "NotFound"


# -- limits


def test_a_line_of_16_mib_passes_and_a_longer_one_costs_only_itself(path: Path) -> None:
    def echo(_caller: Caller, params: dict[str, object]) -> object:
        return {"size": len(str(params["text"]))}

    with ScriptedDaemon(path, face_scripts(**{"tools/call": echo})), serving(path) as editor:
        head, tail = b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"text":"', b'"}}'
        room = 16 * MIB - len(head) - len(tail)
        editor.send_raw(head + b"x" * room + tail + b"\n")
        assert editor.next()["result"] == {"size": room}
        editor.send_raw(head + b"x" * (room + 1) + tail + b"\n")  # by one
        assert editor.next()["error"]["code"] == -33005
        editor.send_raw(head + b"x" * (room + MIB) + tail + b"\n")
        refused = editor.next()
        assert (refused["id"], refused["error"]["code"]) == (1, -33005), "who asked is told"
        assert editor.ask(2, "tools/list")["result"]["tools"]


def test_a_client_that_does_not_read_holds_up_the_daemon_and_fills_no_memory(path: Path) -> None:
    line = b'{"jsonrpc":"2.0","method":"notifications/message","params":{"data":"%s"}}\n' % (b"x" * MIB)
    blocked, rest = threading.Event(), 50
    sent: list[int] = []

    def flood(caller: Caller, _: object) -> object:
        data = memoryview(line * rest)
        while data:
            patience_s = BOUND_S if blocked.is_set() else 0.3
            _, writable, _ = select.select([], [caller.connection], [], patience_s)
            if not writable:
                blocked.set()
                continue
            n = caller.connection.send(data, socket.MSG_DONTWAIT)
            sent.append(n)
            data = data[n:]
        return {"tools": []}

    with ScriptedDaemon(path, face_scripts(**{"tools/list": flood})), serving(path) as editor:
        editor.send({"id": 1, "method": "tools/list"})
        assert blocked.wait(BOUND_S)
        assert sum(sent) < 10 * MIB
        assert editor.memory_bytes("VmHWM") < 32 * MIB
        for _ in range(rest):
            assert editor.line() + b"\n" == line
        assert editor.answer(1)["result"] == {"tools": []}
        assert editor.memory_bytes("VmHWM") < 32 * MIB


def test_it_ends_at_eof_at_a_signal_and_when_nobody_reads(path: Path) -> None:
    scripts = face_scripts(**{"tools/call": SILENCE})
    with ScriptedDaemon(path, scripts) as daemon:
        with serving(path) as editor:
            editor.send({"id": 1, "method": "tools/call", "params": {"name": "hangs"}})
            daemon.wait_until(lambda: len(daemon.asked("tools/call")) == 1)
            assert editor.leave() == 0
        with serving(path) as editor:
            assert editor.ask(1, "tools/list")["result"]["tools"]
            editor.process.terminate()
            assert editor.process.wait(BOUND_S) == 0
        with serving(path) as editor:
            assert editor.ask(1, "tools/list")["result"]["tools"]
            assert editor.process.stdout is not None
            editor.process.stdout.close()
            assert editor.process.wait(BOUND_S) == 0
        piped = b'{"jsonrpc":"2.0","id":7,"method":"tools/list"}'  # and no newline
        done = subprocess.run(
            [CORRAL, "mcp", "serve", f"--socket={path}"], input=piped, capture_output=True, timeout=BOUND_S, check=True
        )
        assert json.loads(done.stdout)["id"] == 7  # what was asked before EOF is answered


def test_it_is_small_and_imports_nothing_that_it_does_not_need(path: Path) -> None:
    command = [sys.executable, "-P", "-X", "importtime", "-m", "corral.cli", "mcp", "serve"]
    done = subprocess.run(
        [*command, "--socket", str(path)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=BOUND_S,
        check=False,
    )
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "corral.cli.tools.serve" in imported
    heavy = {"click", "msgspec._core", "asyncio", "uvloop", "sqlite3", "inspect", "dataclasses", "ssl"}
    assert imported & heavy == set()
    with ScriptedDaemon(path, face_scripts()), serving(path) as editor:
        editor.initialize()
        assert editor.ask(1, "tools/list")["result"]["tools"]
        assert editor.memory_bytes("VmRSS") < 15 * MIB


# -- the command line


def test_help_and_mistakes_are_those_of_every_command(path: Path) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [CORRAL, "--socket", str(path), *arguments]
        return subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=BOUND_S, check=False
        )

    shown = run("mcp", "serve", "--help")
    assert shown.returncode == 0
    for option in ("--only", "--deny", "--read-only", "--profile"):
        assert option in shown.stdout
    assert "serve" in run("mcp", "--help").stdout
    for mistake in (["--onyl", "x"], ["--only"], ["word"], ["--profile"]):
        refused = run("mcp", "serve", *mistake)
        assert (refused.returncode, refused.stdout) == (2, "")
    assert run("mcp", "serve", "--no-color").returncode == 0
