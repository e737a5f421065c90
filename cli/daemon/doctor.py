"""Implements `corral doctor`: reports the features of this machine, those in use, and remedies.

A running daemon makes the report itself. Without one, this process checks what a daemon would get that the caller
starts now; only then are parts of the daemon imported.
"""

import os
from collections.abc import Mapping

from corral import __version__
from corral.worker.contract.errors import Unreachable

from .. import render
from ..config_check import problem_of
from ..connecting import ABSENT
from ..context import Session, command
from ..render import inner, inners, word

MARKS = {
    "ok": ("ok", "green"),
    "warning": ("!", "yellow"),
    "broken": ("BROKEN", "red"),
    "yes": ("holds", "green"),
    "except": ("except", "yellow"),
    "no": ("NO", "red"),
}
"""Verdict -> mark and colour."""


@command("doctor")
def doctor(session: Session) -> int:
    """Check this machine and the daemon for missing features. Exits 1 if something is broken."""
    try:
        report = session.call("daemon.doctor", {})
    except Unreachable as error:
        report = _without_daemon(session, error)
    report["cli"] = {"version": __version__}
    found = inners(report, "findings")
    daemon = inner(report, "daemon")
    if daemon.get("running") and daemon.get("version") != __version__:
        found.append(
            _finding(
                "version",
                "warning",
                f"corral is {__version__}, the daemon is {word(daemon, 'version')}",
                "restart corrald",
            )
        )
    verdicts = {word(finding, "verdict") for finding in found}
    report["findings"] = found
    report["verdict"] = next((each for each in ("broken", "warning") if each in verdicts), "ok")
    if session.json:
        session.print_json(report)
    else:
        _print(session, report)
    return 1 if report["verdict"] == "broken" else 0


def _without_daemon(session: Session, error: Unreachable) -> dict[str, object]:
    from corral.supervisor.workers.process import host_check, host_facts  # noqa: PLC0415 - only where there is no daemon to ask

    environ = os.environ
    facts = host_facts.look(
        socket=session.socket,
        state_dir=host_facts.default_state_dir(environ, os.getuid()),
        config_problem=problem_of(),
        environ=environ,
    )
    report = host_check.report(facts)
    report["daemon"] = {"running": False}
    if error.data.get("reason") in ABSENT:
        first = _finding(
            "daemon",
            "warning",
            "no daemon runs: this is what one started by you now would get",
            "corrald --detach, or systemctl start corrald",
        )
    else:
        first = _finding("daemon", "broken", error.message)
    report["findings"] = [first, *inners(report, "findings")]
    return report


def _finding(topic: str, verdict: str, found: str, remedy: str = "") -> dict[str, object]:
    return {"topic": topic, "verdict": verdict, "found": found, "remedy": remedy}


def _print(session: Session, report: Mapping[str, object]) -> None:
    daemon = inner(report, "daemon")
    if daemon.get("running"):
        version, pid = word(daemon, "version"), word(daemon, "pid")
        session.print(f"corrald {version}, pid {pid}; you have the right to {word(daemon, 'rights')}")
    found = inners(report, "findings")
    remedies: dict[str, list[str]] = {}
    for finding in found:
        _print_line(session, word(finding, "verdict"), word(finding, "topic"), word(finding, "found"))
        if remedy := word(finding, "remedy"):
            remedies.setdefault(remedy, []).append(word(finding, "topic"))
    session.print("\npromises")
    for promise in inners(report, "promises"):
        _print_line(session, word(promise, "holds"), word(promise, "name"), word(promise, "why"))
    if remedies:
        session.print("\nremedies")
    for remedy, topics in remedies.items():
        session.print(f"{', '.join(dict.fromkeys(topics))}:\n    {render.one_line(remedy)}")


def _print_line(session: Session, verdict: str, topic: str, text: str) -> None:
    """Prints one line without cutting it: the reason stands at its end."""
    mark, colour = MARKS.get(verdict, (verdict, "dim"))
    style = render.COLOURS.get(colour) if session.colours else None
    session.print(f"{render.styled(mark.ljust(6), style)}  {topic:30}  {render.one_line(text)}")
