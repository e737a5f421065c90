"""Decodes teams, agents that run a task together or one for all, and chooses the member that a task is routed to.

A member is an agent, another team, or a workflow, by name. Whether those exist is checked where all are known.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Literal

from msgspec import Struct

from corral.worker.contract.names import FULL

from ..decoding.decoder import Document
from ..decoding.keys import Key, differing, fields_of, listed
from ..decoding.shapes import Rule
from ..decoding.values import HttpAddress, HttpAuth, each, json_schema, matching, whole
from .labels import description_text, label_table, title_text

MEMBERS_MAX = 1000
"""Number of members of one team."""

Mode = Literal["coordinate", "broadcast", "route"]
Routing = Literal["least-load", "round-robin", "sticky", "best"]

a_name: Rule = matching(FULL, "the name of an agent, a team or a workflow")
capability_words: Rule = each(matching(r"[^\x00-\x1f\x7f]{1,200}", "1 to 200 characters"), "strings")


class Team(Struct, frozen=True, kw_only=True):
    """`[teams.NAME]`. `lead` is there in the mode coordinate alone; `source` is where the table came from.

    The mode decides about a task: coordinate gives it to the lead, which may delegate to the members only;
    broadcast gives it to every member; route to one of them.
    """

    name: str
    source: str
    title: Annotated[str, title_text, Key(tenant=True)] = ""
    """A name for people."""
    description: Annotated[str, description_text, Key(tenant=True)] = ""
    """A description for people and models."""
    labels: Annotated[dict[str, str], label_table, Key(tenant=True)] = {}
    """Words to select it by: `corral restart -l team=red`; a value has no comma."""
    expose: bool = False
    """Offers it to MCP clients as the tool `agent__NAME`, see [agents as tools](mcp.md#agents-as-tools)."""
    input_schema: Annotated[dict[str, object], json_schema, Key(tenant=True)] | None = None
    """The input of every task has to match it, else the task is refused as InvalidParams."""
    capabilities: Annotated[tuple[str, ...], capability_words, Key(tenant=True)] = ()
    """A task for these capabilities comes here where no agent offers them all: `corral run --capability review`."""
    http: HttpAddress | None = None
    """Where it is served [alone, as a service](../how-to/agent-as-a-service.md): `POST /run`, `GET /health`, `GET
    /status`; port 0 takes a free one. A change opens, closes or moves the service, and touches no worker."""
    http_auth: HttpAuth = "token"
    """`token`: `/run` and `/status` there ask for a bearer token, as the daemon's own HTTP does; `none`, on a loopback
    address only: every program of this machine may use it."""
    lead: Annotated[str, a_name, Key(tenant=True)] | None = None
    """The agent that gets the task; with `mode = "coordinate"`, and only then."""
    members: Annotated[tuple[str, ...], each(a_name, "names"), Key(tenant=True)]
    """Agents, teams or workflows; at most 1000."""
    mode: Annotated[Mode, Key(tenant=True)] = "coordinate"
    """The lead runs the task and delegates to members; all members run it; one member runs it."""
    routing: Annotated[Routing, Key(tenant=True)] = "least-load"
    """The choice of the member, with `mode = "route"`."""
    max_parallel: Annotated[int, whole(1, 10_000), Key(tenant=True)] = 8
    """Members at work at once, with `mode = "broadcast"`."""

    @property
    def needs(self) -> tuple[str, ...]:
        """Returns the names without which it cannot run, each once."""
        return self.members if self.lead is None else (self.lead, *self.members)


TEAM_KEYS = fields_of(Team)


def decode_team(document: Document, name: str, raw: object) -> Team:
    """Decodes one team from its table."""
    path = ("teams", name)
    own = document.decode(path, raw, TEAM_KEYS)
    if not own.get("members"):
        raise document.error((*path, "members"), None, 'it is missing: write members = ["AGENT", …]')
    team = Team(name=name, source=document.source, **own)
    if len(team.members) > MEMBERS_MAX:
        raise document.error((*path, "members"), None, f"write at most {MEMBERS_MAX} members")
    twice = [member for n, member in enumerate(team.members) if member in team.members[:n]]
    if twice:
        raise document.error((*path, "members"), twice[0], "it is there twice")
    if team.mode == "coordinate" and team.lead is None:
        reason = 'it is missing: mode = "coordinate" gives the task to a lead; or write another mode'
        raise document.error((*path, "lead"), None, reason)
    if team.mode != "coordinate" and team.lead is not None:
        raise document.error((*path, "lead"), team.lead, f'it contradicts mode = "{team.mode}", which has no lead')
    if team.lead in team.members:
        raise document.error((*path, "members"), team.lead, "the lead is no member: it delegates to the members")
    if "routing" in own and team.mode != "route":
        reason = f'it contradicts mode = "{team.mode}": it goes with mode = "route"'
        raise document.error((*path, "routing"), team.routing, reason)
    return team


def team_table(team: Team) -> dict[str, object]:
    """Returns the smallest table from which `decode_team` makes an equal Team."""
    found = differing(team, Team(name=team.name, source=team.source, members=()))
    first = {key: found[key] for key in ("lead", "members") if key in found}  # who they are comes first
    return {key: listed(value) for key, value in (first | found).items()}


# --- routing --------------------------------------------------------------------------------------


class Candidate(Struct, frozen=True):
    """Represents a member or an agent to routing; a team or workflow needs no worker and is always free.

    `free` is the number of its free places, `queued` that of its waiting tasks, `load` its running and waiting tasks per
    place. `success_rate` is that of its last tasks, None where there are none.
    """

    name: str
    free: int
    queued: int
    load: float = 0.0
    success_rate: float | None = None


class Thresholds(Struct, frozen=True):
    """Holds the success rate and the load from which on the routing `best` prefers others."""

    min_success_rate: float = 0.8
    max_load: float = 1.0


USUAL = Thresholds()


def best(candidates: Sequence[Candidate], thresholds: Thresholds) -> str | None:
    """Returns the candidate that is most likely to succeed and has room; None where there is no candidate.

    Those of a sufficient success rate come first, and among them those below the load. Of these the one with the
    highest success rate is chosen, then the least loaded; of overloaded ones the least loaded. One that has ended no
    task yet counts as successful, so that it is tried.
    """

    def rank(each: Candidate) -> tuple[object, ...]:
        rate = 1.0 if each.success_rate is None else each.success_rate
        is_overloaded = each.load > thresholds.max_load
        first = each.load if is_overloaded else -rate
        return rate < thresholds.min_success_rate, is_overloaded, first, each.load, each.name

    return min(candidates, key=rank).name if candidates else None


def chosen(
    routing: Routing, candidates: Sequence[Candidate], *, turn: int, sticky_key: str, thresholds: Thresholds = USUAL
) -> str | None:
    """Returns the member that runs a task; None where there is no candidate."""
    if not candidates:
        return None
    if routing == "round-robin":
        return candidates[turn % len(candidates)].name
    if routing == "best":
        return best(candidates, thresholds)
    if routing == "sticky":
        return max(candidates, key=lambda each: _weight(sticky_key, each.name)).name
    return min(candidates, key=lambda each: (-each.free, each.queued, each.name)).name


def _weight(key: str, name: str) -> bytes:
    """Ranks a member for a key by rendezvous hashing: a member that comes or goes moves no key of another."""
    return hashlib.blake2b(f"{key}\0{name}".encode(), digest_size=8).digest()


def circle(needs: Mapping[str, Iterable[str]]) -> list[str]:
    """Finds a circle among the needs of teams and workflows: its names, the first repeated last; empty if there is none."""
    done: set[str] = set()
    for start in needs:
        way: list[str] = [start]
        branches = [iter(needs[start])]
        while branches:
            following = next(branches[-1], None)
            if following is None:
                done.add(way.pop())
                branches.pop()
            elif following in way:
                return [*way[way.index(following) :], following]
            elif following in needs and following not in done:
                way.append(following)
                branches.append(iter(needs[following]))
    return []
