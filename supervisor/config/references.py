"""Checks the names by which agents, servers, teams and workflows refer to one another, over a whole set of them.

A table alone cannot tell whether a name exists. A name whose own table is refused counts as one that exists: its
mistake is told where it is.
"""

from collections.abc import Collection, Iterator, Mapping
from difflib import get_close_matches
from graphlib import CycleError, TopologicalSorter

from ...worker.contract.errors import InvalidParams
from .decoder import Document, KeyPath
from .spec import Group, Spec, kind_of_group
from .team import Team, circle


def check_requires(agents: Mapping[str, Spec]) -> None:
    """Refuses a `requires` with an unknown name or a disabled server, or that closes a circle.

    Raises:
        InvalidParams: as `decode`, without `line`; a circle is also in `cycle`, first name repeated last.
    """
    for mistake in requires_mistakes(None, agents):
        raise mistake


def check_groups(groups: Mapping[str, Group], agents: Mapping[str, Spec]) -> None:
    """Refuses teams and workflows with a member that does not exist or takes no tasks, or that close a circle.

    Raises:
        InvalidParams: as `decode`, without `line`; a circle is also in `cycle`, first name repeated last.
    """
    for mistake in group_mistakes(None, groups, agents):
        raise mistake


def path_of(spec: Spec) -> KeyPath:
    """Returns the key of the table of an agent or server."""
    return ("agents", spec.name) if spec.kind == "agent" else ("mcp", "servers", spec.name)


def requires_mistakes(
    document: Document | None, agents: Mapping[str, Spec], broken: Collection[str] = ()
) -> Iterator[InvalidParams]:
    """Yields the mistakes in `requires`; `broken` are names whose tables were refused."""

    def error(name: str, value: object, reason: str, **data: object) -> InvalidParams:
        spec = agents[name]
        on = document or Document(spec.source, "")
        return on.error((*path_of(spec), "requires"), value, reason, **data)

    for spec in agents.values():
        for name in spec.requires:
            if name not in agents and name not in broken and name != "cortex":  # it is built in
                near = get_close_matches(name, agents, 1)
                guess = f'; did you mean "{near[0]}"?' if near else ""
                yield error(spec.name, name, f"no agent or MCP server has this name{guess}")
            if name in agents and agents[name].disabled:
                yield error(spec.name, name, "this MCP server is disabled")
    try:
        TopologicalSorter({spec.name: spec.requires for spec in agents.values()}).prepare()
    except CycleError as found:
        circle: list[str] = found.args[1][:0:-1]  # last repeats first; each is required by the next
        names = list(agents)
        first = min(range(len(circle)), key=lambda n: names.index(circle[n]))
        circle = [*circle[first:], *circle[:first]]
        circle.append(circle[0])
        reason = f"it closes a circle: {' requires '.join(circle)}"
        yield error(circle[0], circle[1], reason, cycle=circle)


def group_mistakes(
    document: Document | None,
    groups: Mapping[str, Group],
    agents: Mapping[str, Spec],
    broken: Collection[str] = (),
) -> Iterator[InvalidParams]:
    """Yields the mistakes in the members of teams and workflows; `broken` are names whose tables were refused."""
    for name, group in groups.items():
        path: KeyPath = (f"{kind_of_group(group)}s", name)
        on = document or Document(group.source, "")
        for key, other in _members(group):
            why_not = _why_no_member(other, groups, agents)
            if key == ("lead",) and other in groups:
                why_not = "the lead is an agent: it delegates to the members"
            if why_not is not None and other not in broken:
                yield on.error((*path, *key), other, why_not)
    if found := circle({name: group.needs for name, group in groups.items()}):
        first = groups[found[0]]
        on = document or Document(first.source, "")
        reason = f"it closes a circle: {' needs '.join(found)}"
        yield on.error((f"{kind_of_group(first)}s", found[0]), found[1], reason, cycle=found)


def _members(group: Group) -> list[tuple[KeyPath, str]]:
    """Returns the names that a team or workflow gives tasks to, each with its key."""
    if isinstance(group, Team):
        lead: list[tuple[KeyPath, str]] = [] if group.lead is None else [(("lead",), group.lead)]
        return [*lead, *((("members",), each) for each in group.members)]
    return [
        (("steps", step.name, "agent"), step.agent)
        for step in group.steps
        if step.agent is not None
    ]


def _why_no_member(
    name: str, groups: Mapping[str, Group], agents: Mapping[str, Spec]
) -> str | None:
    """Returns the reason why no task can be given to that name; None where one can."""
    if name in groups:
        return None
    if name not in agents:
        near = get_close_matches(name, [*agents, *groups], 1)
        guess = f'; did you mean "{near[0]}"?' if near else ""
        return f"no agent, team or workflow has this name{guess}"
    if agents[name].protocol != "corral":
        return f'it speaks protocol "{agents[name].protocol}", which has no tasks'
    return None
