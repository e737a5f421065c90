"""`corral mcp serve` in front of a real daemon, with the clients that people have."""

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

from corral.supervisor.faces.mcp.tools import OWN_TOOLS
from daemon_process import AGENTS, BOUND_S, DaemonProcess, until
from mcp_editor import CORRAL, LISTS_CHANGED, MIB, MODERN, Editor, serving
from node_packages import NODE_FOLDER, needs_npm, npm_program

OWN = set(OWN_TOOLS)

CONFIG = f"""
[mcp]
list_limit = 0

[mcp.servers.odd]
command = ["{sys.executable}", "-I", "{AGENTS / "mcp_odd.py"}", "--declares=tools", "--declares=prompts", "--declares=resources"]

[mcp.servers.official]
command = ["{sys.executable}", "{AGENTS / "mcp_official.py"}"]

[mcp.servers.cortex]
disabled = true

[mcp.profiles.small]
tools = ["odd__e*", "official__add"]
denied_tools = ["odd__error", "corral__stop"]

[mcp.profiles.tools-alone]
control = false

[agents.crew]
entrypoint = "crew_agent:agent"
[agents.crew.process]
working_directory = "{AGENTS}"

[agents.editing]
entrypoint = "editing_agent:agent"
tools = ["odd__*"]
denied_tools = ["odd__big"]
environment = {{ CORRAL_SOCKET = "@" }}
[agents.editing.process]
working_directory = "{AGENTS}"

[agents.steering]
entrypoint = "editing_agent:agent"
tools = []
control = "read"
environment = {{ CORRAL_SOCKET = "@" }}
[agents.steering.process]
working_directory = "{AGENTS}"
"""


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    folder = tmp_path_factory.mktemp("serve")
    with DaemonProcess(folder, CONFIG.replace("@", str(folder / "corral.sock"))) as daemon:
        yield daemon


def names(tools: Sequence[Any]) -> set[str]:
    return {tool["name"] for tool in tools}


def listed(editor: Editor, number: object = "listed") -> set[str]:
    return names(editor.ask(number, "tools/list")["result"]["tools"])


def called(editor: Editor, name: str, /, **arguments: object) -> Any:
    return editor.ask(f"call {name}", "tools/call", name=name, arguments=arguments)["result"]


def text(result: Any) -> str:
    return str(result["content"][0]["text"])


# -- the clients that people have


# Clients are imported where they are used: it takes a second each, and every process of a parallel run collects this.


def entry(daemon: DaemonProcess, *options: str) -> dict[str, Any]:
    """What people write into the configuration of a client."""
    return {"command": CORRAL, "args": ["--socket", str(daemon.socket), "mcp", "serve", *options]}


@pytest.mark.parametrize("mode", ["legacy", "auto", "2026-07-28"])
def test_the_official_client_uses_all_of_it(daemon: DaemonProcess, mode: Any) -> None:
    import anyio  # noqa: PLC0415 - see above
    import mcp_types  # noqa: PLC0415 - see above
    from mcp.client.client import Client  # noqa: PLC0415 - see above
    from mcp.client.stdio import StdioServerParameters, stdio_client  # noqa: PLC0415 - see above

    steps: list[tuple[float, float | None, str | None]] = []

    async def stepped(progress: float, total: float | None, message: str | None) -> None:
        steps.append((progress, total, message))

    async def run() -> None:
        with anyio.fail_after(BOUND_S):
            parameters = StdioServerParameters(**entry(daemon))
            async with Client(stdio_client(parameters), mode=mode) as client:
                assert client.protocol_version == ("2025-11-25" if mode == "legacy" else "2026-07-28")
                assert mode == "2026-07-28" or client.instructions is not None
                tools = {tool.name: tool for tool in (await client.list_tools()).tools}
                assert OWN | {"odd__echo", "official__add"} <= tools.keys()
                result = await client.call_tool("official__add", {"a": 1, "b": 2})
                assert result.structured_content == {"result": 3}
                await client.call_tool("official__count", {"to": 3}, progress_callback=stepped)
                assert [step[0] for step in steps] == [1, 2, 3]
                shown = await client.call_tool("corral__list", {"kind": "servers"})
                assert shown.structured_content is not None
                assert {e["name"] for e in shown.structured_content["entries"]} == {"odd", "official"}
                run = await client.call_tool(
                    "corral__run", {"agent": "crew", "objective": "echo", "input": [1]}, progress_callback=stepped
                )
                assert run.structured_content is not None
                assert run.structured_content["output"]["input"] == [1]
                resources = (await client.list_resources()).resources
                assert "official://a" in {str(each.uri) for each in resources}
                read = await client.read_resource("official://a")
                assert isinstance(read, mcp_types.ReadResourceResult)
                assert read.contents
                prompts = (await client.list_prompts()).prompts
                assert "official__greet" in {each.name for each in prompts}
                greeting = await client.get_prompt("official__greet", {"whom": "you"})
                assert isinstance(greeting, mcp_types.GetPromptResult)
                wrong = await client.call_tool("corral__show", {"name": "nobody"})
                assert wrong.is_error

    anyio.run(run)


@pytest.mark.long
def test_an_entry_of_mcpservers_is_all_that_fastmcp_needs(daemon: DaemonProcess) -> None:
    import anyio  # noqa: PLC0415 - see above
    from fastmcp import Client  # noqa: PLC0415 - see above

    config = {"mcpServers": {"corral": entry(daemon)}}

    async def run() -> None:
        with anyio.fail_after(BOUND_S):
            async with Client(config) as client:
                assert OWN | {"odd__echo"} <= {tool.name for tool in await client.list_tools()}
                content: Any = (await client.call_tool("odd__echo", {"text": "hello"})).content
                assert content[0].text == "hello"

    anyio.run(run)


@pytest.mark.long
@needs_npm
def test_the_inspector_finds_nothing_to_complain_of(daemon: DaemonProcess, tmp_path: Path) -> None:
    config = tmp_path / "mcp.json"
    servers = {"corral": entry(daemon, "--only", "corral__*", "--only", "odd__echo")}
    config.write_text(json.dumps({"mcpServers": servers}))

    def inspect(*arguments: str) -> Any:
        program = npm_program("mcp-inspector", "--cli", "--config", str(config), "--server", "corral")
        done = subprocess.run(
            [*program, *arguments],
            env={"PATH": f"{NODE_FOLDER / 'bin'}:/usr/bin:/bin", "HOME": str(tmp_path)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=BOUND_S,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    assert names(inspect("--method", "tools/list", "--strict")["tools"]) == OWN | {"odd__echo"}
    echoed = inspect("--method", "tools/call", "--tool-name", "odd__echo", "--tool-arg", "text=hi")
    assert text(echoed) == "hi"


# -- corral's own tools


def test_every_own_tool_answers_what_its_schema_says(daemon: DaemonProcess) -> None:
    with serving(daemon.socket) as editor:
        editor.initialize()
        answer = editor.ask("list", "tools/list")["result"]["tools"]
        schemas = {tool["name"]: tool["outputSchema"] for tool in answer if tool["name"] in OWN}
        tried: set[str] = set()

        def check(name: str, /, **arguments: object) -> Any:
            result = called(editor, name, **arguments)
            assert not result["isError"], result
            jsonschema_rs.validate(schemas[name], result["structuredContent"])
            tried.add(name)
            return result["structuredContent"]

        entries = {entry["name"]: entry for entry in check("corral__list")["entries"]}
        assert entries["crew"]["kind"] == "agent"
        assert entries["odd"]["kind"] == "mcp"
        assert check("corral__show", name="editing")["spec"]["environment"] == {"CORRAL_SOCKET": "***"}
        assert check("corral__stop", name="odd")["entries"][0]["state"] == "Terminated"
        assert check("corral__start", name="odd")["entries"][0]["state"] == "Ready"
        pid = daemon.worker("odd-0")["pid"]
        check("corral__restart", name="odd-0")
        assert daemon.worker("odd-0")["pid"] != pid
        task = check("corral__run", agent="crew", objective="echo", input="kept words")
        assert task["output"]["input"] == "kept words"
        logged = check("corral__logs", name="crew", lines=5, grep="echoes kept")
        assert logged["records"][-1]["text"] == "echoes kept words"
        assert task["id"] in {each["id"] for each in check("corral__tasks", agent="crew")["tasks"]}
        assert check("corral__task", task=task["id"])["state"] == "succeeded"
        waiting = check("corral__run", agent="crew", objective="wait", detach=True)
        assert waiting["state"] in ("queued", "running")
        assert check("corral__task", task=waiting["id"], wait_s=0.01)["state"] in ("queued", "running")
        assert check("corral__cancel", task=waiting["id"])["state"] == "cancelled"
        assert check("corral__approvals", agent="crew") == {"approvals": [], "more": False}
        listed = {each["name"]: each for each in check("corral__methods")["methods"]}
        assert listed["task.submit"]["params"][:2] == ["objective", "agent?"]
        assert not any(name.startswith("mcp.") for name in listed)
        params = {"agent": "crew", "key": "word", "value": [1]}
        check("corral__call", method="memory.put", params=params)
        found = check("corral__call", method="memory.get", params={"agent": "crew", "key": "word"})
        assert found["result"] == {"value": [1]}
        assert tried == OWN
        for method in ("mcp.call", "event.follow", "auth.login", "no.method"):
            assert called(editor, "corral__call", method=method)["isError"]
        failed = called(editor, "corral__run", agent="crew", objective="raise words")
        assert failed["isError"]
        assert "words" in text(failed)
        assert failed["structuredContent"]["state"] == "failed"
        refused = called(editor, "corral__show", nam="odd")
        assert refused["isError"]
        assert "nam" in text(refused)


def test_a_cancelled_run_cancels_the_task_and_one_that_is_left_goes_on(daemon: DaemonProcess) -> None:
    with serving(daemon.socket) as editor:
        editor.initialize()
        params: Any = {
            "name": "corral__run",
            "arguments": {"agent": "crew", "objective": "wait"},
            "_meta": {"progressToken": "t"},
        }
        editor.send({"id": "cancelled", "method": "tools/call", "params": params})
        while (message := editor.next()).get("params", {}).get("progress") != 0.5:
            assert "method" in message, message
        assert message["params"]["message"] == "waits"
        task = daemon.call("task.list", state="running", agent="crew")["tasks"][0]["id"]
        editor.send({"method": "notifications/cancelled", "params": {"requestId": "cancelled"}})
        assert daemon.call("task.wait", task=task)["state"] == "cancelled"
        arguments: Any = {"agent": "crew", "objective": "tool odd__hold", "input": {}}
        params = {"name": "corral__run", "arguments": arguments}
        editor.send({"id": "left", "method": "tools/call", "params": params})
        left = until(lambda: daemon.call("task.list", state="running", agent="crew")["tasks"])
    while (state := daemon.call("task.show", task=left[0]["id"])["state"]) == "running":
        daemon.call("mcp.call", name="odd__release")  # again: what it waits for may not be there yet
    assert state == "succeeded"


def test_what_a_client_does_is_in_the_audit_under_its_uid(daemon: DaemonProcess) -> None:
    with serving(daemon.socket) as editor:
        editor.initialize()
        called(editor, "odd__echo", text="for the audit")
        called(editor, "corral__restart", name="odd")
        pid = editor.process.pid
    records = daemon.call("audit.list", n=20)["records"]
    mine = {(r["action"], r["result"]) for r in records if r["who"].get("pid") == pid}
    assert {("mcp.call", "ok"), ("agent.restart", "ok")} <= mine


# -- what is offered to whom


@pytest.mark.parametrize(
    ("options", "there", "not_there"),
    [
        (("--only", "official__*"), {"official__add"}, {"odd__echo", *OWN}),
        (("--deny", "*__stop", "--deny=odd__*"), {"official__add", "corral__list"}, {"corral__stop"}),
        (("--read-only",), {"odd__echo", "corral__logs"}, {"odd__raw", "corral__run", "corral__stop"}),
        (
            ("--profile", "small"),
            {"odd__echo", "official__add", "corral__run"},
            {"odd__error", "odd__raw", "official__count", "corral__stop"},
        ),
        (("--profile", "tools-alone"), {"odd__echo", "official__add"}, OWN),
        (("--profile", "small", "--read-only", "--deny", "official__*"), {"odd__echo"}, {"official__add"}),
    ],
)
def test_a_client_sees_and_calls_only_what_it_is_given(
    daemon: DaemonProcess, options: tuple[str, ...], there: set[str], not_there: set[str]
) -> None:
    with serving(daemon.socket, *options) as editor:
        editor.initialize()
        found = listed(editor)
        assert there <= found
        assert not found & not_there
        for name in sorted(not_there)[:3]:
            refused = called(editor, name)
            assert refused["_meta"]["corral/error"]["name"] == "PermissionDenied"


def test_an_unknown_profile_is_said_so(daemon: DaemonProcess) -> None:
    with serving(daemon.socket, "--profile", "smal") as editor:
        assert editor.process.wait(BOUND_S) == 3
        out, err = editor.process.communicate()
        assert out == b""
        assert b"small" in err


def test_inside_an_agent_there_are_its_tools_and_its_tasks_limits(daemon: DaemonProcess) -> None:
    first = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "e"}}

    def run(*requests: tuple[str, dict[str, object]], agent: str = "editing", **boundaries: object) -> Any:
        task = daemon.call(
            "task.run", agent=agent, objective="ask", input=[("initialize", first), *requests], boundaries=boundaries
        )
        assert task["state"] == "succeeded", task
        return task["output"][1:]

    def call(name: str, /, **arguments: object) -> tuple[str, dict[str, object]]:
        return "tools/call", {"name": name, "arguments": arguments}

    echo = call("odd__echo", text="x")
    there, echoed, denied, foreign, own = run(
        ("tools/list", {}), echo, call("odd__big", size=1), call("official__add"), call("corral__list")
    )
    assert "odd__echo" in names(there["tools"])
    assert not names(there["tools"]) & {"odd__big", "official__add", *OWN}
    assert text(echoed) == "x"
    for refused in (denied, foreign, own):
        assert refused["_meta"]["corral/error"]["name"] == "PermissionDenied"
    there, refused = run(("tools/list", {}), echo, allowed_tools=["odd__raw"])
    assert names(there["tools"]) == {"odd__raw"}
    assert refused["_meta"]["corral/error"]["name"] == "PermissionDenied"
    *allowed, refused = run(echo, echo, echo, max_tool_calls=2)
    assert [text(each) for each in allowed] == ["x", "x"]
    assert refused["_meta"]["corral/error"]["name"] == "ResourceLimitExceeded"
    stop = call("corral__stop", name="odd")
    there, shown, *refusals = run(("tools/list", {}), call("corral__list"), stop, echo, agent="steering")
    assert names(there["tools"]) == {tool.name for tool in OWN_TOOLS.values() if tool.needs == "read"}
    assert shown["structuredContent"]["entries"]
    for refused in refusals:
        assert refused["_meta"]["corral/error"]["name"] == "PermissionDenied"


# -- coming and going


def test_servers_that_come_and_go_are_reported(daemon: DaemonProcess) -> None:
    spec = {"command": [sys.executable, "-I", str(AGENTS / "mcp_odd.py")]}
    with serving(daemon.socket) as editor, serving(daemon.socket) as modern:
        editor.initialize()
        assert "guest__echo" not in listed(editor)
        wanted = {"notifications": {"toolsListChanged": True}, "_meta": MODERN}
        modern.send({"id": "l", "method": "subscriptions/listen", "params": wanted})
        modern.await_told({"notifications/subscriptions/acknowledged"})
        daemon.call("agent.add", name="guest", kind="mcp", spec=spec)
        for client in (editor, modern):
            client.await_told({"notifications/tools/list_changed"})
        assert "guest__echo" in listed(editor)
        assert text(called(editor, "guest__echo", text="welcome")) == "welcome"
        editor.heard.clear()
        daemon.call("agent.rm", name="guest")
        for client in (editor, modern):
            client.await_told({"notifications/tools/list_changed"})
        assert "guest__echo" not in listed(editor)


def test_a_profile_that_is_changed_counts_from_the_reload_on(daemon: DaemonProcess) -> None:
    before = daemon.config.read_text()
    with serving(daemon.socket, "--profile", "small") as editor:
        editor.initialize()
        assert "official__count" not in listed(editor)
        editor.heard.clear()
        try:
            daemon.config.write_text(before.replace('"official__add"]', '"official__count"]'))
            daemon.call("daemon.reload")
            editor.await_told({"notifications/tools/list_changed"})
            assert "official__count" in listed(editor, "again")
            refused = called(editor, "official__add", a=1, b=1)
            assert refused["_meta"]["corral/error"]["name"] == "PermissionDenied"
        finally:
            daemon.config.write_text(before)
            daemon.call("daemon.reload")


def test_a_session_outlives_the_daemon(tmp_path: Path) -> None:
    config = CONFIG.partition("[mcp.servers.official]")[0] + "[mcp.servers.cortex]\ndisabled = true"
    with DaemonProcess(tmp_path, config) as daemon, serving(daemon.socket) as editor:
        editor.initialize()
        before = listed(editor)
        assert editor.ask("subscribe", "resources/subscribe", uri="odd://a")["result"] == {}
        editor.send(
            {"id": "held", "method": "tools/call", "params": {"name": "odd__progress", "arguments": {"text": "x"}}}
        )
        editor.answer("held")
        hold = {"name": "odd__hold", "arguments": {}, "_meta": {"progressToken": 1}}
        editor.send({"id": "held", "method": "tools/call", "params": hold})
        text_of = called(editor, "odd__nudge")
        assert text(text_of) == "nudged"  # so that the call is at its server
        daemon.kill()
        lost = editor.answer("held")["result"]
        assert lost["isError"]
        assert called(editor, "odd__echo", text="x")["isError"]
        editor.heard.clear()
        daemon.start()
        editor.await_told(LISTS_CHANGED)
        assert listed(editor) == before
        assert text(called(editor, "odd__echo", text="again")) == "again"
        called(editor, "odd__touch", uri="odd://a")
        editor.await_told({"notifications/resources/updated"})
        assert editor.leave() == 0


def test_ten_sessions_are_small_and_share_one_server(daemon: DaemonProcess) -> None:
    sessions = [serving(daemon.socket) for _ in range(10)]
    editors = [session.__enter__() for session in sessions]
    try:
        for editor in editors:
            editor.initialize()
        for number, editor in enumerate(editors):
            params = {"name": "odd__echo", "arguments": {"text": str(number)}}
            editor.send({"id": number, "method": "tools/call", "params": params})
        for number, editor in enumerate(editors):
            assert text(editor.answer(number)["result"]) == str(number)
            assert editor.memory_bytes("VmRSS") < 15 * MIB
    finally:
        for session in sessions:
            session.__exit__(None, None, None)
    assert daemon.worker("odd-0")["restarts"] >= 0


def test_any_method_is_called_only_within_the_rights_and_the_tools_of_a_client(daemon: DaemonProcess) -> None:
    with serving(daemon.socket, "--deny", "corral__stop") as editor:
        editor.initialize()
        offered = names(editor.ask("list", "tools/list")["result"]["tools"])
        assert "corral__methods" in offered
        assert "corral__call" not in offered  # it could stop an agent, too
        refused = called(editor, "corral__call", method="daemon.ping")
        assert refused["isError"]
        assert "not allowed" in text(refused)
    with serving(daemon.socket, "--read-only") as editor:
        editor.initialize()
        offered = names(editor.ask("list", "tools/list")["result"]["tools"])
        assert "corral__methods" in offered
        assert "corral__call" not in offered
