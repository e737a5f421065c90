"""Provides leads for teams: agents that divide a task among the members of their team and put the results together.

`entrypoint = "corral.leads:fanout"` makes a lead without any code:

    [agents.chief]
    entrypoint = "corral.leads:fanout"

    [teams.crew]
    lead = "chief"
    members = ["reader", "writer"]
"""

from collections.abc import Mapping, Sequence
from typing import Any

from .worker import Agent, CorralError, Result, Task, TaskFailed
from .worker.contract import codec
from .worker.contract.errors import Cancelled, InvalidParams

MERGES = ("list", "text", "first")
KEYS = frozenset({"merge", "max_parallel", "synthesiser"})

fanout = Agent("fanout")


@fanout.task
async def run(task: Task) -> object:
    """Gives each member the task, or, if the input is a list, each item of it to one member in turn.

    `[agents.NAME.config]` may have:

    - `merge`: "list" (default): `{member, output}` or `{member, error}` of each part, in order; "text": the outputs
      that are texts, one paragraph each; "first": the output of the first member that succeeded, in order.
    - `synthesiser`: an agent that makes the output from those of the parts, which it is given as its input. It is a
      member of the team, and gets no part.
    - `max_parallel`: number of parts that run at once; default: all.

    Raises:
        InvalidParams: the task is not of a team, or a key of the configuration is wrong.
        TaskFailed: no part has succeeded; `data["parts"]` has the error of each.
    """
    merge, synthesiser, max_parallel = _configuration(task)
    members = [name for name in _members(task) if name != synthesiser]
    if not members:
        raise InvalidParams("cannot divide the task: the team has no other member", key="members")
    items = codec.as_array(task.input)
    inputs = [task.input] * len(members) if items is None else items
    chosen = [members[number % len(members)] for number in range(len(inputs))]
    asked = [
        _part(task, number, member, value) for number, (member, value) in enumerate(zip(chosen, inputs, strict=True))
    ]
    results = await task.delegate_all(asked, max_parallel=max_parallel)
    for delivery in range(2, task.delivery + 1):  # the daemon cancels the parts under way when the lead ends
        lost = [n for n, result in enumerate(results) if isinstance(result, Cancelled)]
        anew = [{**asked[n], "idempotency_key": _key(task, f"{n}/{delivery}")} for n in lost]
        again = await task.delegate_all(anew, max_parallel=max_parallel)
        for number, result in zip(lost, again, strict=True):
            results[number] = result
    parts = [_outcome(*each) for each in zip(chosen, results, strict=True)]
    if parts and all("error" in part for part in parts):
        text = f"cannot complete the task: it failed with each of {', '.join(members)}"
        raise TaskFailed(text, parts=parts)
    if synthesiser is None:
        return _merged(merge, parts)
    key = _key(task, f"synthesis/{task.delivery}")
    done = await task.delegate(synthesiser, task.objective, input=parts, session=task.session, idempotency_key=key)
    return done.output


def _configuration(task: Task) -> tuple[str, str | None, int | None]:
    config = task.config
    for key in config:
        if key not in KEYS:
            raise InvalidParams(f"cannot divide the task: config.{key} is unknown", key=key)
    merge, synthesiser = config.get("merge", "list"), config.get("synthesiser")
    if merge not in MERGES:
        words = f'cannot divide the task: config.merge = "{merge}": write one of {", ".join(MERGES)}'
        raise InvalidParams(words, key="merge", value=merge)
    if synthesiser is not None and synthesiser not in _members(task):
        words = f'cannot divide the task: config.synthesiser = "{synthesiser}" is no member'
        raise InvalidParams(words, key="synthesiser", value=synthesiser)
    max_parallel = config.get("max_parallel")
    if max_parallel is not None and (type(max_parallel) is not int or max_parallel < 1):
        words = f"cannot divide the task: config.max_parallel = {max_parallel}: write a number from 1"
        raise InvalidParams(words, key="max_parallel", value=max_parallel)
    return merge, synthesiser, max_parallel


def _members(task: Task) -> list[str]:
    team = codec.as_object((codec.as_object(task.context) or {}).get("team"))
    if team is None:
        words = f'cannot divide the task: "{task.agent}" leads no team here; run the team, not the lead'
        raise InvalidParams(words, key="context")
    members = codec.as_array(team.get("members")) or []
    return [str(member["name"]) for member in filter(None, map(codec.as_object, members))]


def _part(task: Task, number: int, member: str, value: Any) -> dict[str, Any]:
    part: dict[str, Any] = {
        "agent": member,
        "objective": task.objective,
        "input": value,
        "idempotency_key": _key(task, str(number)),
    }
    return part if task.session is None else {**part, "session": task.session}


def _key(task: Task, part: str) -> str:
    """Returns a key by which another attempt finds the parts of the first: each is tried again by its own rules."""
    return f"{task.id}/{part}"


def _outcome(member: str, result: Result | CorralError) -> dict[str, Any]:
    if isinstance(result, CorralError):
        return {"member": member, "error": {"name": result.name, "message": result.message}}
    return {"member": member, "output": result.output}


def _merged(merge: str, parts: Sequence[Mapping[str, Any]]) -> object:
    outputs = [part["output"] for part in parts if "output" in part]
    if merge == "first":
        return outputs[0] if outputs else None
    if merge == "text":
        return "\n\n".join(each for each in outputs if isinstance(each, str))
    return list(parts)
