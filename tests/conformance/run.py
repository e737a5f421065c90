"""The official conformance suite against corral: its face over HTTP, and its client over streamable HTTP.

    .venv/bin/python -P tests/conformance/run.py [--requirements 2026-07-28]… [--leg server|client] [--scenario NAME]…

The server scenarios go to a daemon with `fixture.py` behind its pool, through a small proxy of ours (`Doorman`),
since the suite has no word for a bearer token and looks for plain names of tools. The client scenarios start
`client.py`. Exits 1 when a scenario that the revision requires fails and is not in `EXPECTED`; docs/reference/conformance.md.
"""

import argparse
import asyncio
import contextlib
import json
import os
import re
import socket
import sys
import tempfile
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

sys.path += [
    str(Path(__file__).parents[1]),
    str(Path(__file__).parents[1] / "support"),
]  # `python -P` leaves out where the harness is

from daemon_process import DaemonProcess
from live_keys import inline
from node_packages import MODULES, NODE

SUITE = MODULES / "@modelcontextprotocol" / "conformance"

REVISIONS = ("2025-11-25", "2026-07-28")

FOLDER = Path(__file__).parent

SERVER = "f"
"""Short, for the suite's names are long, and the pool shortens what is longer than 48 characters."""

PREFIX = f"{SERVER}__"

LEG_S = 600.0
"""For all scenarios of one leg at one revision."""

Json = dict[str, Any]  # JSON-RPC, read freely

EXPECTED = {"sep-2640-": "an extension that corral does not offer"}
"""Scenarios that fail, by the beginning of their names, and why. Nothing else may."""

CONFIG = """
[daemon]
http = "127.0.0.1:{port}"
[mcp.servers.{server}]
command = ["{python}", "-I", "{fixture}", "--era={era}"]
relays = ["elicitation", "roots", "sampling"]
"""

NAMED = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}

TASKED: dict[str, Json] = {
    "slow_compute": {},
    "failing_job": {"task_support": "required"},
    "protocol_error_job": {},
    "confirm_delete": {},
    "multi_input": {},
    "test_tool_with_task": {"task_support": "required", "ask_missing": True, "input_schema": NAMED},
}
"""Tools of the scenarios on tasks, with keys of their own: agents of `agents.py`."""

AGENT = """
[agents.{name}]
entrypoint = "agents:{name}"
process = {{ working_directory = "{folder}" }}
expose = true
{more}
resources = {{ max_concurrent_requests = 20 }}
tasks = {{ max_attempts = 1 }}
"""

HOP_BY_HOP = {"connection", "content-length", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"}

OF_PLACE = {"host", "origin"}

# -- the proxy


def exposed(name: str) -> str:
    """The name under which the pool exposes it; corral's own tools have no other."""
    if name in TASKED:
        return f"agent__{name}"
    return name if name.startswith("corral__") else PREFIX + name


def prefixed(message: Json) -> Json:
    """A request with the name under which the pool exposes what it is about."""
    params: Json = message.get("params") or {}
    if message.get("method") in ("tools/call", "prompts/get") and isinstance(params.get("name"), str):
        return {**message, "params": {**params, "name": exposed(params["name"])}}
    if message.get("method") == "tasks/update":
        return {**message, "params": {**params, "inputResponses": answered(params)}}
    ref: Json = params.get("ref") or {}
    if ref.get("type") == "ref/prompt":
        return {**message, "params": {**params, "ref": {**ref, "name": exposed(ref["name"])}}}
    return message


def answered(params: Json) -> Json:
    """Answers with the field that corral's forms have; the suite fills in fixed ones, whatever a form asks for."""
    responses: Json = {}
    for key, response in params["inputResponses"].items():
        fits = "content" in response and isinstance(response["content"], dict)
        responses[key] = {**response, "content": {"answer": "yes"}} if fits else response
    return responses


def plain(chunk: bytes) -> bytes:
    """What comes back, with the names that the suite looks for."""
    chunk = chunk.replace(b'"name":"agent__', b'"name":"')
    return chunk.replace(f'"name":"{PREFIX}'.encode(), b'"name":"')


class Doorman:
    """Adds the bearer token and the prefix of names on the way in, and takes the prefix off on the way out.

    In `Host` and `Origin`, which the suite forges, our port becomes the daemon's; all else passes as it is.
    """

    def __init__(self, port: int, token: str) -> None:
        self._upstream = f"http://127.0.0.1:{port}"
        self._port, self._own_port = port, 0
        self._token = token
        self._http: aiohttp.ClientSession

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncGenerator[str, None]:
        """The address that the suite is told."""
        timeout = aiohttp.ClientTimeout(total=None)
        async with aiohttp.ClientSession(
            timeout=timeout, auto_decompress=False, cookie_jar=aiohttp.DummyCookieJar(), read_bufsize=2**22
        ) as self._http:
            runner = web.ServerRunner(web.Server(self._pass), handler_cancellation=True, shutdown_timeout=1)
            await runner.setup()
            try:
                site = web.TCPSite(runner, "127.0.0.1", 0)
                await site.start()
                self._own_port = runner.addresses[0][1]
                yield f"http://127.0.0.1:{self._own_port}/mcp"
            finally:
                await runner.cleanup()

    async def _pass(self, request: web.BaseRequest) -> web.StreamResponse:
        body: bytes | None = await request.read()
        headers = [(n, v) for n, v in request.headers.items() if n.lower() not in HOP_BY_HOP]
        headers = [
            (n, v.replace(f":{self._own_port}", f":{self._port}") if n.lower() in OF_PLACE else v) for n, v in headers
        ]
        if body:
            with contextlib.suppress(ValueError, AttributeError):  # what is no object passes as it is
                body = json.dumps(prefixed(json.loads(body))).encode()
            named = {"tools/call", "prompts/get"} & {request.headers.get("Mcp-Method")}
            headers = [(n, exposed(v) if named and n.lower() == "mcp-name" else v) for n, v in headers]
        headers.append(("Authorization", f"Bearer {self._token}"))
        async with self._http.request(
            request.method,
            self._upstream + str(request.rel_url),
            data=body or None,
            headers=headers,
            allow_redirects=False,
        ) as upstream:
            answer = web.StreamResponse(status=upstream.status, reason=upstream.reason)
            for name, value in upstream.headers.items():
                if name.lower() not in HOP_BY_HOP:
                    answer.headers.add(name, value)
            with contextlib.suppress(ConnectionError):  # the suite has what it wanted
                await answer.prepare(request)
                if upstream.content_type == "text/event-stream":
                    async for line in upstream.content:
                        await answer.write(plain(line))
                else:
                    await answer.write(plain(await upstream.read()))
                await answer.write_eof()
            return answer


# -- the suite


@dataclass(frozen=True)
class Row:
    """What came of one scenario."""

    revision: str
    leg: str
    scenario: str
    is_scored: bool
    passed: int
    failed: int

    @property
    def reason(self) -> str | None:
        """Why it is known to fail."""
        return next((why for name, why in EXPECTED.items() if self.scenario.startswith(name)), None)

    @property
    def is_wrong(self) -> bool:
        """Whether it fails, counts, and nobody has said why."""
        return self.is_scored and self.failed > 0 and self.reason is None


def required(revision: str) -> dict[str, list[str]]:
    """The scenarios of a revision: `server`, `client`, and those that are run without counting."""
    lists: dict[str, list[str]] = {"server": [], "client": [], "server?": [], "client?": []}
    current, scenario = "", ""
    for line in (SUITE / "requirements" / f"{revision}.yaml").read_text().splitlines():
        if found := re.fullmatch(r"(\w+):", line):
            current = found[1]
        elif found := re.fullmatch(r"  - ([\w/.-]+)", line):
            lists[current].append(found[1])
        elif found := re.fullmatch(r"  - scenario: (\S+)", line):
            scenario = found[1]
        elif found := re.fullmatch(r"    leg: (\w+)", line):
            lists[f"{found[1]}?"].append(scenario)
    return lists


async def suite(*arguments: str, output: Path) -> str:
    """What the suite prints."""
    process = await asyncio.create_subprocess_exec(
        NODE,
        str(SUITE / "dist" / "index.js"),
        *arguments,
        "--output-dir",
        str(output),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={**os.environ, "NO_COLOR": "1"},
    )
    try:
        async with asyncio.timeout(LEG_S):
            said, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return said.decode("utf-8", "replace")


def counted(said: str) -> tuple[int, int]:
    """How many checks of one scenario passed and failed; a scenario that came to no result has failed."""
    found = re.search(r"Passed: (\d+)/\d+, (\d+) failed", said)
    is_passed = "OVERALL: FAILED" not in said
    if found is None:
        return 0, 1
    return int(found[1]), int(found[2]) or (0 if is_passed else 1)


async def run_server(revision: str, era: str, scenarios: Sequence[str], folder: Path, verbose: bool) -> list[Row]:
    """The scenarios for servers, against a daemon of their own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = CONFIG.format(port=port, server=SERVER, python=sys.executable, fixture=FOLDER / "fixture.py", era=era)
    if any(scenario.startswith("tasks-") for scenario in scenarios):
        for name, keys in TASKED.items():
            keys = {"input_schema": {"type": "object"}, **keys}
            more = "\n".join(f"{key} = {inline(value)}" for key, value in keys.items())
            config += AGENT.format(name=name, folder=FOLDER, more=more)
    home = folder / f"daemon-{revision}"
    home.mkdir()
    found = required(revision)
    rows: list[Row] = []
    with DaemonProcess(home, config) as daemon:
        token = (daemon.state_dir / "http.token").read_text().strip()
        async with Doorman(port, token).open() as url:
            for scenario in scenarios:
                said = await suite(
                    *("server", "--url", url, "--scenario", scenario, "--spec-version", revision),
                    *("--force",),
                    output=folder / "server",
                )
                if verbose:
                    print(said)
                is_scored = scenario in found["server"]
                rows.append(Row(revision, "server", scenario, is_scored, *counted(said)))
    return rows


async def run_client(revision: str, scenarios: Sequence[str], folder: Path, verbose: bool) -> list[Row]:
    """The scenarios for clients; those that are known not to be spoken are not run."""
    command = f"{sys.executable} -P {FOLDER / 'client.py'}"
    found = required(revision)
    rows: list[Row] = []
    for scenario in scenarios:
        is_scored = scenario in found["client"]
        if Row(revision, "client", scenario, is_scored, 0, 1).reason is not None:
            rows.append(Row(revision, "client", scenario, is_scored, 0, 1))
            continue
        said = await suite(
            *("client", "--command", command, "--scenario", scenario, "--spec-version", revision),
            "--force",
            output=folder / "client",
        )
        if verbose:
            print(said)
        rows.append(Row(revision, "client", scenario, is_scored, *counted(said)))
    return rows


async def run(
    revisions: Sequence[str],
    legs: Sequence[str],
    only: Sequence[str],
    folder: Path,
    *,
    era: str | None = None,
    verbose: bool = False,
) -> list[Row]:
    """A row for each scenario; all that the revisions name, or `only` some."""
    rows: list[Row] = []
    for revision in revisions:
        found = required(revision)
        for leg in legs:
            names = [*found[leg], *found[f"{leg}?"]]
            names = [name for name in names if not only or name in only]
            if not names:
                continue
            if leg == "server":
                own_era = "legacy" if revision < "2026" else "modern"
                rows += await run_server(revision, era or own_era, names, folder, verbose)
            else:
                rows += await run_client(revision, names, folder, verbose)
    return rows


def table(rows: Sequence[Row]) -> str:
    """Whatever failed, and the sums."""
    lines: list[str] = []
    for row in rows:
        if row.failed and row.reason is None:
            kind = "scored" if row.is_scored else "not scored"
            checks = f"{row.failed} of {row.passed + row.failed} checks fail"
            lines.append(f"{row.revision}  {row.leg}  {row.scenario}  ({kind}): {checks}")
    for name, why in EXPECTED.items():
        known = [row for row in rows if row.failed and row.scenario.startswith(name)]
        if known:
            lines.append(f"{len(known)} scenarios {name}*: {why}")
    for revision, leg, is_scored in dict.fromkeys((row.revision, row.leg, row.is_scored) for row in rows):
        mine = [row for row in rows if (row.revision, row.leg) == (revision, leg)]
        mine = [row for row in mine if row.is_scored == is_scored]
        passed = sum(row.failed == 0 for row in mine)
        known = [row for row in mine if row.failed and row.reason]
        kind = "scored" if is_scored else "not scored"
        lines.append(
            f"{revision}  {leg:6}  {kind:10}  passed {passed:3}  "
            f"failed {len(mine) - passed - len(known):3}  not spoken {len(known):3}"
        )
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description="runs the conformance suite against corral")
    parser.add_argument("--requirements", action="append", choices=REVISIONS)
    parser.add_argument("--leg", action="append", choices=("server", "client"))
    parser.add_argument("--scenario", action="append", default=[])
    parser.add_argument("--era", choices=("legacy", "modern"), help="of the server behind the pool")
    parser.add_argument("--verbose", action="store_true", help="show what the suite prints")
    given = parser.parse_args()
    if not SUITE.is_dir():
        print("cannot run the conformance suite: npm could not install it", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory(prefix="corral-conformance-") as folder:
        rows = asyncio.run(
            run(
                given.requirements or REVISIONS,
                given.leg or ("server", "client"),
                given.scenario,
                Path(folder),
                era=given.era,
                verbose=given.verbose,
            )
        )
    print(table(rows))
    return 1 if not rows or any(row.is_wrong for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
