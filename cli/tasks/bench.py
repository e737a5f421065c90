"""Implements `corral bench`: runs many tasks of one agent and reports how long they took.

Each of the parallel callers has a connection and a thread of its own, and waits for each of its tasks: the time of a task
is that from the request to the answer, as a program would have it.
"""

import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from queue import SimpleQueue
from typing import Any, NamedTuple

import click

from corral.worker.contract.errors import CorralError, Unreachable

from .. import render
from ..context import Session, command, duration, given, json_value, option
from ..render import number, word
from .run_options import complete_addressees

REFUSED = ("NotFound", "InvalidParams", "PermissionDenied", "Unreachable", "ShuttingDown")
"""Errors that end the run: each further task would fail in the same way."""

PERCENTILES = (50, 90, 99)

PARALLEL_MAX = 256


class Ended(NamedTuple):
    """Represents one task that has ended, or was refused, in seconds."""

    latency_s: float
    run_s: float | None = None
    """From the start of the last attempt to the end; None where it was refused."""
    error: str = ""


@command(
    "bench",
    epilog="""\b
Examples:
  corral bench greeter --tasks 1000 --parallel 8
  corral bench crawler --tasks 50 --input @page.json --json
""",
)
@click.argument("agent", metavar="AGENT", shell_complete=complete_addressees)
@click.argument("objective", metavar="[OBJECTIVE]", default="bench")
@option("--tasks N", "Number of tasks; default 100.", "count", type=click.IntRange(1, 1_000_000), default=100)
@option("--parallel K", "Number of tasks at a time; default 1.", type=click.IntRange(1, PARALLEL_MAX), default=1)
@option("--input JSON|TEXT|@FILE|-", "Input of each task.", "given")
@option("--timeout D", "Stop a task after it has run this long.", "timeout_s", type=duration)
@option("--no-durable", "Do not write the tasks to the store.")
def bench(session: Session, /, **options: Any) -> int:  # Any: the values of the options above
    """Measure how long tasks of an agent take.

    Runs many of them, and prints times, errors and throughput. Ctrl-C ends it after the tasks that run.
    """
    params = given(agent=options["agent"], objective=options["objective"], timeout_s=options["timeout_s"])
    if options["given"] is not None:
        params["input"] = json_value(options["given"], "--input", or_text=True)
    if options["no_durable"]:
        params["durable"] = False
    run = BenchRun(session, params, options["count"], options["parallel"])
    begun = time.perf_counter()
    ended = run.results(shows_bar=sys.stderr.isatty() and not session.json)
    if run.refusal is not None and not ended:
        raise run.refusal
    document = report(ended, time.perf_counter() - begun)
    document = {"agent": options["agent"], "parallel": options["parallel"], **document}
    if session.json:
        session.print_json(document)
    else:
        _print(session, document)
    if run.refusal is not None:
        raise run.refusal
    return int(bool(document["failed"]))


class BenchRun:
    """Runs the tasks in threads."""

    def __init__(self, session: Session, params: dict[str, object], count: int, parallel: int) -> None:
        self.refusal: CorralError | None = None
        """The error that ended the run before all tasks were run."""
        self._session = session
        self._params = params
        self._count = count
        self._parallel = min(parallel, count)
        self._lock = threading.Lock()
        self._left = count
        self._ended: SimpleQueue[Ended | None] = SimpleQueue()

    def results(self, *, shows_bar: bool) -> list[Ended]:
        """Returns the tasks that have ended, when all have, or Ctrl-C or a refusal has ended the run."""
        for _ in range(self._parallel):
            threading.Thread(target=self._work, daemon=True).start()
        if not shows_bar:
            return self._gather(lambda: None)
        bar: Any = click.progressbar(length=self._count, file=sys.stderr, show_pos=True)
        with bar:
            return self._gather(lambda: bar.update(1))

    def _gather(self, note: Any) -> list[Ended]:  # Any: a function of nothing
        found: list[Ended] = []
        working = self._parallel
        while working:
            try:
                each = self._ended.get()
            except KeyboardInterrupt:
                if not self._stop():
                    raise
                self._session.note("waiting for the tasks that run; press Ctrl-C again to exit")
                continue
            if each is None:
                working -= 1
                continue
            found.append(each)
            note()
        return found

    def _stop(self) -> bool:
        """Begins no more tasks; returns False if that was so before."""
        with self._lock:
            left, self._left = self._left, 0
        return left > 0

    def _take(self) -> bool:
        with self._lock:
            self._left -= 1
            return self._left >= 0

    def _work(self) -> None:
        try:
            with self._session.connect() as connection:
                while self._take():
                    begun = time.perf_counter()
                    try:
                        record = render.as_record(connection.call("task.run", self._params))
                    except CorralError as error:
                        if error.name in REFUSED:
                            raise
                        self._ended.put(Ended(time.perf_counter() - begun, error=error.name))
                        continue
                    latency_s = time.perf_counter() - begun
                    error_name = "" if record.get("state") == "succeeded" else _error(record)
                    self._ended.put(Ended(latency_s, number(record, "duration_s"), error_name))
        except CorralError as error:
            self.refusal = self.refusal or error
            self._stop()
        except Exception as error:  # a thread that dies must not leave the others waited for
            self.refusal = self.refusal or Unreachable(f"cannot run the tasks: {error}")
            self._stop()
        finally:
            self._ended.put(None)


def _error(record: dict[str, object]) -> str:
    return word(render.as_record(record.get("error")), "name", word(record, "state"))


def report(ended: Sequence[Ended], duration_s: float) -> dict[str, Any]:  # Any: JSON
    """Returns the figures of tasks that have ended within a time."""
    errors = Counter(each.error for each in ended if each.error)
    failed = sum(errors.values())
    return {
        "tasks": len(ended),
        "ok": len(ended) - failed,
        "failed": failed,
        "errors": dict(errors.most_common()),
        "duration_s": round(duration_s, 6),
        "throughput_per_s": round(len(ended) / duration_s, 3) if duration_s else 0.0,
        "latency_ms": _times([each.latency_s for each in ended]),
        "run_ms": _times([each.run_s for each in ended if each.run_s is not None]),
    }


def _times(seconds: Sequence[float]) -> dict[str, float] | None:
    """Returns the least, the average, percentiles by the nearest rank and the most, in milliseconds; None without any."""
    if not seconds:
        return None
    ordered = sorted(seconds)
    found = {"min": ordered[0], "average": sum(ordered) / len(ordered)}
    for percent in PERCENTILES:
        found[f"p{percent}"] = ordered[-(-percent * len(ordered) // 100) - 1]
    found["max"] = ordered[-1]
    return {key: round(each * 1000, 3) for key, each in found.items()}


def _print(session: Session, document: dict[str, Any]) -> None:  # Any: JSON
    session.print(
        f"{document['tasks']} tasks in {render.duration(document['duration_s'])}:"
        f" {document['throughput_per_s']:.4g}/s, {document['ok']} ok, {document['failed']} failed"
    )
    for name, count in document["errors"].items():
        session.print(f"  {count} {name}")
    rows = [
        [label, *(f"{value:.4g}" for value in document[key].values())]
        for label, key in (("request to answer", "latency_ms"), ("in the worker", "run_ms"))
        if document[key] is not None
    ]
    if rows:
        header = ("MILLISECONDS", "MIN", "AVERAGE", "P50", "P90", "P99", "MAX")
        session.print_table(header, rows, right=header[1:])
