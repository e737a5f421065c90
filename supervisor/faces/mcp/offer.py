"""Decides what one MCP client is offered: the part of the pool that it may use, and corral's own tools.

A client outside has the permission of its uid; one inside a worker's tree has the
tools of its agent, within the limits of the tasks that run there, and of corral's own tools what `control` of the
agent's spec grants. Patterns or a profile that the client gives only narrow that. All of it is looked up at
each request: a reload counts from the next one on.
"""

from collections.abc import Iterator, Mapping

from corral.mcp.pool.short_list import finders, is_long, pinned_of
from corral.mcp.protocol.catalog import FULL, OWNERS, Access
from corral.mcp.protocol.messages import Caller
from corral.supervisor.agents.membership.agents import Agents
from corral.supervisor.config.spec.spec import Profile
from corral.supervisor.tasks.run.backlog import Entry
from corral.supervisor.tasks.run.tasks import Tasks
from corral.supervisor.tasks.worker_api import exposed
from corral.supervisor.tasks.worker_api.tool_calls import ToolCalls, access_of, tenants_access
from corral.supervisor.tenants.tokens.scope import bound, is_in_scope
from corral.supervisor.workers.supervision.worker_supervisor import WorkerSupervisor
from corral.worker.contract.errors import NotFound, PermissionDenied
from corral.worker.control.params import AttachParams

from .elicitation import Person, Questions, can_be_asked
from .tool_caller import Client, ToolCaller
from .tools import CALL, OWN_TOOLS, OwnTool

NOTHING = Access(())


class Offer:
    """Knows what one client is offered."""

    def __init__(
        self,
        agents: Agents,
        tool_calls: ToolCalls,
        tasks: Tasks,
        questions: Questions,
        client: Client,
        view: AttachParams,
    ) -> None:
        self._agents = agents
        self._tool_calls = tool_calls
        self._tasks = tasks
        self._questions = questions
        self.client = client
        self._view = view
        self._own = Access(None if view.only is None else tuple(view.only), tuple(view.deny), view.read_only)
        self._access = self._own
        self._base: Access | None = None
        name, profiles = view.profile, agents.config.profiles
        if name is not None and name not in profiles:
            known = sorted(profiles)
            quoted = ", ".join(f'"{each}"' for each in known)
            hint = f"; there are {quoted}" if known else "; the configuration has none"
            raise NotFound(f'cannot find profile "{name}"{hint}', profile=name, known=known)
        self._profile = Profile() if name is None else profiles[name]

    @property
    def access(self) -> Access:
        """Returns the part of the pool that this client may use now."""
        supervisor = self.client.supervisor
        if supervisor is None or "token" in self.client.who:
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
        client = self.client
        if "agent" not in client.who or "token" in client.who:
            if (client.permission() or "read") == "read":
                return NOTHING
            if client.tenant:
                is_whole = client.agents() == bound(None, client.tenant)
                return tenants_access(client.tenant) if is_whole else NOTHING
            return OWNERS if client.agents() is None else NOTHING
        return self._tool_calls.access_for(client.who)

    def _entries(self, supervisor: WorkerSupervisor) -> list[Entry]:
        """Returns all tasks of the worker: the request does not name one, and is bound by the limits of each."""
        found = [self._tasks.accounting.task_of(supervisor, task) for task in tuple(supervisor.running)]
        return [entry for entry in found if entry is not None]

    def _current_profile(self) -> Profile:
        """Returns the profile as it is now; one that was removed stays as it was, which grants no more."""
        name = self._view.profile
        if name is None:
            return self._profile
        return self._agents.config.profiles.get(name, self._profile)

    def shortened(self, tools: list[dict[str, object]]) -> list[dict[str, object]]:
        """Returns the list in place of all tools of this client: a short one where that is too long, unless the client wants all."""
        agent = self._agents.agents.get(str(self.client.who.get("agent")))
        mcp = (self._agents.config.defaults if agent is None else agent.spec).mcp
        profile = self._current_profile()
        list_limit = mcp.list_limit if profile.list_limit is None else profile.list_limit
        if self._view.tools == "all" or not is_long(tools, list_limit):
            return tools
        pinned = pinned_of(tools, mcp.pinned if profile.pinned is None else profile.pinned)
        return sorted([*finders(tools), *pinned], key=lambda tool: str(tool["name"]))

    def may_use(self, tool: OwnTool) -> bool:
        """Returns whether one of corral's own tools is offered; a profile's list of tools is about the pool alone."""
        profile = self._current_profile()
        of_profile = Access(None, profile.denied_tools, profile.read_only)

        def admits(name: str, own: Access) -> bool:
            is_read_only = OWN_TOOLS[name].is_read_only
            return all(each.admits(name, is_read_only=is_read_only) for each in (own, of_profile))

        if not (profile.control and tool.is_within(self.client.permission())):
            return False
        if not admits(tool.name, self._own):
            return False
        # It could do what a denied tool does; those that `only` leaves out are not denied.
        denying = Access(None, self._own.denied, self._own.read_only)
        return tool.name != CALL or all(admits(name, denying) for name in OWN_TOOLS)

    def person(self, caller: Caller, params: Mapping[str, object], related: str | None = None) -> Person | None:
        """Returns the person at the client, if it can be asked and may answer; `related` is the task of MCP that asks."""
        may = (self.client.permission() or "read") != "read" and "agent" not in self.client.who
        if not may or not can_be_asked(caller.capabilities):
            return None
        return Person(self._questions, caller.ask, params, related)

    @property
    def is_inside(self) -> bool:
        """Returns whether the client is a worker, or in the tree of one."""
        return "agent" in self.client.who

    def tool_caller(self, caller: Caller, traceparent: str | None, person: Person | None = None) -> ToolCaller:
        """Returns the client as the method table sees it, with its rights as they are now."""
        return ToolCaller(self.client, caller.on_progress, traceparent, person)

    def check_own(self, tool: OwnTool) -> None:
        """Checks that one of corral's own tools is offered."""
        if not self.may_use(tool):
            raise PermissionDenied(f'cannot call "{tool.name}": it is not allowed', tool=tool.name)

    def offers(self, name: str) -> bool:
        """Returns whether the tool of an agent, a team or a workflow is offered."""
        return any(known == name for known, _ in self.exposed())

    def receiver(self, name: str) -> exposed.Receiver:
        """Returns the agent, team or workflow that has a tool."""
        found = next((each for known, each in self.exposed() if known == name), None)
        if found is None:
            raise NotFound(f'cannot find tool "{name}"', tool=name, near=[])
        return found

    def exposed(self) -> Iterator[tuple[str, exposed.Receiver]]:
        """Yields the exposed agents, teams and workflows that this client may call, with the names of their tools."""
        client = self.client
        registry = self._agents.registry
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
