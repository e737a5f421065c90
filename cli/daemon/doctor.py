"""`corral doctor`: what this machine gives, what is in force, and what would make it better.

The daemon tells of itself. Where none runs, this process looks at what a daemon would get that the caller
starts now; that much of the daemon is imported then, and only then.
"""

import os
import subprocess
import sys
from collections.abc import Mapping

import click

from ... import __version__
from ...worker.contract.errors import Unreachable
from .. import render
from ..context import Session, Verb
from ..render import inner, inners, word

CHECK_S = 20.0
MARKS = {
    "ok": ("ok", "green"),
    "warning": ("!", "yellow"),
    "broken": ("BROKEN", "red"),
    "yes": ("holds", "green"),
    "except": ("except", "yellow"),
    "no": ("NO", "red"),
}
"""Verdict -> how it is shown."""
ABSENT = frozenset({"missing", "stale"})
"""Reasons of Unreachable that mean that no daemon runs, and not that it is out of reach."""


@click.command("doctor", cls=Verb)
@click.pass_obj
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
                "start corrald again",
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
    """The same report, of a daemon that does not run."""
    from ...supervisor.process import host_check as machine  # noqa: PLC0415 - only where there is no daemon to ask

    environ = os.environ
    facts = machine.look(
        socket=session.socket,
        state_dir=machine.default_state_dir(environ, os.getuid()),
        config_problem=_config_problem(),
        environ=environ,
    )
    report = machine.report(facts)
    report["daemon"] = {"running": False}
    if error.data.get("reason") in ABSENT:
        first = _finding(
            "daemon",
            "warning",
            "no daemon runs: this is what one started by you now would get",
            "corrald, or systemctl start corrald",
        )
    else:
        first = _finding("daemon", "broken", error.message)
    report["findings"] = [first, *inners(report, "findings")]
    return report


def _config_problem() -> str:
    """What `corrald --check` has against the configuration that would be read."""
    check = [sys.executable, "-P", "-m", "corral.supervisor", "--check"]
    try:
        done = subprocess.run(check, capture_output=True, text=True, timeout=CHECK_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"cannot check it: {error}"
    return "" if done.returncode == 0 else done.stderr.strip().removeprefix("corrald: ")


def _finding(topic: str, verdict: str, found: str, remedy: str = "") -> dict[str, object]:
    return {"topic": topic, "verdict": verdict, "found": found, "remedy": remedy}


def _print(session: Session, report: Mapping[str, object]) -> None:
    daemon = inner(report, "daemon")
    if daemon.get("running"):
        version, pid = word(daemon, "version"), word(daemon, "pid")
        session.print(
            f"corrald {version}, pid {pid}; you have the right to {word(daemon, 'rights')}"
        )
    found = inners(report, "findings")
    remedies: dict[str, list[str]] = {}
    for finding in found:
        _print_line(
            session, word(finding, "verdict"), word(finding, "topic"), word(finding, "found")
        )
        if remedy := word(finding, "remedy"):
            remedies.setdefault(remedy, []).append(word(finding, "topic"))
    session.print("\nwhat it promises")
    for promise in inners(report, "promises"):
        _print_line(session, word(promise, "holds"), word(promise, "name"), word(promise, "why"))
    if remedies:
        session.print("\nwhat would make it better")
    for remedy, topics in remedies.items():
        session.print(f"{', '.join(dict.fromkeys(topics))}:\n    {render.one_line(remedy)}")


def _print_line(session: Session, verdict: str, topic: str, text: str) -> None:
    """One line, not cut: the reason at its end is what it is read for."""
    mark, colour = MARKS.get(verdict, (verdict, "dim"))
    style = render.COLOURS.get(colour) if session.colours else None
    session.print(f"{render.styled(mark.ljust(6), style)}  {topic:30}  {render.one_line(text)}")
