"""Writes docs/reference/events.md from the catalogue in the code: `python docs/reference/events.py`."""

from pathlib import Path

from corral.supervisor.events.catalog import CATALOGUE, RESERVED, EventType

PAGE = Path(__file__).with_name("events.md")

HEAD = """\
<!-- written by docs/reference/events.py; do not edit -->
# Events

One stream of all that happens, in one order, numbered. `corral events` shows it, `event.list` and `event.follow` of the
[protocol](protocol.md) read it, agents publish into it and hear from it ([agents](agents.md#events)).

```json
{"seq": 812, "at": "2026-01-01T00:00:00.123Z", "type": "worker.state", "agent": "echo", "worker": "echo-0", "incarnation": 1, "from": "Starting", "to": "Ready", "reason": "it answered initialize"}
```

| field | is |
|---|---|
| `seq` | its number: larger than that of everything before, never given twice, also after `kill -9`. Numbers are skipped: by what is not stored, and after a kill |
| `at` | when, UTC |
| `type` | dotted words; see below |
| `agent`, `worker`, `incarnation` | whom it is about; null where that is nobody |
| the rest | the fields of its type |

What is **stored** is on disk within 100 ms, and is read back exactly as it was shown. What is not stored is seen only by those who follow
at that moment. Events are kept for `[events] retention` and up to `[events] max_bytes`, the oldest go first; those of agents take at most
half of it, so that an agent that floods erases the past of agents, and not the daemon's.

## Reading without a gap

A reader is a position: the number of the last event that it has seen. `corral events -f --since N` gives every stored event after N, in order
and once, then all that happens. A reader that is too slow is served from the store, and misses nothing that is stored; unstored events that it
missed are counted in one `events.skipped`. Where retention has removed events between N and what is left, one `events.expired` says so
first. A number that was never given is refused (Conflict, with the `newest` in its data). When the daemon goes away, `corral events -f` exits 6,
and its last line has the number to go on from; with `--json` it is `error.data.since`.

A list that is longer than one answer (8 MiB, or 1,000 events where `n` does not ask for more) has `next`: the `since` for the rest.
`until` ends a list at a number.

## Globs

`--type`, `event.follow` and `event/subscribe` take globs: `*` is any text, **dots included**, so that `build.*` matches `build.done` and
`build.linux.done`, and not `build`; `?` is one character; `[ab]` is one of these, `[!ab]` any other. The whole type has to match, and case
counts. At most 64 globs of 256 characters, 1,024 together.

## The daemon's own types

"Others see" is what workers of other agents hear of it, if they subscribe: everything is between the daemon, those who may read its socket,
and the agent that it is about.
"""

FOREIGN = """
## Types of agents and people

Everything else is published by agents and by `corral events publish`. A type is up to 128 characters: words of `A-Z a-z 0-9 _ -`, joined
by dots. Reserved as a first word: {reserved}. `data` is any JSON of at most 1 MiB, nested at most some
800 deep.

| field | is |
|---|---|
| `data` | what was published |
| `from` | who published it: the worker's id, or `uid N` for somebody on the control socket |

They are stored. A worker may publish `[events] max_publish_per_second` events in a second (all who publish on the control socket together as
many); more is refused as Overloaded, with `retry_after_s`.
"""


def _row(kind: EventType) -> str:
    fields = "; ".join(f"`{name}` ({what}): {meaning}" for name, what, meaning in kind.fields)
    if kind.shown is None:
        shown = "no"
    else:
        shown = ", ".join(sorted(f"`{name}`" for name in kind.shown)) or "that it happened"
    cells = (f"`{kind.name}`", kind.meaning, kind.subject, fields, kind.stored, shown)
    return f"| {' | '.join(cells)} |"


def page() -> str:
    """The page, as the catalogue has it."""
    lines = [HEAD]
    lines.append("| type | means | about | fields | stored | others see |")
    lines.append("|---|---|---|---|---|---|")
    lines += [_row(CATALOGUE[name]) for name in sorted(CATALOGUE)]
    reserved = ", ".join(f"`{word}`" for word in sorted(RESERVED))
    return "\n".join(lines) + "\n" + FOREIGN.format(reserved=reserved)


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
