"""Decodes workflows: their tables, the expressions in them, and the order of their steps.

That the agents of the steps exist is checked by `loader`, which knows all names. How a workflow runs is decided in
`orchestration`.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Struct

from corral.worker.contract.misfit import misfit_of
from corral.worker.contract.records import OutputFormat, Retry

from ..decoding import expression
from ..decoding.decoder import Document, KeyPath, fields_of
from ..decoding.expression import BadExpression, Use
from ..decoding.values import (
    HttpAddress,
    HttpAuth,
    PositiveSeconds,
    Refused,
    Rule,
    duration,
    each,
    free_table,
    is_list,
    is_table,
    json_schema,
    matching,
    retry_reasons,
    whole,
)
from .labels import description_text, label_table, title_text
from .team import a_name

STEPS_MAX = 500
"""Number of steps of one workflow."""

BRANCHES_MAX = 10_000
"""Number of tasks of one `for_each`; `[tasks] max_children` is the bound on all tasks of a workflow."""

GIVEN = frozenset({"input", "context", "objective", "steps"})
OF_BRANCHES = frozenset({"item", "index"})
STEP_FIELDS = ("state", "output", "error", "task")
"""Keys of a step in an expression."""


def json_value(raw: object) -> object:
    """Accepts a value that JSON has."""
    return free_table({"it": raw})["it"]


def template_text(raw: object) -> str:
    """Accepts a text that is not empty."""
    if not isinstance(raw, str) or not raw.strip():
        raise Refused("write a text")
    return raw


def retry_table(raw: object) -> Retry:
    """Decodes the retries of a step."""
    rules: dict[str, Rule] = {
        "max_attempts": whole(1, 1000),
        "retry_on": lambda value: _listed(retry_reasons(value)),
        "retry_backoff_base": duration,
    }
    if not is_table(raw) or not raw.keys() <= rules.keys():
        raise Refused(f"write a table of {', '.join(rules)}")
    own = {key: rules[key](value) for key, value in raw.items()}
    base_s = own.pop("retry_backoff_base", None)
    return Retry(**own, retry_backoff_base_s=base_s)


def _listed(reasons: str | tuple[str, ...]) -> str | list[str]:
    return reasons if isinstance(reasons, str) else list(reasons)


def format_table(raw: object) -> OutputFormat:
    """Decodes the format of an output."""
    try:
        return msgspec.convert(raw, OutputFormat)
    except msgspec.ValidationError as error:
        raise Refused(
            f"write a table of description and schema: {misfit_of(error, raw, OutputFormat).words}"
        ) from error


def items_for_each(raw: object) -> object:
    """Accepts a list, or one reference to a list."""
    if is_list(raw):
        return json_value(raw)
    try:
        if expression.is_reference(raw):
            return raw
    except BadExpression as error:
        raise Refused(error.reason) from error
    raise Refused('write a list, or one reference: "${steps.NAME.output}"')


def _as_written(raw: object) -> object:
    return raw  # each step has an error of its own


_a_name: Rule = matching(r"[A-Za-z][A-Za-z0-9_-]{0,47}", "a name: letters, digits, _ and -")
_words = each(matching(r"[^\x00-\x1f\x7f]{1,200}", "1 to 200 characters"), "strings")


class Step(Struct, frozen=True, kw_only=True):
    """Represents one of `[[workflows.NAME.steps]]`. `agent` is an agent, a team or a workflow, by name.

    `needs` are the steps that have to end before: those in `after`, and those in its expressions.
    """

    name: Annotated[str, _a_name]
    agent: Annotated[str, a_name] | None = None
    capability: Annotated[str, matching(r"[^\x00-\x1f\x7f]{1,200}", "1 to 200 characters")] | None = None
    objective: Annotated[str, template_text] | None = None
    input: Annotated[object, json_value] = None
    context: Annotated[object, json_value] = None
    after: Annotated[tuple[str, ...], each(_a_name, "steps")] = ()
    join: Literal["all", "any"] = "all"
    when: Annotated[str, template_text] | None = None
    for_each: Annotated[object, items_for_each] = None
    max_parallel: Annotated[int, whole(1, 10_000)] | None = None
    on_failure: Literal["fail", "continue"] = "fail"
    retry: Annotated[Retry, retry_table] | None = None
    timeout: PositiveSeconds | None = None
    priority: Annotated[int, whole(1, 10)] | None = None
    required_capabilities: Annotated[tuple[str, ...], _words] = ()
    allowed_tools: Annotated[tuple[str, ...], _words] | None = None
    output_format: Annotated[OutputFormat, format_table] | None = None
    needs: tuple[str, ...] = ()


class Workflow(Struct, frozen=True, kw_only=True):
    """`[workflows.NAME]`. `source` is where the table came from; without `output`, those of the last steps are its output."""

    name: str
    source: str
    title: Annotated[str, title_text] = ""
    description: Annotated[str, description_text] = ""
    labels: Annotated[dict[str, str], label_table] = {}
    expose: bool = False
    input_schema: Annotated[dict[str, object], json_schema] | None = None
    capabilities: Annotated[tuple[str, ...], _words] = ()
    http: HttpAddress | None = None
    http_auth: HttpAuth = "token"
    steps: Annotated[tuple[Step, ...], _as_written]
    output: Annotated[object, json_value] = None
    timeout: PositiveSeconds | None = None
    max_parallel: Annotated[int, whole(1, 10_000)] = 16

    @property
    def needs(self) -> tuple[str, ...]:
        """Returns the names without which it cannot run, each once."""
        return tuple(dict.fromkeys(step.agent for step in self.steps if step.agent is not None))


STEP_KEYS = fields_of(Step, without={"needs"})
WORKFLOW_KEYS = fields_of(Workflow, without={"name", "source"})

# --- reading --------------------------------------------------------------------------------------


def decode_workflow(document: Document, name: str, raw: object) -> Workflow:
    """Decodes one workflow from its table; its expressions refer to existing steps and close no circle."""
    path = ("workflows", name)
    own = document.decode(path, raw, WORKFLOW_KEYS)
    tables = own.pop("steps", None)
    if not is_list(tables) or not 0 < len(tables) <= STEPS_MAX:
        reason = f"write 1 to {STEPS_MAX} steps: [[workflows.{name}.steps]]"
        raise document.error((*path, "steps"), None, reason)
    steps: dict[str, Step] = {}
    before = document.failures
    for number, table in enumerate(tables, 1):
        with document.collecting():
            step = _step(document, path, number, table)
            if step.name in steps:
                raise document.error((*path, "steps", step.name), None, "two steps have this name")
            steps[step.name] = step
    document.stop_after(before)
    known = [_with_needs(document, (*path, "steps", step.name), step, steps) for step in steps.values()]
    output = _check(document, (*path, "output"), own.get("output"), expression.uses, GIVEN)
    _check_steps(document, (*path, "output"), output, steps)
    workflow = Workflow(name=name, source=document.source, steps=tuple(known), **own)
    _check_circles(document, path, workflow)
    return workflow


def _step(document: Document, path: KeyPath, number: int, table: object) -> Step:
    named = table.get("name") if is_table(table) else None
    here = (*path, "steps", named if isinstance(named, str) and named else str(number))
    own = document.decode(here, table, STEP_KEYS)
    if "name" not in own:
        raise document.error((*here, "name"), None, "it is missing: every step has a name")
    if ("agent" in own) == ("capability" in own):
        reason = "write agent or capability" + (", not both" if "agent" in own else "")
        raise document.error((*here, "agent"), own.get("agent"), reason)
    if "max_parallel" in own and "for_each" not in own:
        raise document.error((*here, "max_parallel"), own["max_parallel"], "it goes with for_each")
    return Step(**own)


def _with_needs(document: Document, path: KeyPath, step: Step, steps: Mapping[str, Step]) -> Step:
    """Returns the step with the names of all that have to end before it."""
    needs = dict.fromkeys(step.after)
    _check_steps(document, (*path, "after"), needs, steps)
    inner = GIVEN | (OF_BRANCHES if step.for_each is not None else frozenset())
    for key, uses, names in (
        ("for_each", expression.uses, GIVEN),
        ("when", expression.condition_uses, GIVEN),
        ("objective", expression.uses, inner),
        ("input", expression.uses, inner),
        ("context", expression.uses, inner),
    ):
        used = _check(document, (*path, key), getattr(step, key), uses, names)
        _check_steps(document, (*path, key), used, steps)
        needs |= dict.fromkeys(used)
    return msgspec.structs.replace(step, needs=tuple(needs))


# Any: a text for a condition, a template for the rest; each function takes its own.
def _check(
    document: Document, path: KeyPath, written: Any, uses: Callable[[Any], frozenset[Use]], names: frozenset[str]
) -> list[str]:
    """Returns the steps that a text refers to."""
    if written is None:
        return []
    shown = written if isinstance(written, str) else None
    try:
        found = sorted(uses(written), key=str)
    except BadExpression as error:
        raise document.error(path, shown, error.reason) from error
    steps: list[str] = []
    for use in found:
        if use.name not in names:
            also = "; it goes with for_each" if use.name in OF_BRANCHES else ""
            reason = f'there is no "{use.name}" here: known are {", ".join(sorted(names))}{also}'
            raise document.error(path, shown, reason)
        if use.name == "steps":
            step = use.path[0] if use.path else None
            if not isinstance(step, str):
                raise document.error(path, shown, "write which step: steps.NAME.output")
            if len(use.path) > 1 and use.path[1] not in STEP_FIELDS:
                reason = f"a step has {', '.join(STEP_FIELDS)}: write steps.{step}.output"
                raise document.error(path, shown, reason)
            steps.append(step)
    return steps


def _check_steps(document: Document, path: KeyPath, names: Iterable[str], steps: Mapping[str, Step]) -> None:
    for name in names:
        if name not in steps:
            reason = f"there is no step of this name; there are {', '.join(list(steps)[:20])}"
            raise document.error(path, name, reason)


def _check_circles(document: Document, path: KeyPath, workflow: Workflow) -> None:
    done = {step.name for step in in_order(workflow)}
    left = {step.name: step for step in workflow.steps if step.name not in done}
    if not left:
        return
    way: list[str] = [next(iter(left))]
    while (following := next(need for need in left[way[-1]].needs if need in left)) not in way:
        way.append(following)
    found = [*way[way.index(following) :], following]
    reason = f"it closes a circle: {' needs '.join(found)}"
    raise document.error((*path, "steps", found[0], "after"), found[1], reason, cycle=found)


def in_order(workflow: Workflow) -> list[Step]:
    """Returns the steps, each after those that it needs, else as they are written; without those in a circle."""
    waits = {step.name: len(step.needs) for step in workflow.steps}
    users: dict[str, list[Step]] = {}
    for step in workflow.steps:
        for need in step.needs:
            users.setdefault(need, []).append(step)
    found = [step for step in workflow.steps if not step.needs]
    for step in found:  # grows while it is read
        for user in users.get(step.name, ()):
            waits[user.name] -= 1
            if waits[user.name] == 0:
                found.append(user)
    return found


def workflow_table(workflow: Workflow) -> dict[str, object]:
    """Returns the smallest table from which `decode_workflow` makes an equal Workflow."""
    table: dict[str, object] = {}
    if workflow.timeout is not None:
        table["timeout"] = workflow.timeout
    blank = Workflow(name="", source="", steps=())
    served = ("expose", "input_schema", "http", "http_auth")
    for key in ("title", "description", "labels", *served, "max_parallel"):
        if getattr(workflow, key) != getattr(blank, key):
            table[key] = getattr(workflow, key)
    if workflow.capabilities:
        table["capabilities"] = list(workflow.capabilities)
    if workflow.output is not None:
        table["output"] = workflow.output
    table["steps"] = [_step_table(step) for step in workflow.steps]
    return table


def _step_table(step: Step) -> dict[str, object]:
    blank = Step(name="")
    table: dict[str, object] = {}
    for key in STEP_KEYS:
        value = getattr(step, key)
        if value == getattr(blank, key):
            continue
        if isinstance(value, Retry):
            retry: dict[str, object] = {
                "max_attempts": value.max_attempts,
                "retry_on": value.retry_on,
                "retry_backoff_base": value.retry_backoff_base_s,
            }
            value = {name: each for name, each in retry.items() if each is not None}
        elif isinstance(value, OutputFormat):
            both = {"description": value.description, "schema": value.schema}
            value = {name: each for name, each in both.items() if each not in ("", None)}
        table[key] = list(value) if isinstance(value, tuple) else value
    return table
