"""Makes the page cli.md from the commands of `corral` and the notes of cli_notes.toml."""

import tomllib
from collections.abc import Iterator
from pathlib import Path

import click

from corral.cli.__main__ import COMMANDS, command_line

HEAD = """\
# The `corral` command

`corral` talks to a running `corrald` over its unix socket and never starts one. This page lists every command with its
options, its output and its exit codes; `corral COMMAND --help` shows the same options. Commands are grouped as in `corral --help`.

## Global options

| option | meaning |
|---|---|
| `--socket PATH` | socket of the daemon |
| `--token TOKEN` | call with the rights of a [token](../how-to/tokens.md); better `CORRAL_TOKEN`, since other users can see a command line |
| `--node NAME` | call this [node](../how-to/run-on-many-machines.md#one-view) of the cluster, or all with `'*'`; default `CORRAL_NODE`, else the node that runs the named agent |
| `--tenant NAME` | act as this [tenant](../how-to/tenants-access.md); its names need no prefix; default `CORRAL_TENANT` |
| `--connect-timeout D` | how long to wait for a daemon that starts; 0 does not wait |
| `--json` | print JSON for programs: one document, or one object per line (NDJSON) for `logs`, `events`, `audit` and `top` |
| `--no-color` | print without colours; so does a non-empty `NO_COLOR`, `TERM=dumb`, and output to a file or a pipe |
| `--version` | show the version of the command (only directly after `corral`) |
| `-h`, `--help` | show the options |

All but `--version` may be given before or after the command: `corral --json status` equals `corral status --json`.
They end at `--`: what follows belongs to the command that is added.

**Socket.** The path is `--socket`, else `$CORRAL_SOCKET`, else for root `/run/corral/corral.sock`, for other users
`$XDG_RUNTIME_DIR/corral/corral.sock`, and without that variable `/run/user/UID/corral/corral.sock` if it exists, else
`/tmp/corral-UID/corral.sock`. The folder in `/tmp` is used only if it belongs to the user and no other user may enter it.

**A daemon that starts.** Where the socket is missing, or no process listens at it, a command waits 3 s for one, and 10 s while a process has the lock of the
socket (`SOCKET.lock`), which is a daemon that is starting; on a terminal it says so after half a second. So `corral run` may follow `corrald &` at once. After that time it
exits 6. `--connect-timeout D`, else `$CORRAL_CONNECT_TIMEOUT`, replaces both times. Completion in the shell never waits.

**Values.** Durations (`D`) are `500ms`, `30s`, `5m`, `1h`, `2d`, or a number of seconds. Times (`T`) are RFC 3339 in UTC, or a duration, which means
that long ago. JSON arguments are written literally, read from a file with `@FILE`, or read from stdin with `-`.

**Names.** Where a command takes `NAME...`, a NAME may be a glob in quotes: `'work*'` selects every agent and server whose name matches, and each matching worker id
of the others. `-l` selects by `labels`: `team=red`, `team!=red` (also without the label), `team` (has it), `!team`; several, separated by commas or with
`-l` again, all have to hold, together with the names. A glob or selector that matches nothing exits 3, and nothing is done. `pause` and
`hibernate` pass over what does not run if a glob or selector chose it.

## Exit codes

| code | meaning | errors |
|---|---|---|
| 0 | done | |
| 1 | the operation ran and failed, or a record is damaged | SpawnFailed, WorkerFailed, TaskFailed, ToolFailed, Corrupted |
| 2 | the command line or a value in it is wrong, or a defect of corral (-326xx) | InvalidParams, InvalidRequest, MethodNotFound, ParseError, InternalError |
| 3 | no such agent, worker, task, server or tool | NotFound |
| 4 | refused | Conflict, PermissionDenied, NotInitialized, ShuttingDown |
| 5 | timeout | Timeout |
| 6 | the daemon cannot be reached | Unreachable |
| 7 | a limit was exceeded | ResourceLimitExceeded, Overloaded |
| 8 | cancelled | Cancelled |

Ctrl-C ends a command by SIGINT (a shell shows 130), a closed pipe by SIGPIPE (141), both without a message;
`logs -f`, `events -f` and `top` exit 0 on Ctrl-C. Errors of `corrald` itself, such as a second daemon or an invalid configuration, are printed by `corrald`.

An error is one line on stderr, `corral: cannot …`; for a mistyped name it ends with the nearest known name. With `--json` the error is an object on
stdout instead, and stderr stays empty:

```json
{"error": {"code": -33001, "name": "NotFound", "message": "cannot …", "data": {"name": "crawler"}}}
```

`data` holds the facts for programs. For Unreachable these are `socket` and `reason`: `missing` (no such socket), `stale` (no process
listens on it), `forbidden`, `too-long` (more than 107 bytes), `not-ours` (the folder in `/tmp` belongs to
another user), `no-socket`, `busy`, `closed` (the connection broke), `foreign` (the peer is no corrald), `failed`.

## Output of workers on a terminal

Text from a worker, a server or a tool never controls the terminal: control characters, changes of writing direction and characters without a shape are made visible (`^[`,
`\\u009b`). Colours (SGR sequences) in logs and task outputs are kept on a terminal, as far as they conceal nothing, and end with their line; elsewhere they
are removed. When stdout is a file or a pipe, the text is passed through unchanged. A table is never wider than the terminal: long cells are cut and end
with …, and columns are left out; piped, it is whole. Times in tables and of single records are local on a terminal, and UTC elsewhere. Places of one line (tables, events, errors) show newlines as `\\n`.
"""

NOTES: dict[str, str] = tomllib.loads(Path(__file__).with_name("cli_notes.toml").read_text("utf-8"))
"""Command -> what its page says beside its help and its options: behaviour, exit codes, JSON."""

GLOBAL = ("socket", "token", "tenant", "node", "connect_timeout", "json", "no_color")


def page() -> str:
    """Returns the text of cli.md.

    Raises:
        KeyError: a note is about a command that does not exist.
    """
    group = command_line()
    context = click.Context(group, info_name="corral")
    parts = [HEAD]
    heading = ""
    left = dict(NOTES)
    for name in group.list_commands(context):
        if (found := COMMANDS[name].partition(".")[0].capitalize()) != heading:
            heading = found
            parts.append(f"\n## {heading}\n")
        for path, command in _with_subcommands(context, group, name):
            parts.append(_section(path, command, left.pop(path, "")))
    if left:
        raise KeyError(*left)
    return "".join(parts)


def _with_subcommands(context: click.Context, group: click.Group, name: str) -> Iterator[tuple[str, click.Command]]:
    command = group.get_command(context, name)
    assert command is not None, name
    yield name, command
    if isinstance(command, click.Group):
        for each in command.list_commands(context):
            found = command.get_command(context, each)
            assert found is not None, each
            yield f"{name} {each}", found


def _section(path: str, command: click.Command, note: str) -> str:
    context = click.Context(command, info_name=f"corral {path}")
    usage = " ".join([f"corral {path}", *command.collect_usage_pieces(context)])
    text = "\n\n".join(" ".join(part.split()) for part in (command.help or "").split("\n\n"))
    lines = [f"\n### `corral {path}`\n", f"```text\n{usage}\n```\n", f"{text.strip()}\n"]
    options = [p for p in command.params if isinstance(p, click.Option) and p.name not in GLOBAL]
    is_same = command.name == "run" and path != "run"
    if options and not is_same:
        rows = "".join(_row(context, option) for option in options)
        lines.append(f"| option | meaning |\n|---|---|\n{rows}")
    if note:
        lines.append(note.strip("\n") + "\n")
    return "\n".join(lines)


def _row(context: click.Context, option: click.Option) -> str:
    value = "" if option.is_flag else f" {option.make_metavar(context)}"
    names = ", ".join(f"`{name}{value}`" for name in option.opts).replace("|", "\\|")
    text = (option.help or "").replace("|", "\\|")
    return f"| {names.replace('[', '').replace(']', '')} | {text} |\n"
