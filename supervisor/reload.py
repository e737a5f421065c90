"""What a changed configuration means for the running set: values in, a plan out.

Only what the file itself brought is compared: agents that were added at run time, and built-in ones, stay
as they are unless the file names them now, since the file wins.
"""

from collections.abc import Mapping
from typing import Literal

from msgspec import Struct
from msgspec.structs import asdict

from .spec import Config, Spec, changed

Effect = Literal["live", "restart"]


class Plan(Struct, frozen=True):
    """What is to be done, by name; `keys` are those that made a change.

    Of the keys that are nobody's own, `live` take effect now, `pending` at the next start.
    """

    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    changed: dict[str, Effect] = {}
    pending: tuple[str, ...] = ()
    live: tuple[str, ...] = ()
    keys: dict[str, tuple[str, ...]] = {}

    @property
    def is_empty(self) -> bool:
        """Whether nothing has changed."""
        return self == Plan()


def plan(running: Mapping[str, Spec], from_file: frozenset[str], old: Config, new: Config) -> Plan:
    """The way from the running set to what the file says now.

    Args:
        running: every agent and server that there is.
        from_file: those of them that the old file brought.
        old: the configuration in force.
        new: the configuration that was read.
    """
    wanted = {name: spec for name, spec in new.agents.items() if not spec.disabled}
    effects: dict[str, Effect] = {}
    keys: dict[str, tuple[str, ...]] = {}
    for name, spec in wanted.items():
        if name in running:
            kinds = changed(running[name], spec)
            if kinds:
                effects[name] = "restart" if "restart" in kinds.values() else "live"
                keys[name] = tuple(kinds)
    return Plan(
        added=tuple(name for name in wanted if name not in running),
        removed=tuple(name for name in running if name in from_file and name not in wanted),
        changed=effects,
        pending=_pending(old, new),
        live=_live(old, new),
        keys=keys,
    )


def _live(old: Config, new: Config) -> tuple[str, ...]:
    same = old.process.max_concurrent_processes == new.process.max_concurrent_processes
    return () if same else ("process.max_concurrent_processes",)


def _pending(old: Config, new: Config) -> tuple[str, ...]:
    before, after = asdict(old.daemon), asdict(new.daemon)
    keys = [f"daemon.{key}" for key in before if before[key] != after[key]]
    if old.process.start_concurrency != new.process.start_concurrency:
        keys.append("process.start_concurrency")
    if old.events != new.events:
        keys.append("events")
    return tuple(keys)
