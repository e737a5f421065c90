"""Connects a command to its output and to the daemon, as the global options say.

Commands write through the one Session of the process, so that `--json`, `--no-color`, a narrow terminal and hostile
text are handled in one place. It knows no command line, and imports next to nothing: see `status_fast`.
"""

import os
import sys
import time
from collections.abc import Iterable, Mapping

from . import render

TYPE_CHECKING = False  # start-up time: typing takes milliseconds
if TYPE_CHECKING:
    from typing import TextIO

    from corral.worker.client.sync import Client

ANSWER_S = 30.0
"""Seconds to wait for an answer that the daemon has in memory."""


class Session:
    """Holds the global options as they were given, and provides what depends on them."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self.given_socket: str | None = None
        self.token: str | None = environ.get("CORRAL_TOKEN") or None
        self.tenant: str | None = environ.get("CORRAL_TENANT") or None
        self.node: str | None = environ.get("CORRAL_NODE") or None
        self.connect_timeout_s: float | None = None
        self.json = False
        self.no_color = False
        self.stdout: TextIO = sys.stdout
        self.is_terminal = self.stdout.isatty()

    def set_option(self, name: str, value: object) -> None:
        """Sets a global option; a later one wins, one that is not given changes nothing."""
        if name == "socket" and isinstance(value, str):
            self.given_socket = value
        elif name == "token" and isinstance(value, str):
            self.token = value
        elif name == "tenant" and isinstance(value, str):
            self.tenant = value
        elif name == "node" and isinstance(value, str):
            self.node = value
        elif name == "connect_timeout" and isinstance(value, float):
            self.connect_timeout_s = value
        elif name == "json" and value:
            self.json = True
        elif name == "no_color" and value:
            self.no_color = True

    @property
    def login(self) -> dict[str, object]:
        """Returns the params of `auth.login`; none where nothing restricts the connection."""
        given = {"token": self.token, "tenant": self.tenant}
        return {key: value for key, value in given.items() if value is not None}

    @property
    def socket(self) -> str:
        """Returns the path of the control socket."""
        from corral.worker.client.sync import default_socket  # noqa: PLC0415 - start-up time: status_fast finds it by itself

        return self.given_socket or default_socket(self._environ, os.getuid())

    def has_colours(self, stream_is_terminal: bool) -> bool:
        """Returns True if colours may be written (https://no-color.org)."""
        refused = self.no_color or bool(self._environ.get("NO_COLOR"))
        return stream_is_terminal and not refused and self._environ.get("TERM") != "dumb"

    @property
    def colours(self) -> bool:
        """Returns True if stdout takes colours."""
        return self.has_colours(self.is_terminal)

    @property
    def width(self) -> int | None:
        """Returns the columns of the terminal, or None if stdout is none."""
        if not self.is_terminal:
            return None
        if (given := self._environ.get("COLUMNS", "")).isdecimal() and int(given) > 0:
            return int(given)
        try:
            return os.get_terminal_size(self.stdout.fileno()).columns or 80
        except OSError:
            return 80

    def connect(self) -> "Client":
        """Returns a connection to the daemon, which a token and a tenant restrict if given; waits for one that is about to listen."""
        from .connecting import connected, patience_of  # noqa: PLC0415 - start-up time: status_fast connects by itself

        def note(text: str) -> None:
            if sys.stderr.isatty():  # elsewhere an error stays one line, and has the bound
                self.note(f"corral: {text}")

        return self._entered(connected(lambda: self.socket, patience_of(self.connect_timeout_s, self._environ), note))

    def connect_again(self, patience_s: float) -> "Client":
        """Returns a connection as `connect`, to a daemon that was lost, once it is back within so many seconds."""
        from corral.worker.client.sync import await_daemon  # noqa: PLC0415 - start-up time: only where a daemon is lost

        return self._entered(await_daemon(self.socket, patience_s=patience_s))

    def _entered(self, connection: "Client") -> "Client":
        if login := self.login:
            try:
                connection.call("auth.login", login, timeout_s=ANSWER_S)
            except BaseException:
                connection.close()
                raise
        connection.node = self.node
        return connection

    def call(
        self, method: str, params: Mapping[str, object], *, timeout_s: float | None = ANSWER_S
    ) -> dict[str, object]:
        """Calls a method over a connection of its own, and returns the result object."""
        with self.connect() as connection:
            return render.as_record(connection.call(method, params, timeout_s=timeout_s))

    # -- output

    def print(self, text: str) -> None:
        """Writes text of corral and a newline."""
        self.stdout.write(text + "\n")

    def print_line(self, text: str) -> None:
        """Writes a line that may have names of others in it: they cannot control the terminal."""
        self.print(render.one_line(text))

    def printed_json(self, value: object) -> bool:
        """Writes the value as JSON if that is wanted; returns whether it is."""
        if self.json:
            self.print_json(value)
        return self.json

    def answer(self, value: object, *lines: str) -> None:
        """Writes what a command has done: the value as JSON if that is wanted, else the lines."""
        if not self.printed_json(value):
            for line in lines:
                self.print_line(line)

    def print_foreign(self, text: str, end: str = "\n") -> None:
        """Writes text of a worker or a server: unchanged, or harmless on a terminal."""
        shown = render.visible(text, keep_colours=self.colours) if self.is_terminal else text
        self.stdout.write(shown if shown.endswith(end) else shown + end)

    def at(self, stamp: str, *, is_brief: bool = True, in_note: bool = False) -> str:
        """Returns a time for people: local on a terminal, as it was sent elsewhere; `-` for none.

        With `in_note` the terminal is that of stderr.
        """
        if not stamp:
            return "-"
        if not (sys.stderr.isatty() if in_note else self.is_terminal):
            return render.at(stamp)
        from .local_time import brief, local  # noqa: PLC0415 - start-up time: only where times are shown

        return render.one_line(brief(stamp, time.time()) if is_brief else local(stamp))

    def print_fields(self, record: Mapping[str, object]) -> None:
        """Writes a line for each value of a record that is neither null nor empty."""
        from .fields import field_lines  # noqa: PLC0415 - start-up time: only where one record is shown

        for line in field_lines(record, lambda stamp: self.at(stamp, is_brief=False)):
            self.print(render.one_line(line))

    def print_json(self, value: object) -> None:
        """Writes one JSON document: on one line, or readable on a terminal."""
        self.stdout.write(self._json_text(value, indent=self.is_terminal) + "\n")

    def records(self, found: render.Record, key: str, nothing: str) -> list[dict[str, object]]:
        """Returns the records under `key` for a table; with --json, or without any, prints that and returns none."""
        if self.printed_json(found.get(key, [])):
            return []
        records = render.inners(found, key)
        if not records:
            self.note(nothing)
        return records

    def print_ndjson(self, values: Iterable[object]) -> None:
        """Writes one line per value, and flushes."""
        self.stdout.write("".join(self._json_text(v, indent=False) + "\n" for v in values))
        self.stdout.flush()

    def _json_text(self, value: object, *, indent: bool) -> str:
        utf8 = (self.stdout.encoding or "").lower().replace("-", "") == "utf8"
        return render.json_text(value, indent=indent, ascii_only=not utf8)

    def print_table(
        self,
        header: Iterable[str],
        rows: Iterable[Iterable[str]],
        *,
        droppable: Iterable[str] = (),
        right: Iterable[str] = (),
    ) -> None:
        """Writes an aligned table whose states are coloured."""
        self.print("\n".join(self._table_lines(header, rows, droppable, right)))

    def _table_lines(
        self, header: Iterable[str], rows: Iterable[Iterable[str]], droppable: Iterable[str], right: Iterable[str]
    ) -> list[str]:
        paint = {k: render.COLOURS[v] for k, v in render.STATE_COLOURS.items()}
        lines = render.table(
            list(header),
            [render.one_lines(row) for row in rows],
            width=self.width,
            droppable=list(droppable),
            right=list(right),
            paint=paint if self.colours else None,
        )
        if self.colours:
            lines[0] = render.styled(lines[0], render.COLOURS["bold"])
        return lines

    def print_list(self, found: render.Record, key: str, nothing: str, table: render.Table) -> None:
        """Writes a table of the records under `key`; with --json, or without any, as `records` does."""
        if records := self.records(found, key, nothing):
            self.print_records(records, table)

    def print_records(self, records: Iterable[render.Record], table: render.Table) -> None:
        """Writes records as a table says."""
        self.print("\n".join(self.lines_of(records, table)))

    def lines_of(self, records: Iterable[render.Record], table: render.Table) -> list[str]:
        """Returns the lines of a table of records."""
        rows = [[self._cell(record, key, table) for key in table.keys.values()] for record in records]
        kept = [i for i, name in enumerate(table.keys) if name not in table.sparse or any(row[i] for row in rows)]
        header = list(table.keys)
        return self._table_lines(
            [header[i] for i in kept], [[row[i] for i in kept] for row in rows], table.drop, table.right
        )

    def _cell(self, record: render.Record, key: str, table: render.Table) -> str:
        """Returns a value as people read it; its key says whether it is a time, a duration or a size."""
        if key in table.cells:
            return table.cells[key](record)
        *above, key = key.split(".")
        for each in above:
            record = render.inner(record, each)
        if key == "at" or key.endswith("_at"):
            return self.at(render.word(record, key))
        if key.endswith("_bytes"):
            return render.size(render.number(record, key))
        if key.endswith("_s"):
            return render.duration(render.number(record, key))
        is_list = isinstance(record.get(key), list)
        return " ".join(map(str, render.items(record, key))) if is_list else render.word(record, key)

    def styled(self, text: str, colour: str) -> str:
        """Returns the text in a colour, if colours are wanted."""
        return render.styled(text, render.COLOURS[colour]) if self.colours else text

    def note(self, text: str) -> None:
        """Writes a line for people to stderr; nothing with `--json`."""
        if not self.json:
            print(render.one_line(text), file=sys.stderr, flush=True)
