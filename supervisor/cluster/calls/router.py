"""Decides which node answers a call: the one that it names, the one that has what it is about, or all of them as one.

A name that this daemon does not know is looked for on the other nodes, for callers that are not restricted. A restricted one
sees in a list of all nodes the entries that each node would show it.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping, Sequence

from msgspec import Struct

from corral.supervisor.api.table.handlers import Caller
from corral.worker.contract import codec
from corral.worker.contract.errors import (
    CorralError,
    InvalidParams,
    NotFound,
    ResourceLimitExceeded,
    Timeout,
    Unreachable,
    from_wire,
)
from corral.worker.contract.log_pieces import PieceJoiner
from corral.worker.control.nodes import places_of

from ..engine.interface import Engine
from .followed import END, FOLLOWED, FOLLOWED_OF_ONE, Followed, reads_own
from .forwarding import Forwarding, Question
from .one_view import UNITED, greatest, plain, runs_of_all, united
from .passing_caller import PassingCaller
from .remote_caller import RemoteCaller

ALL_S = 2.0
"""Seconds that each node has for its part of an answer of all nodes; one that is silent is named as missing."""

ALL_NODES = "*"
"""The name that stands for all nodes."""

NODE_KEY = "node"
"""The key of the params of every method that names the node that is to answer."""

LOG_BYTES = 8 * 1024 * 1024
"""Bytes of JSON in one answer with log lines."""

ABOUT_AGENTS = frozenset(
    (
        "agent",
        "checkpoint",
        "log",
        "mcp",
        "memory",
        "metrics",
        "quota",
        "schedule",
        "statistics",
        "task",
        "team",
        "workflow",
    )
)
"""The first words of methods whose names are those of agents, servers, teams and workflows, or of schedules."""

OPERATIONS = frozenset(f"agent.{each}" for each in ("start", "stop", "restart", "reset", "pause", "resume"))
"""Methods that change a placed agent on all nodes that run it, unless a call names one."""

MEMORY_OF_ALL = frozenset(("memory.clear", "memory.delete", "memory.put"))
"""Methods that change the memory of a placed agent on all nodes that run it."""

RECENT = 10
"""Number of the last runs of a schedule that all nodes show together."""

SERVER_MARK = "__"
"""Stands between the name of a server and that of its tool."""

Here = Callable[[Mapping[str, object]], Awaitable[object]]
"""Answers a call on this node."""


class Router:
    """Answers calls with what other nodes have."""

    def __init__(
        self,
        name: str,
        forwarding: Forwarding,
        reached: Callable[[str], Engine],
        others: Callable[[], Awaitable[list[str]]],
        runners: Callable[[str], list[str]],
        kept: Callable[[str, Mapping[str, object], Caller], Awaitable[Mapping[str, object] | None]],
        is_cut_off: Callable[[], bool],
    ) -> None:
        self._name = name
        self._forwarding = forwarding
        self._reached = reached
        self._others = others
        self._runners = runners
        self._kept = kept
        self._is_cut_off = is_cut_off

    async def routed(
        self, method: str, streams: bool, reads: bool, params: Mapping[str, object], caller: Caller, here: Here
    ) -> object:
        """Returns the answer of the node that the key `node` of the params names, or of the one that has what they are about."""
        own = {key: value for key, value in params.items() if key != NODE_KEY}
        is_free = caller.agents is None and not caller.tenant
        is_outside = not isinstance(caller, RemoteCaller)
        is_united = method in UNITED or (method in FOLLOWED and method != FOLLOWED_OF_ONE)
        is_united = is_united and not reads_own(method, own)
        node = params.get(NODE_KEY, ALL_NODES if is_united and is_outside else self._name)
        if not isinstance(node, str):
            raise InvalidParams("cannot choose a node: its name is a string", key=NODE_KEY)
        if method in FOLLOWED and (node == ALL_NODES or NODE_KEY in params) and is_outside:
            return await self._follow(method, own, caller, node)
        if node == ALL_NODES:
            if not reads or streams:
                reason = "it changes something, or streams"
                raise InvalidParams(f"cannot call {method} on all nodes: {reason}", key=NODE_KEY, reason=reason)
            if method == "log.read":
                return await self._read_logs(own, caller)
            return await self._of_all(method, own, caller, here)
        if node == self._name:
            if NODE_KEY in params and (method in OPERATIONS or method.startswith("memory.")):
                reader = PassingCaller(caller)  # what is placed is meant as it is on this node
                return await self._forwarding.answer_here(method, own, reader)
            try:
                answer = await here(own)
                if method == "schedule.show" and is_outside and NODE_KEY not in params:
                    return await self._with_runs_of_all(own, answer, caller)
                return answer
            except NotFound:
                question = about(method, own)
                if question is None or not is_free or NODE_KEY in params:
                    raise
                try:
                    engine = self._reached("look for it on other nodes")
                except Timeout:
                    engine = None
                if engine is None or not (node := await self._node_of(engine, question)):
                    raise
        engine = self._reached(f'reach node "{node}"')
        return await self._forwarding.forward(engine, node, method, own, caller, streams=streams)

    def of_placed(self, method: str, asked: Struct, caller: Caller, nodes: Sequence[str]) -> Awaitable[object] | None:
        """Returns the answer of the nodes that run a placed agent to a call about its memory; None where this one is to answer.

        A change is made on all of them; other calls are for one.
        """
        is_direct = isinstance(caller, (RemoteCaller, PassingCaller))
        is_here = self._name in nodes and (method not in MEMORY_OF_ALL or len(nodes) == 1)
        if is_direct or is_here or not nodes:
            return None
        params = {key: getattr(asked, key) for key in asked.__struct_fields__}
        # A value to keep may be null.
        given = {key: value for key, value in params.items() if value is not None or key == "value"}
        if method not in MEMORY_OF_ALL:
            return self._forward_to(nodes[0], method, given, caller)
        return self._change_memory(method, given, caller, nodes)

    def on_all(
        self, method: str, asked: Struct, caller: Caller, places: Mapping[str, Sequence[str]]
    ) -> Awaitable[object] | None:
        """Returns the answer of all nodes that run some of the named placed agents; None where this one alone does.

        `places` has the names of each node.
        """
        is_direct = isinstance(caller, (RemoteCaller, PassingCaller))
        if is_direct or not places or list(places) == [self._name]:
            return None
        params = {key: getattr(asked, key) for key in asked.__struct_fields__}
        given = {key: value for key, value in params.items() if value is not None}
        return self._changed(method, given, caller, places)

    def statuses(self, agent: str, caller: Caller) -> Callable[[], Awaitable[object]]:
        """Returns a function that returns `agent.list` of the nodes that run a placed agent."""

        async def listed() -> object:
            places = {node: [agent] for node in self._runners(agent)}
            return await self._changed("agent.list", {}, caller, places)

        return listed

    async def _changed(
        self, method: str, given: Mapping[str, object], caller: Caller, places: Mapping[str, Sequence[str]]
    ) -> object:
        async def change(node: str) -> object:
            params = {**given, "names": list(places[node])}
            if node == self._name:
                return await self._forwarding.answer_here(method, params, PassingCaller(caller))
            return await self._forward_to(node, method, params, caller)

        found = await asyncio.gather(*map(change, places), return_exceptions=True)
        for each in found:
            if isinstance(each, BaseException):
                raise each
        return united(method, dict(zip(places, found, strict=True)))

    async def _change_memory(
        self, method: str, params: Mapping[str, object], caller: Caller, nodes: Sequence[str]
    ) -> object:
        """Changes the memory of an agent on nodes, one after the other; of counts the greatest is returned."""
        answer: dict[str, object] | None = None
        failed: CorralError | None = None
        for node in nodes:
            try:
                if node == self._name:
                    found = await self._forwarding.answer_here(method, params, PassingCaller(caller))
                else:
                    found = await self._forward_to(node, method, params, caller)
            except NotFound as error:
                failed = error
                continue
            answer = greatest({} if answer is None else answer, plain(found))
        if failed is not None and answer is None:
            raise failed
        return answer

    async def _forward_to(self, node: str, method: str, params: Mapping[str, object], caller: Caller) -> object:
        engine = self._reached(f'reach node "{node}"')
        return await self._forwarding.forward(engine, node, method, params, caller, streams=False)

    async def _node_of(self, engine: Engine, question: Question) -> str:
        """Returns another node that has something, "" where there is none."""
        if len(question.names) == 1 and (found := self._runners(question.names[0])):
            return next((each for each in found if each != self._name), "")
        return await self._forwarding.find(engine, question)

    # -- streams

    async def _follow(self, method: str, own: Mapping[str, object], caller: Caller, node: str) -> object:
        """Begins a stream of one node, or of all."""

        async def ask(name: str, params: Mapping[str, object], reader: Caller) -> object:
            if name == self._name:
                return await self._forwarding.answer_here(method, params, reader)
            if self._is_cut_off():
                raise _not_reached(name)
            engine = self._reached(f'reach node "{name}"')
            return await self._forwarding.forward(engine, name, method, params, reader, streams=True)

        async def names() -> Sequence[str]:
            return [self._name, *await self._others()] if node == ALL_NODES else [node]

        followed = Followed(method, own, caller, ask, names, "" if node == ALL_NODES else node)
        answer = await followed.begin()
        caller.follow(followed.run())
        return answer

    async def _read_logs(self, own: Mapping[str, object], caller: Caller) -> dict[str, object]:
        """Returns the last lines of all nodes, in the order of their times."""
        reader = _LogCollector(caller)
        await self._follow("log.follow", {**own, "follow": False}, reader, ALL_NODES)
        assert reader.following is not None, "it has begun"
        await reader.following
        return reader.answer()

    # -- lists

    async def _of_all(self, method: str, own: Mapping[str, object], caller: Caller, here: Here) -> object:
        """Returns the lists of all nodes as one, each entry with its node; other values are those of this node.

        `missing_nodes` are those that do not answer within ALL_S; with the engine away, all others that were known.
        """
        others = await self._others()
        wanted = _of_each(method, own, [self._name, *others])
        answers: dict[str, object] = {}
        failed: NotFound | None = None
        if self._name in wanted:
            try:
                answers = {self._name: await here(wanted[self._name])}
            except NotFound as error:
                failed = error
        others = [each for each in others if each in wanted]
        asked = (self._of_one(each, method, wanted[each], caller) for each in others)
        found = await asyncio.gather(*asked)
        missing = [node for node, answer in zip(others, found, strict=True) if answer is None]
        for node, answer in zip(others, found, strict=True):
            if answer is not None and not isinstance(answer, CorralError):
                answers[node] = answer
        if failed is not None and not answers:
            raise failed
        with contextlib.suppress(CorralError):
            kept = await self._kept(method, own, caller)
            if kept is not None and (method != "task.list" or not missing):
                answers[""] = kept
        return {**united(method, answers), "missing_nodes": missing}

    async def _with_runs_of_all(self, own: Mapping[str, object], shown: object, caller: Caller) -> object:
        """Returns a schedule of a placed agent with the last runs that all nodes have submitted; another one as it is."""
        task = codec.as_object(plain(shown).get("task")) or {}
        if not self._runners(str(task.get("agent"))):
            return shown
        others = await self._others()
        asked = (self._of_one(each, "schedule.show", own, caller) for each in others)
        found = dict(zip(others, await asyncio.gather(*asked), strict=True))
        answers = {node: each for node, each in found.items() if each is not None and not isinstance(each, CorralError)}
        joined = runs_of_all({self._name: shown, **answers}, RECENT)
        missing = [node for node, each in found.items() if each is None]
        return {**plain(shown), "recent": joined, "missing_nodes": missing}

    async def _of_one(self, node: str, method: str, own: Mapping[str, object], caller: Caller) -> object:
        """Returns the answer of one of all nodes; an error where it has nothing to say, None where it does not answer."""
        if self._is_cut_off():
            return None
        try:
            engine = self._reached(f'reach node "{node}"')
            async with asyncio.timeout(ALL_S):
                return await self._forwarding.forward(engine, node, method, own, caller, streams=False, timeout_s=ALL_S)
        except (ResourceLimitExceeded, Unreachable, Timeout, TimeoutError):
            return None
        except CorralError as error:
            return error


class _LogCollector(PassingCaller):
    """Collects the lines of a log for one answer."""

    def __init__(self, caller: Caller) -> None:
        super().__init__(caller)
        self._records: list[dict[str, object]] = []
        self._joiner = PieceJoiner()
        self._size = 0
        self._position: object = None
        self._missing: object = []
        self._error: CorralError | None = None

    def notify(self, method: str, params: Mapping[str, object]) -> None:
        """Keeps lines, up to a limit."""
        if method == END and params:
            self._error = from_wire(params["error"])
        if method == "nodes.missing":
            self._missing = params["missing_nodes"]
        if method != "log":
            return
        self._size += len(codec.encode(params["records"]))
        if self._size > LOG_BYTES:
            self._error = ResourceLimitExceeded(
                f"cannot answer with more than {LOG_BYTES} bytes of log: follow it", limit="answer", value=LOG_BYTES
            )
            return
        found = codec.as_array(params["records"]) or []
        self._records += self._joiner.join([each for each in found if isinstance(each, dict)])
        self._position = params["position"]

    async def drain(self) -> None:
        """Raises what ends the answer."""
        if self._error is not None:
            raise self._error

    def answer(self) -> dict[str, object]:
        """Returns the answer."""
        if self._error is not None:
            raise self._error
        self._records += self._joiner.flush()
        return {"records": self._records, "position": self._position, "missing_nodes": self._missing}


def _not_reached(node: str) -> Unreachable:
    reason = "this node has no lease"
    return Unreachable(f'cannot reach node "{node}": {reason}', node=node, reason=reason)


def _of_each(method: str, own: Mapping[str, object], nodes: Sequence[str]) -> dict[str, Mapping[str, object]]:
    """Returns the params for each node; of events that go on after a place, for the nodes that have one."""
    places: dict[str, dict[str, str]] = {}
    for key in ("since", "until"):
        if method == "event.list" and isinstance(text := own.get(key), str):
            try:
                places[key] = places_of(text)
                all(map(int, places[key].values()))
            except ValueError:
                words = f'cannot list events {key} "{text[:100]}": it is NODE:NUMBER,… of an answer'
                raise InvalidParams(words, key=key, value=text[:100]) from None
    return {
        node: {**own, **{key: int(found[node]) for key, found in places.items()}}
        for node in nodes
        if all(node in found for found in places.values())
    }


def about(method: str, params: Mapping[str, object]) -> Question | None:
    """Returns what a call is about, as far as its params name agents, servers, workers a task or a schedule; None where they do not."""
    if method.partition(".")[0] not in ABOUT_AGENTS:
        return None
    task = params.get("task")
    if isinstance(task, str):
        return Question(task=task)
    schedule = params.get("name")
    if method.startswith("schedule.") and isinstance(schedule, str):
        return Question(schedule=schedule)
    names = [params[key] for key in ("name", "agent", "worker") if params.get(key) is not None]
    given = params.get("names")
    names += given if isinstance(given, list) else []
    found = [name for name in names if isinstance(name, str)]
    if method == "mcp.call":
        found = [name.partition(SERVER_MARK)[0] for name in found if SERVER_MARK in name]
    return Question(names=found) if found else None
