"""Runs a step of an authorization as a command with the user, the limits and the isolation of the MCP server that it is for."""

import base64
import sys
from urllib.parse import urlsplit

import msgspec
from msgspec.structs import replace

from corral.mcp.oauth.records import MARK, VARIABLE, Answer, Order, Settings
from corral.supervisor.config.spec.spec import Spec
from corral.supervisor.workers.process.command import Commands
from corral.supervisor.workers.process.launch import PORTS, Host
from corral.worker.contract.codec import as_object
from corral.worker.contract.errors import InternalError, Timeout, from_wire
from corral.worker.contract.records import copied

PROGRAM = (sys.executable, "-P", "-m", "corral.mcp.oauth.program")

STEP_S = 90.0
"""Seconds for a step: a few requests, each with a bound of its own."""

MAX_OUTPUT_BYTES = 512 * 1024
"""Bytes of an answer."""


class Steps:
    """Runs steps, each in a process of its own."""

    def __init__(self, commands: Commands, host: Host) -> None:
        self._commands = commands
        self._host = host

    async def __call__(self, spec: Spec, order: Order) -> Answer:
        """Performs an order for a server, with its settings."""
        full = replace(order, settings=settings_of(spec, self._host))
        text = base64.b64encode(msgspec.json.encode(full)).decode()
        printed = bytearray()

        def read(chunk: bytes) -> None:
            if len(printed) <= MAX_OUTPUT_BYTES:
                printed.extend(chunk)

        outcome = await self._commands.run(
            _reaching(spec),
            PROGRAM,
            unit=f"{spec.name}/oauth",
            timeout_s=STEP_S,
            environment={VARIABLE: text},
            on_output=read,
        )
        return _answer(spec.name, bytes(printed), outcome.problem)


def _reaching(spec: Spec) -> Spec:
    """Returns the spec of a step: it may connect to the ports of the server and of the configured authorization server."""
    ports = spec.process.connect_ports
    if ports is None:
        return spec
    issuers = () if spec.oauth is None else (spec.oauth.issuer, spec.oauth.idp_issuer)
    parts = [urlsplit(each) for each in (spec.url, *issuers) if each]
    own = [each.port or PORTS[each.scheme] for each in parts]
    return replace(spec, process=replace(spec.process, connect_ports=tuple(dict.fromkeys((*ports, *own)))))


def settings_of(spec: Spec, host: Host) -> Settings:
    """Returns the settings of a server with its secrets."""
    oauth = spec.oauth
    if oauth is None:
        return Settings()
    secrets = host.secrets.expand(oauth.secrets, spec.name, "oauth")
    return Settings(
        **copied(oauth, "grant issuer client_id idp_issuer idp_client_id client_metadata_url scopes"),
        client_secret=secrets.get("client_secret", ""),
        private_key=secrets.get("private_key", ""),
        assertion=secrets.get("assertion", "").strip(),
    )


def _answer(name: str, printed: bytes, problem: str) -> Answer:
    line = next((each for each in printed.split(b"\n") if each.startswith(MARK)), None)
    if line is None:
        if problem:
            raise Timeout(f'cannot log in to "{name}": {problem}', server=name)
        raise InternalError(f'cannot log in to "{name}": the step ended without an answer')
    result = as_object(msgspec.json.decode(line.removeprefix(MARK))) or {}
    if "error" in result:
        error = from_wire(result["error"])
        error.data.setdefault("server", name)
        raise error
    return msgspec.convert(result["answer"], Answer)
