"""Maps sessions of corral to sessions of ACP, over the lives of the agent as far as it can load or resume one.

A session's memory has the id of its ACP session under `acp` in `data`, with the life of the worker that had it last: one
that another life went on with is loaded anew. Where the agent can do neither, a new one is told the conversation.
"""

import asyncio
from collections.abc import Mapping, Sequence

from ..contract.codec import as_object
from ..contract.errors import CorralError, TaskFailed
from ..sdk.results import Json
from ..sdk.stdio import log_line
from ..sdk.task import Calls, Task
from .messages import AgentInfo, is_sign_in
from .process import AgentProcess
from .terminals import Terminals
from .tool_server import ToolServer, TurnCalls
from .turn import Turn

KEY = "acp"
"""Name in the data of a session of corral under which its ACP session is kept."""

SESSIONS_MOST = 100
"""Number of ACP sessions that are held open between turns; the one that rested longest is closed for another."""

OPEN_S = 120.0
"""Seconds that an agent may take to open a session."""

CLOSE_S = 5.0
"""Seconds that an agent may take to close one."""


class Session:
    """Represents an ACP session of this life of the agent; `earlier` has the messages that it does not know."""

    def __init__(self, folder: str) -> None:
        self.id = ""
        self.turn: Turn | None = None
        self.terminals = Terminals(folder)
        self.token: str | None = None
        self.earlier: Sequence[Mapping[str, Json]] = ()
        self.cost_cents = 0.0
        self.last_use = 0


class Sessions:
    """Holds the ACP sessions of one life of the agent."""

    def __init__(
        self,
        agent: AgentProcess,
        info: AgentInfo,
        life: str,
        folder: str,
        tools: ToolServer | None,
        calls: Calls,
        turns_most: int,
    ) -> None:
        self._agent = agent
        self._info = info
        self._life = life
        self._folder = folder
        self._tools = tools
        self._calls = calls
        self._by_id: dict[str, Session] = {}
        self._kept: dict[str, Session] = {}
        """By the session of corral, those that a later turn may go on with."""
        self._spare: Session | None = None
        self._uses = 0
        self._common_entry: dict[str, object] | None = None
        if tools is not None and turns_most == 1:
            # Some agents (fast-agent) keep one server of a name for all sessions, and refuse a second one.
            _, self._common_entry = tools.offer(TurnCalls(self._running_turn, calls))
        self._closing = set[asyncio.Task[None]]()

    def get(self, session_id: object) -> Session | None:
        """Returns the session of an id of ACP."""
        return self._by_id.get(session_id) if isinstance(session_id, str) else None

    async def open_spare(self) -> None:
        """Opens the session of the next task that has none of its own, so that a start shows whether that can be."""
        self._spare = await self._new()

    async def of(self, task: Task) -> Session:
        """Returns the session in which a task is a turn."""
        if task.session is None:
            spare, self._spare = self._spare, None
            return spare or await self._new()
        kept = as_object(task.memory.data.get(KEY)) or {}
        session_id = kept.get("id")
        found = self._kept.get(task.session)
        if found is not None and found.id == session_id and kept.get("life") == self._life:
            return found
        if found is not None:
            self._close(found)
        if isinstance(session_id, str):
            found = await self._load(session_id)
        else:
            found = None
        if found is None:
            found, self._spare = self._spare or await self._new(), None
            found.earlier = list(task.memory.history)
        self._kept[task.session] = found
        return found

    def begin(self, session: Session, turn: Turn) -> None:
        """Makes a turn that of its session."""
        self._uses += 1
        session.last_use = self._uses
        session.turn = turn

    def end(self, session: Session, task: Task, answer: str | None) -> None:
        """Ends a turn; `answer` is that of one that has come to its end.

        A session of corral keeps its ACP session, any other is closed.
        """
        session.turn = None
        if task.session is None:
            self._close(session)
            return
        session.earlier = ()
        if answer is not None:
            task.memory.add("user", task.objective)
            task.memory.add("assistant", answer)
            place = {"id": session.id, "life": self._life}
            if task.memory.data.get(KEY) != place:
                task.memory.data[KEY] = place
        resting = [each for each in self._kept.values() if each.turn is None]
        if len(self._kept) > SESSIONS_MOST and resting:
            self._close(min(resting, key=lambda each: each.last_use))

    def close(self) -> None:
        """Ends the commands of all."""
        for session in self._by_id.values():
            session.terminals.close()

    # -- requests to the agent

    async def _new(self) -> Session:
        session = Session(self._folder)
        answer = as_object(await self._opened(session, "session/new", {})) or {}
        if not isinstance(answer.get("sessionId"), str):
            self._forget(session)
            raise TaskFailed("cannot open a session: the agent gives it no id")
        session.id = str(answer["sessionId"])
        self._by_id[session.id] = session
        return session

    async def _load(self, session_id: str) -> Session | None:
        """Returns a session of an earlier life; None where the agent cannot take it up."""
        if not (self._info.loads or self._info.resumes):
            return None
        session = Session(self._folder)
        session.id = session_id
        self._by_id[session_id] = session  # its messages until now come before the answer
        method = "session/resume" if self._info.resumes else "session/load"
        try:
            await self._opened(session, method, {"sessionId": session_id})
        except CorralError as error:
            if is_sign_in(error):
                raise
            log_line(f"corral: cannot load session {session_id}, a new one gets its conversation: {error.message}")
            return None
        return session

    async def _opened(self, session: Session, method: str, more: dict[str, object]) -> object:
        servers: list[object] = []
        if self._common_entry is not None:
            servers.append(self._common_entry)
        elif self._tools is not None:
            calls = TurnCalls(lambda: session.turn, self._calls)
            session.token, entry = self._tools.offer(calls)
            servers.append(entry)
        params = {"cwd": self._folder, "mcpServers": servers, **more}
        try:
            return await self._agent.request(method, params, timeout_s=OPEN_S)
        except BaseException:
            self._forget(session)
            raise

    def _running_turn(self) -> Turn | None:
        """Returns the turn that runs; None if none does, or several do since the limit was raised."""
        found = [each.turn for each in self._by_id.values() if each.turn is not None]
        return found[0] if len(found) == 1 else None

    def _close(self, session: Session) -> None:
        self._forget(session)
        if self._info.closes:
            closing = asyncio.get_running_loop().create_task(self._ask_to_close(session.id))
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)

    async def _ask_to_close(self, session_id: str) -> None:
        params = {"sessionId": session_id}
        try:
            await self._agent.request("session/close", params, timeout_s=CLOSE_S)
        except CorralError as error:
            log_line(f"corral: cannot close session {session_id}: {error.message}")

    def _forget(self, session: Session) -> None:
        session.terminals.close()
        if session.token is not None and self._tools is not None:
            self._tools.withdraw(session.token)
        if self._by_id.get(session.id) is session:
            del self._by_id[session.id]
        for name in [name for name, each in self._kept.items() if each is session]:
            del self._kept[name]
