"""Makes the page events.md from the catalogue in the code."""

from corral.supervisor.records.events.catalog import CATALOGUE, RESERVED, EventType

HEAD = """\
# Events

Everything that happens in the daemon is one numbered, ordered stream of events. `corral events` shows it, `event.list` and `event.follow` of the
[protocol](protocol.md) read it, agents publish to it and subscribe to it ([agents](agents.md#events)).

```json
{"seq": 812, "at": "2026-01-01T00:00:00.123Z", "type": "worker.state", "agent": "echo", "worker": "echo-0", "incarnation": 1, "from": "Starting", "to": "Ready", "reason": "it answered initialize"}
```

| field | is |
|---|---|
| `seq` | its number: larger than all before, never used twice, also after `kill -9`. There are gaps: unstored events have numbers too, and a kill skips some |
| `at` | the time, UTC |
| `type` | dotted words; see below |
| `agent`, `worker`, `incarnation` | the subject of the event, or null |
| the rest | the fields of its type |

A **stored** event is on disk within 100 ms, and is read back exactly as it was shown. An event that is not stored reaches only the current followers.

Events are kept for `[events] retention` and up to `[events] max_bytes`; the oldest are removed first. Events of agents take at most
half of that size, so that an agent that floods the stream pushes out older events of agents, not those of the daemon.

## Reading without a gap

The position of a reader is the number of the last event that it has seen. `corral events -f --since N` gives every stored event after N, in order
and once, then the new ones.

| case | effect |
|---|---|
| the reader is too slow | it is served from the store, and misses no stored event; one `events.skipped` counts the unstored events that it missed |
| retention has removed events after N | one `events.expired` comes first |
| N was never used | it is refused (Conflict, with the `newest` in its data) |
| the daemon goes away | `corral events -f` exits 6, and its last line has the number to go on from; with `--json` it is `error.data.since` |
| a list is longer than one answer (8 MiB, or 1,000 events without a larger `n`) | it has `next`: the `since` for the rest |

`until` ends a list at a number.

## Globs

`--type`, `event.follow` and `event/subscribe` take globs: `*` is any text, **dots included**, so that `build.*` matches `build.done` and
`build.linux.done`, and not `build`; `?` is one character; `[ab]` is one of these, `[!ab]` any other. The whole type has to match, and case
counts. At most 64 globs of 256 characters, 1,024 together.

## The daemon's own types

"Others see" is the part that workers of other agents receive, if they subscribe. All fields go to the clients that may read the daemon's socket,
and to the agent that the event is about.
"""

FOREIGN = """
## Types of agents and users

Everything else is published by agents and by `corral events publish`. A type is up to 128 characters: words of `A-Z a-z 0-9 _ -`, joined
by dots. Reserved as a first word: {reserved}. `data` is any JSON of at most 1 MiB, nested at most some
800 deep.

| field | is |
|---|---|
| `data` | the published data |
| `from` | its publisher: the worker's id, or `uid N` for a client of the control socket |

They are stored. A worker may publish `[events] max_publish_per_second` events in a second, and all clients of the control socket together as
many; more is refused as Overloaded, with `retry_after_s`.
"""


def _row(kind: EventType) -> str:
    fields = "; ".join(f"`{name}` ({what}): {meaning}" for name, what, meaning in kind.fields)
    shown = "no" if kind.shown is None else ", ".join(sorted(f"`{name}`" for name in kind.shown)) or "that it happened"
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
