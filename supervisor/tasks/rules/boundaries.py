"""Normalises the limits of a task, narrows those of a delegated one, and decides whether that can ever run.

Pure: values in, values out. Params that are empty, too long or contradictory are refused here, before anything is
queued, with the path of the key. Guarantees that a task never delegates more than it may do itself.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from fnmatch import fnmatchcase
from typing import TypeVar

from msgspec import UNSET, Struct, UnsetType
from msgspec.structs import replace

from corral.supervisor.config.decoding.values import Refused, above_zero, duration, retry_reasons
from corral.supervisor.config.spec.spec import Resources, Tasks
from corral.worker.contract.errors import InvalidParams, ResourceLimitExceeded
from corral.worker.contract.records import Boundaries, OutputFormat, Retry, Task, TaskParams

MAX_OBJECTIVE_CHARS = 65_536
"""Characters of an objective: data belongs into the input."""

MAX_PATTERNS = 200
"""Number of entries of `allowed_tools`."""

MAX_CONSTRAINTS = 200
MAX_WORDS_CHARS = 65_536
"""Characters of all constraints together, of a scope, of the description of an output."""

MAX_NARROWING = 200_000
"""Number of steps of the intersection of two lists of patterns: some tens of milliseconds."""

_PATTERN = re.compile(r"[A-Za-z0-9_.*?-]{1,128}")
_CAPABILITY = re.compile(r"[^\x00-\x1f\x7f]{1,200}")
_WILD = frozenset("*?")

NO_BOUNDARIES = Boundaries()

N = TypeVar("N", int, float)

Groups = Sequence[Sequence[str]]
"""Tasks by their ids: of each group one at least has to end. An empty group is no obstacle."""


def normalised(params: TaskParams) -> TaskParams:
    """Returns the same params, with each boundary in one place: `boundaries.timeout_s` and `boundaries.allowed_tools`."""
    _check_words(params)
    for index, each in enumerate(params.required_capabilities):
        if not _CAPABILITY.fullmatch(each):
            key = f"required_capabilities[{index}]"
            raise _refused(key, "write 1 to 200 characters, none of them a control character")
    if params.retry is not None:
        params = replace(params, retry=_retry(params.retry))
    timeout_s, allowed_tools = _timeout_s(params), _allowed_tools(params)
    if params.boundaries == NO_BOUNDARIES and timeout_s is None and allowed_tools is None:
        return params if not params.required_capabilities else _without_doubles(params)
    boundaries = replace(params.boundaries, timeout_s=timeout_s, timeout=None, allowed_tools=allowed_tools)
    one_place = replace(params, timeout_s=None, allowed_tools=None, boundaries=boundaries)
    return _without_doubles(one_place)


def _without_doubles(params: TaskParams) -> TaskParams:
    return replace(params, required_capabilities=list(dict.fromkeys(params.required_capabilities)))


def _refused(key: str, reason: str) -> InvalidParams:
    return InvalidParams(f'cannot take the task: "{key}": {reason}', key=key, reason=reason)


def _check_words(params: TaskParams) -> None:
    if not params.objective.strip() and params.input is None and params.context is None:
        raise _refused("objective", "say what to do, here or by an input")
    if len(params.objective) > MAX_OBJECTIVE_CHARS:
        text = f"{len(params.objective)} characters are more than {MAX_OBJECTIVE_CHARS}: write data into the input"
        raise _refused("objective", text)
    bounds = params.boundaries
    if len(bounds.constraints) > MAX_CONSTRAINTS:
        raise _refused("boundaries.constraints", f"{len(bounds.constraints)} are more than {MAX_CONSTRAINTS}")
    for index, each in enumerate(bounds.constraints):
        if not each.strip():
            raise _refused(f"boundaries.constraints[{index}]", "it says nothing")
    form = params.output_format or OutputFormat()
    words = {
        "boundaries.constraints": sum(map(len, bounds.constraints)),
        "boundaries.scope": len(bounds.scope),
        "output_format.description": len(form.description),
    }
    for key, count in words.items():
        if count > MAX_WORDS_CHARS:
            raise _refused(key, f"{count} characters are more than {MAX_WORDS_CHARS}")


def _retry(retry: Retry) -> Retry:
    if retry.retry_on is not None:
        try:
            retry_reasons(retry.retry_on)
        except Refused as refused:
            raise _refused("retry.retry_on", refused.reason) from refused
    if isinstance(retry.retry_backoff_base, UnsetType):
        return retry
    key, base_s = "retry.retry_backoff_base", retry.retry_backoff_base_s
    try:
        written = duration(retry.retry_backoff_base)
    except Refused as refused:
        raise _refused(key, refused.reason) from refused
    if base_s is not None and base_s != written:
        raise _refused(key, f"it is {written:g} s, and retry.retry_backoff_base_s is {base_s:g}: give one of them")
    return replace(retry, retry_backoff_base_s=written, retry_backoff_base=UNSET)


def _timeout_s(params: TaskParams) -> float | None:
    bounds = params.boundaries
    within = bounds.timeout_s
    if bounds.timeout is not None:
        try:
            written = above_zero(duration(bounds.timeout))
        except Refused as refused:
            raise _refused("boundaries.timeout", refused.reason) from refused
        if within is not None and within != written:
            text = f"it is {written:g} s, and boundaries.timeout_s is {within:g}: give one of them"
            raise _refused("boundaries.timeout", text)
        within = written
    both = [each for each in (params.timeout_s, within) if each is not None]
    return min(both) if both else None


def _allowed_tools(params: TaskParams) -> list[str] | None:
    outer, inner = params.allowed_tools, params.boundaries.allowed_tools
    key = "boundaries.allowed_tools" if outer is None else "allowed_tools"
    if outer is not None and inner is not None and set(outer) != set(inner):
        raise _refused(key, "boundaries.allowed_tools is another list: give one of them")
    patterns = inner if outer is None else outer
    if patterns is None:
        return None
    if len(patterns) > MAX_PATTERNS:
        raise _refused(key, f"{len(patterns)} patterns are more than {MAX_PATTERNS}")
    for index, each in enumerate(patterns):
        if not _PATTERN.fullmatch(each):
            raise _refused(f"{key}[{index}]", 'write a pattern such as "time__*"')
    return list(dict.fromkeys(patterns))


def check_child(parent: Task, tasks: Tasks, children: int, count: int = 1) -> None:
    """Returns if a task that has delegated `children` may delegate `count` more; `tasks` is its agent's section."""
    if parent.depth + 1 > tasks.max_delegation_depth:
        raise ResourceLimitExceeded(
            f'cannot delegate for task "{parent.id}": it stands {parent.depth} deep, and'
            f" max_delegation_depth is {tasks.max_delegation_depth}",
            limit="max_delegation_depth",
            value=tasks.max_delegation_depth,
            task=parent.id,
        )
    if children + count > tasks.max_children:
        raise ResourceLimitExceeded(
            f'cannot delegate {count} more for task "{parent.id}": it has {children} children, and'
            f" max_children is {tasks.max_children}",
            limit="max_children",
            value=tasks.max_children,
            task=parent.id,
        )


def within(boundaries: Boundaries, parent: Task) -> Boundaries:
    """Returns the normalised boundaries of a task that `parent` delegates: its own, within those, and within the rest of its tokens and cost."""
    upper = parent.boundaries
    tools = boundaries.allowed_tools
    if upper.allowed_tools is not None:
        tools = _narrowed(tools, upper.allowed_tools, parent.id)
    tokens = upper.max_tokens
    cost = upper.max_cost_cents
    return replace(
        boundaries,
        timeout_s=_least(boundaries.timeout_s, upper.timeout_s),
        max_tool_calls=_least(boundaries.max_tool_calls, upper.max_tool_calls),
        allowed_tools=tools,
        max_tokens=_least(boundaries.max_tokens, None if tokens is None else max(1, tokens - parent.tokens_used)),
        max_cost_cents=_least(boundaries.max_cost_cents, None if cost is None else max(1e-9, cost - parent.cost_cents)),
    )


def _least(one: N | None, other: N | None) -> N | None:
    if one is None or other is None:
        return other if one is None else one
    return min(one, other)


def _narrowed(asked: Sequence[str] | None, upper: Sequence[str], task: str) -> list[str]:
    try:
        return list(upper) if asked is None else common(asked, upper)
    except _TooLong:
        raise ResourceLimitExceeded(
            f'cannot delegate for task "{task}": its allowed_tools and those of the child have too many'
            " wildcards to be made one list",
            limit="allowed_tools",
            value=MAX_NARROWING,
            task=task,
        ) from None


class _TooLong(Exception):
    """Raised when an intersection takes too many steps; never leaves this module."""


def common(one: Iterable[str], other: Iterable[str]) -> list[str]:
    """Returns patterns of `*` and `?` that match exactly the names which both lists match."""
    names_1, wild_1 = _split(one)
    names_2, wild_2 = _split(other)
    found = {
        *(names_1 & names_2),
        *(name for name in names_1 if any(fnmatchcase(name, each) for each in wild_2)),
        *(name for name in names_2 if any(fnmatchcase(name, each) for each in wild_1)),
    }
    intersection = _Intersection()
    for first in wild_1:
        for second in wild_2:
            found |= intersection.of(first, second)
    return sorted(found)


def _split(patterns: Iterable[str]) -> tuple[set[str], set[str]]:
    names, wild = set[str](), set[str]()
    for each in patterns:
        if _WILD.isdisjoint(each):
            names.add(each)
        else:
            wild.add(re.sub(r"\*{2,}", "*", each))
    return names, wild


class _Intersection:
    """Intersects two patterns, in a bounded number of steps: a hostile pair could go on for ever."""

    def __init__(self) -> None:
        self._steps = 0

    def of(self, one: str, other: str) -> frozenset[str]:
        """Returns the patterns of the names that both match."""
        if one == "*" or one == other:
            return frozenset({other})
        if other == "*":
            return frozenset({one})
        return self._rest(one, other, {})

    def _rest(self, one: str, other: str, known: dict[tuple[str, str], frozenset[str]]) -> frozenset[str]:
        if not one or not other:
            return frozenset({""}) if not (one + other).strip("*") else frozenset()
        found = known.get((one, other))
        if found is None:
            self._count(1)
            found = known[one, other] = self._heads(one, other, known)
            self._count(len(found))
        return found

    def _heads(self, one: str, other: str, known: dict[tuple[str, str], frozenset[str]]) -> frozenset[str]:
        first, second = one[0], other[0]
        if first != "*" and second != "*":
            if first != second and "?" not in (first, second):
                return frozenset()
            head = second if first == "?" else first
            return frozenset({head + rest for rest in self._rest(one[1:], other[1:], known)})
        if first == second:
            rests = self._rest(one[1:], other, known) | self._rest(one, other[1:], known)
            return frozenset({rest if rest.startswith("*") else "*" + rest for rest in rests})
        if second == "*":
            one, other = other, one
        # The star of `one` stands for nothing more, or for what `other` begins with.
        more = {other[0] + rest for rest in self._rest(one, other[1:], known)}
        return self._rest(one[1:], other, known) | frozenset(more)

    def _count(self, steps: int) -> None:
        self._steps += steps
        if self._steps > MAX_NARROWING:
            raise _TooLong


def overspent(
    task: Task, tokens: int = 0, cost_cents: float = 0.0, *, is_reached: bool = False
) -> ResourceLimitExceeded | None:
    """Returns why a task is stopped that, with its children, has used more than it may; with `is_reached`, that has used all."""
    bounds = task.boundaries
    used = (
        ("max_tokens", "tokens", task.tokens_used + tokens, bounds.max_tokens),
        ("max_cost_cents", "cents", task.cost_cents + cost_cents, bounds.max_cost_cents),
    )
    for key, unit, count, limit in used:
        if limit is None:
            continue
        if count > limit * (1 + 1e-9) or (is_reached and count >= limit * (1 - 1e-9)):  # sums of floats
            words = f'cannot go on with task "{task.id}": it has used {count:g} of {limit:g} {unit}'
            return ResourceLimitExceeded(words, limit=key, value=limit, used=count, task=task.id)
    return None


class Limits(Struct, frozen=True):
    """Holds the limits of one task: its own boundaries within those of its agent."""

    timeout_s: float
    max_tool_calls: int
    allowed_tools: tuple[str, ...] | None


def limits(boundaries: Boundaries, resources: Resources, longest_s: float = 0.0) -> Limits:
    """Returns the limits in force for a task; `longest_s` is the longest of its tenant, 0 without one."""
    timeout_s = capped(resources.max_task_duration, longest_s)
    timeout_s = capped(timeout_s, boundaries.timeout_s or 0.0)
    calls = resources.max_tool_calls_per_task
    if boundaries.max_tool_calls is not None:
        calls = min(calls, boundaries.max_tool_calls)
    allowed = boundaries.allowed_tools
    return Limits(timeout_s, calls, None if allowed is None else tuple(allowed))


def capped(timeout_s: float, other_s: float) -> float:
    """Returns the shorter of two durations in seconds; 0 is none."""
    return min(timeout_s, other_s) if timeout_s and other_s else timeout_s or other_s


def can_ever_run(
    child: Task,
    *,
    asking: str,
    find: Callable[[str], Task | None],
    waits: Callable[[str], Sequence[str]],
    obstacles: Callable[[Task], Groups],
) -> bool:
    """Returns True if `child`, which the running task `asking` delegates, can run before `asking` ends.

    A running task can end when all tasks that it `waits` for can end. A queued task can end when it can run: when of
    each group of its `obstacles` one can end (the holders of the places that it could take, the task before it in its
    session, one that it comes after). A task that `find` does not find has ended. Waiting tasks in a circle without a
    free place on it would wait for their own end: such a delegation is refused before it is queued.
    """
    # What `asking` waits for is not looked at, however much it is: `asking` must not be needed at all.
    known: dict[str, tuple[bool, Groups]] = {asking: (False, ())}
    left = [each for group in obstacles(child) for each in group]
    while left:
        task_id = left.pop()
        if task_id in known:
            continue
        task = find(task_id)
        if task is None or task.state not in ("queued", "running"):
            known[task_id] = True, ()
            continue
        needs = [[each] for each in waits(task_id)] if task.state == "running" else obstacles(task)
        known[task_id] = False, needs
        left.extend(each for group in needs for each in group)
    can_end = _closure(known, asking)
    return all(not group or not can_end.isdisjoint(group) for group in obstacles(child))


def _closure(known: dict[str, tuple[bool, Groups]], asking: str) -> set[str]:
    """Returns the least set of tasks that can end: a task that waits in a circle never comes into it."""
    can_end = {task_id for task_id, (has_ended, _) in known.items() if has_ended}
    # The latest found first: a chain is settled in one round.
    doubted = [each for each in reversed(known) if each not in can_end and each != asking]
    while True:
        before = len(can_end)
        for each in doubted:
            if all(not group or not can_end.isdisjoint(group) for group in known[each][1]):
                can_end.add(each)
        if len(can_end) == before:
            return can_end
        doubted = [each for each in doubted if each not in can_end]
