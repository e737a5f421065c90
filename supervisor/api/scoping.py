"""Restricts a call to the agents of its caller, by the rule of its method: the one place that does.

Names in the params are replaced by those in scope before the handler sees them. A name, a task, a checkpoint or a schedule that is out
of scope is answered exactly as one that is not there. It knows no single method.
"""

from collections.abc import Awaitable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from ...worker.contract import codec
from ...worker.contract.errors import CorralError, NotFound, PermissionDenied
from ...worker.contract.records import ScheduleRecord, TaskParams
from ...worker.control.access import Rights
from ...worker.control.params import AttachParams
from ..access.scope import Rule, as_glob, is_in_scope, kept, without_names
from ..agents.registry import Registry
from ..config.labels import chosen, is_glob
from ..supervision.shared import Shared
from ..tasks.tasks import Tasks
from .caller import Caller


class Schedules(Protocol):
    """Represents the schedules, of which the tasks are looked up."""

    def show(self, name: str) -> ScheduleRecord:
        """Returns a schedule; raises NotFound."""
        ...


class Scope:
    """Restricts the calls of one caller.

    Args:
        globs: of the agents that it may know.
        registry: has the running set.
        tasks: are looked up by id.
        shared: has checkpoints and logs.
        schedules: are looked up by name; None where that room is not installed.
    """

    def __init__(
        self,
        globs: Sequence[str],
        registry: Registry,
        tasks: Tasks,
        shared: Shared,
        schedules: Schedules | None,
    ) -> None:
        self._globs = globs
        self._registry = registry
        self._tasks = tasks
        self._shared = shared
        self._schedules = schedules

    async def restricted(self, method: str, rule: Rule | None, asked: Struct) -> Struct:
        """Returns the params of a call, about agents in scope alone.

        Raises:
            PermissionDenied: the method cannot be restricted, or not with these params.
            NotFound: a name in them is out of scope, or is not there.
            InvalidParams: a selector is not valid.
        """
        if rule is None:
            raise self._refused(method, "it cannot be restricted to agents")
        if getattr(asked, "cascade", False):
            raise self._refused(method, "cascade may reach other agents")
        given: Any = asked  # Any: the shape of the params follows from the target of the rule
        if rule.target == "names":
            if getattr(given, "task", None) is not None:  # which says the names by itself
                await self.check_task(given.task)
                return asked
            return self._named(rule, given)
        if rule.target == "name":
            self._check(given.name)
        elif rule.target == "agent":
            self._check_agents(method, rule, given)
        elif rule.target == "task":
            await self._check_tasks(method, given)
        elif rule.target == "new task":
            await self._check_new(method, given)
        elif rule.target == "new schedule":
            await self._check_new(method, given.task)
        elif rule.target == "schedule":
            self._check_schedule(given.name)
        elif rule.target == "checkpoint":
            await self._check_checkpoints(given)
        return asked

    def result(self, rule: Rule | None, found: object) -> object:
        """Returns a result without entries that are out of scope."""
        if rule is None or not rule.lists:
            return found
        value = codec.as_object(msgspec.to_builtins(found)) or {}
        for key, path in rule.lists:
            value = kept(value, key, path, self._globs)
        return value

    def error(self, error: CorralError) -> CorralError:
        """Returns an error without names that are out of scope."""
        error.data = without_names(error.data, self._globs)
        return error

    # -- names

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
                raise NotFound("cannot find any agent in the scope of the token", known=[])
        else:
            plain = set() if selector is not None else {n for n in names if not is_glob(n)}
            found = chosen(names, selector, self._entries(rule), self._workers())
            names = [name if name in plain else as_glob(name) for name in found]
        empty = {"name": None, "selector": None, "all": False}
        cleared = {key: value for key, value in empty.items() if hasattr(given, key)}
        return replace(given, names=names, **cleared)  # type: ignore[no-any-return]  # a Struct

    def _entries(self, rule: Rule) -> dict[str, Mapping[str, str]]:
        registry = self._registry
        found: dict[str, Mapping[str, str]] = {
            name: agent.spec.labels for name, agent in registry.agents.items()
        }
        if rule.groups:
            found |= {name: group.labels for name, group in registry.groups.items()}
        if rule.logs:
            found |= {name: {} for name in self._shared.logs.names() if name not in found}
        return {name: labels for name, labels in found.items() if self._is_known(name)}

    def _workers(self) -> dict[str, list[str]]:
        return {
            name: [supervisor.id for supervisor in agent.supervisors]
            for name, agent in self._registry.agents.items()
            if is_in_scope(name, self._globs)
        }

    def _is_known(self, name: str) -> bool:
        """Returns whether an agent, a group, or the agent of a worker is in scope."""
        registry = self._registry
        if name not in registry.agents and name not in registry.groups:
            supervisor = registry.supervisor(name)
            name = name if supervisor is None else supervisor.spec.name
        return is_in_scope(name, self._globs)

    def _check(self, name: str) -> None:
        if not self._is_known(name):
            known = sorted(n for n in {*self._registry.agents, *self._registry.groups})
            raise NotFound(
                f'cannot find agent, MCP server or worker "{name}"',
                name=name,
                known=[each for each in known if is_in_scope(each, self._globs)],
            )

    # -- what belongs to an agent

    def _check_agents(self, method: str, rule: Rule, given: Any) -> None:  # Any: see `restricted`
        names = [getattr(given, key, None) for key in ("agent", "worker")]
        names += getattr(given, "agents", None) or []
        present = [name for name in names if name is not None]
        if not present and not rule.lists and not rule.sends:
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
            await self.check_task(each)

    async def check_task(self, task_id: str) -> None:
        """Refuses a task whose agent is out of scope.

        Raises:
            NotFound: it is, or there is no such task.
        """
        try:
            task = await self._tasks.show(task_id)
        except NotFound:
            task = None
        if task is None or not is_in_scope(task.agent, self._globs):
            raise NotFound(f'cannot find task "{task_id}"', task=task_id) from None

    async def _check_new(self, method: str, task: TaskParams) -> None:
        if task.agent is None:
            raise self._refused(method, "it needs the name of an agent")
        self._check(task.agent)
        for each in task.after:
            await self.check_task(each)

    def _check_schedule(self, name: str) -> None:
        found = None
        if self._schedules is not None:
            try:
                found = self._schedules.show(name)
            except NotFound:
                found = None
        if found is None or not is_in_scope(found.task.agent or "", self._globs):
            raise NotFound(f'cannot find schedule "{name}"', name=name)

    async def _check_checkpoints(self, given: Any) -> None:  # Any: see `restricted`
        if getattr(given, "name", None) is not None:
            self._check(given.name)
        number = getattr(given, "checkpoint", None)
        numbers = [*([] if number is None else [number]), *getattr(given, "checkpoints", [])]
        for each in numbers:
            try:
                record, _ = await self._shared.checkpoints.find(each)
            except NotFound:
                record = None
            if record is None or not is_in_scope(record.agent, self._globs):
                raise NotFound(f"cannot find checkpoint {each}", checkpoint=each)

    @staticmethod
    def _refused(method: str, why: str) -> PermissionDenied:
        return PermissionDenied(
            f'cannot call "{method}" with a token for some agents alone: {why}',
            method=method,
            reason="scope",
        )


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

    def log_in(self, digest: bytes) -> None:
        """Restricts the connection."""
        self._caller.log_in(digest)
