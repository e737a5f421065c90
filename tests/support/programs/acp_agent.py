"""Agent of the Agent Client Protocol, by the official SDK, that does what the prompt says; sessions are kept in a folder."""

import asyncio
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any, NoReturn, cast

import acp
from acp import schema

STATE = Path(os.environ.get("ACP_STATE", "."))
CAPABLE = frozenset(os.environ.get("ACP_CAPABLE", "load,close").split(","))
SIGN_IN = os.environ.get("ACP_SIGN_IN", "")
"""Empty: no sign-in is needed; else where it is refused: "session", or "method" until `authenticate` with a key."""


class Tester:
    """Answers a prompt by its first words."""

    def __init__(self) -> None:
        self._client: acp.interfaces.Client
        self._cancelled: dict[str, asyncio.Event] = {}
        self._said: dict[str, list[str]] = {}
        self._servers: dict[str, list[Any]] = {}
        self._is_signed_in = not SIGN_IN
        self._count = 0

    def on_connect(self, conn: acp.interfaces.Client) -> None:
        """Keeps the connection."""
        self._client = conn

    async def initialize(
        self,
        protocol_version: int,
        client_capabilities: schema.ClientCapabilities | None = None,
        client_info: schema.Implementation | None = None,
        **kwargs: Any,
    ) -> schema.InitializeResponse:
        """Says what it can do."""
        if os.environ.get("ACP_SILENT"):
            await asyncio.Event().wait()
        able = schema.AgentCapabilities(
            load_session="load" in CAPABLE,
            prompt_capabilities=schema.PromptCapabilities(embedded_context="embed" in CAPABLE),
            session_capabilities=schema.SessionCapabilities(
                close=schema.SessionCloseCapabilities() if "close" in CAPABLE else None,
                resume=schema.SessionResumeCapabilities() if "resume" in CAPABLE else None,
            ),
        )
        key = schema.AuthMethodAgent(id="api-key", name="Use an API key")
        return schema.InitializeResponse(
            protocol_version=int(os.environ.get("ACP_VERSION", protocol_version)),
            agent_capabilities=able,
            auth_methods=[key] if SIGN_IN else [],
            agent_info=schema.Implementation(name="tester", title="Tester", version="1.0"),
        )

    async def authenticate(self, method_id: str, **kwargs: Any) -> schema.AuthenticateResponse:
        """Signs in with the key of the environment."""
        if os.environ.get("ACP_KEY") != "right":
            raise acp.RequestError(-32000, "the key is wrong")
        self._is_signed_in = True
        return schema.AuthenticateResponse()

    async def new_session(
        self, cwd: str, mcp_servers: list[Any] | None = None, **kwargs: Any
    ) -> schema.NewSessionResponse:
        """Opens a session."""
        if not self._is_signed_in:
            raise acp.RequestError.auth_required()
        self._count += 1
        name = f"session-{os.getpid()}-{self._count}"
        self._open(name, mcp_servers)
        return schema.NewSessionResponse(session_id=name)

    async def load_session(
        self, cwd: str, session_id: str, mcp_servers: list[Any] | None = None, **kwargs: Any
    ) -> schema.LoadSessionResponse:
        """Takes up a session of an earlier life, and repeats what was said in it."""
        self._open(session_id, mcp_servers)
        self._said[session_id] = self._kept(session_id)
        for words in self._said[session_id]:
            await self._say(session_id, words)
        return schema.LoadSessionResponse()

    async def resume_session(
        self, session_id: str, cwd: str, mcp_servers: list[Any] | None = None, **kwargs: Any
    ) -> schema.ResumeSessionResponse:
        """Takes up a session of an earlier life, in silence."""
        self._open(session_id, mcp_servers)
        self._said[session_id] = self._kept(session_id)
        return schema.ResumeSessionResponse()

    async def close_session(self, session_id: str, **kwargs: Any) -> schema.CloseSessionResponse:
        """Forgets a session."""
        del self._said[session_id]
        return schema.CloseSessionResponse()

    async def cancel(self, session_id: str, **kwargs: Any) -> None:
        """Ends the turn of a session."""
        self._cancelled[session_id].set()

    async def prompt(self, session_id: str, prompt: list[Any], **kwargs: Any) -> schema.PromptResponse:
        """Does what the first words of the prompt say."""
        texts = [block.text for block in prompt if block.type == "text"]
        others = [block for block in prompt if block.type == "resource"]
        said = self._said[session_id]
        order = next(text for text in texts if text.split()[0].isalpha() and hasattr(self, f"_do_{text.split()[0]}"))
        said.append(order)
        (STATE / session_id).write_text(json.dumps(said), "utf-8")
        command, *words = order.split()
        act = getattr(self, f"_do_{command}")
        ended = await act(session_id, words, texts, others)
        return ended or schema.PromptResponse(stop_reason="end_turn")

    def _open(self, name: str, servers: list[Any] | None) -> None:
        self._cancelled[name] = asyncio.Event()
        self._said[name] = []
        self._servers[name] = servers or []

    def _kept(self, name: str) -> list[str]:
        path = STATE / name
        if not path.exists():
            raise acp.RequestError(-32002, "there is no such session")
        found: list[str] = json.loads(path.read_text("utf-8"))
        return found

    async def _say(self, session: str, words: str) -> None:
        await self._client.session_update(session, acp.update_agent_message_text(words))

    # -- what it does

    async def _do_say(self, session: str, words: list[str], *_: Any) -> None:
        for word in words:
            await self._say(session, f"{word} ")

    async def _do_history(self, session: str, *_: Any) -> None:
        await self._say(session, json.dumps(self._said[session]))

    async def _do_blocks(self, session: str, _w: Any, texts: list[str], others: list[Any]) -> None:
        shown = [block.resource.model_dump(mode="json", exclude_none=True) for block in others]
        await self._say(session, json.dumps({"texts": texts, "others": shown}))

    async def _do_work(self, session: str, *_: Any) -> schema.PromptResponse:
        """Thinks, plans, uses a tool, speaks before and after it, and says what it has used."""
        update = self._client.session_update
        await update(session, acp.update_agent_thought_text("hm, "))
        await update(session, acp.update_agent_thought_text("hm"))
        entries = [acp.plan_entry("read", status="completed"), acp.plan_entry("write")]
        await update(session, acp.update_plan(entries))
        await self._say(session, "I look at it.")
        await update(session, acp.start_tool_call("call-1", "Read a.txt", kind="read"))
        await update(session, acp.update_tool_call("call-1", status="completed"))
        await self._say(session, "It is ")
        await self._say(session, "done.")
        cost = schema.Cost(amount=0.02, currency="USD")
        usage = schema.UsageUpdate(session_update="usage_update", used=10, size=100, cost=cost)
        await update(session, usage)
        used = schema.Usage(total_tokens=123, input_tokens=100, output_tokens=23)
        return schema.PromptResponse(stop_reason="end_turn", usage=used)

    async def _do_edit(self, session: str, *_: Any) -> None:
        """Plans, changes a file, which it tells twice, and says what it has done."""
        update = self._client.session_update
        await update(session, acp.update_agent_thought_text("The name is wrong."))
        await update(session, acp.update_plan([acp.plan_entry("rename", status="in_progress"), acp.plan_entry("test")]))
        await self._say(session, "I rename it:\n```\nmv a b\n```\nin `a.py`.")
        change = acp.tool_diff_content("a.py", "def b():\n    return 1\n", "def a():\n    return 1\n")
        await update(session, acp.start_tool_call("call-5", "Edit a.py", kind="edit", content=[change]))
        await update(session, acp.update_tool_call("call-5", status="completed", content=[change]))
        await self._say(session, "Renamed.")

    async def _do_stop(self, session: str, words: list[str], *_: Any) -> schema.PromptResponse:
        await self._say(session, "so far")
        return schema.PromptResponse(stop_reason=words[0])  # type: ignore[arg-type]  # a test's word

    async def _do_wait(self, session: str, *_: Any) -> schema.PromptResponse:
        await self._client.session_update(session, acp.start_tool_call("call-3", "waits now"))
        await self._cancelled[session].wait()
        (STATE / "cancelled").write_text(session, "utf-8")
        return schema.PromptResponse(stop_reason="cancelled")

    async def _do_ignore(self, session: str, *_: Any) -> None:
        await self._say(session, "ignoring")
        await asyncio.Event().wait()

    async def _do_die(self, _session: str, words: list[str], *_: Any) -> None:
        path = STATE / "died"
        if not path.exists():
            path.touch()
            os.kill(os.getpid(), signal.Signals[words[0]])
        await self._say(_session, "alive")

    async def _do_leave(self, _session: str, words: list[str], *_: Any) -> NoReturn:
        os._exit(int(words[0]))

    async def _do_sign(self, *_: Any) -> NoReturn:
        raise acp.RequestError.auth_required()

    async def _do_garbage(self, session: str, words: list[str], *_: Any) -> None:
        os.set_blocking(1, True)  # a partial write would leave a line without its end
        os.write(1, b'this is no JSON\n\xff\xfe\n{"half": \n')
        os.write(1, b"x" * int(words[0]) + b"\n")
        os.set_blocking(1, False)
        await self._say(session, "still here")

    async def _do_flood(self, session: str, words: list[str], *_: Any) -> None:
        for _number in range(int(words[0])):
            await self._say(session, "x" * 1000)

    async def _do_ask(self, session: str, words: list[str], *_: Any) -> None:
        """Asks for permission: KIND TITLE…"""
        options = [
            acp.schema.PermissionOption(option_id="yes", name="Go", kind="allow_once"),
            acp.schema.PermissionOption(option_id="always", name="Go on", kind="allow_always"),
            acp.schema.PermissionOption(option_id="no", name="Stop", kind="reject_once"),
        ]
        call = schema.ToolCallUpdate(
            tool_call_id="call-2",
            title=" ".join(words[1:]),
            kind=words[0],  # type: ignore[arg-type]  # a test's word
            raw_input={"command": " ".join(words[1:])},
        )
        asked = await self._client.request_permission(session, call, options)
        outcome = asked.outcome
        chosen = outcome.option_id if outcome.outcome == "selected" else "cancelled"
        (STATE / "outcome").write_text(chosen, "utf-8")
        await self._say(session, chosen)

    async def _do_form(self, session: str, *_: Any) -> None:
        """Asks a form of three fields, and says the response."""
        fields = {
            "name": {"type": "string", "title": "Your name"},
            "count": {"type": "integer"},
            "sure": {"type": "boolean"},
        }
        form = schema.ElicitationFormSessionMode.model_validate(
            {
                "sessionId": session,
                "mode": "form",
                "requestedSchema": {"type": "object", "properties": fields, "required": ["name", "count", "sure"]},
            }
        )
        given = await self._client.create_elicitation("A form", form)
        await self._say(session, given.model_dump_json(by_alias=True, exclude_none=True))

    async def _do_read(self, session: str, words: list[str], *_: Any) -> None:
        line, limit = (int(words[1]), int(words[2])) if len(words) > 1 else (None, None)
        try:
            found = await self._client.read_text_file(session, words[0], line=line, limit=limit)
            await self._say(session, found.content)
        except acp.RequestError as error:
            await self._say(session, f"{error.code}: {error}")

    async def _do_write(self, session: str, words: list[str], *_: Any) -> None:
        try:
            await self._client.write_text_file(session, words[0], " ".join(words[1:]))
            await self._say(session, "written")
        except acp.RequestError as error:
            await self._say(session, f"{error.code}: {error}")

    async def _do_run(self, session: str, words: list[str], *_: Any) -> None:
        """Runs a command in a terminal, and says how it ended and what it has printed."""
        made = await self._client.create_terminal(session, words[0], args=words[1:])
        name = made.terminal_id
        end = await self._client.wait_for_terminal_exit(session, name)
        shown = await self._client.terminal_output(session, name)
        await self._client.release_terminal(session, name)
        found = [end.exit_code, end.signal, shown.output, shown.truncated]
        await self._say(session, json.dumps(found))

    async def _do_hold(self, session: str, *_: Any) -> None:
        await self._client.create_terminal(session, "sleep", args=["1000"])
        await self._client.session_update(session, acp.start_tool_call("call-4", "holds now"))
        await asyncio.Event().wait()

    async def _do_kill(self, session: str, *_: Any) -> None:
        made = await self._client.create_terminal(session, "sleep", args=["1000"])
        await self._client.kill_terminal(session, made.terminal_id)
        end = await self._client.wait_for_terminal_exit(session, made.terminal_id)
        await self._say(session, f"{end.exit_code} {end.signal}")

    async def _do_tools(self, session: str, words: list[str], *_: Any) -> None:
        """Lists the tools of the MCP server that it was given, or calls one: NAME JSON."""
        server = self._servers[session][0]
        process = await asyncio.create_subprocess_exec(
            server.command,
            *server.args,
            env={each.name: each.value for each in server.env},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        opening = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": CLIENT}
        await _ask(process, "initialize", opening)
        if not words:
            found = await _ask(process, "tools/list", {})
            await self._say(session, json.dumps([each["name"] for each in found["tools"]]))
        else:
            call = {"name": words[0], "arguments": json.loads(" ".join(words[1:]))}
            answer = await _ask(process, "tools/call", call)
            texts = [each.get("text") for each in answer["content"]]
            await self._say(session, json.dumps([answer.get("isError", False), texts]))
        assert process.stdin is not None, "it is a pipe"
        process.stdin.close()
        await process.wait()

    async def _do_servers(self, session: str, *_: Any) -> None:
        await self._say(session, str(len(self._servers[session])))


CLIENT = {"name": "tester", "version": "1.0"}


async def _ask(process: asyncio.subprocess.Process, method: str, params: object) -> Any:
    """The result of a request to an MCP server."""
    assert process.stdin is not None, "it is a pipe"
    assert process.stdout is not None, "it is a pipe"
    message = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
    process.stdin.write(json.dumps(message).encode() + b"\n")
    while True:
        answer = json.loads(await process.stdout.readline())
        if answer.get("id") == 1:
            return answer["result"]


if __name__ == "__main__":
    if "no-agent" in sys.argv:
        print("I speak another language", flush=True)
        sys.stdin.read()
    asyncio.run(acp.run_agent(cast("acp.Agent", Tester()), use_unstable_protocol=True))
