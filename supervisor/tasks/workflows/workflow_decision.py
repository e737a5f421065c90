"""Decides the next tasks of a running workflow from the states of its steps.

Pure: the same records of the same tasks give the same decision, so that another daemon goes on where one stood,
from the records alone.
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import msgspec
from msgspec import Struct

from corral.supervisor.config.decoding import expression
from corral.supervisor.config.decoding.expression import BadExpression
from corral.supervisor.config.spec.workflow import BRANCHES_MAX, Step, Workflow, in_order
from corral.worker.contract import codec
from corral.worker.contract.errors import CorralError, InvalidParams, ResourceLimitExceeded, TaskFailed
from corral.worker.contract.records import Boundaries, Error, Task, TaskParams, TaskState, copied


class Branch(Struct, frozen=True):
    """Represents a task of a step: one for each item of a `for_each`, else one. `task` None: it could not be queued."""

    task: str | None
    state: Literal["open"] | TaskState
    output: object = None
    error: Error | None = None

    @property
    def is_open(self) -> bool:
        """Returns whether it has not ended."""
        return self.state == "open"


class Submission(NamedTuple):
    """Represents a task to queue; `label` is its `Task.step`: the step, and the item's number after a slash."""

    label: str
    step: str
    params: TaskParams


class Stage(NamedTuple):
    """Represents the state of a step: waiting for others, open, or ended."""

    state: Literal["waiting", "open", "skipped", "succeeded", "failed"]
    output: object = None
    error: Error | None = None
    task: object = None

    @property
    def has_ended(self) -> bool:
        """Returns whether it changes no more."""
        return self.state not in ("waiting", "open")


class Decision(NamedTuple):
    """Represents a decision: tasks to queue, or the end. `stages` has the state of each step.

    The workflow has ended when `error` is there, which it fails with, or `is_done`, with `output`.
    """

    stages: Mapping[str, Stage]
    submit: tuple[Submission, ...] = ()
    is_done: bool = False
    output: object = None
    error: CorralError | None = None


def decide(workflow: Workflow, task: Task, branches: Mapping[str, Branch]) -> Decision:
    """Decides the tasks to queue next, or the end, from the states of the steps."""
    return _Deciding(workflow, task, branches).decision()


class _Deciding:
    def __init__(self, workflow: Workflow, task: Task, branches: Mapping[str, Branch]) -> None:
        self._workflow = workflow
        self._task = task
        self._branches = branches
        self._stages: dict[str, Stage] = {}
        self._submit: list[Submission] = []
        self._room = workflow.max_parallel - sum(each.is_open for each in branches.values())
        self._step_record: dict[str, object] = {}
        self._names: dict[str, object] = {
            "input": task.input,
            "context": task.context,
            "objective": task.objective,
            "steps": self._step_record,
        }

    def decision(self) -> Decision:
        for step in in_order(self._workflow):
            stage = self._stage(step)
            self._stages[step.name] = stage
            if stage.state == "failed" and step.on_failure == "fail":
                name = self._workflow.name
                text = f'cannot finish workflow "{name}": step "{step.name}"'
                return Decision(
                    self._stages, error=part_failed(stage.error, text, workflow=name, step=step.name, task=stage.task)
                )
            if stage.has_ended:
                error = None if stage.error is None else msgspec.to_builtins(stage.error)
                self._step_record[step.name] = {
                    "state": stage.state,
                    "output": stage.output,
                    "error": error,
                    "task": stage.task,
                }
        if not all(stage.has_ended for stage in self._stages.values()):
            return Decision(self._stages, tuple(self._submit))
        try:
            return Decision(self._stages, is_done=True, output=self._output())
        except BadExpression as error:
            return Decision(self._stages, error=self._no_output(error))

    def _stage(self, step: Step) -> Stage:
        before = [self._stages[name] for name in step.needs]
        skipped = [stage.state == "skipped" for stage in before]
        if not all(stage.has_ended for stage in before):
            return Stage("waiting")
        if before and (any(skipped) if step.join == "all" else all(skipped)):
            return Stage("skipped")
        try:
            if step.when is not None and not self._evaluated(
                "when", lambda text: expression.holds(text, self._names), step.when
            ):
                return Stage("skipped")
            if step.for_each is None:
                return self._single(step)
            items = codec.as_array(self._evaluated("for_each", self._items, step.for_each))
        except _Unevaluated as found:
            return Stage("failed", error=found.error)
        if items is None or len(items) > BRANCHES_MAX:
            return Stage("failed", error=_no_items(items))
        return self._each(step, items)

    def _items(self, written: object) -> object:
        if isinstance(written, str):
            return expression.value_of(written, self._names)
        return expression.rendered(written, self._names)

    def _single(self, step: Step) -> Stage:
        branch = self._branch(step, step.name, {})
        if branch is None or branch.is_open:
            return Stage("open")
        return Stage(_ended(branch), branch.output, branch.error, branch.task)

    def _each(self, step: Step, items: list[object]) -> Stage:
        labels = [f"{step.name}/{number}" for number in range(len(items))]
        is_final = step.on_failure == "fail"
        running = sum(self._branches[each].is_open for each in labels if each in self._branches)
        room = min(step.max_parallel or self._room, BRANCHES_MAX) - running
        found: list[Branch] = []
        for number, label in enumerate(labels):
            branch = self._branches.get(label)
            if branch is None and room > 0:
                before = len(self._submit)
                branch = self._branch(step, label, {"item": items[number], "index": number})
                room -= len(self._submit) - before
            if branch is not None and not branch.is_open:
                found.append(branch)
                if is_final and _ended(branch) == "failed":
                    return Stage("failed", None, branch.error, branch.task)
        if len(found) < len(labels):
            return Stage("open")
        failed = [branch for branch in found if _ended(branch) == "failed"]
        output = [branch.output for branch in found]
        tasks = [branch.task for branch in found]
        return Stage("failed" if failed else "succeeded", output, failed[0].error if failed else None, tasks)

    def _branch(self, step: Step, label: str, more: Mapping[str, object]) -> Branch | None:
        """Returns a task of a step; queues it if there is none yet and there is room."""
        branch = self._branches.get(label)
        if branch is not None or self._room <= 0:
            return branch
        try:
            params = self._params(step, {**self._names, **more})
        except _Unevaluated as found:
            return Branch(None, "failed", error=found.error)
        self._room -= 1
        self._submit.append(Submission(label, step.name, params))
        return None

    def _params(self, step: Step, names: Mapping[str, object]) -> TaskParams:
        def value(key: str, usual: object) -> object:
            written = getattr(step, key)
            if written is None:
                return usual
            return self._evaluated(key, lambda text: expression.rendered(text, names), written)

        objective = value("objective", self._task.objective)
        own = self._task.boundaries
        tools = own.allowed_tools if step.allowed_tools is None else list(step.allowed_tools)
        return TaskParams(
            objective=objective if isinstance(objective, str) else codec.encode(objective).decode(),
            **copied(step, "agent capability output_format retry"),
            input=value("input", None),
            context=value("context", self._task.context),
            priority=step.priority or self._task.priority,
            timeout_s=step.timeout,
            boundaries=Boundaries(allowed_tools=tools, constraints=own.constraints, scope=own.scope),
            required_capabilities=list(step.required_capabilities),
            **copied(self._task, "sticky_key session durable"),
        )

    # Any: arguments and result of the expression's function.
    def _evaluated(self, key: str, evaluate: Callable[[Any], object], written: Any) -> object:
        try:
            return evaluate(written)
        except BadExpression as error:
            raise _Unevaluated(_bad(key, error)) from error

    def _output(self) -> object:
        if self._workflow.output is not None:
            return expression.rendered(self._workflow.output, self._names)
        needed = {need for step in self._workflow.steps for need in step.needs}
        return {
            name: stage.output
            for name, stage in self._stages.items()
            if name not in needed and stage.state != "skipped"
        }

    def _no_output(self, error: BadExpression) -> CorralError:
        name = self._workflow.name
        text = f'cannot make the output of workflow "{name}": {error.reason}'
        return TaskFailed(text, workflow=name, key="output", reason=error.reason)


class _Unevaluated(Exception):
    """Raised where an expression of a step has no value; `error` is that of the step."""

    def __init__(self, error: Error) -> None:
        super().__init__(error.message)
        self.error = error


def part_failed(error: Error | None, text: str, **facts: object) -> CorralError:
    """Returns the error of a team or workflow of which a part has failed: that of the part, which keeps its class."""
    assert error is not None, "what has not succeeded says why"
    whole = f"{text}: {error.message}"
    if error.name == "Cancelled":  # of the part: the task of the team or workflow was not cancelled
        return TaskFailed(whole, **{**error.data, **facts})
    return error.as_error(whole, **facts)


def _bad(key: str, error: BadExpression) -> Error:
    return Error.of(TaskFailed(f"cannot evaluate {key}: {error.reason}", key=key, reason=error.reason))


def _no_items(items: list[object] | None) -> Error:
    if items is None:
        return Error.of(InvalidParams("cannot run for_each: its value is no list", key="for_each"))
    text = f"cannot run for_each over {len(items)} items: it may have {BRANCHES_MAX}"
    return Error.of(ResourceLimitExceeded(text, limit="for_each", value=len(items)))


def _ended(branch: Branch) -> Literal["succeeded", "failed"]:
    return "succeeded" if branch.state == "succeeded" else "failed"
