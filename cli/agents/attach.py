"""Implements `corral attach`: prints the output of a worker as it comes, until the worker ends or the keys to leave are typed."""

import os
import select
import sys
from typing import TextIO

import click

from corral.worker.client.sync import Client
from corral.worker.contract.errors import NotFound
from corral.worker.contract.jsonrpc import Notification

from ..context import ANSWER_S, Session, command, complete_agents
from ..render import as_record, inner, inners, number, visible, word
from .raw_terminal import LeavingKeys, RawTerminal

READ_BYTES = 1024
"""Bytes of what is typed that are looked at for the keys to leave."""

ENDED = frozenset({"Terminated", "Failed", "Recovering", "Initial"})
"""States in which a worker has no process."""

LAST_S = 0.3
"""Seconds without a line after the end of a worker: its last lines come after the news of it."""

INTERRUPT = b"\x03"
"""One byte, Ctrl-C: it leaves, too, since nothing that is typed reaches the worker."""


@command(
    "attach",
    epilog="""\b
Examples:
  corral attach greeter
  corral attach greeter-1
""",
)
@click.argument("name", metavar="NAME", shell_complete=complete_agents)
def attach(session: Session, name: str) -> int:
    """Print what a worker prints, until it ends.

    NAME is a worker's id, or an agent's name for its first worker. stdout and stderr of the worker go to stdout and
    stderr. Ctrl-P Ctrl-Q or Ctrl-C leave it running. The exit code is the worker's, 128+N after signal N. Nothing
    that is typed reaches the worker: its stdin is its protocol, or /dev/null.
    """
    with session.connect() as connection:
        worker = _worker(connection, name)
        connection.call("event.follow", {"types": ["worker.state"], "worker": worker}, timeout_s=ANSWER_S)
        connection.call("log.follow", {"names": [worker], "n": 0}, timeout_s=ANSWER_S)
        is_terminal = os.isatty(0)
        with RawTerminal(is_raw=is_terminal):
            is_over = _follow(connection, is_terminal=is_terminal)
        return _status(connection, worker) if is_over else 0


def _workers(connection: Client) -> list[dict[str, object]]:
    """Returns the status of all workers, each with the name of its agent."""
    status = as_record(connection.call("daemon.status", {}, timeout_s=ANSWER_S))
    return [
        {**each, "agent": word(entry, "name")}
        for kind in ("agents", "mcp_servers")
        for entry in inners(status, kind)
        for each in inners(entry, "workers")
    ]


def _worker(connection: Client, name: str) -> str:
    """Returns the worker of a name."""
    workers = _workers(connection)
    found = [word(each, "id") for each in workers if word(each, "id") == name]
    found += [word(each, "id") for each in workers if word(each, "agent") == name]
    if not found:
        known = sorted({word(each, "agent") for each in workers})
        raise NotFound(f'cannot find agent or worker "{name}"', name=name, known=known)
    return found[0]


def _follow(connection: Client, *, is_terminal: bool) -> bool:
    """Prints until the worker ends, and returns True; False where the keys to leave were typed."""
    keys = LeavingKeys()
    end = "\r\n" if is_terminal else "\n"
    arrived = connection.kept()
    is_over = False
    while True:
        for note in arrived:
            if not isinstance(note, Notification):
                continue
            if note.method == "log":
                for record in inners(note.params, "records"):
                    stream = word(record, "stream")
                    if stream in ("stdout", "stderr"):
                        target = sys.stderr if stream == "stderr" else sys.stdout
                        text = word(record, "text")
                        target.write(visible(text, keep_colours=True) if target.isatty() else text)
                        target.write("" if record.get("partial") else end)
                        target.flush()
            states = {word(event, "to") for event in inners(note.params, "events")}
            is_over = is_over or not states.isdisjoint(ENDED)
        waiting: list[Client | TextIO] = [connection, *([sys.stdin] if is_terminal else [])]
        ready = select.select(waiting, [], [], LAST_S if is_over else None)[0]
        if sys.stdin in ready:
            typed, leaves = keys.pass_on(os.read(sys.stdin.fileno(), READ_BYTES))
            if leaves or INTERRUPT in typed:
                return False
        arrived = connection.arrived() if connection in ready else []
        if is_over and not ready:
            return True


def _status(connection: Client, worker: str) -> int:
    """Returns the exit code for the last end of a worker."""
    import signal  # noqa: PLC0415 - start-up time: at its end alone

    found = [each for each in _workers(connection) if word(each, "id") == worker]
    last = inner(found[0], "last_exit") if found else {}
    if name := word(last, "signal"):
        return 128 + int(getattr(signal, name, 0))
    code = number(last, "code")
    return 0 if code is None else int(code)
