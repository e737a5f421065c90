"""Runs a handler against the record of a task, offline: each step is answered from the record, and nothing is done."""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..contract.errors import Conflict, CorralError, InvalidParams
from .offline import Given, run
from .results import Json, objects_of
from .source_location import place_of_error
from .task import Hooks

ASKED = ("objective", "input", "context", "boundaries", "output_format", "session")
"""Parts of a record that `task/run` carries."""

UNANSWERED = {
    "tools/call": "a tool",
    "tools/list": "the list of tools",
    "task/delegate": "another task",
    "task/delegate_all": "other tasks",
    "task/ask": "an answer",
    "memory/get": "a stored value",
    "memory/search": "stored values",
}
"""Requests whose answer no record has, unless they are steps."""


def replay(
    hooks: Hooks, record: Mapping[str, Json], tasks: Sequence[Mapping[str, Json]], config: Mapping[str, Json] | None
) -> Json:
    """Returns the output of the handler; see Agent.replay."""
    task, kept = record["id"], objects_of(record, "steps")
    for each in kept:
        if each.get("result") is None and each.get("size_bytes", 0) > len("null"):
            text = f'cannot replay task "{task}": the record has no result of step {each["number"]}, "{each["name"]}": all are too long'
            raise InvalidParams(text, task=task, step=each["number"], name=each["name"])
    request: dict[str, Json] = {
        "task": task,
        "attempt": record.get("attempt", 1),
        "delivery": record.get("delivery", 1),
    }
    request |= {key: record.get(key) for key in ASKED}
    request["steps"] = {"kept": kept, "more": False, "is_whole": True}
    calls = _Recorded(tasks)
    output = run(hooks, request, config or {}, calls)
    assert calls.task is not None, "the handler has run"
    asked = calls.task.steps.asked
    if asked < len(kept):
        name = kept[asked]["name"]
        text = f'cannot replay task "{task}": the handler has ended where the record goes on with step {asked + 1}, "{name}"'
        raise Conflict(text, task=task, step=asked + 1, name=None, kept=name)
    if record.get("state") == "succeeded" and output != record.get("output"):
        text = f'cannot replay task "{task}": its output is not that of the record'
        raise Conflict(text, task=task, output=output, kept=record.get("output"))
    return output


class _Recorded(Given):
    """Answers with the records of delegated tasks; nothing else is asked for that is a step."""

    def __init__(self, tasks: Sequence[Mapping[str, Json]]) -> None:
        super().__init__({}, {}, {})
        self._tasks = {each.get("idempotency_key"): dict(each) for each in tasks}

    async def request(self, method: str, params: Mapping[str, Any], /) -> object:
        if method == "task/delegate":
            return self._task(params)
        if method == "task/delegate_all":
            return {"results": [self._task(each) for each in params["tasks"]]}
        if method in UNANSWERED:
            words = f"cannot replay: the handler asks for {UNANSWERED[method]} ({method}) outside of a step"
            raise Conflict(words, method=method)
        return {"id": 1, "seq": 1}

    def _task(self, params: Mapping[str, Any]) -> dict[str, Json]:
        found = self._tasks.get(params.get("idempotency_key"))
        if found is None:
            receiver = params.get("agent") or params.get("capability")
            raise Conflict(f'cannot replay: the record of the task that was delegated to "{receiver}" is not given')
        return found


def replay_stdin(replayed: Callable[..., Json]) -> int:
    """Replays what `corral task replay` gives, by the `replay` of an agent; returns 0, or that command's exit status with one line on stderr."""
    given: dict[str, Json] = json.load(sys.stdin)
    try:
        output = replayed(given["record"], tasks=given["tasks"], config=given["config"])
    except CorralError as error:
        print(error.message, file=sys.stderr)
        return error.exit_status
    except Exception as error:
        print(f"the handler has failed: {place_of_error(error) or type(error).__name__}: {error}", file=sys.stderr)
        return 1
    print(json.dumps(output))
    return 0
