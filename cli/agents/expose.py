"""Implements `corral expose`: serves one agent, team or workflow alone over HTTP."""

import shlex

import click

from corral.worker.contract.errors import InvalidParams

from ..context import Session, command, complete_named, option
from ..render import inner, word


@command("expose")
@click.argument("name", metavar="NAME", shell_complete=complete_named)
@option("--port N", "The port; 0 takes a free one.", type=click.IntRange(0, 65_535))
@option("--host ADDRESS", "The address; by default 127.0.0.1.")
@option("--no-token", "Require no token: every program of this machine may use it.")
@option("--off", "Stop serving it.")
def expose(session: Session, name: str, port: int | None, host: str | None, no_token: bool, off: bool) -> None:
    """Serve one agent alone over HTTP.

    At the address: POST /run, GET /health, GET /status. It may be a team or a workflow, too. It is served until it is
    removed, or --off; also by later daemons.
    """
    if off == (port is not None) or (off and (host is not None or no_token)):
        reason = "give --port N, or --off alone"
        raise InvalidParams(f'cannot expose "{name}": {reason}', key="port", reason=reason)
    place = "127.0.0.1" if host is None else host
    place = f"[{place}]" if ":" in place and not place.startswith("[") else place
    params = {"name": name, "address": None if off else f"{place}:{port}", "auth": "none" if no_token else "token"}
    found = session.call("agent.expose", params)
    if session.printed_json(found):
        return
    url = word(inner(found, "service"), "url")
    if not url:
        session.print_line(f"{name} is not served over HTTP")
        return
    session.print_line(f"{name} is served at {url}")
    session.print_line(f"curl {url}/health")
    line = shlex.join(["curl", f"{url}/run", "-H", "Content-Type: application/json", "-d", '{"input": null}'])
    if not no_token:
        file = shlex.quote(word(found, "token_file"))
        line += f' -H "Authorization: Bearer $(cat {file})"'
    session.print_line(line)
