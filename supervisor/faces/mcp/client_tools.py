"""Serves one MCP client: the tools, prompts and resources of the pool that it is offered, and corral's own tools."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from corral.mcp.pool.pool import Pool
from corral.mcp.pool.short_list import Target, find, target_of, unknown
from corral.mcp.pool.tool_index import Document, document_of
from corral.mcp.protocol.catalog import Kind
from corral.mcp.protocol.messages import Caller
from corral.supervisor.agents.membership.agents import Agents
from corral.supervisor.api.table.table import Control
from corral.supervisor.config.spec.spec import Config
from corral.supervisor.records.events.bus import Bus, Event
from corral.supervisor.tasks.group import TasksGroup
from corral.supervisor.tasks.worker_api import exposed
from corral.supervisor.tasks.worker_api.tool_calls import LISTING_S
from corral.worker.contract import codec
from corral.worker.contract.errors import CorralError, InvalidParams, NotFound
from corral.worker.contract.mcp_info import CALL_TOOL, FIND_TOOL, INSTRUCTIONS
from corral.worker.contract.trace_context import KEY, valid
from corral.worker.control.params import AttachParams

from .elicitation import InputRequired, Person, Questions, complete
from .offer import Offer
from .tasks import ClientTasks
from .tool_caller import Client
from .tools import OWN_TOOLS, PREFIX, run_exposed


@dataclass(frozen=True, slots=True)
class ToolSources:
    """Holds what the tools of MCP clients come from."""

    control: Control
    agents: Agents
    pool: Pool
    tasks: TasksGroup
    bus: Bus

    def tools_of(self, client: Client, view: AttachParams) -> "ClientTools":
        """Returns what serves one client; raises NotFound where its profile is not there."""
        questions = Questions(self.tasks.approvals, self.tasks.tasks, self.bus)
        offer = Offer(self.agents, self.tasks.tool_calls, self.tasks.tasks, questions, client, view)
        return ClientTools(self, offer, ClientTasks(self.control, self.agents, questions, offer))


class ClientTools:
    """Serves the tools, prompts and resources of one client."""

    def __init__(self, sources: ToolSources, offer: Offer, tasks: ClientTasks) -> None:
        self._control = sources.control
        self._agents = sources.agents
        self._pool = sources.pool
        self._tool_calls = sources.tasks.tool_calls
        self._bus = sources.bus
        self._offer = offer
        self.tasks = tasks

    @property
    def instructions(self) -> str:
        """Returns the instructions for models."""
        return INSTRUCTIONS

    async def listed(self, kind: Kind) -> list[dict[str, object]]:
        """Lists MCP's objects under exposed names, sorted; starts servers that never listed anything."""
        pool, access = self._pool, self._offer.access
        await pool.list_servers(pool.concerned(access), patience_s=LISTING_S)
        offered = pool.offered(kind, self._offer.access)
        if kind == "tools":
            offered = [_as_plain(tool) for tool in offered]
            own = [tool.described() for tool in OWN_TOOLS.values() if self._offer.may_use(tool)]
            exposed_tools = [exposed.described(each) for _, each in self._offer.exposed()]
            own += [_as_plain(each) for each in exposed_tools] if self._offer.is_inside else exposed_tools
            offered = self._offer.shortened(sorted([*own, *offered], key=_name_of))
        return offered

    async def _documents(self) -> tuple[Document, ...]:
        """Returns what is searched of all tools that the client is offered."""
        pool, access = self._pool, self._offer.access
        await pool.list_servers(pool.concerned(access), patience_s=LISTING_S)
        own = (tool.document for tool in OWN_TOOLS.values() if self._offer.may_use(tool))
        agents = (document_of(exposed.described(each)) for _, each in self._offer.exposed())
        return (*own, *agents, *pool.documents(self._offer.access))

    def tool(self, name: str) -> Mapping[str, object] | None:
        """Returns the tool that a call of this name would reach, short names included; None if unknown or not offered."""
        own = OWN_TOOLS.get(name)
        if own is not None:
            return own.described() if self._offer.may_use(own) else None
        if name.startswith(exposed.PREFIX):
            receivers = (each for known, each in self._offer.exposed() if known == name)
            return next(map(exposed.described, receivers), None)
        return self._pool.tool(name, self._offer.access)

    async def request(self, method: str, params: Mapping[str, object], caller: Caller) -> dict[str, object]:
        """Returns the result of tools/call, prompts/get, resources/read or completion/complete."""
        if caller.tenant != self._offer.client.tenant:
            caller = replace(caller, tenant=self._offer.client.tenant)
        if method != "tools/call":
            self._agents.check_may_call(f'call "{method}"')
            return await self._pool.request(method, params, access=self._offer.access, caller=caller)
        name = str(params["name"])
        arguments: Mapping[str, object] | None = codec.as_object(params.get("arguments", {}))
        if arguments is None:
            raise InvalidParams(f'cannot call "{name}": its arguments are no object', key="arguments")
        if name == FIND_TOOL:
            return find(arguments, await self._documents(), self.tool)
        if name == CALL_TOOL:
            return await self._call_found(target_of(arguments), params, caller)
        traceparent = valid((codec.as_object(params.get("_meta")) or {}).get(KEY))
        if name.startswith((PREFIX, exposed.PREFIX)):
            call = self._call_own if name.startswith(PREFIX) else self._call_exposed
            person = self._offer.person(caller, params)
            try:
                if person is not None and name.startswith(exposed.PREFIX):
                    arguments = await complete(self._offer.receiver(name), arguments, params, caller)
                return await call(name, arguments, caller, traceparent, person)
            except InputRequired as required:
                return required.result()
        return await self._tool_calls.call(
            name,
            arguments,
            caller=caller,
            who=self._offer.client.who,
            access=self._offer.access,
            more={key: value for key, value in params.items() if key not in ("name", "arguments")},
            supervisor=self._offer.client.supervisor,
        )

    async def _call_found(self, target: Target, params: Mapping[str, object], caller: Caller) -> dict[str, object]:
        try:
            return await self.request("tools/call", {**params, **target._asdict()}, caller)
        except NotFound as error:
            if error.data.get("tool") != target.name:
                raise
            raise unknown(target.name, await self._documents()) from error

    async def _call_own(
        self, name: str, arguments: Mapping[str, object], caller: Caller, traceparent: str | None, person: Person | None
    ) -> dict[str, object]:
        tool = OWN_TOOLS.get(name)
        if tool is None:
            raise NotFound(f'cannot find tool "{name}"', tool=name, near=[])
        self._offer.check_own(tool)
        return await tool.call(self._control, arguments, self._offer.tool_caller(caller, traceparent, person))

    async def _call_exposed(
        self, name: str, arguments: Mapping[str, object], caller: Caller, traceparent: str | None, person: Person | None
    ) -> dict[str, object]:
        client = self._offer.client
        receiver = self._offer.receiver(name)
        try:
            if client.supervisor is not None:
                return await self._tool_calls.call_agent(client.supervisor, None, name, arguments, self._offer.access)
            tool_caller = self._offer.tool_caller(caller, traceparent, person)
            order = exposed.order_of(receiver, arguments)
            return await run_exposed(self._control, receiver, order, tool_caller)
        except CorralError as error:  # a model reads why the task was not accepted
            return exposed.failed(error)

    async def subscribe(self, uri: str, on_updated: Callable[[str], None]) -> Callable[[], None]:
        """Calls `on_updated` with the URI whenever the resource changes; returns a function that ends that."""
        client = self._offer.client
        caller = Caller(name=client.name, sharer=client.sharer, tenant=client.tenant)
        return await self._pool.subscribe(uri, on_updated, self._offer.access, caller=caller)

    def watch(self, on_change: Callable[[Kind], None]) -> Callable[[], None]:
        """Calls `on_change` when a list has changed; returns a function that ends that."""
        end = self._pool.watch(on_change)

        def reloaded(_config: Config) -> None:
            on_change("tools")
            on_change("prompts")
            on_change("resources")

        def on_event(_event: Event) -> bool:
            on_change("tools")
            return False  # nothing is queued

        changes = self._bus.subscribe(exposed.CHANGES, where=on_event)

        def ended() -> None:
            end()
            unsubscribe()
            changes.close()

        unsubscribe = self._agents.in_force.subscribe(reloaded)
        return ended


def _name_of(tool: Mapping[str, object]) -> str:
    return str(tool["name"])


def _as_plain(tool: dict[str, object]) -> dict[str, object]:
    """Returns the entry of a tool whose calls are no tasks for the client, whatever its server has said of them."""
    if "execution" not in tool:
        return tool
    return {key: value for key, value in tool.items() if key != "execution"}
