"""Decides the tools of one MCP client: the part of the pool that it may use, and corral's own tools.

A client outside has the permission of its uid; one inside a worker's tree has the
tools of its agent, within the limits of the tasks that run there, and of corral's own tools what `control` of the
agent's spec grants. Patterns or a profile that the client gives only narrow that. All of it is looked up at
each request: a reload counts from the next one on.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from corral.mcp.protocol.caller import Caller
from corral.mcp.protocol.catalog import FULL, OWNERS, Access, Kind
from corral.supervisor.api.table.table import Control, Permission
from corral.supervisor.config.spec.spec import Config, Profile
from corral.supervisor.records.events.bus import Event
from corral.supervisor.tasks.run.backlog import Entry
from corral.supervisor.tasks.worker_api import exposed
from corral.supervisor.tasks.worker_api.tool_calls import LISTING_S, access_of, tenants_access
from corral.supervisor.tenants.tokens.scope import bound, is_in_scope
from corral.supervisor.workers.supervision.worker_supervisor import WorkerSupervisor
from corral.worker.contract import codec
from corral.worker.contract.errors import CorralError, InvalidParams, NotFound, PermissionDenied
from corral.worker.contract.mcp_info import INSTRUCTIONS
from corral.worker.contract.trace_context import KEY, valid
from corral.worker.control.params import AttachParams

from .elicitation import InputRequired, Person, can_be_asked
from .missing_input import complete
from .tasks import ClientTasks
from .tool_caller import ToolCaller
from .tools import CALL, OWN_TOOLS, PREFIX, OwnTool, run_exposed

NOTHING = Access(())


@dataclass(frozen=True)
class Client:
    """Represents an MCP client.

    Attributes:
        name: for errors and events.
        sharer: the owner of processes that it uses of servers that are not shared by all.
        who: as the audit names it.
        permission: for corral's own tools, as it is now; None for nothing.
        supervisor: of the worker in whose tree it is, if that is known.
        agents: globs of the agents that it may know, as they are now; None for all.
        tenant: that it is bound to; "" for none.
    """

    name: str
    sharer: str
    who: Mapping[str, object]
    permission: Callable[[], Permission | None]
    supervisor: WorkerSupervisor | None = None
    agents: Callable[[], Sequence[str] | None] = lambda: None
    tenant: str = ""


class ClientTools:
    """Serves the tools, prompts and resources of one client."""

    def __init__(self, control: Control, client: Client, view: AttachParams) -> None:
        self._control = control
        self._client = client
        self._view = view
        self._own = Access(None if view.only is None else tuple(view.only), tuple(view.deny), view.read_only)
        self._access = self._own
        self._base: Access | None = None
        name, profiles = view.profile, control.agents.config.profiles
        if name is not None and name not in profiles:
            known = sorted(profiles)
            quoted = ", ".join(f'"{each}"' for each in known)
            hint = f"; there are {quoted}" if known else "; the configuration has none"
            raise NotFound(f'cannot find profile "{name}"{hint}', profile=name, known=known)
        self._profile = Profile() if name is None else profiles[name]
        self.tasks = ClientTasks(control, self)

    @property
    def instructions(self) -> str:
        """Returns the instructions for models."""
        return INSTRUCTIONS

    @property
    def access(self) -> Access:
        """Returns the part of the pool that this client may use now."""
        supervisor = self._client.supervisor
        if supervisor is None or "token" in self._client.who:
            base = self._access_outside()
        else:
            try:
                lists = [entry.limits.allowed_tools for entry in self._entries(supervisor)]
                base = access_of(supervisor.spec, lists)
            except NotFound:
                base = NOTHING  # it still runs a task that is over: its limits are unknown
        profile = self._current_profile()
        if base is not self._base or profile is not self._profile:
            self._base, self._profile = base, profile
            if profile != Profile(control=profile.control):
                base = Access(profile.tools, profile.denied_tools, profile.read_only, within=base)
            own = self._own
            if own != FULL:
                base = Access(own.allowed, own.denied, own.read_only, within=base)
            self._access = base
        return self._access

    def _access_outside(self) -> Access:
        """Returns the part of the pool for a client of no known worker: calls need the right to operate, and no restriction to agents."""
        client = self._client
        if "agent" not in client.who or "token" in client.who:
            if (client.permission() or "read") == "read":
                return NOTHING
            if client.tenant:
                is_whole = client.agents() == bound(None, client.tenant)
                return tenants_access(client.tenant) if is_whole else NOTHING
            return OWNERS if client.agents() is None else NOTHING
        return self._control.tool_calls.access_for(client.who)

    def _entries(self, supervisor: WorkerSupervisor) -> list[Entry]:
        """Returns all tasks of the worker: the request does not name one, and is bound by the limits of each."""
        found = [self._control.tasks.accounting.task_of(supervisor, task) for task in tuple(supervisor.running)]
        return [entry for entry in found if entry is not None]

    def _current_profile(self) -> Profile:
        """Returns the profile as it is now; one that was removed stays as it was, which grants no more."""
        name = self._view.profile
        if name is None:
            return self._profile
        return self._control.agents.config.profiles.get(name, self._profile)

    def may_use(self, tool: OwnTool) -> bool:
        """Returns whether one of corral's own tools is offered; a profile's list of tools is about the pool alone."""
        profile = self._current_profile()
        of_profile = Access(None, profile.denied_tools, profile.read_only)

        def admits(name: str, own: Access) -> bool:
            is_read_only = OWN_TOOLS[name].is_read_only
            return all(each.admits(name, is_read_only=is_read_only) for each in (own, of_profile))

        if not (profile.control and tool.is_within(self._client.permission())):
            return False
        if not admits(tool.name, self._own):
            return False
        # It could do what a denied tool does; those that `only` leaves out are not denied.
        denying = Access(None, self._own.denied, self._own.read_only)
        return tool.name != CALL or all(admits(name, denying) for name in OWN_TOOLS)

    async def listed(self, kind: Kind) -> list[dict[str, object]]:
        """Lists MCP's objects under exposed names, sorted; starts servers that never listed anything."""
        pool, access = self._control.pool, self.access
        await pool.list_servers(pool.concerned(access), patience_s=LISTING_S)
        found = pool.offered(kind, self.access)
        if kind == "tools":
            found = [_as_plain(tool) for tool in found]
            own = [tool.described() for tool in OWN_TOOLS.values() if self.may_use(tool)]
            own += [self._described(each) for _, each in self._exposed()]
            found = sorted([*own, *found], key=lambda tool: str(tool["name"]))
        return found

    def _described(self, receiver: exposed.Receiver) -> dict[str, object]:
        entry = exposed.described(receiver)
        return _as_plain(entry) if self.is_inside else entry

    def tool(self, name: str) -> Mapping[str, object] | None:
        """Returns the tool that a call of this name would reach, short names included; None if unknown or not offered."""
        own = OWN_TOOLS.get(name)
        if own is not None:
            return own.described() if self.may_use(own) else None
        if name.startswith(exposed.PREFIX):
            found = (each for known, each in self._exposed() if known == name)
            return next(map(exposed.described, found), None)
        return self._control.pool.tool(name, self.access)

    async def request(self, method: str, params: Mapping[str, object], caller: Caller) -> dict[str, object]:
        """Returns the result of tools/call, prompts/get, resources/read or completion/complete."""
        control = self._control
        if caller.tenant != self._client.tenant:
            caller = replace(caller, tenant=self._client.tenant)
        if method != "tools/call":
            control.agents.check_may_call(f'call "{method}"')
            return await control.pool.request(method, params, access=self.access, caller=caller)
        name = str(params["name"])
        arguments: Mapping[str, object] | None = codec.as_object(params.get("arguments", {}))
        if arguments is None:
            raise InvalidParams(f'cannot call "{name}": its arguments are no object', key="arguments")
        traceparent = valid((codec.as_object(params.get("_meta")) or {}).get(KEY))
        if name.startswith((PREFIX, exposed.PREFIX)):
            call = self._call_own if name.startswith(PREFIX) else self._call_exposed
            person = self.person(caller, params)
            try:
                if person is not None and name.startswith(exposed.PREFIX):
                    arguments = await complete(self.receiver(name), arguments, params, caller)
                return await call(name, arguments, caller, traceparent, person)
            except InputRequired as required:
                return required.result()
        more = {key: value for key, value in params.items() if key not in ("name", "arguments")}
        return await control.tool_calls.call(
            name,
            arguments,
            caller=caller,
            who=self._client.who,
            access=self.access,
            more=more,
            supervisor=self._client.supervisor,
        )

    def person(self, caller: Caller, params: Mapping[str, object], related: str | None = None) -> Person | None:
        """Returns the person at the client, if it can be asked and may answer; `related` is the task of MCP that asks."""
        may = (self._client.permission() or "read") != "read" and "agent" not in self._client.who
        if not may or not can_be_asked(caller.capabilities):
            return None
        return Person(self._control, caller.ask, params, related)

    @property
    def is_inside(self) -> bool:
        """Returns whether the client is a worker, or in the tree of one."""
        return "agent" in self._client.who

    def tool_caller(self, caller: Caller, traceparent: str | None, person: Person | None = None) -> ToolCaller:
        """Returns the client as the method table sees it, with its rights as they are now."""
        client = self._client
        return ToolCaller(
            client.name,
            client.permission() or "read",
            client.who,
            client.agents(),
            caller.on_progress,
            traceparent,
            client.tenant,
            person,
        )

    def check_own(self, tool: OwnTool) -> None:
        """Checks that one of corral's own tools is offered."""
        if not self.may_use(tool):
            raise PermissionDenied(f'cannot call "{tool.name}": it is not allowed', tool=tool.name)

    def offers(self, name: str) -> bool:
        """Returns whether the tool of an agent, a team or a workflow is offered."""
        return any(known == name for known, _ in self._exposed())

    def receiver(self, name: str) -> exposed.Receiver:
        """Returns the agent, team or workflow that has a tool."""
        found = next((each for known, each in self._exposed() if known == name), None)
        if found is None:
            raise NotFound(f'cannot find tool "{name}"', tool=name, near=[])
        return found

    async def _call_own(
        self, name: str, arguments: Mapping[str, object], caller: Caller, traceparent: str | None, person: Person | None
    ) -> dict[str, object]:
        tool = OWN_TOOLS.get(name)
        if tool is None:
            raise NotFound(f'cannot find tool "{name}"', tool=name, near=[])
        self.check_own(tool)
        return await tool.call(self._control, arguments, self.tool_caller(caller, traceparent, person))

    def _exposed(self) -> Iterator[tuple[str, exposed.Receiver]]:
        """Yields the exposed agents, teams and workflows that this client may call, with the names of their tools."""
        client = self._client
        registry = self._control.agents.registry
        if "agent" in client.who:
            if client.supervisor is not None:  # else no task is known that it could be delegated by
                yield from exposed.tools(registry, self.access)
            return
        if (client.permission() or "read") == "read":
            return
        profile = self._current_profile()
        access = Access(profile.tools, profile.denied_tools, profile.read_only, within=self._own)
        globs = client.agents()
        for name, receiver in exposed.tools(registry, access):
            if is_in_scope(receiver.name, globs):
                yield name, receiver

    async def _call_exposed(
        self, name: str, arguments: Mapping[str, object], caller: Caller, traceparent: str | None, person: Person | None
    ) -> dict[str, object]:
        client, control = self._client, self._control
        receiver = self.receiver(name)
        try:
            if client.supervisor is not None:
                return await control.tool_calls.call_agent(client.supervisor, None, name, arguments, self.access)
            tool_caller = self.tool_caller(caller, traceparent, person)
            order = exposed.order_of(receiver, arguments)
            return await run_exposed(control, receiver, order, tool_caller)
        except CorralError as error:  # a model reads why the task was not accepted
            return exposed.failed(error)

    async def subscribe(self, uri: str, on_updated: Callable[[str], None]) -> Callable[[], None]:
        """Calls `on_updated` with the URI whenever the resource changes; returns a function that ends that."""
        client = self._client
        caller = Caller(name=client.name, sharer=client.sharer, tenant=client.tenant)
        return await self._control.pool.subscribe(uri, on_updated, self.access, caller=caller)

    def watch(self, on_change: Callable[[Kind], None]) -> Callable[[], None]:
        """Calls `on_change` when a list has changed; returns a function that ends that."""
        end = self._control.pool.watch(on_change)

        def reloaded(_config: Config) -> None:
            on_change("tools")
            on_change("prompts")
            on_change("resources")

        def on_event(_event: Event) -> bool:
            on_change("tools")
            return False  # nothing is queued

        changes = self._control.shared.bus.subscribe(exposed.CHANGES, where=on_event)

        def ended() -> None:
            end()
            unsubscribe()
            changes.close()

        unsubscribe = self._control.agents.in_force.subscribe(reloaded)
        return ended


def _as_plain(tool: dict[str, object]) -> dict[str, object]:
    """Returns the entry of a tool whose calls are no tasks for the client, whatever its server has said of them."""
    if "execution" not in tool:
        return tool
    return {key: value for key, value in tool.items() if key != "execution"}
