"""Restricts a call to the tenant and the agents of its caller, by the rule of its method: the one place that does.

A caller that is bound to a tenant may say short names: they become full ones here. Names in the params are replaced by those in scope before the
handler sees them. A name, a task, a checkpoint or a schedule that is out of scope is answered exactly as one that is not there. It knows no single method.
"""

import contextlib
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import msgspec
from msgspec import Struct, UnsetType
from msgspec.structs import replace

from corral.supervisor.agents.packages.store import no_package
from corral.supervisor.agents.running.registry import Registry
from corral.supervisor.config.spec.allowed import Kind, check_table
from corral.supervisor.config.spec.labels import chosen, is_glob
from corral.supervisor.config.spec.spec import kind_of_group
from corral.supervisor.records.logs.store import LogStore
from corral.supervisor.tenants.tokens.scope import as_glob, bound, is_in_scope, kept, without_names
from corral.worker.contract import codec
from corral.worker.contract.errors import CorralError, NotFound, PermissionDenied
from corral.worker.contract.names import qualified, tenant_of
from corral.worker.contract.records import TaskParams
from corral.worker.control.access import Rights
from corral.worker.control.params import AttachParams
from corral.worker.methods.method import AnyMethod
from corral.worker.methods.rules import Rule

from .handlers import Caller, Handler
from .inventory import Inventory

ONE = ("name", "agent", "worker", "schedule")
"""Keys of params that have one name."""

SEVERAL = ("names", "agents")
"""Keys of params that have names or globs, or tables with a `name`."""

BY_NAME = ("specs", "teams", "workflows")
"""Keys of params that have tables by name."""


def with_tenant(asked: Struct, tenant: str) -> Struct:
    """Returns params in which every name that has no tenant is one of `tenant`; a glob is one of its names."""
    changed: dict[str, object] = {}
    for key in asked.__struct_fields__:
        value: Any = getattr(asked, key)  # Any: the shape of the params follows from the method
        if value is None or isinstance(value, UnsetType):
            continue
        found = _in_full(key, value, tenant)
        if found is not value:
            changed[key] = found
    return replace(asked, **changed) if changed else asked


def _in_full(key: str, value: Any, tenant: str) -> object:  # Any: see `with_tenant`
    if key in ONE and isinstance(value, str):
        return qualified(value, tenant)
    if key in SEVERAL and isinstance(value, list):
        return [_entry(each, tenant) for each in codec.as_array(value) or []]
    if key in BY_NAME and isinstance(value, Mapping):
        tables = codec.as_object(value) or {}
        return {qualified(name, tenant): table for name, table in tables.items()}
    if key == "task" and isinstance(value, Struct):
        return with_tenant(value, tenant)
    return value


def _entry(each: object, tenant: str) -> object:
    if isinstance(each, Struct):
        return with_tenant(each, tenant)
    return qualified(each, tenant) if isinstance(each, str) else each


def tasks_in_scope(listed: Mapping[str, object], caller: Caller) -> Mapping[str, object]:
    """Returns a list of tasks, in the shape of `task.list`, without those of agents that a caller may not know."""
    return listed if caller.agents is None else kept(listed, "tasks", "agent", caller.agents)


class Scope(Protocol):
    """Restricts one call to what its caller may know."""

    async def restricted(self, asked: Struct) -> Struct:
        """Returns the params, about what is in scope alone; raises CorralError."""
        ...

    async def serve(self, handler: Handler, asked: Struct, caller: Caller) -> object:
        """Returns the handler's answer, without what is out of scope."""
        ...


class WholeScope:
    """Represents the scope of a caller that may know all."""

    async def restricted(self, asked: Struct) -> Struct:
        """Returns the params as they are."""
        return asked

    async def serve(self, handler: Handler, asked: Struct, caller: Caller) -> object:
        """Returns the handler's answer as it is."""
        return await handler(asked, caller)


class AgentScope:
    """Restricts one call to the agents, and the tenant, of its caller; `folder` is that of the tenant."""

    def __init__(
        self,
        method: AnyMethod,
        globs: Sequence[str],
        tenant: str,
        folder: str,
        registry: Registry,
        logs: LogStore,
        inventory: Inventory,
    ) -> None:
        self._method = method.name
        self._globs = globs
        self._tenant = tenant
        self._is_whole = bool(tenant) and globs == bound(None, tenant)
        # Of a caller bound to a tenant whose token names agents, the narrower rule counts.
        self._rule = (
            method.access.tenant
            if tenant and (self._is_whole or method.access.scope is not None)
            else method.access.scope
        )
        self._folder = folder
        self._registry = registry
        self._logs = logs
        self._inventory = inventory

    async def serve(self, handler: Handler, asked: Struct, caller: Caller) -> object:
        """Returns the handler's answer; neither that, nor an error or a notification has what is out of scope."""
        rule = self._rule
        if rule is not None and rule.sends:
            caller = ScopedCaller(caller, self._globs, rule)
        try:
            return self._without_others(rule, await handler(asked, caller))
        except CorralError as error:
            error.data = without_names(error.data, self._globs)
            raise error from None

    async def restricted(self, asked: Struct) -> Struct:
        """Returns the params of a call, about agents in scope alone."""
        method, rule = self._method, self._rule
        if rule is None:
            raise self._not_restricted(method)
        if rule.target == "tenant":
            return self._own_tenant(asked)
        if self._tenant and rule.target != "tool":
            asked = with_tenant(asked, self._tenant)
            if rule.target in ("package", "new deployment"):
                return self._own_package(asked)
        if getattr(asked, "cascade", False) and not self._is_whole:
            raise self._refused(method, "cascade may reach other agents")
        given: Any = asked  # Any: the shape of the params follows from the target of the rule
        match rule.target:
            case "names":
                if getattr(given, "task", None) is not None:  # which says the names by itself
                    await self._check_task(given.task)
                    return asked
                return self._named(rule, given)
            case "new agent":
                return self._checked_additions(given)
            case "name":
                self._check(given.name)
            case "agent":
                self._check_agents(method, rule, given)
            case "task":
                await self._check_tasks(method, given)
            case "new task":
                await self._check_new(method, given)
            case "new schedule":
                self._check_own("schedule", given.name or f"{self._tenant}/")
                await self._check_new(method, given.task)
            case "schedule":
                self._check_schedule(given.name)
            case "checkpoint":
                await self._check_checkpoints(given)
            case "own":
                self._check_own(rule.noun, given.name)
            case "new group":
                self._check_groups(rule.noun, given)
            case "table":
                self._check(given.name)
                self._check_change(given)
            case "deployment":
                number = given.deployment
                await self._check_owner("deployment", number, self._inventory.agent_of_deployment(number))
            case "approval":
                number = given.approval
                await self._check_owner("approval", number, self._inventory.agent_of_approval(number))
            case _:  # others were looked at before, or have nothing of an agent
                pass
        return asked

    def _without_others(self, rule: Rule | None, found: object) -> object:
        if rule is None or not (rule.lists or rule.tenants):
            return found
        value = codec.as_object(msgspec.to_builtins(found)) or {}
        if rule.tenants:
            entries = map(codec.as_object, codec.as_array(value.get(rule.tenants)) or [])
            own = [each for each in entries if each and each.get("name") == self._tenant]
            value = {**value, rule.tenants: own}
        for key, path in rule.lists:
            value = kept(value, key, path, self._globs)
        return value

    def _named(self, rule: Rule, given: Any) -> Struct:  # Any: see `restricted`
        names: list[str] = list(getattr(given, "names", None) or [])
        if getattr(given, "name", None) is not None:
            names.insert(0, given.name)
        selector = getattr(given, "selector", None)
        is_all = bool(getattr(given, "all", False))
        for name in names:
            if not is_glob(name):
                self._check(name)
        if is_all and names and selector is None:
            return given  # type: ignore[no-any-return]  # the handler refuses it
        if not names and selector is None:
            if not is_all and not rule.lists_all:
                return given  # type: ignore[no-any-return]  # the handler refuses it
            names = [as_glob(name) for name in self._entries(rule)]
            if not names and not rule.groups:
                raise NotFound("cannot find any agent in scope", known=[])
        else:
            plain = set() if selector is not None else {n for n in names if not is_glob(n)}
            found = chosen(names, selector, self._entries(rule), self._workers())
            names = [name if name in plain else as_glob(name) for name in found]
        empty = {"name": None, "selector": None, "all": False}
        cleared = {key: value for key, value in empty.items() if hasattr(given, key)}
        return replace(given, names=names, **cleared)  # type: ignore[no-any-return]  # a Struct

    def _entries(self, rule: Rule) -> dict[str, Mapping[str, str]]:
        registry = self._registry
        found: dict[str, Mapping[str, str]] = {name: agent.spec.labels for name, agent in registry.agents.items()}
        if rule.groups:
            found |= {name: group.labels for name, group in registry.groups.items()}
        if rule.logs:
            found |= {name: {} for name in self._logs.names() if name not in found}
        return {name: labels for name, labels in found.items() if self._is_known(name)}

    def _workers(self) -> dict[str, list[str]]:
        return {
            name: [supervisor.id for supervisor in agent.supervisors]
            for name, agent in self._registry.agents.items()
            if is_in_scope(name, self._globs)
        }

    def _is_known(self, name: str) -> bool:
        registry = self._registry
        if name not in registry.agents and name not in registry.groups:
            supervisor = registry.supervisor(name)
            name = name if supervisor is None else supervisor.spec.name
        return is_in_scope(name, self._globs)

    def _check(self, name: str) -> None:
        if not self._is_known(name):
            known = sorted(n for n in {*self._registry.agents, *self._registry.groups})
            words = f'cannot find agent, MCP server or worker "{name}"'
            raise NotFound(words, name=name, known=[each for each in known if is_in_scope(each, self._globs)])

    def _check_own(self, noun: str, name: str) -> None:
        if self._tenant and tenant_of(name) != self._tenant:
            raise NotFound(f'cannot find {noun} "{name}"', name=name)

    def _own_tenant(self, given: Any) -> Struct:  # Any: see `restricted`
        """Returns params with the tenant of the caller, where they name none."""
        if given.name not in (None, self._tenant):
            raise NotFound(f'cannot find tenant "{given.name}"', name=given.name, known=[])
        return replace(given, name=self._tenant)  # type: ignore[no-any-return]  # a Struct

    def _checked_additions(self, given: Any) -> Struct:  # Any: see `restricted`
        """Returns the params of new agents and servers, whose relative paths are relative to the folder of the tenant."""
        several = getattr(given, "agents", None)
        found: list[Struct] = []
        for each in [given] if several is None else several:
            self._check_own("agent", each.name)
            check_table(each.kind, each.name, each.spec, self._folder)
            found.append(replace(each, directory=self._folder))
        return found[0] if several is None else replace(given, agents=found)

    def _check_groups(self, noun: str, given: Any) -> None:  # Any: likewise
        kind: Kind = "team" if noun == "team" else "workflow"
        named = {**given.specs, **({} if given.spec is None else {given.name or "": given.spec})}
        for name, table in named.items():
            self._check_own(noun, name or f"{self._tenant}/")
            check_table(kind, name, table, self._folder)

    def _check_change(self, given: Any) -> None:  # Any: likewise
        group = self._registry.groups.get(given.name)
        agent = self._registry.agents.get(given.name)
        kind: Kind = "agent" if agent is None else agent.spec.kind
        kind = kind if group is None else kind_of_group(group)
        check_table(kind, given.name, given.spec, self._folder)

    def _check_agents(self, method: str, rule: Rule, given: Any) -> None:  # Any: see `restricted`
        names = [getattr(given, key, None) for key in ("agent", "worker")]
        names += getattr(given, "agents", None) or []
        present = [name for name in names if name is not None]
        if not present and not (rule.lists or rule.sends or rule.lists_all):
            raise self._refused(method, "it needs the name of an agent")
        for name in present:
            self._check(name)

    async def _check_tasks(self, method: str, given: Any) -> None:  # Any: see `restricted`
        ids = [*([given.task] if given.task is not None else []), *getattr(given, "tasks", [])]
        if getattr(given, "agent", None) is not None:
            self._check(given.agent)
        elif getattr(given, "dead", False):
            raise self._refused(method, "it needs the name of an agent")
        for each in ids:
            await self._check_task(each)

    async def _check_task(self, task: str) -> None:
        await self._check_owner("task", task, self._inventory.agent_of_task(task))

    async def _check_owner(self, noun: str, key: str | int, finding: Awaitable[str]) -> None:
        """Refuses what belongs to an agent out of scope, as if it were not there."""
        with contextlib.suppress(NotFound):
            if is_in_scope(await finding, self._globs):
                return
        shown = f'"{key}"' if isinstance(key, str) else key
        raise NotFound(f"cannot find {noun} {shown}", **{noun: key})

    async def _check_new(self, method: str, task: TaskParams) -> None:
        if task.agent is not None:
            self._check(task.agent)
        elif not self._is_whole:
            raise self._refused(method, "it needs the name of an agent")
        for each in task.after:
            await self._check_task(each)

    def _check_schedule(self, name: str) -> None:
        try:
            found = self._inventory.schedule(name)
        except NotFound:
            found = None
        agent = "" if found is None else found.task.agent or ""
        is_own = self._is_whole and found is not None and tenant_of(name) == self._tenant
        if not is_own and not is_in_scope(agent, self._globs):
            raise NotFound(f'cannot find schedule "{name}"', name=name)

    async def _check_checkpoints(self, given: Any) -> None:  # Any: see `restricted`
        if getattr(given, "name", None) is not None:
            self._check(given.name)
        number = getattr(given, "checkpoint", None)
        numbers = [*([] if number is None else [number]), *getattr(given, "checkpoints", [])]
        for each in numbers:
            await self._check_owner("checkpoint", each, self._inventory.agent_of_checkpoint(each))

    def _own_package(self, given: Any) -> Struct:  # Any: see `restricted`
        """Returns params with the full name of a package, and those of its agent."""
        reference = qualified(given.package, self._tenant)
        if tenant_of(reference) != self._tenant:
            raise no_package(reference)
        if getattr(given, "agent", None) is not None:
            self._check_own("agent", given.agent)
        return replace(given, package=reference)  # type: ignore[no-any-return]  # a Struct

    def _not_restricted(self, method: str) -> PermissionDenied:
        if self._is_whole:
            return PermissionDenied(f'cannot call "{method}": a tenant may not call it', method=method, reason="tenant")
        return self._refused(method, "it cannot be restricted to them")

    def _refused(self, method: str, why: str) -> PermissionDenied:
        whose = "for a tenant" if self._is_whole else "with a token for some agents alone"
        words = f'cannot call "{method}" {whose}: {why}'
        return PermissionDenied(words, method=method, reason="tenant" if self._tenant else "scope")


class ScopedCaller:
    """Passes notifications on to a caller, without the entries that are out of its scope."""

    def __init__(self, caller: Caller, globs: Sequence[str], rule: Rule) -> None:
        self._caller = caller
        self._globs = globs
        self._sends: Iterable[tuple[str, str, str]] = rule.sends
        self.name = caller.name
        self.permission: Rights = caller.permission
        self.who = caller.who
        self.agents: Sequence[str] | None = globs
        self.tenant = caller.tenant
        self.supervisor = caller.supervisor

    def notify(self, method: str, params: Mapping[str, object]) -> None:
        """Sends a notification; none whose entries are all out of scope."""
        for name, key, path in self._sends:
            if name == method:
                params = kept(params, key, path, self._globs)
                if not params[key]:
                    return
        self._caller.notify(method, params)

    async def drain(self) -> None:
        """Waits as the caller does."""
        await self._caller.drain()

    def follow(self, following: Awaitable[None]) -> None:
        """Runs `following` as the caller does."""
        self._caller.follow(following)

    def attach(self, view: AttachParams) -> None:
        """Switches the connection to MCP."""
        self._caller.attach(view)

    def log_in(self, digest: bytes | None, tenant: str) -> None:
        """Restricts the connection."""
        self._caller.log_in(digest, tenant)
