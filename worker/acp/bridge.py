"""Runs the tasks of one worker as prompt turns of its ACP agent, and answers what the agent asks meanwhile.

A turn ends as the agent says; a cancelled one is cancelled at the agent, which is waited for, so that the daemon replaces
the worker if the agent does not let go.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence

from corral import __version__
from corral.mcp.protocol import forms

from ..contract.approvals import KEY_CHARS, OPTION_CHARS
from ..contract.codec import as_object
from ..contract.errors import CorralError, InvalidParams, MethodNotFound, SpawnFailed
from ..contract.jsonrpc import MAX_MESSAGE_BYTES, Notification, Request
from ..sdk.results import Json, object_of
from ..sdk.stdio import log_line
from ..sdk.task import Hooks, Start, Task, stateless
from . import files, messages, policy
from .messages import PROTOCOL_VERSION, AgentInfo, info_of, is_sign_in, sign_in_failed, turn_refused, words_of
from .process import AgentProcess
from .sessions import Session, Sessions
from .tool_server import ToolServer
from .turn import Turn

ROOM_BYTES = 64 * 1024
"""Bytes of a message that an output leaves for the rest."""

CLIENT_CAPABILITIES = {
    "fs": {"readTextFile": True, "writeTextFile": True},
    "terminal": True,
    "elicitation": {"form": {}},
}


class Bridge:
    """Represents the worker, to the SDK that calls its hooks and to the agent."""

    def __init__(
        self,
        argv: Sequence[str],
        env: Mapping[str, str],
        permissions: policy.Policy,
        auth_method: str | None,
        *,
        has_tools: bool,
    ) -> None:
        self._argv = argv
        self._env = env
        self._policy = permissions
        self._auth_method = auth_method
        self._tools = ToolServer() if has_tools else None
        self._folder = os.getcwd()
        self._limit_bytes = MAX_MESSAGE_BYTES - ROOM_BYTES
        self._agent: AgentProcess
        self._sessions: Sessions | None = None
        self._info: AgentInfo
        self.hooks = Hooks(None, (), __version__)
        self.hooks.on_start = self._start
        self.hooks.on_shutdown = self._stop
        self.hooks.task = self._run
        self.hooks.checkpoint = stateless
        self._served: dict[str, Callable[[Session, Mapping[str, object]], Awaitable[object]]] = {
            "session/request_permission": self._permission,
            "elicitation/create": self._form,
            "fs/read_text_file": lambda _, params: asyncio.to_thread(files.read_text, params, self._folder),
            "fs/write_text_file": lambda _, params: asyncio.to_thread(files.write_text, params, self._folder),
            "terminal/create": lambda session, params: session.terminals.create(params),
            "terminal/wait_for_exit": lambda session, params: session.terminals.wait_for_exit(params),
            "terminal/output": _at_once(lambda session, params: session.terminals.output(params)),
            "terminal/kill": _at_once(lambda session, params: session.terminals.kill(params)),
            "terminal/release": _at_once(lambda session, params: session.terminals.release(params)),
        }

    # -- life cycle

    async def _start(self, start: Start) -> None:
        """Starts the agent, and opens a session of it, so that a worker is Ready which can work."""
        limit = start.limits.get("max_output_size_bytes")
        if isinstance(limit, int) and limit > 0:
            self._limit_bytes = min(self._limit_bytes, limit)
        self._agent = AgentProcess(self._argv, self._serve, self._receive)
        await self._agent.start(self._env)
        if self._tools is not None:
            await self._tools.start()
        params = {
            "protocolVersion": PROTOCOL_VERSION,
            "clientCapabilities": CLIENT_CAPABILITIES,
            "clientInfo": {"name": "corral", "title": "corral", "version": __version__},
        }
        try:
            self._info = info_of(await self._agent.request("initialize", params))
            await self._sign_in()
        except SpawnFailed:
            raise
        except CorralError as error:
            text = f"cannot start the ACP agent: it refuses initialize: {words_of(error)}"
            raise SpawnFailed(text, result="exec-failed", reason=error.message) from None
        assert self.hooks.running is not None, "hooks are called while the worker runs"
        life = f"{start.worker}#{start.incarnation}"
        turns = start.limits.get("max_concurrent_requests", 1)
        self._sessions = Sessions(
            self._agent,
            self._info,
            life,
            self._folder,
            self._tools,
            self.hooks.running.calls,
            turns if isinstance(turns, int) else 1,
        )
        try:
            await self._sessions.open_spare()
        except CorralError as error:
            if is_sign_in(error):
                raise sign_in_failed(self._info, None, error) from None
            text = f"cannot start the ACP agent: it opens no session: {words_of(error)}"
            raise SpawnFailed(text, result="exec-failed", reason=error.message) from None
        log_line(f"corral: {self._info.name or self._argv[0]} {self._info.version} is ready, by ACP")

    async def _sign_in(self) -> None:
        asked = self._auth_method
        if asked is None:
            return
        if asked not in {method.id for method in self._info.methods}:
            raise sign_in_failed(self._info, asked, None)
        try:
            await self._agent.request("authenticate", {"methodId": asked})
        except CorralError as error:
            raise sign_in_failed(self._info, asked, error) from None

    async def _stop(self) -> None:
        if self._sessions is not None:
            self._sessions.close()
        await self._agent.stop()
        if self._tools is not None:
            self._tools.close()

    # -- tasks

    async def _run(self, task: Task) -> Json:
        """Runs a task as a turn, and returns the last message of the agent."""
        assert self._sessions is not None, "a worker that is Ready has sessions"
        try:
            session = await self._sessions.of(task)
        except CorralError as error:
            raise turn_refused(self._info, error) from None
        turn = Turn(task, self._limit_bytes)
        self._sessions.begin(session, turn)
        message: str | None = None
        sending = asyncio.get_running_loop().create_task(turn.run())
        try:
            answer = await self._prompted(session, turn)
            turn.finish()
            await sending
            if (failure := messages.error_of(answer, turn.last_message)) is not None:
                raise failure
            output = messages.output_of(turn.last_message, turn.others, task.output_format)
            message = turn.last_message  # it has come to its end: the session keeps it
            return output
        finally:
            sending.cancel()
            self._sessions.end(session, task, message)

    async def _prompted(self, session: Session, turn: Turn) -> object:
        task = turn.task
        blocks = messages.blocks_of(task, embeds=self._info.embeds, earlier=session.earlier)
        params = {"sessionId": session.id, "prompt": blocks}
        prompt = asyncio.get_running_loop().create_task(self._agent.request("session/prompt", params))
        try:
            answer = await asyncio.shield(prompt)
        except CorralError as error:
            raise turn_refused(self._info, error) from None
        except asyncio.CancelledError:
            turn.is_cancelled = True
            self._agent.channel.notify("session/cancel", {"sessionId": session.id})
            for question in turn.questions:
                question.cancel()
            await asyncio.wait([prompt])  # the daemon bounds it, and replaces the worker
            raise
        if tokens := messages.tokens_of(answer):
            task.usage(tokens)
        return answer

    # -- the agent's messages

    def _receive(self, notification: Notification) -> None:
        if notification.method != "session/update" or self._sessions is None:
            return
        session = self._sessions.get(notification.params.get("sessionId"))
        update = as_object(notification.params.get("update"))
        if session is None or update is None:
            return
        if update.get("sessionUpdate") == "usage_update":
            cost = messages.cost_cents_of(update)
            if cost is not None and cost > session.cost_cents:
                if session.turn is not None:
                    session.turn.task.usage(0, cost - session.cost_cents)
                session.cost_cents = cost
        elif session.turn is not None:
            session.turn.update(update)

    async def _serve(self, request: Request) -> object:
        """Returns the response to a request of the agent."""
        served = self._served.get(request.method)
        if served is None:
            raise MethodNotFound(f'cannot call "{request.method}": corral does not offer it', method=request.method)
        session_id = request.params.get("sessionId")
        session = None if self._sessions is None else self._sessions.get(session_id)
        if session is None:
            text = f'cannot serve "{request.method}": there is no session {session_id!r:.100}'
            raise InvalidParams(text, key="sessionId", value=session_id)
        return await served(session, request.params)

    # -- permissions

    async def _permission(self, session: Session, params: Mapping[str, object]) -> object:
        turn = session.turn
        options = policy.options_of(params)
        action = policy.action_of(as_object(params.get("toolCall")) or {})
        word = policy.decision(self._policy, action)
        if turn is None or turn.is_cancelled:
            return {"outcome": {"outcome": "cancelled"}}
        by = "the spec"
        if word == "ask":
            option, by = await self._asked(turn, action, options), "a person"
        else:
            option = policy.option_for(word, options)
        shown = action.title[:OPTION_CHARS] or action.kind
        chosen = next((each.name for each in options if each.id == option), "cancelled")
        fields: dict[str, Json] = {"by": by, "answer": chosen, "kind": action.kind}
        turn.task.log(f"permission for {shown}: {chosen}", **fields)
        if option is None:
            return {"outcome": {"outcome": "cancelled"}}
        return {"outcome": {"outcome": "selected", "optionId": option}}

    async def _asked(self, turn: Turn, action: policy.Action, options: Sequence[policy.Option]) -> str | None:
        """Returns the option that a person chooses; that of refusal if nobody does in time."""
        by_answer = policy.answers(options)
        refusal = policy.option_for("deny", options)
        default = next((word for word, option in by_answer.items() if option == refusal), None)
        params: dict[str, object] = {
            "task": turn.task.id,
            "kind": "permission",
            "question": policy.question_of(action),
            "options": list(by_answer),
            "detail": policy.detail_of(action, options),
            "key": turn.key_of(action),
        }
        if default is not None:
            params["default"] = default
        if self._policy.timeout_s is not None:
            params["timeout_s"] = self._policy.timeout_s
        record = await self._put(turn, params)
        if record is None:
            return None
        answer = record.get("answer")
        return by_answer.get(answer) if isinstance(answer, str) else refusal

    async def _put(self, turn: Turn, params: Mapping[str, object]) -> Mapping[str, object] | None:
        """Returns the record of a question that has ended; None if the turn is cancelled meanwhile."""
        assert self.hooks.running is not None, "a turn runs"
        asking = asyncio.ensure_future(self.hooks.running.calls.request("task/ask", params))
        turn.questions.add(asking)
        try:
            return object_of(await asking)
        except asyncio.CancelledError:
            if not turn.is_cancelled:
                raise
            return None
        finally:
            turn.questions.discard(asking)

    # -- forms

    async def _form(self, session: Session, params: Mapping[str, object]) -> object:
        """Asks a person for the fields of a form, one after the other."""
        turn = session.turn
        if turn is None or turn.is_cancelled:
            return {"action": "cancel"}
        form = turn.next_form()

        async def ask(asked: forms.Asked) -> forms.Reply:
            field = asked.field
            question: dict[str, object] = {
                "task": turn.task.id,
                "question": field.question,
                "options": list(forms.options_of(field)),
                "key": f"form-{form}-{asked.attempt}-{field.key}"[:KEY_CHARS],
                "can_decline": True,
            }
            if field.default is not None:
                question["default"] = field.default
            if self._policy.timeout_s is not None:
                question["timeout_s"] = self._policy.timeout_s
            record = await self._put(turn, question) or {}
            state, answer = record.get("state"), record.get("answer")
            if state != "answered":
                return forms.Reply("withdrawn", None)
            return forms.Reply("answered", answer if isinstance(answer, str) else None)

        return await forms.fill(params, ask)


def _at_once(
    act: Callable[[Session, Mapping[str, object]], object],
) -> Callable[[Session, Mapping[str, object]], Awaitable[object]]:
    async def served(session: Session, params: Mapping[str, object]) -> object:
        return act(session, params)

    return served
