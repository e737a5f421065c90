"""Computes the spec of one worker: expands `${instance}` and `${port:N}`, by which the workers of one agent differ.

Both stand in the command, in values of `environment`, in health checks, `ready` and recoveries. An instance is the
number of a worker in its agent, from 0: that of `NAME-2` is 2. Anything else in `${…}` is left as it is.
"""

from collections.abc import Iterable

from msgspec.structs import replace

from corral.supervisor.config.decoding.values import differs, of_instance
from corral.supervisor.config.spec.spec import Spec


def instance_of(unit: str) -> int | None:
    """Returns the number of the worker that a unit is a life of, or a check of; None for a zygote or a spare."""
    worker, _, kind = unit.partition("#")[0].partition(".")
    number = worker.rpartition("-")[2]
    return int(number) if number.isdecimal() and kind in ("", "check", "recovery") else None


def varies_at_import(spec: Spec) -> bool:
    """Returns True if the environment differs between workers, so that they cannot share an import that reads it."""
    return any(map(differs, spec.environment.values()))


def spec_of_instance(spec: Spec, instance: int) -> Spec:
    """Returns the spec of one worker; the same object where nothing differs."""
    if not any(map(differs, _texts(spec))):
        return spec
    if varies_at_import(spec):
        values = {name: of_instance(value, instance) for name, value in spec.environment.items()}
        spec = replace(spec, environment=values, warm=False)
    spec = replace(spec, command=_expanded(spec.command, instance))
    if spec.ready is not None:
        spec = replace(spec, ready=replace(spec.ready, target=_expanded(spec.ready.target, instance)))
    if spec.health is not None:
        checks = (replace(each, target=_expanded(each.target, instance)) for each in spec.health)
        spec = replace(spec, health=tuple(checks))
    actions = {key: _expanded(argv, instance) for key, argv in spec.recovery.actions.items()}
    return replace(spec, recovery=replace(spec.recovery, actions=actions))


def _expanded(texts: Iterable[str], instance: int) -> tuple[str, ...]:
    return tuple(of_instance(text, instance) for text in texts)


def _texts(spec: Spec) -> Iterable[str]:
    yield from spec.command
    yield from spec.environment.values()
    for action in spec.recovery.actions.values():
        yield from action
    for probe in (*(spec.health or ()), *(() if spec.ready is None else (spec.ready,))):
        yield from probe.target
