"""Checks, before a worker is Ready, that its agent has a handler, and that every hook takes what it is called with.

The reason names the function and its place, and the line to write instead. It must not call anything of the agent.
"""

import inspect
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

from .source_location import place_of
from .task import Hooks


class _Call(NamedTuple):
    """Describes how a hook is called: its decorator, its arguments, and how it is to be written."""

    decorator: str
    hook: Callable[..., object]
    arguments: tuple[str, ...]


def fault_of(hooks: Hooks) -> str | None:
    """Returns why an agent with these hooks cannot serve, and what to write; None if nothing is wrong."""
    if hooks.task is None and not hooks.on_event:
        made = f" ({hooks.made_at})" if hooks.made_at else ""
        return f"the agent{made} has no handler: write @agent.task above async def run(task):"
    names = {each.name for each in hooks.health}
    for name in hooks.recovery:
        if name not in names:
            return f'@agent.recovery("{name}") has no health check of this name: write @agent.health("{name}")'
    for call in _calls(hooks):
        if not _takes(call.hook, len(call.arguments)):
            return _words(call)
    return None


def _calls(hooks: Hooks) -> Iterator[_Call]:
    single: tuple[tuple[str, Callable[..., object] | None, tuple[str, ...]], ...] = (
        ("task", hooks.task, ("task",)),
        ("on_start", hooks.on_start, ("start",)),
        ("on_shutdown", hooks.on_shutdown, ()),
        ("checkpoint", hooks.checkpoint, ()),
        ("restore", hooks.restore, ("state",)),
    )
    for name, hook, arguments in single:
        if hook is not None:
            yield _Call(f"@agent.{name}", hook, arguments)
    for check in hooks.health:
        yield _Call(f'@agent.health("{check.name}")', check.call, ())
    for name, hook in hooks.recovery.items():
        yield _Call(f'@agent.recovery("{name}")', hook, ())
    for each in hooks.on_event:
        yield _Call("@agent.on_event", each.call, ("event",))


def _takes(hook: Callable[..., object], count: int) -> bool:
    try:
        signature = inspect.signature(hook)
    except (TypeError, ValueError):  # a function in C need not have one
        return True
    try:
        signature.bind(*[None] * count)
    except TypeError:
        return False
    return True


def _words(call: _Call) -> str:
    name = getattr(call.hook, "__name__", type(call.hook).__name__)
    place = _place(call.hook)
    where = f" ({place})" if place else ""
    asynchronous = "async " if inspect.iscoroutinefunction(call.hook) else ""
    what = f"with the argument {call.arguments[0]}" if call.arguments else "without arguments"
    written = f"{asynchronous}def {name}({', '.join(call.arguments)}):"
    return f"{call.decorator} calls {name}{where} {what}: write {written}"


def _place(hook: Callable[..., object]) -> str:
    """Returns where a function, or the class of a callable object, is defined; "" if that is unknown."""
    while isinstance(hook, partial):
        hook = hook.func
    code = getattr(inspect.unwrap(hook), "__code__", None)
    code = code or getattr(getattr(type(hook), "__call__", None), "__code__", None)  # noqa: B004  an object
    return "" if code is None else place_of(code.co_filename, code.co_firstlineno)
