"""Decodes workflows: their tables, the expressions in them, and the order of their steps.

That the agents of the steps exist is checked by `loader`, which knows all names. How a workflow runs is decided in
`tasks.workflows`.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Struct

from corral.worker.contract.misfit import misfit_of
from corral.worker.contract.records import OutputFormat, Retry

from ..decoding import expression
from ..decoding.decoder import Document, KeyPath, decode_inline
from ..decoding.expression import BadExpression, Use
from ..decoding.keys import Key, differing, fields_of, listed, schema_of
from ..decoding.shapes import TEXT, Rule, Schema, accepts, closed_object
from ..decoding.values import (
    HttpAddress,
    HttpAuth,
    PositiveSeconds,
    Refused,
    Seconds,
    each,
    is_list,
    is_table,
    json_schema,
    json_value,
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


@accepts("string with `${…}`", TEXT)
def template_text(raw: object) -> str:
    """Accepts a text that is not empty."""
    if not isinstance(raw, str) or not raw.strip():
        raise Refused("write a text")
    return raw


class _Retry(Struct):
    """Declares the keys of `retry`."""

    max_attempts: Annotated[int, whole(1, 1000)] | None = None
    retry_on: Annotated[str | tuple[str, ...], retry_reasons] | None = None
    retry_backoff_base: Seconds | None = None


RETRY_KEYS = fields_of(_Retry)


@accepts("table", lambda: schema_of(_Retry, has_variables=False))
def retry_table(raw: object) -> Retry:
    """Decodes the retries of a step."""
    own = decode_inline(raw, RETRY_KEYS, "retry = { max_attempts = 3 }")
    base_s = own.pop("retry_backoff_base", None)
    if isinstance(own.get("retry_on"), tuple):
        own["retry_on"] = list(own["retry_on"])
    return Retry(**own, retry_backoff_base_s=base_s)


@accepts("table", closed_object({"description": TEXT, "schema": {"type": "object"}}))
def format_table(raw: object) -> OutputFormat:
    """Decodes the format of an output."""
    try:
        return msgspec.convert(raw, OutputFormat)
    except msgspec.ValidationError as error:
        words = f"write a table of description and schema: {misfit_of(error, raw, OutputFormat).words}"
        raise Refused(words) from error


@accepts("list, or one `${…}`", {"anyOf": [{"type": "array"}, TEXT]})
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


def _steps_schema() -> Schema:
    return {"type": "array", "items": schema_of(Step, has_variables=False), "minItems": 1}


@accepts("list of tables", _steps_schema)
def _as_written(raw: object) -> object:
    return raw  # each step has an error of its own


_a_name: Rule = matching(r"[A-Za-z][A-Za-z0-9_-]{0,47}", "a name: letters, digits, _ and -")
_words = each(matching(r"[^\x00-\x1f\x7f]{1,200}", "1 to 200 characters"), "strings")


ANY = Key(tenant=True, unit="any value with `${…}`")


class Step(Struct, frozen=True, kw_only=True):
    """Represents one of `[[workflows.NAME.steps]]`. `agent` is an agent, a team or a workflow, by name.

    `needs` are the steps that have to end before: those in `after`, and those in its expressions.
    """

    name: Annotated[str, _a_name]
    """The name for references from other steps."""
    agent: Annotated[str, a_name] | None = None
    """The agent, team or workflow that runs it."""
    capability: Annotated[str, matching(r"[^\x00-\x1f\x7f]{1,200}", "1 to 200 characters")] | None = None
    """In place of `agent`: any agent that offers it."""
    objective: Annotated[str, template_text] | None = None
    """Not set: that of the workflow's task."""
    input: Annotated[object, json_value, ANY] = None
    """Not set: none."""
    context: Annotated[object, json_value, ANY] = None
    """Not set: that of the workflow's task."""
    after: Annotated[tuple[str, ...], each(_a_name, "steps")] = ()
    """Steps that have to end before, beside those that it refers to."""
    join: Literal["all", "any"] = "all"
    """How many of those must not have been skipped."""
    when: Annotated[str, template_text, Key(unit="expression")] | None = None
    """The step is skipped where this is false."""
    for_each: Annotated[object, items_for_each] = None
    """One task for each item."""
    max_parallel: Annotated[int, whole(1, 10_000)] | None = None
    """Of those at once."""
    on_failure: Literal["fail", "continue"] = "fail"
    """Whether its failure ends the workflow."""
    retry: Annotated[Retry, retry_table] | None = None
    """`max_attempts`, `retry_on`, `retry_backoff_base` in place of those in the agent's `[tasks]`."""
    timeout: PositiveSeconds | None = None
    """For each of its tasks."""
    priority: Annotated[int, whole(1, 10)] | None = None
    """Not set: that of the workflow's task."""
    required_capabilities: Annotated[tuple[str, ...], _words] = ()
    """Capabilities that the agent must have, all of them."""
    allowed_tools: Annotated[tuple[str, ...], _words] | None = None
    """Tools that it may call."""
    output_format: Annotated[OutputFormat, format_table] | None = None
    """`description` in words; `schema`, a JSON Schema that the output must satisfy."""
    needs: tuple[str, ...] = ()


class Workflow(Struct, frozen=True, kw_only=True):
    """`[workflows.NAME]`. `source` is where the table came from; without `output`, those of the last steps are its output."""

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
    capabilities: Annotated[tuple[str, ...], _words, Key(tenant=True)] = ()
    """A task for these capabilities comes here where no agent offers them all: `corral run --capability review`."""
    http: HttpAddress | None = None
    """Where it is served [alone, as a service](../how-to/agent-as-a-service.md): `POST /run`, `GET /health`, `GET
    /status`; port 0 takes a free one. A change opens, closes or moves the service, and touches no worker."""
    http_auth: HttpAuth = "token"
    """`token`: `/run` and `/status` there ask for a bearer token, as the daemon's own HTTP does; `none`, on a loopback
    address only: every program of this machine may use it."""
    steps: Annotated[tuple[Step, ...], _as_written, Key(tenant=True)]
    """`[[workflows.NAME.steps]]`: 1 to 500."""
    output: Annotated[object, json_value, ANY] = None
    """The output; not set: the outputs of the steps that no other step needs, by name."""
    timeout: Annotated[PositiveSeconds, Key(tenant=True)] | None = None
    """For the whole, from its start on."""
    max_parallel: Annotated[int, whole(1, 10_000), Key(tenant=True)] = 16
    """Its tasks at once."""

    @property
    def needs(self) -> tuple[str, ...]:
        """Returns the names without which it cannot run, each once."""
        return tuple(dict.fromkeys(step.agent for step in self.steps if step.agent is not None))


STEP_KEYS = fields_of(Step)
WORKFLOW_KEYS = fields_of(Workflow)

# --- reading --------------------------------------------------------------------------------------


def decode_workflow(document: Document, name: str, raw: object) -> Workflow:
    """Decodes one workflow from its table; its expressions refer to existing steps and close no circle."""
    path = ("workflows", name)
    own = document.decode(path, raw, WORKFLOW_KEYS)
    tables = own.pop("steps", None)
    if not is_list(tables) or not 0 < len(tables) <= STEPS_MAX:
        raise document.error((*path, "steps"), None, f"write 1 to {STEPS_MAX} steps: [[workflows.{name}.steps]]")
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
                raise document.error(path, shown, f"a step has {', '.join(STEP_FIELDS)}: write steps.{step}.output")
            steps.append(step)
    return steps


def _check_steps(document: Document, path: KeyPath, names: Iterable[str], steps: Mapping[str, Step]) -> None:
    for name in names:
        if name not in steps:
            raise document.error(path, name, f"there is no step of this name; there are {', '.join(list(steps)[:20])}")


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
    table = differing(workflow, Workflow(name="", source="", steps=workflow.steps))
    steps = [_step_table(step) for step in workflow.steps]
    return {key: listed(value) for key, value in table.items()} | {"steps": steps}


def _step_table(step: Step) -> dict[str, object]:
    table = {key: listed(value) for key, value in differing(step, Step(name="")).items()}
    if step.retry is not None:
        # A decoded table has the backoff as `retry_backoff_base_s` alone.
        given = {
            key: each for key, each in msgspec.structs.asdict(step.retry).items() if each not in (None, msgspec.UNSET)
        }
        table["retry"] = {key.removesuffix("_s"): each for key, each in given.items()}
    if step.output_format is not None:
        both = {"description": step.output_format.description, "schema": step.output_format.schema}
        table["output_format"] = {key: each for key, each in both.items() if each not in ("", None)}
    return table
